//! Compares how keen-edge and Segment's own facade read the same messages. Each intended difference
//! is listed with its reason. Any other difference is a failure.

mod differences;
mod messages;

use differences::{Case, DIFFERENCES};
use keen_edge::config::Config;
use keen_edge::mapping::{Client, EventBuffer, Request, map_request};
use keen_edge::segment::http::CallerSide;
use keen_edge::segment::message::MessageType;
use keen_edge::users::UserTransaction;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The time at which keen-edge receives the messages. No generated message contains it.
const NOW: i64 = 1_795_471_392_908;
const RECEIVED: &str = "2026-11-23T22:03:12.908Z";

/// Converts the facade's result to Keen's fields.
fn expected(reading: &Value, page: bool) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("sent".into(), reading["enabled"].clone());
    if reading["enabled"] == false {
        return fields;
    }
    if page {
        let text = |value: &Value| match value {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) if number.as_f64() != Some(0.0) => Some(number.to_string()),
            Value::Bool(true) | Value::Object(_) | Value::Array(_) => Some(value.to_string()),
            _ => None,
        };
        let mut names = vec!["Loaded a Page".to_owned()];
        names.extend(text(&reading["category"]).map(|category| format!("Viewed {category} Page")));
        names.extend(text(&reading["fullName"]).map(|name| format!("Viewed {name} Page")));
        names.sort();
        fields.insert("names".into(), json!(names));
    }
    fields.insert("timestamp".into(), reading["timestamp"].clone());
    for name in ["userId", "ip_address", "user_agent", "page_url", "referrer_url", "traits"] {
        let value = reading.get(name);
        let kept = value.filter(|value| match name {
            "userId" => truthy(value),
            "traits" => truthy(value) && **value != json!({}) && **value != json!([]),
            _ => true,
        });
        fields.extend(kept.map(|value| (name.to_owned(), value.clone())));
    }
    fields
}

fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

/// Maps the message with keen-edge. Returns the same fields.
fn mapped(config: &Config, message: &str, page: bool) -> Map<String, Value> {
    let kind = if page { MessageType::Page } else { MessageType::Track };
    let request = Request {
        message_type: Some(kind),
        side: CallerSide::Server,
        header_write_key: Some("k"),
        body: message.as_bytes(),
        received_ms: NOW,
    };
    let client = Client { user_agent: b"analytics-node/6.2.0", ..Client::default() };
    let mut events = EventBuffer::default();
    let mut store = BTreeMap::new();
    let mut users = UserTransaction::new(&mut store, config.users, 0);
    map_request(config, request, |_| client, || "made".to_owned(), &mut users, &mut events)
        .unwrap();
    let events: Vec<(String, Value)> = events
        .events()
        .map(|event| (event.collection.to_owned(), serde_json::from_slice(event.json).unwrap()))
        .collect();
    let mut fields = Map::new();
    fields.insert("sent".into(), json!(!events.is_empty()));
    let Some((_, event)) = events.first() else { return fields };
    if page {
        let own = |(name, event): &(String, Value)| {
            event["segment_event"].as_str().unwrap_or(name).to_owned()
        };
        let mut names: Vec<String> = events.iter().map(own).collect();
        names.sort();
        fields.insert("names".into(), json!(names));
    }
    fields.insert("timestamp".into(), event["keen"]["timestamp"].clone());
    for name in ["userId", "ip_address", "user_agent", "page_url", "referrer_url", "traits"] {
        fields.extend(event.get(name).map(|value| (name.to_owned(), value.clone())));
    }
    fields
}

#[test]
fn document_lists_exactly_the_intended_differences() {
    let document = std::fs::read_to_string(harness::root().join("docs/mapping.md")).unwrap();
    let (_, section) = document.split_once("### Beside Segment's own reading\n").unwrap();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    let listed: Vec<String> =
        DIFFERENCES.iter().map(|d| format!("| {} | {} |", d.what, d.reason)).collect();
    assert_eq!(rows, listed);
}

#[test]
fn facade_reads_messages_as_keen_edge_does_except_intended_differences() {
    let source = json!({"projectId": "5181bcd23843312d87000000", "trackAllPages": true});
    let config = json!({"keen": {"cluster": "keen"}, "sources": {"k": source}});
    let config = Config::parse(config.to_string().as_bytes()).unwrap();
    let messages = messages::some(6000);
    let texts: Vec<String> = messages.iter().map(|m| m.text.clone()).collect();
    for package in facade::PACKAGES {
        let readings = facade::readings(package, &texts);
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut unexplained = Vec::new();
        let (mut fields, mut differing) = (0, 0);
        for (message, reading) in messages.iter().zip(&readings) {
            let want = expected(reading, message.page);
            let got = mapped(&config, &message.text, message.page);
            let both_sent = want["sent"] == true && got["sent"] == true;
            let names: Vec<&String> =
                if both_sent { want.keys().chain(got.keys()).collect() } else { vec![] };
            let mut names: Vec<&str> = names.into_iter().map(String::as_str).collect();
            names.push("sent");
            names.sort_unstable();
            names.dedup();
            for name in names {
                fields += 1;
                let (facade, ours) = (want.get(name), got.get(name));
                if facade == ours {
                    continue;
                }
                differing += 1;
                let case = Case { message, field: name, facade, ours, received: RECEIVED };
                match DIFFERENCES.iter().find(|difference| (difference.explains)(&case)) {
                    Some(difference) => *seen.entry(difference.what).or_default() += 1,
                    None => unexplained.push(format!(
                        "{name}: facade {facade:?}, keen-edge {ours:?}\n    {}",
                        message.text
                    )),
                }
            }
        }
        println!(
            "{package}: {} messages, {fields} fields, {differing} differ on purpose:",
            messages.len()
        );
        for difference in DIFFERENCES {
            println!(
                "{:6} {}: {}",
                seen.get(difference.what).unwrap_or(&0),
                difference.what,
                difference.reason
            );
        }
        let first: Vec<&String> = unexplained.iter().take(12).collect();
        assert!(
            unexplained.is_empty(),
            "{package}: {} unexplained:\n{first:#?}",
            unexplained.len()
        );
        let never: Vec<&str> =
            DIFFERENCES.iter().map(|d| d.what).filter(|what| !seen.contains_key(what)).collect();
        assert!(never.is_empty(), "{package}: no message shows {never:?}");
        assert!(fields > 20_000 && differing * 4 < fields, "{fields} fields, {differing} differ");
    }
}
