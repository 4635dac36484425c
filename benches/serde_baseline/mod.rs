//! The straightforward mapping with `serde_json::Value`.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use std::ops::Range;

/// Writes events to `out`. Returns the collection of each event, and its range in `out`.
pub(crate) fn map(body: &[u8], now: i64, out: &mut Vec<u8>) -> Vec<(String, Range<usize>)> {
    let mut body: Value = serde_json::from_slice(body).unwrap();
    let sent_at = body["sentAt"].clone();
    let messages = match body["batch"].take() {
        Value::Array(messages) => messages,
        _ => vec![body],
    };
    let mut events = Vec::new();
    for mut message in messages {
        if message["sentAt"].is_null() {
            message["sentAt"] = sent_at.clone();
        }
        let name = message["event"].as_str().unwrap_or_default().to_owned();
        let start = out.len();
        serde_json::to_writer(&mut *out, &event(message, now)).unwrap();
        events.push((name, start..out.len()));
    }
    events
}

fn event(mut message: Value, now: i64) -> Value {
    let properties = message["properties"].take();
    let url = properties["url"].clone();
    let Value::Object(mut event) = legal(properties) else { return Value::Null };
    let context = message["context"].take();
    for id in ["userId", "anonymousId"] {
        if message[id].is_string() {
            event.insert("userId".to_owned(), message[id].take());
            break;
        }
    }
    let mut addons = Vec::new();
    for (field, value) in [
        ("page_url", if url.is_string() { url } else { context["page"]["url"].clone() }),
        ("referrer_url", context["page"]["referrer"].clone()),
        ("user_agent", context["userAgent"].clone()),
        ("ip_address", context["ip"].clone()),
    ] {
        if value.is_string() {
            event.insert(field.to_owned(), value);
        }
    }
    let has =
        |event: &Map<String, Value>, field: &str| event.get(field).is_some_and(Value::is_string);
    if has(&event, "ip_address") {
        addons.push(json!({"name": "keen:ip_to_geo", "input": {"ip": "ip_address"}, "output": "ip_geo_info"}));
    }
    if has(&event, "user_agent") {
        let input = json!({"ua_string": "user_agent"});
        addons
            .push(json!({"name": "keen:ua_parser", "input": input, "output": "parsed_user_agent"}));
    }
    if has(&event, "page_url") {
        addons.push(json!({"name": "keen:url_parser", "input": {"url": "page_url"}, "output": "parsed_page_url"}));
        if has(&event, "referrer_url") {
            let input = json!({"referrer_url": "referrer_url", "page_url": "page_url"});
            addons.push(
                json!({"name": "keen:referrer_parser", "input": input, "output": "referrer_info"}),
            );
        }
    }
    let read = |value: &Value| {
        DateTime::parse_from_rfc3339(value.as_str()?).ok().map(|at| at.with_timezone(&Utc))
    };
    let received = DateTime::from_timestamp_millis(now).unwrap();
    let at = match (read(&message["timestamp"]), read(&message["sentAt"])) {
        (Some(original), Some(sent)) => received - (sent - original),
        (Some(original), None) => original,
        _ => received,
    };
    let keen = json!({
        "timestamp": at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
        "addons": addons,
        "uniqueness_token": message["messageId"].take(),
    });
    event.insert("keen".to_owned(), keen);
    Value::Object(event)
}

/// Returns the value without dots in names, and with strings that Keen accepts.
fn legal(value: Value) -> Value {
    match value {
        Value::Object(members) => members
            .into_iter()
            .map(|(name, member)| (name.replace('.', "_"), legal(member)))
            .collect(),
        Value::Array(list) => list.into_iter().map(legal).collect(),
        Value::String(text) if text.chars().count() >= 10_000 => {
            text.chars().take(9_999).collect::<String>().into()
        }
        other => other,
    }
}
