//! Keen hangs while 10,000 callers send. Memory stays bounded, callers over the bound are answered
//! at once, and Envoy recovers, five times in a row.

#[path = "envoy/fixture.rs"]
#[allow(dead_code, reason = "shared with tests/envoy")]
mod fixture;

use fixture::{TestEnv, ok, track};
use mock_keen::Fault;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const CONNECTIONS: usize = 100;
const STREAMS: usize = 100;
const BODY: usize = 8_000;
const STORMS: usize = 5;
const MAX_PENDING: u64 = 16_777_216;
/// Allowed growth of resident memory in addition to the pending events. The filter copies a batch's
/// body to send it, Envoy holds the bodies and streams of waiting callers, and linear memory grows
/// in steps and never shrinks.
const OVERHEAD: u64 = 160 << 20;

struct Storm {
    statuses: BTreeMap<u16, usize>,
    without_retry_after: usize,
}

fn body(id: &str) -> String {
    json!({"userId": "u", "event": "storm", "messageId": id, "properties": {"pad": "x".repeat(BODY)}}).to_string()
}

/// Returns the duration of each call answered 429, including the upload, from Envoy's access log.
fn refused_within(env: &TestEnv) -> Vec<u64> {
    let log = env.envoy.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut waits: Vec<u64> = lines
        .filter(|line| line["status"] == 429)
        .filter_map(|line| line["ms"].as_u64().or_else(|| line["ms"].as_str()?.parse().ok()))
        .collect();
    waits.sort_unstable();
    waits
}

async fn storm(env: &TestEnv, number: usize) -> Storm {
    let mut calls = Vec::new();
    for connection in 0..CONNECTIONS {
        let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
        let url = env.envoy.url("/v1/track");
        calls.push(tokio::spawn(async move {
            let calls = (0..STREAMS).map(|stream| {
                let id = format!("{number}-{connection}-{stream}");
                let request = client.post(&url).basic_auth("writeKey", Some("")).body(body(&id));
                tokio::spawn(async move {
                    let reply = request.send().await.unwrap();
                    (reply.status().as_u16(), reply.headers().contains_key("retry-after"))
                })
            });
            let mut ends = Vec::new();
            for call in calls.collect::<Vec<_>>() {
                ends.push(call.await.unwrap());
            }
            ends
        }));
    }
    let mut storm = Storm { statuses: BTreeMap::new(), without_retry_after: 0 };
    for call in calls {
        for (status, retry_after) in call.await.unwrap() {
            *storm.statuses.entry(status).or_default() += 1;
            storm.without_retry_after += usize::from(status != 200 && !retry_after);
        }
    }
    storm
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_keen_with_ten_thousand_callers_costs_bounded_memory() {
    let mut config = harness::default_config();
    config["delivery"]["holdMs"] = json!(4000);
    config["keen"]["timeoutMs"] = json!(2000);
    let env = TestEnv::with(config).await;
    assert_eq!(env.post("/v1/track", track("before")).await, ok());
    let before = env.envoy.rss_bytes();
    let mut resident = Vec::new();
    for number in 0..STORMS {
        env.keen.fault(Fault::hang().forever());
        let storm = storm(&env, number).await;
        let grown = env.envoy.rss_bytes().saturating_sub(before);
        resident.push(grown);
        let waits = refused_within(&env);
        let (median, last) = (waits[waits.len() / 2], waits[waits.len() - 1]);
        println!(
            "storm {number}: {:?}, a 429 after {median} ms (median; {last} ms at most), resident memory {} MB more than before",
            storm.statuses,
            grown >> 20
        );
        assert!(median < 1000, "{median} ms");
        assert_eq!(storm.statuses.keys().copied().collect::<Vec<_>>(), [429, 503]);
        assert_eq!(storm.without_retry_after, 0);
        assert!(grown < MAX_PENDING + OVERHEAD, "{grown}");
        env.keen.clear_faults();
        env.until("nothing is pending", || async {
            env.envoy.stat("wasmcustom.keen_edge_pending_bytes").await == 0
        })
        .await;
        let after = track(&format!("after {number}"));
        env.until("it serves again", || async {
            env.post("/v1/track", after.clone()).await == ok()
        })
        .await;
    }
    // Memory grows in steps, in the first storms only.
    let (warm, last) = (resident[STORMS / 2], resident[STORMS - 1]);
    assert!(last < warm + (32 << 20), "it grows with each storm: {resident:?}");
    assert_eq!(env.envoy.stat("http.segment.downstream_rq_active").await, 0);
    env.envoy.no_panic_in_log();
}
