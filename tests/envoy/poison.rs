//! Keen fails on one event, or on everything. The other events are delivered, and the number of
//! callouts is bounded.

use super::fixture::{TestEnv, ok};
use mock_keen::{Fault, FaultKind};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Maximum time until the events beside a poison event are stored.
const DELIVERY_LIMIT: Duration = Duration::from_secs(60);
/// Length of an outage of Keen before the poison events are found.
const OUTAGE: Duration = Duration::from_secs(60);

fn message(id: usize, poison: bool) -> Value {
    json!({
        "type": "track", "event": "poison", "userId": "u", "messageId": format!("m{id}"),
        "properties": {"id": id, "poison": poison},
    })
}

fn poison() -> Fault {
    Fault::poison("poison", true, 500).forever()
}

/// Returns `count` messages. `poisoned` of them, evenly spread, are poison.
fn messages(count: usize, poisoned: usize) -> Vec<Value> {
    let step = count / poisoned;
    (0..count).map(|id| message(id, id % step == step / 2 && id / step < poisoned)).collect()
}

fn stored_ids(env: &TestEnv) -> BTreeSet<u64> {
    env.keen.events().iter().map(|stored| stored.event["id"].as_u64().unwrap()).collect()
}

async fn env(change: impl FnOnce(&mut Value)) -> TestEnv {
    let mut config = harness::default_config();
    change(&mut config);
    TestEnv::patched(config, |bootstrap| {
        harness::routes(bootstrap)[0]["direct_response"] =
            json!({"status": 200, "body": {"inline_string": "{\"success\": true}"}});
    })
    .await
}

