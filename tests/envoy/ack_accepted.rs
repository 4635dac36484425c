//! `ack: accepted`: callers are answered at once, and events are delivered from memory.

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
    let env = TestEnv::with(accepted()).await;
    env.keen.fault(Fault::hang().forever());
    let start = Instant::now();
    for i in 0..20 {
        assert_eq!(env.post("/v1/track", track(&format!("e{i}"))).await, ok());
    }
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    // Longer than a caller waits, with every kind of failure.
    env.keen.clear_faults();
    env.keen.fault(Fault::status(401));
    env.keen.fault(Fault::status(500));
    env.keen.fault(Fault::cut_after());
    env.until("all events are in Keen", || async { env.keen.events().len() == 20 }).await;
    env.until("nothing is pending", || async {
        env.envoy.stat("wasmcustom.keen_edge_pending_bytes").await == 0
    })
    .await;
    assert_eq!(env.keen.events().len(), 20);
    assert_eq!(env.envoy.total("events_dropped").await, 0);
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn accepted_call_over_the_bound_is_answered_429() {
    let mut config = accepted();
    config["delivery"]["maxPendingBytes"] = json!(3000);
    let env = TestEnv::with(config).await;
    env.keen.fault(Fault::hang().forever());
    let mut taken = 0;
    for i in 0..30 {
        match env.post("/v1/track", track(&format!("e{i}"))).await.0 {
            200 => taken += 1,
            status => assert_eq!(status, 429),
        }
    }
    assert!((1..30).contains(&taken), "{taken}");
    env.keen.clear_faults();
    env.until("what was acknowledged is in Keen", || async { env.keen.events().len() == taken })
        .await;
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn accepted_event_that_a_middlebox_rejects_is_kept() {
    let env = TestEnv::with(accepted()).await;
    let body = Some("<html>".to_owned());
    let silent = FaultKind::Status { status: 400, body, retry_after: None, location: None };
    env.keen.fault(Fault::from(silent).times(4));
    assert_eq!(env.post("/v1/track", track("blocked")).await, ok());
    env.until("it is in Keen", || async { env.collections() == ["blocked"] }).await;
    assert_eq!(env.post("/v1/track", track("fine")).await, ok());
    env.until("the next is in Keen", || async { env.keen.events().len() == 2 }).await;
    assert_eq!(env.envoy.total("events_dropped").await, 0);
    env.envoy.no_panic_in_log();
}

/// Injects random faults. All events fit in memory.
#[tokio::test]
async fn accepted_events_are_stored_once_under_chaos() {
    let env = TestEnv::with(accepted()).await;
    env.keen.fault(Fault::chaos(11, 0.5));
    let mut sent = 0;
    for round in 0..6 {
        match round {
            2 => env.keen.stop().await,
            4 => env.keen.start_again().await.unwrap(),
            _ => {}
        }
        for _ in 0..100 {
            let body = json!({"userId": "u", "event": "e", "messageId": format!("m{sent}"), "properties": {"n": sent}});
            assert_eq!(env.post("/v1/track", body.to_string()).await, ok());
            sent += 1;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    env.until("all is in Keen", || async { env.keen.events().len() == sent }).await;
    env.until("nothing is pending", || async {
        env.envoy.stat("wasmcustom.keen_edge_pending_bytes").await == 0
    })
    .await;
    assert_eq!(env.envoy.total("events_dropped").await, 0);
    assert_eq!(env.keen.events().len(), sent);
    env.envoy.no_panic_in_log();
}
