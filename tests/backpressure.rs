//! Keen hangs while 10,000 callers push: memory stays bounded, who does not fit is told at once, and all is well
//! afterwards, storm after storm.

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
const STORMS: usize = 3;
const MAX_PENDING: u64 = 16_777_216;
/// What the resident memory may grow by beside the events held: the filter writes a batch's body once more to send it,
/// Envoy holds the bodies and streams of those who wait, and linear memory grows in steps and never shrinks.
const OVERHEAD: u64 = 160 << 20;

struct Storm {
    statuses: BTreeMap<u16, usize>,
    without_retry_after: usize,
}

fn body(id: &str) -> String {
    json!({"userId": "u", "event": "storm", "messageId": id, "properties": {"pad": "x".repeat(BODY)}}).to_string()
}

/// How long Envoy had each call that it answered 429, the upload included: its access log says.
fn refused_within(s: &TestEnv) -> Vec<u64> {
    let log = s.envoy.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut waits: Vec<u64> = lines
        .filter(|line| line["status"] == 429)
        .filter_map(|line| line["ms"].as_u64().or_else(|| line["ms"].as_str()?.parse().ok()))
        .collect();
    waits.sort_unstable();
    waits
}

async fn storm(s: &TestEnv, number: usize) -> Storm {
    let mut calls = Vec::new();
    for connection in 0..CONNECTIONS {
        let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
        let url = s.envoy.url("/v1/track");
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
    let s = TestEnv::with(config).await;
    assert_eq!(s.post("/v1/track", track("before")).await, ok());
    let before = s.envoy.rss_bytes();
    let mut resident = Vec::new();
    for number in 0..STORMS {
        s.keen.fault(Fault::hang().forever());
        let storm = storm(&s, number).await;
        let grown = s.envoy.rss_bytes().saturating_sub(before);
        resident.push(grown);
        let waits = refused_within(&s);
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
        s.keen.clear_faults();
        s.until("nothing is pending", || async {
            s.envoy.stat("wasmcustom.keen_edge_pending_bytes").await == 0
        })
        .await;
        let after = track(&format!("after {number}"));
        s.until("it serves again", || async { s.post("/v1/track", after.clone()).await == ok() })
            .await;
    }
    // The first storm grows the VM's memory; the others find it large enough.
    let (first, last) = (resident[0], resident[STORMS - 1]);
    assert!(last < first + (32 << 20), "it grows with each storm: {resident:?}");
    assert_eq!(s.envoy.stat("http.segment.downstream_rq_active").await, 0);
    s.envoy.no_panic_in_log();
}
