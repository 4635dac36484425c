//! The module (32-bit wasm) maps arbitrary messages to the same bytes as the same code on the host.

#[allow(dead_code, unreachable_pub, reason = "the generator is shared")]
#[path = "../../properties/arbitrary.rs"]
mod arbitrary;

use abi::Vm;
use arbitrary::Json;
use keen_edge::config::Config;
use keen_edge::keen::bulk;
use keen_edge::mapping::{Client, EventBuffer, Request, map_request};
use keen_edge::segment::http::CallerSide;
use keen_edge::segment::message::MessageType;
use keen_edge::users::UserTransaction;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;

/// The host's clock when the module starts: 2026-11-24T00:00:00Z.
const NOW: i64 = 1_795_478_400_000;
const AGENT: &[u8] = b"Mozilla/5.0";

/// Returns the bulk request that the host code makes of a track message. `None` if there is nothing
/// to send.
fn on_the_host(config: &Config, body: &str) -> Option<Vec<u8>> {
    let request = Request {
        message_type: Some(MessageType::Track),
        side: CallerSide::Server,
        header_write_key: Some("writeKey"),
        body: body.as_bytes(),
        received_ms: NOW,
    };
    let client = Client { source_address: b"203.0.113.7:4711", user_agent: AGENT, referer: b"" };
    let mut events = EventBuffer::default();
    let mut store = BTreeMap::new();
    let mut users = UserTransaction::new(&mut store, config.users, 0);
    map_request(config, request, |_| client, String::new, &mut users, &mut events).unwrap();
    let events: Vec<(&str, &[u8])> =
        events.events().map(|event| (event.collection, event.json)).collect();
    (!events.is_empty()).then(|| bulk::body(events.into_iter(), 0))
}

#[test]
fn module_and_host_map_arbitrary_messages_equally() {
    let settings = harness::default_config();
    let config = Config::parse(settings.to_string().as_bytes()).unwrap();
    let mut vm = Vm::builder().config(&settings).start().unwrap_or_else(|trap| panic!("{trap}"));
    let tracks = (arbitrary::text(), arbitrary::object(), arbitrary::json(), arbitrary::json());
    let tracks = tracks.prop_map(|(event, properties, user, context)| {
        let members = vec![
            ("event".into(), Json::String(event)),
            // A random uniqueness token would differ between the two.
            ("messageId".into(), Json::String("m".into())),
            ("properties".into(), properties),
            ("userId".into(), user),
            ("context".into(), context),
        ];
        Json::Object(members, "").text()
    });
    let mut runner = TestRunner::default();
    let mut sent = 0;
    for _ in 0..150 {
        let body = tracks.new_tree(&mut runner).unwrap().current();
        let want = on_the_host(&config, &body);
        let id = vm.post_with(
            "/v1/track",
            body.as_bytes(),
            &[("authorization", b"Basic d3JpdGVLZXk6"), ("user-agent", AGENT)],
        );
        vm.turn();
        let calls = vm.callouts();
        let got = calls.first().map(|call| call.body.clone());
        assert!(
            got == want,
            "of {body}\nthe module: {:?}\nthe host:   {:?}",
            text(got),
            text(want)
        );
        for call in calls {
            let collection = String::from_utf8_lossy(&call.body[1..]).into_owned();
            let name = collection.split(":[{").next().unwrap_or_default().to_owned();
            vm.reply(call.token, 200, format!("{{{name}:[{{\"success\":true}}]}}").as_bytes());
            sent += 1;
        }
        vm.turn();
        assert_eq!(vm.response(id).map(|response| response.status), Some(200), "{body}");
        vm.close(id);
    }
    assert!(sent > 50, "{sent}");
}

fn text(body: Option<Vec<u8>>) -> Option<String> {
    body.map(|body| String::from_utf8_lossy(&body).into_owned())
}
