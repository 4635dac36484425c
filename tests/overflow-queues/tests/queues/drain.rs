//! How messages come back from the queue.

use super::World;
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

async fn envoy(world: &World, config: Value) -> Envoy {
    let (keen, proxy) = (world.keen.addr(), world.proxy.addr);
    start(move || builder(keen, proxy, config.clone()).from_file(Dynamic::Filter)).await
}

fn assert_all_once(world: &World, count: usize) {
    let ids = ids_in(&world.keen);
    assert_eq!((ids.len(), ids.into_iter().collect::<BTreeSet<_>>().len()), (count, count));
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_is_drained_by_two_envoys() {
    let world = World::new("two").await;
    world.keen.fault(Fault::delay(400).forever());
    let config = config(&world.queue.url);
    let (first, second) = (envoy(&world, config.clone()).await, envoy(&world, config).await);
    // Both Envoys poll the queue.
    until(Duration::from_secs(20), "both ask the queue", async || world.proxy.receives() >= 2)
        .await;
    fill(&world.queue, MESSAGES).await;
    world.until_drained().await;
    assert_all_once(&world, MESSAGES);
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
async fn queue_is_drained_on_by_the_next_configuration() {
    let world = World::new("redeploy").await;
    fill(&world.queue, MESSAGES).await;
    world.keen.fault(Fault::delay(1_000).forever());
    let mut config = config(&world.queue.url);
    let envoy = envoy(&world, config.clone()).await;
    until(Duration::from_secs(30), "some are drained", async || world.keen.events().len() > 5)
        .await;
    assert!(world.queue.messages().await > 10);
    config["delivery"]["holdMs"] = json!(6_000);
    envoy.update(&config).unwrap();
    let before = world.keen.events().len();
    // The lease has been released, so the next worker need not wait for its end.
    until(Duration::from_secs(25), "more are drained", async || {
        world.keen.events().len() > before + 20
    })
    .await;
    world.until_drained().await;
    assert_all_once(&world, MESSAGES);
    envoy.no_panic_in_log();
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_message_goes_to_the_dead_letter_queue_and_its_neighbours_to_keen() {
    let mut world = World::new("poison-dead").await;
    let dead = world.queue.clone();
    let policy = json!({"deadLetterTargetArn": dead.arn(), "maxReceiveCount": 1}).to_string();
    world.queue = super::World::new("poison").await.queue;
    world.queue.set_attributes(json!({"RedrivePolicy": policy})).await;
    world.keen.fault(Fault::poison("id", "queued-3", 500).forever());
    let mut bad = message("queued-3");
    let events = bad["events"]["overflow"].as_array_mut().unwrap();
    for id in ["neighbour-0", "neighbour-1", "neighbour-2"] {
        events.push(json!({"id": id, "keen": {"uniqueness_token": id}}));
    }
    world.queue.put(&bad).await;
    let mut config = config(&world.queue.url);
    // A received message is hidden for 30 s instead of a minute.
    config["keen"]["timeoutMs"] = json!(2_000);
    let envoy = envoy(&world, config).await;
    until(Duration::from_secs(30), "the neighbours are in Keen", async || {
        world.keen.events().len() == 3
    })
    .await;
    fill(&world.queue, 3).await;
    until(Duration::from_secs(40), "other messages pass", async || world.keen.events().len() == 6)
        .await;
    until(Duration::from_secs(90), "it is a dead letter", async || {
        dead.messages().await == 1 && world.queue.messages().await == 0
    })
    .await;
    assert!(!ids_in(&world.keen).contains(&"queued-3".to_owned()));
    envoy.no_panic_in_log();
}

#[tokio::test(flavor = "multi_thread")]
async fn message_of_a_project_that_is_not_configured_stays_and_is_logged_once() {
    let world = World::new("unknown").await;
    let mut unknown = message("unknown");
    unknown["project"] = json!("ffffffffffffffffffffffff");
    world.queue.put(&unknown).await;
    world.queue.put(&json!({"v": 2, "events": []})).await;
    let mut config = config(&world.queue.url);
    config["keen"]["timeoutMs"] = json!(2_000);
    let envoy = envoy(&world, config).await;
    let logged = |text: &str| envoy.log().matches(text).count();
    until(Duration::from_secs(30), "both are logged", async || {
        logged("of project ffffffffffffffffffffffff") == 1
            && logged("not written by keen-edge") >= 1
    })
    .await;
    // The messages are received once more.
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert_eq!(world.queue.messages().await, 2);
    assert_eq!(logged("of project ffffffffffffffffffffffff"), 1);
    assert!(world.keen.calls().is_empty());
    fill(&world.queue, 1).await;
    until(Duration::from_secs(40), "others pass", async || world.keen.events().len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_queue_is_asked_once_in_20_s_by_two_workers() {
    let world = World::new("idle").await;
    let envoy = envoy(&world, config(&world.queue.url)).await;
    until(Duration::from_secs(10), "it is asked", async || world.proxy.receives() > 0).await;
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert!((2..=4).contains(&world.proxy.receives()), "{}", world.proxy.receives());
    // The poll waits in the queue, so a message is delivered at once.
    fill(&world.queue, 1).await;
    until(Duration::from_secs(5), "it is in Keen", async || world.keen.events().len() == 1).await;
    envoy.no_panic_in_log();
}
