//! The golden cases as data, and the comparison of an outcome. Every test that can map a request
//! runs them.

#![allow(dead_code, unreachable_pub)]

use serde_json::{Map, Value, json, value::RawValue};
use std::collections::HashMap;

/// Cases from Segment's own code and documentation, and cases of decisions beyond them.
const FILES: [&str; 2] = [include_str!("mapping.jsonl"), include_str!("edges.jsonl")];
/// The write key of every case, unless a runner replaces it.
const KEY: &str = "writeKey";

/// A request, the settings of its source, and the expected Keen events.
pub struct Case {
    pub id: String,
    /// The decision that the case shows, in the words of docs/mapping.md.
    pub decision: Option<String>,
    pub settings: Value,
    pub path: String,
    pub headers: Vec<(String, String)>,
    /// The raw JSON. `Value` would lose digits and duplicate names.
    pub body: String,
    pub events: Vec<(String, Value)>,
}

/// Values that a runner cannot choose: the address that it sends from, and the time of receipt.
pub struct Received<'a> {
    pub address: &'a str,
    /// The earliest and the latest time, in Keen's form.
    pub between: [&'a str; 2],
}

type Members = HashMap<String, Box<RawValue>>;

pub fn all() -> Vec<Case> {
    let lines = FILES.iter().flat_map(|file| file.lines());
    lines.map(|line| Case::read(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

impl Case {
    fn read(line: &str) -> serde_json::Result<Self> {
        let case: Members = serde_json::from_str(line)?;
        let request: Members = serde_json::from_str(case["request"].get())?;
        let value = |raw: &RawValue| serde_json::from_str::<Value>(raw.get());
        let text = |value: Value| value.as_str().expect("a string").to_owned();
        let headers: Map<String, Value> = serde_json::from_str(request["headers"].get())?;
        let expected = value(&case["expected"])?;
        let events = expected["events"].as_array().expect("events").iter();
        assert!(
            !text(value(&case["source"])?).is_empty(),
            "a case says where its truth comes from"
        );
        Ok(Self {
            id: text(value(&case["id"])?),
            decision: case.get("decision").map(|raw| value(raw).map(text)).transpose()?,
            settings: value(&case["settings"])?,
            path: text(value(&request["path"])?),
            headers: headers.into_iter().map(|(name, value)| (name, text(value))).collect(),
            body: request["body"].get().to_owned(),
            events: events.map(|e| (text(e["collection"].clone()), e["event"].clone())).collect(),
        })
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// Returns the body with another write key.
    pub fn body_with(&self, key: &str) -> String {
        self.body.replace(&format!("\"writeKey\": \"{KEY}\""), &format!("\"writeKey\": \"{key}\""))
    }

    /// Compares events with the expected ones, in any order.
    pub fn judge(&self, got: &[(String, Value)], received: &Received<'_>) -> Result<(), String> {
        let mut left = got.to_vec();
        for (collection, want) in &self.events {
            let same =
                |(name, event): &(String, Value)| name == collection && is(want, event, received);
            match left.iter().position(same) {
                Some(at) => drop(left.remove(at)),
                None => {
                    return Err(format!(
                        "{}\n  want {collection:?} {want}\n  got  {got:?}",
                        self.id
                    ));
                }
            }
        }
        if left.is_empty() { Ok(()) } else { Err(format!("{}\n  too many: {left:?}", self.id)) }
    }
}

/// Compares an event with the expected one. Empty fields of the reference may be absent. A token
/// counts only if the case has one.
fn is(want: &Value, got: &Value, received: &Received<'_>) -> bool {
    let (mut want, mut got) = (comparable(want), comparable(got));
    let (at, token) = (got["keen"]["timestamp"].clone(), got["keen"]["uniqueness_token"].clone());
    let (at, Some(token)) = (at.as_str().unwrap_or_default(), token.as_str()) else { return false };
    if want["keen"]["timestamp"] == "<received-at>" {
        if !(received.between[0]..=received.between[1]).contains(&at) {
            return false;
        }
        want["keen"]["timestamp"] = json!(at);
    }
    if want["keen"].get("uniqueness_token").is_none() {
        want["keen"]["uniqueness_token"] = json!(token);
    }
    if want.get("ip_address").is_some_and(|ip| ip == "<client-address>") {
        want["ip_address"] = json!(received.address);
    }
    // Segment's browser library writes the id into the traits itself.
    if let Some(traits) = got.pointer_mut("/user/traits").and_then(Value::as_object_mut) {
        traits.remove("id");
    }
    want == got
}

fn comparable(event: &Value) -> Value {
    let mut event = event.clone();
    let object = event.as_object_mut().expect("an event");
    object.retain(|name, value| !(name == "traits" && *value == json!({})));
    if let Some(keen) = object.get_mut("keen").and_then(Value::as_object_mut) {
        keen.retain(|name, value| !(name == "addons" && *value == json!([])));
    }
    event
}
