//! `ack: accepted`: callers are answered at once, their events delivered from memory.

use super::fixture::{TestEnv, ok, track};
use mock_keen::{Fault, FaultKind};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn accepted() -> Value {
    let mut config = harness::default_config();
    config["delivery"]["ack"] = json!("accepted");
    config["keen"]["timeoutMs"] = json!(500);
    config
}

#[tokio::test]
async fn accepted_call_is_answered_at_once_and_delivered_later() {
    let s = TestEnv::with(accepted()).await;
    s.keen.fault(Fault::hang().forever());
    let start = Instant::now();
    for i in 0..20 {
        assert_eq!(s.post("/v1/track", track(&format!("e{i}"))).await, ok());
    }
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    // Longer than any caller would wait, and every way Keen can fail.
    s.keen.clear_faults();
    s.keen.fault(Fault::status(401));
    s.keen.fault(Fault::status(500));
    s.keen.fault(Fault::cut_after());
    s.until("all events are in Keen", || async { s.keen.events().len() == 20 }).await;
    s.until("nothing is pending", || async {
        s.envoy.stat("wasmcustom.keen_edge_pending_bytes").await == 0
    })
    .await;
    assert_eq!(s.keen.events().len(), 20);
    assert_eq!(s.envoy.stat("wasmcustom.keen_edge_events_dropped").await, 0);
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn accepted_call_over_the_bound_is_answered_429() {
    let mut config = accepted();
    config["delivery"]["maxPendingBytes"] = json!(3000);
    let s = TestEnv::with(config).await;
    s.keen.fault(Fault::hang().forever());
    let mut taken = 0;
    for i in 0..30 {
        match s.post("/v1/track", track(&format!("e{i}"))).await.0 {
            200 => taken += 1,
            status => assert_eq!(status, 429),
        }
    }
    assert!((1..30).contains(&taken), "{taken}");
    s.keen.clear_faults();
    s.until("what was acknowledged is in Keen", || async { s.keen.events().len() == taken }).await;
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn accepted_poison_event_does_not_delay_others() {
    let s = TestEnv::with(accepted()).await;
    let body = Some("<html>".to_owned());
    let silent = FaultKind::Status { status: 400, body, retry_after: None, location: None };
    s.keen.fault(Fault::from(silent).times(4));
    assert_eq!(s.post("/v1/track", track("poison")).await, ok());
    s.until("it is given up", || async {
        s.envoy.stat("wasmcustom.keen_edge_events_dropped").await == 1
    })
    .await;
    assert_eq!(s.post("/v1/track", track("fine")).await, ok());
    s.until("the next is in Keen", || async { s.collections() == ["fine"] }).await;
    s.envoy.no_panic_in_log();
}

/// Whatever Keen does, for as long as it fits.
#[tokio::test]
async fn accepted_events_are_stored_once_under_chaos() {
    let s = TestEnv::with(accepted()).await;
    s.keen.fault(Fault::chaos(11, 0.5));
    let mut sent = 0;
    for round in 0..6 {
        match round {
            2 => s.keen.stop().await,
            4 => s.keen.start_again().await.unwrap(),
            _ => {}
        }
        for _ in 0..100 {
            let body = json!({"userId": "u", "event": "e", "messageId": format!("m{sent}"), "properties": {"n": sent}});
            assert_eq!(s.post("/v1/track", body.to_string()).await, ok());
            sent += 1;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    s.until("all is in Keen", || async { s.keen.events().len() == sent }).await;
    s.until("nothing is pending", || async {
        s.envoy.stat("wasmcustom.keen_edge_pending_bytes").await == 0
    })
    .await;
    assert_eq!(s.envoy.stat("wasmcustom.keen_edge_events_dropped").await, 0);
    assert_eq!(s.keen.events().len(), sent);
    s.envoy.no_panic_in_log();
}
