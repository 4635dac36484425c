//! The crate `segment`, as an application uses it. It neither batches nor retries.

use segment::message::{Alias, Group, Identify, Message, Page, Screen, Track, User};
use segment::{Client, HttpClient};
use serde_json::{Map, Value, json};
use std::env::var;
use time::macros::datetime;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (edge, write_key) = (var("EDGE")?, var("WRITE_KEY")?);
    let authority = reqwest::Certificate::from_pem(&std::fs::read(var("SSL_CERT_FILE")?)?)?;
    let http = reqwest::Client::builder().add_root_certificate(authority).build()?;

    // docs
    let client = HttpClient::new(http, edge);
    // /docs

    let user = || User::UserId { user_id: "u-1".to_owned() };
    let id = |id: &str| Map::from_iter([("messageId".to_owned(), Value::from(id))]);
    let page = [("category".to_owned(), json!("Docs"))];
    let messages: [Message; 8] = [
        Identify { user: user(), traits: json!({"plan": "pro"}), ..Identify::default() }.into(),
        Track {
            user: user(),
            event: "Order Completed".to_owned(),
            properties: json!({"item": "T-Shirt", "revenue": 19.99, "sizes": [1, 2], "buyer": {"name": "é😀"}}),
            context: Some(json!({"ip": "24.5.68.47"})),
            extra: id("order-1"),
            ..Track::default()
        }
        .into(),
        Track {
            user: user(),
            event: "Elsewhere".to_owned(),
            properties: json!({}),
            integrations: Some(json!({"All": true, "Keen IO": false})),
            ..Track::default()
        }
        .into(),
        Track {
            user: User::AnonymousId { anonymous_id: "a-1".to_owned() },
            event: "Old Event".to_owned(),
            properties: json!({}),
            timestamp: Some(datetime!(2012-12-02 00:30:12.984 UTC)),
            ..Track::default()
        }
        .into(),
        Page {
            user: user(),
            name: "Index".to_owned(),
            properties: json!({"url": "https://example.com/docs"}),
            extra: Map::from_iter(page),
            ..Page::default()
        }
        .into(),
        Screen { user: user(), name: "Main".to_owned(), properties: json!({}), ..Screen::default() }.into(),
        Group { user: user(), group_id: "g-1".to_owned(), traits: json!({"name": "Initech"}), ..Group::default() }.into(),
        Alias { user: user(), previous_id: "a-1".to_owned(), ..Alias::default() }.into(),
    ];
    let (mut delivered, mut errors) = (0, Vec::new());
    for message in messages {
        match client.send(write_key.clone(), message).await {
            Ok(()) => delivered += 1,
            Err(error) => errors.push(error.to_string()),
        }
    }
    println!("{}", json!({"delivered": delivered, "errors": errors}));
    Ok(())
}
