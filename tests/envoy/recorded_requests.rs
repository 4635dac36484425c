//! Replays requests recorded from real SDKs.

use super::fixture::{TestEnv, raw};
use base64::Engine;
use keen_edge::config::Config;
use keen_edge::mapping::{Client, EventBuffer, Request, map_request};
use keen_edge::segment::http::{Endpoint, content_encoding, write_key};
use keen_edge::users::UserTransaction;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Returns the collection and the token of each event of a request, mapped on the host.
fn expected(
    config: &Config,
    path: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> Vec<(String, String)> {
    let header = |name: &str| {
        headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, v)| v)
    };
    let Some(Endpoint::Ingest { message_type, side }) =
        Endpoint::parse(b"POST", path.as_bytes(), None)
    else {
        return vec![];
    };
    let encoding = header("content-encoding").as_bytes();
    let body = content_encoding::decode(body, encoding, 1_000_000).unwrap();
    let key = write_key::from_authorization(header("authorization").as_bytes());
    let header_write_key = key.as_deref();
    let request = Request { message_type, side, header_write_key, body: &body, received_ms: 0 };
    let mut events = EventBuffer::default();
    let mut store = BTreeMap::new();
    let mut users = UserTransaction::new(&mut store, config.users, 0);
    map_request(config, request, |_| Client::default(), String::new, &mut users, &mut events)
        .unwrap();
    events
        .events()
        .map(|keen_edge::keen::bulk::Event { collection, json: event, .. }| {
            let event: Value = serde_json::from_slice(event).unwrap();
            (collection.to_owned(), event["keen"]["uniqueness_token"].as_str().unwrap().to_owned())
        })
        .collect()
}

#[tokio::test]
async fn recorded_requests_are_answered_and_delivered() {
    let mut config = harness::default_config();
    let source = config["sources"]["writeKey"].clone();
    config["sources"]["WRITEKEY123"] = source;
    let host = Config::parse(config.to_string().as_bytes()).unwrap();
    let env = TestEnv::with(config).await;
    let mut want = BTreeSet::new();
    let mut without_id = 0;
    let mut files = 0;
    let mut entries: Vec<_> = std::fs::read_dir(harness::root().join("tests/captures"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        files += 1;
        let requests: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for request in requests {
            let (method, target) =
                (request["method"].as_str().unwrap(), request["path"].as_str().unwrap());
            let body = match request.get("body_base64").and_then(Value::as_str) {
                Some(text) => base64::engine::general_purpose::STANDARD.decode(text).unwrap(),
                None => request["body_text"].as_str().unwrap_or("").as_bytes().to_vec(),
            };
            let headers: Vec<(String, String)> =
                serde_json::from_value(request["headers"].clone()).unwrap();
            let mut bytes = format!(
                "{method} {target} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n",
                body.len()
            );
            for (name, value) in &headers {
                let ours = ["connection", "content-length", "transfer-encoding"]
                    .iter()
                    .any(|n| name.eq_ignore_ascii_case(n));
                if !ours {
                    bytes.push_str(&format!("{name}: {value}\r\n"));
                }
            }
            bytes.push_str("\r\n");
            let mut bytes = bytes.into_bytes();
            bytes.extend_from_slice(&body);
            let reply = raw(env.envoy.addr(), bytes).await;
            let name = format!("{} {method} {target}", path.display());
            if Endpoint::parse(method.as_bytes(), target.as_bytes(), None).is_none() {
                assert!(reply.starts_with("HTTP/1.1 404"), "{name}: {reply}");
                continue;
            }
            assert!(reply.starts_with("HTTP/1.1 200"), "{name}: {reply}");
            if method == "POST" {
                for (collection, token) in expected(&host, target, &headers, &body) {
                    if token.is_empty() {
                        without_id += 1;
                    } else {
                        want.insert((collection, token));
                    }
                }
            }
        }
    }
    assert!(files >= 27 && want.len() > 50, "{files} files, {} events", want.len());
    let stored = env.keen.events();
    let got: BTreeSet<(String, String)> = stored
        .iter()
        .map(|e| {
            (e.collection.clone(), e.event["keen"]["uniqueness_token"].as_str().unwrap().to_owned())
        })
        .collect();
    let missing: Vec<_> = want.difference(&got).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(got.len(), want.len() + without_id, "more events than messages");
    assert!(env.keen.refusals().is_empty(), "{:?}", env.keen.refusals());
    assert_eq!(json!(got.len()), json!(stored.len()));
    env.envoy.no_panic_in_log();
}
