//! The golden cases in the built filter, outside Envoy.

#[path = "../../golden/cases.rs"]
mod cases;

use abi::Vm;
use cases::Received;
use serde_json::Value;

/// The client's address, and the time of the host's clock.
const RECEIVED: Received<'_> = Received {
    address: "203.0.113.7",
    between: ["2026-11-24T00:00:00.000Z", "2026-11-24T00:00:00.000Z"],
};

#[test]
fn golden_cases_become_their_events() {
    let cases = cases::all();
    let mut config = harness::default_config();
    let sources = cases
        .iter()
        .enumerate()
        .map(|(i, case)| (format!("case{i:04}"), case.settings.clone()))
        .collect();
    config["sources"] = Value::Object(sources);
    let mut vm = Vm::builder().config(&config).start().unwrap_or_else(|trap| panic!("{trap}"));
    let mut failed = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        let key = format!("case{i:04}");
        let authorization =
            format!("Basic {}", base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &key));
        let headers: Vec<(&str, &[u8])> = case
            .headers
            .iter()
            .map(|(name, value)| match name.as_str() {
                "authorization" => ("authorization", authorization.as_bytes()),
                name => (name, value.as_bytes()),
            })
            .collect();
        let id = vm.post_with(&case.path, case.body_with(&key).as_bytes(), &headers);
        vm.turn();
        let events: Vec<(String, Value)> =
            vm.confirm().into_iter().map(|e| (e.collection, e.event)).collect();
        vm.turn();
        let status = vm.response(id).map(|response| response.status);
        if status != Some(200) {
            failed.push(format!("{}: answered {status:?}", case.id));
        }
        failed.extend(case.judge(&events, &RECEIVED).err());
        vm.close(id);
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
