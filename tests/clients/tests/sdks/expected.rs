//! The calls that every process makes, as they must be in Keen.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use time::format_description::well_known::Rfc3339;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

/// The timestamp of `Old Event`.
const OLD: OffsetDateTime = datetime!(2012-12-02 00:30:12.984 UTC);
/// identify, three tracks, page, screen, group, alias.
pub const CALLS: usize = 8;

/// Collections and events, sorted by collection. [`assert_events`] checks the field `keen`.
pub fn events() -> Vec<(&'static str, Value)> {
    let page = json!({
        "url": "https://example.com/docs", "category": "Docs", "name": "Index",
        "page_url": "https://example.com/docs", "userId": "u-1",
    });
    vec![
        ("Old Event", json!({"userId": "a-1"})),
        (
            "Order Completed",
            json!({
                "item": "T-Shirt", "revenue": 19.99, "sizes": [1, 2], "buyer": {"name": "é😀"},
                "userId": "u-1", "ip_address": "24.5.68.47",
            }),
        ),
        ("Viewed Docs Index Page", page.clone()),
        ("Viewed Docs Page", page),
        ("Viewed Main Screen", json!({"name": "Main", "userId": "u-1"})),
    ]
}

/// The events of an SDK whose page calls have no category.
pub fn without_category() -> Vec<(&'static str, Value)> {
    let mut events = events();
    events.retain(|(name, _)| *name != "Viewed Docs Page");
    for (name, event) in events.iter_mut().filter(|(name, _)| *name == "Viewed Docs Index Page") {
        *name = "Viewed Index Page";
        event.as_object_mut().map(|event| event.remove("category"));
    }
    events
}

/// Asserts that Keen has exactly these events, each with its own uniqueness token and the right
/// timestamp.
#[track_caller]
pub fn assert_events(name: &str, got: &[(String, Value)], want: &[(&str, Value)]) {
    let mut tokens = BTreeSet::new();
    let mut bare = Vec::new();
    for (collection, event) in got {
        let mut event = event.clone();
        let keen = event.as_object_mut().and_then(|event| event.remove("keen")).unwrap_or_default();
        let token = keen["uniqueness_token"].as_str().unwrap_or_default();
        assert!(
            !token.is_empty() && tokens.insert((collection, token.to_owned())),
            "{name}: {collection}: {keen}"
        );
        let timestamp = keen["timestamp"].as_str().unwrap_or_default();
        let then = if collection == "Old Event" { OLD } else { OffsetDateTime::now_utc() };
        let off = OffsetDateTime::parse(timestamp, &Rfc3339).map(|at| (at - then).abs());
        assert!(
            off.is_ok_and(|off| off < Duration::minutes(2)),
            "{name}: {collection}: {timestamp} is not {then}"
        );
        bare.push((collection.as_str(), event));
    }
    let want: Vec<(&str, Value)> = want.to_vec();
    assert_eq!(bare, want, "{name}");
}
