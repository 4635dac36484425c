//! One project fails or is flooded. Callers of another project on the same worker get 200 in their
//! usual time.

use super::fixture::{TestEnv, ok};
use base64::Engine as _;
use harness::Envoy;
use mock_keen::{Fault, MockKeen, Options, PROJECT, Project, WRITE_KEY};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const HEALTHY_KEY: &str = "writeKey";
const FAILING_KEY: &str = "failingKey";
const FAILING_PROJECT: &str = "000000000000000000000002";
/// Small enough to be full after a few hundred calls. Each of the two projects is guaranteed half
/// of it.
const MAX_PENDING_BYTES: u64 = 400_000;
/// How long the failing project receives events while the calls of the healthy project are
/// measured.
const FEED_TIME: Duration = Duration::from_secs(4);
/// Longest acceptable call of the healthy project. A call usually takes a few milliseconds, but
/// this machine has two cores and runs other tests.
const USUAL_TIME: Duration = Duration::from_millis(1_500);

/// How the failing project's events arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Feed {
    /// As pixel requests, which are always answered with the image.
    Images,
    /// By `intercept: forward`, where the route answers.
    ForwardedCopies,
    /// From callers that wait for Keen and retry.
    WaitingCallers,
}

fn faults() -> [(&'static str, Fault); 3] {
    [("402", Fault::status(402)), ("503", Fault::status(503)), ("hang", Fault::hang())]
}

async fn env(feed: Feed) -> TestEnv {
    let mut config = harness::default_config();
    config["sources"][FAILING_KEY] = json!({"projectId": FAILING_PROJECT, "writeKey": WRITE_KEY});
    config["delivery"]["maxPendingBytes"] = json!(MAX_PENDING_BYTES);
    config["delivery"]["holdMs"] = json!(2_000);
    config["keen"]["timeoutMs"] = json!(1_000);
    if feed == Feed::ForwardedCopies {
        config["intercept"] = json!("forward");
    }
    let env = TestEnv::patched(config, |bootstrap| {
        harness::routes(bootstrap)[0]["direct_response"] =
            json!({"status": 200, "body": {"inline_string": "{\"success\": true}"}});
    })
    .await;
    env.keen.add_project(Project::new(FAILING_PROJECT, WRITE_KEY));
    env
}

fn track(id: &str, padding: usize) -> Value {
    json!({
        "type": "track", "event": "tenant", "userId": "u", "messageId": id,
        "properties": {"id": id, "pad": "x".repeat(padding)},
    })
}

async fn post(
    client: &reqwest::Client,
    url: &str,
    key: &str,
    body: String,
) -> reqwest::Result<u16> {
    let response = client.post(url).basic_auth(key, Some("")).body(body).send().await?;
    let status = response.status().as_u16();
    response.bytes().await?;
    Ok(status)
}

/// Sends events of the failing project until `stop`. Returns the number of responses by status.
async fn feed(feed: Feed, base: String, worker: u32, stop: Arc<AtomicBool>) -> BTreeMap<u16, u32> {
    let client = reqwest::Client::new();
    let mut statuses = BTreeMap::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let mut message = track(&format!("{worker}-{number}"), 4_000);
        let status = match feed {
            Feed::Images => {
                message["writeKey"] = json!(FAILING_KEY);
                let data = base64::engine::general_purpose::URL_SAFE.encode(message.to_string());
                let image = client.get(format!("{base}/v1/pixel/track?data={data}")).send().await;
                image.unwrap().status().as_u16()
            }
            Feed::ForwardedCopies | Feed::WaitingCallers => {
                let url = format!("{base}/v1/track");
                post(&client, &url, FAILING_KEY, message.to_string()).await.unwrap()
            }
        };
        *statuses.entry(status).or_default() += 1;
        let refused = status != 200;
        tokio::time::sleep(Duration::from_millis(if refused { 100 } else { 1 })).await;
    }
    statuses
}

