//! Metrics as `docs/operating.md` lists them.

use super::fixture::{TestEnv, ok, track};
use mock_keen::Fault;
use std::collections::BTreeSet;

/// Names in the first column of the document's table, without labels.
fn documented() -> BTreeSet<String> {
    let text = std::fs::read_to_string(harness::root().join("docs/operating.md")).unwrap();
    let rows = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `keen_edge_")?.split(['`', '{']).next());
    rows.map(|name| format!("keen_edge_{name}")).collect()
}

#[tokio::test]
async fn the_document_lists_all_there_are() {
    let s = TestEnv::new().await;
    s.keen.fault(Fault::refuse_collection("bad", "InvalidEventError").times(1));
    assert_eq!(s.post("/v1/track", track("bad")).await, ok());
    s.until("the refusal is counted", || async {
        s.envoy.stat("wasmcustom.keen_edge_events_refused").await == 1
    })
    .await;
    let stats = s.envoy.stats().await;
    let known = stats.keys().filter_map(|name| name.strip_prefix("wasmcustom.")?.split('.').next());
    let known: BTreeSet<String> = known.map(str::to_owned).collect();
    assert_eq!(known, documented());
    let prometheus = s.envoy.admin("/stats/prometheus").await;
    for line in [
        "keen_edge_events_refused_by_error{error=\"InvalidEventError\"} 1",
        "keen_edge_destination_up{project=\"5181bcd23843312d87000000\"} 1",
        "keen_edge_requests{} 1",
    ] {
        assert!(prometheus.lines().any(|l| l == line), "no {line} in\n{prometheus}");
    }
}

#[tokio::test]
async fn a_destination_is_down_until_keen_takes_events_again() {
    let s = TestEnv::new().await;
    let up = "wasmcustom.keen_edge_destination_up.project.5181bcd23843312d87000000";
    assert_eq!(s.envoy.stat(up).await, 1);
    s.keen.fault(Fault::status(403));
    assert_eq!(s.post("/v1/track", track("down")).await.0, 503);
    s.until("the gauge is 0", || async { s.envoy.stat(up).await == 0 }).await;
    assert_eq!(s.post("/v1/track", track("up")).await, ok());
    s.until("the gauge is 1", || async { s.envoy.stat(up).await == 1 }).await;
    s.until("nothing is pending", || async {
        s.envoy.stat("wasmcustom.keen_edge_pending_bytes").await == 0
    })
    .await;
}
