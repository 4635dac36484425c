//! The queue fails while Keen is away.

use super::TestEnv;
use mock_keen::Fault;
use overflow_queues::{QueueFault, Seen, builder, config, post, start, track, until};
use serde_json::json;
use std::time::{Duration, Instant};

const HOLD: Duration = Duration::from_millis(2_500);

#[tokio::test(flavor = "multi_thread")]
async fn failing_queue_acts_as_no_queue() {
    let env = TestEnv::new("fails").await;
    let mut config = config(&env.queue.url);
    config["delivery"]["holdMs"] = json!(HOLD.as_millis());
    let (keen, proxy) = (env.keen.addr(), env.proxy.addr);
    let envoy = start(move || builder(keen, proxy, config.clone())).await;
    env.keen.fault(Fault::status(503).forever());
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
        let failed = envoy.total("events_overflow_failed").await;
        env.proxy.set(fault);
        let began = Instant::now();
        let status = post(&envoy, track(&format!("lost-{number}"))).await;
        assert_eq!(status, 503, "{fault:?}");
        assert!(began.elapsed() < HOLD + Duration::from_millis(700), "{:?}", began.elapsed());
        until(Duration::from_secs(10), "the failure is counted", async || {
            envoy.total("events_overflow_failed").await > failed
        })
        .await;
        env.proxy.set(QueueFault::None);
        let id = format!("kept-{number}");
        until(Duration::from_secs(20), "the queue is used again", async || {
            post(&envoy, track(&id)).await == 200
        })
        .await;
        seen.acknowledged.push(id);
    }
    // The queue is slow, but fast enough.
    env.proxy.set(QueueFault::Slow(Duration::from_millis(800)));
    assert_eq!(post(&envoy, track("slow")).await, 200);
    seen.acknowledged.push("slow".to_owned());
    assert!(env.keen.events().is_empty());
    env.proxy.set(QueueFault::None);
    env.keen.clear_faults();
    env.until_drained().await;
    until(Duration::from_secs(10), "all are in Keen", async || {
        seen.acknowledged.iter().all(|id| overflow_queues::ids_in(&env.keen).contains(id))
    })
    .await;
    env.assert_stored_once(&seen);
    envoy.no_panic_in_log();
}

/// Messages are close to SQS's limit of 1 MiB and have characters that need escapes. Envoy must
/// hold such a request to sign it.
#[tokio::test(flavor = "multi_thread")]
async fn large_batches_of_any_characters_pass_the_queue() {
    let env = TestEnv::new("large").await;
    let mut config = config(&env.queue.url);
    config["overflow"]["maxMessageBytes"] = json!(1_048_576);
    let (keen, proxy) = (env.keen.addr(), env.proxy.addr);
    let envoy = start(move || builder(keen, proxy, config.clone())).await;
    env.keen.fault(Fault::status(503).forever());
    let text = "\"\\\n\u{fffe}\u{ffff}\u{1}\u{7f}é\u{1f600}".repeat(300);
    let batch = |number: usize| {
        let event = |id: &str| json!({"type": "track", "event": "large", "userId": "u", "messageId": id, "properties": {"id": id, "text": text}});
        let ids = (0..50).map(|i| format!("{number}-{i}"));
        json!({"batch": ids.map(|id| event(&id)).collect::<Vec<_>>()}).to_string()
    };
    let client = reqwest::Client::new();
    let post = async |number| {
        let request = client.post(envoy.url("/v1/batch")).basic_auth("writeKey", Some(""));
        request.body(batch(number)).send().await.unwrap().status().as_u16()
    };
    let statuses = tokio::join!(post(0), post(1), post(2), post(3));
    assert_eq!(statuses, (200, 200, 200, 200), "{}", envoy.log_tail(5));
    assert!(env.keen.events().is_empty() && env.queue.messages().await > 0);
    env.keen.clear_faults();
    until(Duration::from_secs(60), "all are in Keen", async || env.keen.events().len() == 200)
        .await;
    env.until_drained().await;
    let events = env.keen.events();
    assert!(events.iter().all(|kept| kept.event["text"] == text.as_str()), "changed on the way");
    envoy.no_panic_in_log();
}