async fn assert_healthy_project_is_unaffected(kind: Feed) {
    for (name, fault) in faults() {
        let env = env(kind).await;
        let case = format!("{kind:?}, {name}");
        env.keen.fault(fault.forever().project(FAILING_PROJECT));
        let stop = Arc::new(AtomicBool::new(false));
        // Waiting callers hold their connection, so many of them are needed to fill the bound.
        let feeders = if kind == Feed::WaitingCallers { 150 } else { 4 };
        let feeders: Vec<_> = (0..feeders)
            .map(|worker| tokio::spawn(feed(kind, env.envoy.url(""), worker, stop.clone())))
            .collect();

        let (mut calls, mut slowest, mut most_pending) = (0, Duration::ZERO, 0);
        let start = Instant::now();
        while start.elapsed() < FEED_TIME {
            let body = track(&format!("healthy-{calls}"), 4_000).to_string();
            let sent = Instant::now();
            let url = env.envoy.url("/v1/track");
            let status = post(&env.client, &url, HEALTHY_KEY, body).await.unwrap();
            slowest = slowest.max(sent.elapsed());
            assert_eq!(status, 200, "{case}: call {calls}, {}", env.envoy.log_tail(5));
            calls += 1;
            if calls % 16 == 0 {
                let pending = env.envoy.stat("wasmcustom.keen_edge_pending_bytes").await;
                most_pending = most_pending.max(pending);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.store(true, Ordering::Relaxed);
        let mut statuses: BTreeMap<u16, u32> = BTreeMap::new();
        for feeder in feeders {
            for (status, count) in feeder.await.unwrap() {
                *statuses.entry(status).or_default() += count;
            }
        }
        println!(
            "{case}: {calls} healthy calls, slowest {slowest:?}; failing project's responses {statuses:?}, \
             {most_pending} bytes pending at most"
        );
        assert!(slowest < USUAL_TIME, "{case}: {slowest:?}");
        assert!(calls > 5, "{case}: {calls} calls");
        // A 402 is answered at once, so only events of disconnected callers are pending then.
        if !(kind == Feed::WaitingCallers && name == "402") {
            assert!(most_pending > MAX_PENDING_BYTES / 3, "{case}: {most_pending} pending");
        }
        env.until("every event of the healthy project is in Keen", || async {
            env.keen.events_in(mock_keen::PROJECT).len() == calls
        })
        .await;
        assert!(env.keen.events_in(FAILING_PROJECT).is_empty(), "{case}");

        // The failing project recovers by itself.
        env.keen.clear_faults();
        env.until("the failing project's callers get 200 again", || async {
            let (status, _) = env.post_as_failing().await;
            status == 200 && !env.keen.events_in(FAILING_PROJECT).is_empty()
        })
        .await;
        env.assert_events_accounted().await;
        env.envoy.no_panic_in_log();
    }
}

impl TestEnv {
    async fn post_as_failing(&self) -> (u16, Value) {
        let url = self.envoy.url("/v1/track");
        let body = track("recovered", 10).to_string();
        (post(&self.client, &url, FAILING_KEY, body).await.unwrap_or(0), Value::Null)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_project_fed_by_images_does_not_affect_others() {
    assert_healthy_project_is_unaffected(Feed::Images).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_project_fed_by_forwarded_copies_does_not_affect_others() {
    assert_healthy_project_is_unaffected(Feed::ForwardedCopies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_project_fed_by_waiting_callers_does_not_affect_others() {
    assert_healthy_project_is_unaffected(Feed::WaitingCallers).await;
}

/// Three sources of one project have different keys. Two keys are wrong, before and after the right
/// one in the configuration. Successes with the right key do not hide the others.
#[tokio::test]
async fn wrong_key_of_one_source_is_visible_in_metrics() {
    let mut config = harness::default_config();
    for (key, digit) in [("aWrongKey", "0"), ("zWrongKey", "1")] {
        let mut source = config["sources"][HEALTHY_KEY].clone();
        source["writeKey"] = json!(digit.repeat(64));
        source["name"] = json!(format!("shop-{key}"));
        config["sources"][key] = source;
    }
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let envoy = Envoy::builder().keen(keen.addr()).config(config).concurrency(2).start().await;
    let envoy = envoy.unwrap_or_else(|error| panic!("{error:?}"));
    let env = TestEnv { envoy, keen, client: reqwest::Client::new() };
    let url = env.envoy.url("/v1/track");
    // New connections, to both workers.
    let post = async |key: &str, id: &str| {
        post(&reqwest::Client::new(), &url, key, track(id, 10).to_string()).await.unwrap()
    };
    assert_eq!(post(HEALTHY_KEY, "right").await, 200);
    let up = async || env.envoy.total("destination_up").await;
    env.until("the project is up", async || up().await == 1).await;
    for key in ["aWrongKey", "zWrongKey"] {
        assert_eq!(post(key, "wrong").await, 503);
        env.until("the project is down", async || up().await == 0).await;
    }
    // Longer than metrics take.
    let end = Instant::now() + Duration::from_millis(500);
    while Instant::now() < end {
        assert_eq!(post(HEALTHY_KEY, &format!("right {end:?}")).await, 200);
        assert_eq!(up().await, 0);
    }
    for key in ["aWrongKey", "zWrongKey"] {
        let line = format!("Keen answers 401 to project {PROJECT} of source shop-{key}:");
        assert!(env.envoy.log().contains(&line), "{}", env.envoy.log());
    }
    assert_eq!(env.post("/v1/track", track("after", 10).to_string()).await, ok());
}
