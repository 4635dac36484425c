//! The golden cases, through Envoy to Keen. One Envoy has a source for each case.

use super::cases::{self, Received};
use super::fixture::TestEnv;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn project(i: usize) -> String {
    format!("5181bcd23843312d87{i:06}")
}

fn key(i: usize) -> String {
    format!("case{i:04}")
}

#[tokio::test]
async fn golden_cases_are_stored_in_keen() {
    let cases = cases::all();
    let mut config = harness::default_config();
    let sources: serde_json::Map<String, Value> = cases
        .iter()
        .enumerate()
        .map(|(i, case)| {
            let mut source = case.settings.clone();
            source["projectId"] = json!(project(i));
            (key(i), source)
        })
        .collect();
    config["sources"] = Value::Object(sources);
    let started = chrono::Utc::now();
    let env = TestEnv::with(config).await;
    for (i, case) in cases.iter().enumerate() {
        env.keen.add_project(mock_keen::Project::new(
            &project(i),
            case.settings["writeKey"].as_str().unwrap(),
        ));
    }
    for (i, case) in cases.iter().enumerate() {
        let mut call = env.client.post(env.envoy.url(&case.path)).body(case.body_with(&key(i)));
        for (name, value) in &case.headers {
            call = match name.as_str() {
                "authorization" => call.basic_auth(key(i), Some("")),
                _ => call.header(name, value),
            };
        }
        assert_eq!(call.send().await.unwrap().status(), 200, "{}", case.id);
    }
    let mut stored: BTreeMap<String, Vec<(String, Value)>> = BTreeMap::new();
    for event in env.keen.events() {
        stored.entry(event.project).or_default().push((event.collection, event.event));
    }
    let keen_form =
        |at: chrono::DateTime<chrono::Utc>| at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
    let between = [keen_form(started), keen_form(chrono::Utc::now())];
    let received = Received { address: "127.0.0.1", between: [&between[0], &between[1]] };
    let failed: Vec<String> = cases
        .iter()
        .enumerate()
        .filter_map(|(i, case)| {
            case.judge(&stored.remove(&project(i)).unwrap_or_default(), &received).err()
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(env.keen.refusals().is_empty(), "{:?}", env.keen.refusals());
    env.envoy.no_panic_in_log();
}
