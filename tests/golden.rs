//! The golden cases on the host: a request in, Keen events out.

#[path = "golden/cases.rs"]
mod cases;

use cases::{Case, Received};
use keen_edge::config::Config;
use keen_edge::mapping::{Client, EventBuffer, Request, map_request};
use keen_edge::segment::http::{Endpoint, write_key};
use keen_edge::users::UserTransaction;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const ADDRESS: &str = "203.0.113.7";
const NOW: i64 = 1_795_471_392_908;
const NOW_IN_KEEN: &str = "2026-11-23T22:03:12.908Z";

fn mapped(case: &Case) -> Vec<(String, Value)> {
    let config = json!({"keen": {"cluster": "keen"}, "sources": {"writeKey": case.settings}});
    let config = Config::parse(config.to_string().as_bytes())
        .unwrap_or_else(|error| panic!("{}: {error}", case.id));
    let key = write_key::from_authorization(case.header("authorization").as_bytes());
    let endpoint = Endpoint::parse(b"POST", case.path.as_bytes(), None);
    let Some(Endpoint::Ingest { message_type, side }) = endpoint else {
        panic!("{}: {}", case.id, case.path)
    };
    let request = Request {
        message_type,
        side,
        header_write_key: key.as_deref(),
        body: case.body.as_bytes(),
        received_ms: NOW,
    };
    let address = format!("{ADDRESS}:4711");
    let client = Client {
        source_address: address.as_bytes(),
        user_agent: case.header("user-agent").as_bytes(),
        referer: case.header("referer").as_bytes(),
    };
    let mut events = EventBuffer::default();
    let mut store = BTreeMap::new();
    let mut users = UserTransaction::new(&mut store, config.users, 0);
    map_request(&config, request, |_| client, || "made".to_owned(), &mut users, &mut events)
        .unwrap();
    let events =
        events.events().map(|keen_edge::keen::bulk::Event { collection, json: event, .. }| {
            let parsed = serde_json::from_slice(event);
            (collection.to_owned(), parsed.unwrap_or_else(|error| panic!("{}: {error}", case.id)))
        });
    events.collect()
}

#[test]
fn every_case() {
    let cases = cases::all();
    let received = Received { address: ADDRESS, between: [NOW_IN_KEEN, NOW_IN_KEEN] };
    let failed: Vec<String> =
        cases.iter().filter_map(|case| case.judge(&mapped(case), &received).err()).collect();
    println!("{} cases run", cases.len());
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
    assert!(cases.len() >= 52, "{} cases", cases.len());
}
