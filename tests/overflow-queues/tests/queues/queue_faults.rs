//! The queue fails while Keen is away.

use super::World;
use mock_keen::Fault;
use overflow_queues::{QueueFault, Seen, builder, config, post, start, track, until};
use serde_json::json;
use std::time::{Duration, Instant};

const HOLD: Duration = Duration::from_millis(2_500);

#[tokio::test(flavor = "multi_thread")]
async fn queue_that_fails_is_as_no_queue() {
    let world = World::new("fails").await;
    let mut config = config(&world.queue.url);
    config["delivery"]["holdMs"] = json!(HOLD.as_millis());
    let (keen, proxy) = (world.keen.addr(), world.proxy.addr);
    let envoy = start(move || builder(keen, proxy, config.clone())).await;
    world.keen.fault(Fault::status(503).forever());
    let mut seen = Seen::default();
    let faults = [
        QueueFault::IsAway,
        QueueFault::Refuses,
        QueueFault::Throttles,
        QueueFault::WithoutId,
        QueueFault::LosesReply,
        QueueFault::Slow(Duration::from_secs(20)),
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        world.proxy.set(fault);
        let began = Instant::now();
        let status = post(&envoy, track(&format!("lost-{number}"))).await;
        assert_eq!(status, 503, "{fault:?}");
        assert!(began.elapsed() < HOLD + Duration::from_millis(700), "{:?}", began.elapsed());
        until(Duration::from_secs(10), "the gauge is 0", async || {
            envoy.stat("wasmcustom.keen_edge_overflow_up").await == 0
        })
        .await;
        world.proxy.set(QueueFault::None);
        let id = format!("kept-{number}");
        until(Duration::from_secs(20), "the queue is used again", async || {
            post(&envoy, track(&id)).await == 200
        })
        .await;
        seen.acknowledged.push(id);
    }
    // Slow, but fast enough.
    world.proxy.set(QueueFault::Slow(Duration::from_millis(800)));
    assert_eq!(post(&envoy, track("slow")).await, 200);
    seen.acknowledged.push("slow".to_owned());
    assert!(world.keen.events().is_empty());
    world.proxy.set(QueueFault::None);
    world.keen.clear_faults();
    world.until_drained().await;
    until(Duration::from_secs(10), "all are in Keen", async || {
        seen.acknowledged.iter().all(|id| overflow_queues::ids_in(&world.keen).contains(id))
    })
    .await;
    world.assert_stored_once(&seen);
    envoy.no_panic_in_log();
}
