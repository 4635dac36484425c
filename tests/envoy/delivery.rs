//! Delivery under faults: the response to the caller for each reply of Keen.

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
    let env = TestEnv::new().await;
    env.keen.fault(Fault::delay(20).forever());
    let calls = (0..200).map(|i| {
        let request = env
            .client
            .post(env.envoy.url("/v1/track"))
            .basic_auth("writeKey", Some(""))
            .body(track(&format!("e{i}")));
        tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), 200);
    }
    assert_eq!(env.keen.events().len(), 200);
    assert!(env.keen.calls().len() < 100, "{} calls", env.keen.calls().len());
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn retried_events_are_stored_once() {
    let env = TestEnv::new().await;
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
        env.keen.fault(fault);
        assert_eq!(env.post("/v1/track", track(name)).await, ok(), "{name}");
    }
    assert_eq!(env.keen.events().len(), 8);
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn lasting_failure_is_answered_503_with_retry_after() {
    let env = TestEnv::with(quick()).await;
    for (name, fault) in [
        ("401", Fault::status(401)),
        ("402", Fault::status(402)),
        ("404", Fault::status(404)),
        ("503", Fault::status(503).forever()),
        ("hang", Fault::hang().forever()),
    ] {
        env.keen.fault(fault);
        let start = Instant::now();
        let request = env
            .client
            .post(env.envoy.url("/v1/track"))
            .basic_auth("writeKey", Some(""))
            .body(track(name));
        let reply = request.send().await.unwrap();
        assert_eq!(reply.status(), 503, "{name}");
        assert!(reply.headers().contains_key("retry-after"), "{name}");
        assert!(start.elapsed() < Duration::from_millis(2500), "{name}: {:?}", start.elapsed());
        env.keen.clear_faults();
    }
    assert_eq!(env.post("/v1/track", track("after")).await, ok());
    env.envoy.no_panic_in_log();
    // Keen's 401 echoes the key, which must not be logged.
    assert!(!env.envoy.log().contains("ABCDEF0123456789"));
}

#[tokio::test]
async fn rejected_event_does_not_affect_neighbours() {
    let env = TestEnv::new().await;
    env.keen.fault(Fault::refuse_collection("bad", "InvalidEventError").forever());
    let batch = json!({"batch": [
        {"type": "track", "event": "good", "userId": "u"},
        {"type": "track", "event": "bad", "userId": "u"},
        {"type": "track", "event": "fine", "userId": "u"},
    ]});
    assert_eq!(env.post("/v1/batch", batch.to_string()).await, ok());
    assert_eq!(env.collections(), ["fine", "good"]);
    // 413 first, then split in halves.
    env.keen.clear_faults();
    env.keen.fault(Fault::status(413));
    assert_eq!(env.post("/v1/batch", batch.to_string()).await, ok());
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn keen_outage_is_answered_503_then_200() {
    let env = TestEnv::with(quick()).await;
    assert_eq!(env.post("/v1/track", track("before")).await, ok());
    env.keen.stop().await;
    assert_eq!(env.post("/v1/track", track("during")).await.0, 503);
    env.keen.start_again().await.unwrap();
    // Retries the same message until 200, as an SDK does.
    let start = Instant::now();
    while env.post("/v1/track", track("during")).await.0 != 200 {
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(env.collections(), ["before", "during"]);
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn full_queue_is_answered_429_at_once() {
    let mut config = quick();
    config["delivery"]["maxPendingBytes"] = json!(2000);
    let env = TestEnv::with(config).await;
    env.keen.fault(Fault::hang().forever());
    let calls = (0..30).map(|i| {
        let request = env
            .client
            .post(env.envoy.url("/v1/track"))
            .basic_auth("writeKey", Some(""))
            .body(track(&format!("e{i}")));
        tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
    });
    let mut statuses = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        statuses.push(call.await.unwrap());
    }
    assert!(statuses.contains(&429) && statuses.contains(&503), "{statuses:?}");
    env.keen.clear_faults();
    // Events of a hanging call stay pending until the call ends.
    let start = Instant::now();
    while env.post("/v1/track", track("after")).await != ok() {
        assert!(start.elapsed() < PATIENCE);
    }
    env.envoy.no_panic_in_log();
}