/// Waits until all events except the poison events are stored. Returns how long it took.
async fn wait_for_others(env: &TestEnv, expected: usize) -> Duration {
    let start = Instant::now();
    while stored_ids(env).len() < expected {
        assert!(
            start.elapsed() < DELIVERY_LIMIT,
            "{} of {expected} events after {DELIVERY_LIMIT:?}",
            stored_ids(env).len()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    start.elapsed()
}

fn calls_since(env: &TestEnv, before: usize) -> usize {
    env.keen.calls().len() - before
}

async fn send_batches(env: &TestEnv, messages: &[Value], size: usize) {
    for batch in messages.chunks(size) {
        assert_eq!(env.post("/v1/batch", json!({"batch": batch}).to_string()).await, ok());
    }
}

#[tokio::test]
async fn confirmed_poison_event_does_not_hold_other_callers() {
    for (count, poisoned) in [(100, 1), (2_000, 5)] {
        let env = env(|_| {}).await;
        env.keen.fault(poison());
        let callers: Vec<_> = messages(count, poisoned)
            .into_iter()
            .map(|message| {
                let request = env.client.post(env.envoy.url("/v1/track"));
                let request = request.basic_auth("writeKey", Some("")).body(message.to_string());
                let poison = message["properties"]["poison"] == true;
                tokio::spawn(post_until_stored(request, poison))
            })
            .collect();
        let mut retries = 0;
        for caller in callers {
            let (poison, retried, status) = caller.await.unwrap();
            assert_eq!(status, if poison { 503 } else { 200 });
            retries += retried;
        }
        let calls = env.keen.calls().len();
        println!("confirmed, {poisoned} of {count}: {retries} retries of others, {calls} calls");
        assert_eq!(stored_ids(&env).len(), count - poisoned);
        // A caller gets 503 if its events were not separated from the poison event within holdMs.
        assert!(retries <= count / 10, "{retries} of {count}");
        assert!(calls < 400, "{calls} calls");
        env.envoy.no_panic_in_log();
    }
}

/// Posts a message as an SDK does: again after a 503, for [`DELIVERY_LIMIT`]. A poison message is
/// posted once. Returns whether the message is poison, the number of retries and the last status.
async fn post_until_stored(request: reqwest::RequestBuilder, poison: bool) -> (bool, usize, u16) {
    let start = Instant::now();
    for retries in 0.. {
        let response = request.try_clone().unwrap().send().await.unwrap();
        let status = response.status().as_u16();
        if poison || status == 200 || start.elapsed() > DELIVERY_LIMIT {
            return (poison, retries, status);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    unreachable!()
}

#[tokio::test]
async fn confirmed_poison_event_in_batch_does_not_hold_its_neighbours() {
    let env = env(|_| {}).await;
    env.keen.fault(poison());
    let batch = json!({"batch": messages(100, 1)}).to_string();
    assert_eq!(env.post("/v1/batch", batch).await.0, 503);
    let took = wait_for_others(&env, 99).await;
    println!(
        "confirmed batch: the other 99 events after {took:?}, {} calls",
        env.keen.calls().len()
    );
    assert!(env.keen.calls().len() < 100, "{}", env.keen.calls().len());
}

async fn assert_unattended_poison_is_isolated(mode: &str, outage: Duration) {
    let (small, large) = ((100, 1), (2_000, 5));
    tokio::join!(
        assert_poison_is_isolated(mode, outage, small),
        assert_poison_is_isolated(mode, outage, large),
    );
}

async fn assert_poison_is_isolated(
    mode: &str,
    outage: Duration,
    (count, poisoned): (usize, usize),
) {
    let env = env(|config| match mode {
        "accepted" => config["delivery"]["ack"] = json!("accepted"),
        _ => config["intercept"] = json!("forward"),
    })
    .await;
    if !outage.is_zero() {
        env.keen.fault(Fault::status(503).forever());
    }
    let poison_fault = poison();
    if outage.is_zero() {
        env.keen.fault(poison_fault.clone());
    }
    let messages = messages(count, poisoned);
    send_batches(&env, &messages, 100).await;
    tokio::time::sleep(outage).await;
    let during_outage = env.keen.calls().len();
    if !outage.is_zero() {
        // One callout per retry and slot. A healthy Keen gets one per batch.
        let limit = 40 + outage.as_secs() as usize * 8;
        assert!(during_outage < limit, "{during_outage} calls during the outage");
        env.keen.clear_faults();
        env.keen.fault(poison_fault);
    }
    let took = wait_for_others(&env, count - poisoned).await;
    let calls = calls_since(&env, during_outage);
    println!(
        "{mode}, {poisoned} of {count} after an outage of {outage:?}: the others after {took:?}, \
             {during_outage} calls during the outage, {calls} calls after it"
    );
    assert!(calls < 600, "{calls} calls");
    // The poison events are retried at a bounded rate, and fresh events are not delayed.
    let before = env.keen.calls().len();
    let fresh: Vec<Value> = (count..count + 10).map(|id| message(id, false)).collect();
    send_batches(&env, &fresh, 10).await;
    env.until("fresh events arrive", || async { stored_ids(&env).len() == count - poisoned + 10 })
        .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let rate = calls_since(&env, before);
    assert!(rate < 15 + poisoned * 10, "{rate} calls in 5 s");
    // Once Keen accepts them, nothing is left.
    env.keen.clear_faults();
    env.assert_events_accounted().await;
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn accepted_poison_event_does_not_hold_others() {
    assert_unattended_poison_is_isolated("accepted", Duration::ZERO).await;
}

#[tokio::test]
async fn forwarded_poison_event_does_not_hold_others() {
    assert_unattended_poison_is_isolated("forward", Duration::ZERO).await;
}

#[tokio::test]
async fn accepted_poison_event_after_outage_does_not_hold_others() {
    assert_unattended_poison_is_isolated("accepted", OUTAGE).await;
}

#[tokio::test]
async fn forwarded_poison_event_after_outage_does_not_hold_others() {
    assert_unattended_poison_is_isolated("forward", OUTAGE).await;
}

/// SDKs retry the same messages during an outage of 60 s. Afterwards each caller is answered.
#[tokio::test]
async fn confirmed_poison_event_after_outage_does_not_fail_other_callers() {
    let env = env(|_| {}).await;
    env.keen.fault(Fault::status(503).forever());
    let start = Instant::now();
    let callers: Vec<_> = messages(100, 1)
        .into_iter()
        .map(|message| {
            let (client, url) = (env.client.clone(), env.envoy.url("/v1/track"));
            tokio::spawn(async move {
                loop {
                    let request = client.post(&url).basic_auth("writeKey", Some(""));
                    let status = request.body(message.to_string()).send().await.unwrap().status();
                    let late = start.elapsed() > OUTAGE + DELIVERY_LIMIT;
                    if status == 200 || late {
                        return (message["properties"]["poison"] == true, status.as_u16());
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            })
        })
        .collect();
    tokio::time::sleep(OUTAGE).await;
    env.keen.clear_faults();
    env.keen.fault(poison());
    wait_for_others(&env, 99).await;
    env.keen.clear_faults();
    for caller in callers {
        assert_eq!(caller.await.unwrap().1, 200);
    }
    env.assert_events_accounted().await;
    env.envoy.no_panic_in_log();
}

/// A proxy in front of Keen answers 413 or an unnamed 400 to everything.
fn middlebox_faults() -> [(&'static str, Fault); 2] {
    let body = Some("<html>".to_owned());
    let bad_request = FaultKind::Status { status: 400, body, retry_after: None, location: None };
    let too_large = FaultKind::Status {
        status: 413,
        body: Some("<html>".to_owned()),
        retry_after: None,
        location: None,
    };
    [("413", too_large.into()), ("400", bad_request.into())]
}

#[tokio::test]
async fn middlebox_rejecting_everything_gets_few_calls_and_no_caller_gets_200() {
    const BATCHES: usize = 10;
    for (name, fault) in middlebox_faults() {
        let env = env(|_| {}).await;
        send_batches(&env, &messages(BATCHES * 100, 1), 100).await;
        let healthy = env.keen.calls().len();
        env.keen.fault(fault.forever());
        let before = env.keen.calls().len();
        for batch in messages(BATCHES * 100, 1).chunks(100) {
            let mut batch = batch.to_vec();
            for message in &mut batch {
                message["messageId"] = json!(format!("again-{}", message["messageId"]));
            }
            let (status, _) = env.post("/v1/batch", json!({"batch": batch}).to_string()).await;
            assert_eq!(status, 503, "{name}");
        }
        let calls = calls_since(&env, before);
        println!("{name} to everything: {calls} calls, healthy {healthy}");
        assert!(calls <= healthy * 6, "{name}: {calls} calls, healthy {healthy}");
        env.until("the destination is down", || async {
            let project = mock_keen::PROJECT;
            let gauge = format!("wasmcustom.keen_edge_destination_up.project.{project}");
            env.envoy.stat(&gauge).await == 0
        })
        .await;
        env.keen.clear_faults();
        env.until("callers get 200 again", || async {
            env.post("/v1/track", message(9_999, false).to_string()).await == ok()
        })
        .await;
        env.envoy.no_panic_in_log();
    }
}

#[tokio::test]
async fn middlebox_rejecting_everything_gets_few_calls_for_accepted_events() {
    for (name, fault) in middlebox_faults() {
        let env = env(|config| config["delivery"]["ack"] = json!("accepted")).await;
        env.keen.fault(fault.forever());
        send_batches(&env, &messages(1_000, 1), 100).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        let calls = env.keen.calls().len();
        println!("{name} to everything, accepted: {calls} calls in 20 s for 10 batches");
        assert!(calls < 150, "{name}: {calls} calls");
        env.keen.clear_faults();
        wait_for_others(&env, 1_000).await;
        env.envoy.no_panic_in_log();
    }
}
