//! The reference cases, through Envoy to Keen: each case is a source of its own in one Envoy.

use super::setting::Setting;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const CASES: &str = include_str!("../golden/mapping.jsonl");

fn comparable(event: &Value) -> Value {
    let mut event = event.clone();
    let object = event.as_object_mut().unwrap();
    object.retain(|name, value| !(name == "traits" && *value == json!({})));
    let keen = object["keen"].as_object_mut().unwrap();
    keen.retain(|name, value| name != "uniqueness_token" && !(name == "addons" && *value == json!([])));
    if keen["timestamp"].as_str().is_some_and(|t| t.starts_with('<') || t > "2026") {
        keen.insert("timestamp".into(), json!("<received-at>"));
    }
    event
}

#[tokio::test]
async fn every_case_but_that_of_remembered_users() {
    let cases: Vec<Value> = CASES
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|case| case["id"] != "cli-identify-anonymous-then-track")
        .collect();
    let project = |i: usize| format!("5181bcd23843312d87{i:06}");
    let mut config = harness::default_config();
    let sources: serde_json::Map<String, Value> = cases
        .iter()
        .enumerate()
        .map(|(i, case)| {
            let mut source = case["settings"].clone();
            source["projectId"] = json!(project(i));
            (format!("case{i:04}"), source)
        })
        .collect();
    config["sources"] = Value::Object(sources);
    let s = Setting::with(config).await;
    for (i, case) in cases.iter().enumerate() {
        s.keen.add_project(mock_keen::Project::new(&project(i), case["settings"]["writeKey"].as_str().unwrap()));
    }
    for (i, case) in cases.iter().enumerate() {
        let request = &case["request"];
        let mut body = request["body"].clone();
        if body.get("writeKey").is_some() {
            body["writeKey"] = json!(format!("case{i:04}"));
        }
        let mut call = s.client.post(s.envoy.url(request["path"].as_str().unwrap())).body(body.to_string());
        for (name, value) in request["headers"].as_object().unwrap() {
            call = match name.as_str() {
                "authorization" => call.basic_auth(format!("case{i:04}"), Some("")),
                _ => call.header(name, value.as_str().unwrap()),
            };
        }
        assert_eq!(call.send().await.unwrap().status(), 200, "{}", case["id"]);
    }
    let mut stored: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for event in s.keen.events() {
        stored.entry(event.project).or_default().push((event.collection, comparable(&event.event).to_string()));
    }
    let mut failed = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        let expected = case["expected"]["events"].as_array().unwrap();
        let named = |e: &Value| (e["collection"].as_str().unwrap().to_owned(), comparable(&e["event"]).to_string());
        let mut want: Vec<_> = expected.iter().map(named).collect();
        let mut got = stored.remove(&project(i)).unwrap_or_default();
        want.sort();
        got.sort();
        if want != got {
            failed.push(format!("{}\n  want {want:?}\n  got  {got:?}", case["id"]));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(s.keen.refusals().is_empty());
    assert!(cases.len() >= 51);
    s.envoy.no_panic_in_log();
}
