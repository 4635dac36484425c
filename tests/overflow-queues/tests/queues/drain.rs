//! How messages come back from the queue.

use super::TestEnv;
use super::outage::message;
use harness::{Dynamic, Envoy};
use mock_keen::Fault;
use overflow_queues::{Queue, builder, config, ids_in, start, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

const MESSAGES: usize = 60;

async fn fill(queue: &Queue, count: usize) {
    for number in 0..count {
        queue.put(&message(&format!("queued-{number}"))).await;
    }
}

async fn envoy(env: &TestEnv, config: Value) -> Envoy {
    let (keen, proxy) = (env.keen.addr(), env.proxy.addr);
    start(move || builder(keen, proxy, config.clone()).from_file(Dynamic::Filter)).await
}

fn assert_all_once(env: &TestEnv, count: usize) {
    let ids = ids_in(&env.keen);
    assert_eq!((ids.len(), ids.into_iter().collect::<BTreeSet<_>>().len()), (count, count));
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_is_drained_by_two_envoys() {
    let env = TestEnv::new("two").await;
    env.keen.fault(Fault::delay(400).forever());
    let config = config(&env.queue.url);
    let (first, second) = (envoy(&env, config.clone()).await, envoy(&env, config).await);
    // Both Envoys poll the queue.
    until(Duration::from_secs(20), "both ask the queue", async || env.proxy.receives() >= 2).await;
    fill(&env.queue, MESSAGES).await;
    env.until_drained().await;
    assert_all_once(&env, MESSAGES);
    let drained = async |envoy: &Envoy| envoy.total("events_drained").await;
    until(Duration::from_secs(10), "all are counted", async || {
        drained(&first).await + drained(&second).await >= MESSAGES as u64
    })
    .await;
    assert!(drained(&first).await > 0 && drained(&second).await > 0);
    first.no_panic_in_log();
    second.no_panic_in_log();
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_is_continued_by_the_next_configuration() {
    let env = TestEnv::new("redeploy").await;
    fill(&env.queue, MESSAGES).await;
    env.keen.fault(Fault::delay(1_000).forever());
    let mut config = config(&env.queue.url);
    let envoy = envoy(&env, config.clone()).await;
    until(Duration::from_secs(30), "some are drained", async || env.keen.events().len() > 5).await;
    assert!(env.queue.messages().await > 10);
    config["delivery"]["holdMs"] = json!(6_000);
    envoy.update(&config).unwrap();
    let before = env.keen.events().len();
    // The lease has been released, so the next worker need not wait for its end.
    until(Duration::from_secs(25), "more are drained", async || {
        env.keen.events().len() > before + 20
    })
    .await;
    env.until_drained().await;
    assert_all_once(&env, MESSAGES);
    envoy.no_panic_in_log();
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_message_goes_to_the_dead_letter_queue_and_its_neighbours_to_keen() {
    let mut env = TestEnv::new("poison-dead").await;
    let dead = env.queue.clone();
    let policy = json!({"deadLetterTargetArn": dead.arn(), "maxReceiveCount": 1}).to_string();
    env.queue = super::TestEnv::new("poison").await.queue;
    env.queue.set_attributes(json!({"RedrivePolicy": policy})).await;
    env.keen.fault(Fault::poison("id", "queued-3", 500).forever());
    let mut bad = message("queued-3");
    let events = bad["events"]["overflow"].as_array_mut().unwrap();
    for id in ["neighbour-0", "neighbour-1", "neighbour-2"] {
        events.push(json!({"id": id, "keen": {"uniqueness_token": id}}));
    }
    env.queue.put(&bad).await;
    let mut config = config(&env.queue.url);
    // A received message is hidden for 30 s instead of a minute.
    config["keen"]["timeoutMs"] = json!(2_000);
    let envoy = envoy(&env, config).await;
    until(Duration::from_secs(30), "the neighbours are in Keen", async || {
        env.keen.events().len() == 3
    })
    .await;
    fill(&env.queue, 3).await;
    until(Duration::from_secs(40), "other messages pass", async || env.keen.events().len() == 6)
        .await;
    until(Duration::from_secs(90), "it is a dead letter", async || {
        dead.messages().await == 1 && env.queue.messages().await == 0
    })
    .await;
    assert!(!ids_in(&env.keen).contains(&"queued-3".to_owned()));
    envoy.no_panic_in_log();
}

#[tokio::test(flavor = "multi_thread")]
async fn message_of_a_project_that_is_not_configured_stays_and_is_logged_once() {
    let env = TestEnv::new("unknown").await;
    let mut unknown = message("unknown");
    unknown["project"] = json!("ffffffffffffffffffffffff");
    env.queue.put(&unknown).await;
    env.queue.put(&json!({"v": 2, "events": []})).await;
    let mut config = config(&env.queue.url);
    config["keen"]["timeoutMs"] = json!(2_000);
    let envoy = envoy(&env, config).await;
    let logged = |text: &str| envoy.log().matches(text).count();
    until(Duration::from_secs(30), "both are logged", async || {
        logged("of project ffffffffffffffffffffffff") == 1
            && logged("not written by keen-edge") >= 1
    })
    .await;
    // The messages are received once more.
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert_eq!(env.queue.messages().await, 2);
    assert_eq!(logged("of project ffffffffffffffffffffffff"), 1);
    assert!(env.keen.calls().is_empty());
    fill(&env.queue, 1).await;
    until(Duration::from_secs(40), "others pass", async || env.keen.events().len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_queue_is_polled_once_in_20_s_by_two_workers() {
    let env = TestEnv::new("idle").await;
    let envoy = envoy(&env, config(&env.queue.url)).await;
    until(Duration::from_secs(10), "it is asked", async || env.proxy.receives() > 0).await;
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert!((2..=4).contains(&env.proxy.receives()), "{}", env.proxy.receives());
    // The poll waits in the queue, so a message is delivered at once.
    fill(&env.queue, 1).await;
    until(Duration::from_secs(5), "it is in Keen", async || env.keen.events().len() == 1).await;
    envoy.no_panic_in_log();
}
