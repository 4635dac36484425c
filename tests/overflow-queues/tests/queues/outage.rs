//! Long outages of Keen, and processes that end during one.

use super::TestEnv;
use mock_keen::Fault;
use overflow_queues::{Callers, ElasticMq, builder, config, post, start, track};
use serde_json::json;
use std::time::Duration;

/// Duration of the outage of Keen: `OVERFLOW_SECONDS`.
fn outage() -> Duration {
    let seconds = std::env::var("OVERFLOW_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

#[tokio::test(flavor = "multi_thread")]
async fn outage_with_a_killed_envoy_loses_no_acknowledged_event() {
    let env = TestEnv::new("outage").await;
    let envoy = |port| {
        let (keen, proxy, url) = (env.keen.addr(), env.proxy.addr, env.queue.url.clone());
        start(move || builder(keen, proxy, config(&url)).port(port))
    };
    let mut running = envoy(0).await;
    let addr = running.addr();
    let callers = Callers::start(addr, 24, Duration::from_millis(100));
    tokio::time::sleep(Duration::from_secs(3)).await;
    env.keen.stop().await;
    tokio::time::sleep(outage() / 2).await;
    let overflowed = running.total("events_overflowed").await;
    running.kill();
    running = envoy(addr.port()).await;
    tokio::time::sleep(outage() / 2).await;
    let waiting = env.queue.messages().await;
    env.keen.start_again().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let seen = callers.stop().await;
    env.until_drained().await;
    println!(
        "{} acknowledged, {:?}, longest {:?}",
        seen.acknowledged.len(),
        seen.statuses,
        seen.longest
    );
    println!(
        "{overflowed} overflowed before the end of the first Envoy, {waiting} messages at the outage's end"
    );
    env.assert_stored_once(&seen);
    assert!(overflowed > 100 && waiting > 0, "{overflowed} {waiting}");
    assert!(seen.statuses.keys().all(|status| [0, 200].contains(status)), "{:?}", seen.statuses);
    // `holdMs`, and time for a slow machine.
    assert!(seen.longest < Duration::from_millis(7_500), "{:?}", seen.longest);
    let totals = running.event_totals().await;
    assert_eq!((totals.unconfirmed, totals.dropped), (0, 0));
    running.no_panic_in_log();
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_that_is_killed_keeps_what_it_has_acknowledged() {
    let elastic_mq = ElasticMq::start("killed").await;
    let env = TestEnv::on(&elastic_mq, "killed").await;
    let (keen, proxy, url) = (env.keen.addr(), env.proxy.addr, env.queue.url.clone());
    let envoy = start(move || builder(keen, proxy, config(&url))).await;
    env.keen.fault(Fault::status(503).forever());
    let callers = Callers::start(envoy.addr(), 8, Duration::from_millis(50));
    tokio::time::sleep(Duration::from_secs(4)).await;
    elastic_mq.kill();
    tokio::time::sleep(Duration::from_secs(1)).await;
    elastic_mq.start_again().await;
    let seen = callers.stop().await;
    env.keen.clear_faults();
    env.until_drained().await;
    assert!(seen.acknowledged.len() > 20, "{seen:?}");
    env.assert_stored_once(&seen);
    envoy.no_panic_in_log();
}

#[tokio::test(flavor = "multi_thread")]
async fn keen_that_is_back_but_slow_serves_fresh_events_first() {
    let env = TestEnv::new("slow").await;
    for number in 0..40 {
        env.queue.put(&message(&format!("queued-{number}"))).await;
    }
    env.keen.fault(Fault::delay(1_500).forever());
    let (keen, proxy, url) = (env.keen.addr(), env.proxy.addr, env.queue.url.clone());
    let envoy = start(move || builder(keen, proxy, config(&url))).await;
    let mut longest = Duration::ZERO;
    for number in 0..8 {
        let began = std::time::Instant::now();
        assert_eq!(post(&envoy, track(&format!("fresh-{number}"))).await, 200);
        longest = longest.max(began.elapsed());
    }
    env.until_drained().await;
    assert_eq!(env.keen.events().len(), 48);
    // One callout to Keen, not a queue of callouts. A call over `afterMs` may go to the queue
    // instead.
    assert!(longest < Duration::from_secs(4), "{longest:?}");
    envoy.no_panic_in_log();
}

/// Returns a message of the queue with one event.
pub(crate) fn message(id: &str) -> serde_json::Value {
    let event = json!({"id": id, "keen": {"uniqueness_token": id}});
    json!({"v": 1, "project": overflow_queues::PROJECT, "events": {"overflow": [event]}})
}
