//! Delivery under fault: what each answer of Keen's means to the caller.

use super::fixture::{PATIENCE, TestEnv, ok, track};
use mock_keen::Fault;
use serde_json::json;
use std::time::{Duration, Instant};

fn quick() -> serde_json::Value {
    let mut config = harness::default_config();
    config["delivery"]["holdMs"] = json!(1500);
    config["keen"]["timeoutMs"] = json!(500);
    config
}

#[tokio::test]
async fn two_hundred_callers_share_callouts() {
    let s = TestEnv::new().await;
    s.keen.fault(Fault::delay(20).forever());
    let calls = (0..200).map(|i| {
        let request = s
            .client
            .post(s.envoy.url("/v1/track"))
            .basic_auth("writeKey", Some(""))
            .body(track(&format!("e{i}")));
        tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), 200);
    }
    assert_eq!(s.keen.events().len(), 200);
    assert!(s.keen.calls().len() < 100, "{} calls", s.keen.calls().len());
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn retried_events_are_stored_once() {
    let s = TestEnv::new().await;
    for (name, fault) in [
        ("503", Fault::status(503)),
        ("500", Fault::status(500)),
        ("429", Fault::status(429)),
        ("cut before", Fault::cut_before()),
        ("cut after", Fault::cut_after()),
        ("truncated", Fault::truncated()),
        ("wrong JSON", Fault::wrong_json()),
        ("short results", Fault::short_results()),
    ] {
        s.keen.fault(fault);
        assert_eq!(s.post("/v1/track", track(name)).await, ok(), "{name}");
    }
    assert_eq!(s.keen.events().len(), 8);
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn lasting_failure_is_answered_503_with_retry_after() {
    let s = TestEnv::with(quick()).await;
    for (name, fault) in [
        ("401", Fault::status(401)),
        ("402", Fault::status(402)),
        ("404", Fault::status(404)),
        ("503", Fault::status(503).forever()),
        ("hang", Fault::hang().forever()),
    ] {
        s.keen.fault(fault);
        let start = Instant::now();
        let request = s
            .client
            .post(s.envoy.url("/v1/track"))
            .basic_auth("writeKey", Some(""))
            .body(track(name));
        let reply = request.send().await.unwrap();
        assert_eq!(reply.status(), 503, "{name}");
        assert!(reply.headers().contains_key("retry-after"), "{name}");
        assert!(start.elapsed() < Duration::from_millis(2500), "{name}: {:?}", start.elapsed());
        s.keen.clear_faults();
    }
    assert_eq!(s.post("/v1/track", track("after")).await, ok());
    s.envoy.no_panic_in_log();
    // Keen's 401 echoes the key: nothing of it is logged.
    assert!(!s.envoy.log().contains("ABCDEF0123456789"));
}

#[tokio::test]
async fn rejected_event_does_not_affect_neighbours() {
    let s = TestEnv::new().await;
    s.keen.fault(Fault::refuse_collection("bad", "InvalidEventError").forever());
    let batch = json!({"batch": [
        {"type": "track", "event": "good", "userId": "u"},
        {"type": "track", "event": "bad", "userId": "u"},
        {"type": "track", "event": "fine", "userId": "u"},
    ]});
    assert_eq!(s.post("/v1/batch", batch.to_string()).await, ok());
    assert_eq!(s.collections(), ["fine", "good"]);
    // Too large at first, then in halves.
    s.keen.clear_faults();
    s.keen.fault(Fault::status(413));
    assert_eq!(s.post("/v1/batch", batch.to_string()).await, ok());
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn keen_outage_is_answered_503_then_200() {
    let s = TestEnv::with(quick()).await;
    assert_eq!(s.post("/v1/track", track("before")).await, ok());
    s.keen.stop().await;
    assert_eq!(s.post("/v1/track", track("during")).await.0, 503);
    s.keen.start_again().await.unwrap();
    // As an SDK does: the same message again, until it is taken.
    let start = Instant::now();
    while s.post("/v1/track", track("during")).await.0 != 200 {
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(s.collections(), ["before", "during"]);
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn full_queue_is_answered_429_at_once() {
    let mut config = quick();
    config["delivery"]["maxPendingBytes"] = json!(2000);
    let s = TestEnv::with(config).await;
    s.keen.fault(Fault::hang().forever());
    let calls = (0..30).map(|i| {
        let request = s
            .client
            .post(s.envoy.url("/v1/track"))
            .basic_auth("writeKey", Some(""))
            .body(track(&format!("e{i}")));
        tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
    });
    let mut statuses = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        statuses.push(call.await.unwrap());
    }
    assert!(statuses.contains(&429) && statuses.contains(&503), "{statuses:?}");
    s.keen.clear_faults();
    // What hangs is held until its call has ended.
    let start = Instant::now();
    while s.post("/v1/track", track("after")).await != ok() {
        assert!(start.elapsed() < PATIENCE);
    }
    s.envoy.no_panic_in_log();
}
