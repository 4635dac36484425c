//! Every outcome of a callout to Keen and the response to the caller, as in docs/failure-modes.md.

use super::fixture::{PATIENCE, TestEnv, ok, track};
use harness::Envoy;
use mock_keen::{Fault, FaultKind, MockKeen, Options, PROJECT, Project, WRITE_KEY};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const OTHER_PROJECT: &str = "000000000000000000000001";

/// Limits are short, so that lasting failures end soon.
fn quick() -> Value {
    let mut config = harness::default_config();
    config["delivery"]["holdMs"] = json!(2000);
    config["keen"]["timeoutMs"] = json!(600);
    config
}

impl TestEnv {
    async fn post_as(&self, key: &str, body: String) -> (u16, Option<String>, Duration) {
        let start = Instant::now();
        let request =
            self.client.post(self.envoy.url("/v1/track")).basic_auth(key, Some("")).body(body);
        let reply = request.send().await.unwrap();
        let retry_after =
            reply.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        (reply.status().as_u16(), retry_after, start.elapsed())
    }

    async fn stat(&self, name: &str) -> u64 {
        self.envoy.total(name).await
    }
}

/// The cluster is missing, has no endpoints, has an unknown host name, refuses connections, or is
/// over its circuit breakers.
#[tokio::test]
async fn unreachable_cluster_is_answered_503() {
    let unreachable =
        ["missing", "empty", "unknown_name", "refused", "requests_overflow", "pending_overflow"];
    let mut config = quick();
    for cluster in unreachable {
        let mut source = config["sources"]["writeKey"].clone();
        source["cluster"] = json!(cluster);
        config["sources"][cluster] = source;
    }
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let patch = |yaml: &mut Value| {
        let clusters = yaml["static_resources"]["clusters"].as_array_mut().unwrap();
        let like = |name: &str| {
            let mut cluster = clusters[0].clone();
            cluster["name"] = json!(name);
            cluster["load_assignment"]["cluster_name"] = json!(name);
            cluster
        };
        let address = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
        let mut empty = like("empty");
        empty["load_assignment"]["endpoints"] = json!([]);
        empty["type"] = json!("STATIC");
        let mut unknown = like("unknown_name");
        *unknown.pointer_mut(address).unwrap() =
            json!({"address": "keen.invalid", "port_value": 80});
        let mut refused = like("refused");
        refused.pointer_mut(address).unwrap()["port_value"] = json!(1);
        let mut requests = like("requests_overflow");
        requests["circuit_breakers"] = json!({"thresholds": [{"max_requests": 0}]});
        let mut pending = like("pending_overflow");
        pending["circuit_breakers"] = json!({"thresholds": [{"max_pending_requests": 0}]});
        clusters.extend([empty, unknown, refused, requests, pending]);
    };
    let builder = Envoy::builder().keen(keen.addr()).config(config).patch(patch);
    let envoy = builder.start().await.unwrap_or_else(|e| panic!("{e:?}"));
    let env = TestEnv { envoy, keen, client: reqwest::Client::new() };
    for cluster in unreachable {
        let (status, retry_after, waited) = env.post_as(cluster, track(cluster)).await;
        assert_eq!((status, retry_after.as_deref()), (503, Some("5")), "{cluster}");
        assert!(waited < Duration::from_millis(2500), "{cluster}: {waited:?}");
        // Other projects are served meanwhile.
        assert_eq!(env.post("/v1/track", track(&format!("beside {cluster}"))).await, ok());
    }
    // Each failing project was tried four times, the healthy one once.
    env.until("nothing is pending", || async { env.stat("pending_bytes").await == 0 }).await;
    assert!(env.stat("callouts").await <= 5 * 6, "{} callouts", env.stat("callouts").await);
    let log = env.envoy.log();
    assert!(log.contains("cannot send through cluster \"missing\""), "{log}");
    assert_eq!(env.keen.events().len(), unreachable.len());
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn transient_failure_is_retried_and_stored_once() {
    let env = TestEnv::new().await;
    let faults: Vec<(String, Fault)> = [408, 429, 500, 502, 503, 504, 204, 202]
        .map(|status| (format!("status {status}"), Fault::status(status)))
        .into_iter()
        .chain([
            ("cut before it is stored".to_owned(), Fault::cut_before()),
            ("cut after it is stored".to_owned(), Fault::cut_after()),
            ("truncated reply".to_owned(), Fault::truncated()),
            ("reply that is no JSON".to_owned(), Fault::wrong_json()),
            ("reply without results".to_owned(), Fault::missing_results()),
            ("reply with too few results".to_owned(), Fault::short_results()),
            ("reply of 40 MB".to_owned(), Fault::huge(40_000_000)),
            (
                "Keen fails over the event".to_owned(),
                Fault::refuse_collection("own", "InternalServerError").times(1),
            ),
        ])
        .collect();
    let count = faults.len();
    for (name, fault) in faults {
        env.keen.fault(fault);
        let body =
            json!({"userId": "u", "event": "own", "messageId": name, "properties": {"n": 1}});
        let retried = env.stat("callouts_retried").await;
        assert_eq!(env.post("/v1/track", body.to_string()).await, ok(), "{name}");
        env.until(&format!("{name} was met"), || async {
            env.stat("callouts_retried").await > retried
        })
        .await;
    }
    assert_eq!(env.keen.events().len(), count);
    // Every attempt sent the same bytes, so Keen recognized what it had stored.
    assert_eq!(env.keen.duplicates(), 6);
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn misconfigured_destination_is_answered_503_without_retry() {
    let env = TestEnv::with(quick()).await;
    let up = format!("destination_up.project.{PROJECT}");
    let elsewhere = MockKeen::start(Options::default()).await.unwrap();
    for status in [401, 402, 403, 404, 405, 301, 302, 307] {
        let location = Some(format!("http://{}/3.0/projects/{PROJECT}/events", elsewhere.addr()));
        env.keen.fault(Fault::from(FaultKind::Status {
            status,
            body: None,
            retry_after: None,
            location,
        }));
        let calls = env.keen.calls().len();
        let (got, retry_after, waited) = env.post_as("writeKey", track(&status.to_string())).await;
        assert_eq!((got, retry_after.as_deref()), (503, Some("5")), "{status}");
        // No retry: the caller is answered at once.
        assert!(waited < Duration::from_millis(1500), "{status}: {waited:?}");
        assert_eq!(env.keen.calls().len(), calls + 1, "{status}");
        env.until(&format!("{status}: the gauge falls"), || async { env.stat(&up).await == 0 })
            .await;
        assert_eq!(env.post("/v1/track", track(&status.to_string())).await, ok());
        env.until(&format!("{status}: the gauge rises"), || async { env.stat(&up).await == 1 })
            .await;
    }
    assert!(elsewhere.calls().is_empty(), "a redirect was followed");
    let log = env.envoy.log();
    assert!(log.contains(&format!("Keen answers 401 to project {PROJECT}")), "{log}");
    assert!(!log.contains(&WRITE_KEY[..16]), "a key in the log");
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn retry_after_from_keen_is_honoured() {
    let env = TestEnv::new().await;
    env.keen.fault(Fault::status(503).retry_after("1"));
    let (status, _, waited) = env.post_as("writeKey", track("later")).await;
    assert_eq!(status, 200);
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
    // Longer than a caller waits: this call is answered at once, and later calls do not wait for
    // the end of the pause.
    env.keen.fault(Fault::status(429).retry_after("3600").times(4));
    let (status, _, waited) = env.post_as("writeKey", track("much later")).await;
    assert!(status == 503 && waited < Duration::from_millis(7500), "{status} after {waited:?}");
    env.keen.clear_faults();
    env.until("it goes on", || async { env.post("/v1/track", track("much later")).await == ok() })
        .await;
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn large_batch_is_split_and_each_event_is_settled() {
    let mut config = quick();
    config["delivery"]["maxBatchEvents"] = json!(10);
    config["limits"]["bodyBytes"] = json!(1_000_000);
    let env = TestEnv::with(config).await;
    let event = |i: usize| json!({"type": "track", "userId": "u", "event": format!("c{}", i % 2), "messageId": i.to_string(), "properties": {"i": i}});
    let batch = |range: std::ops::Range<usize>| {
        json!({"batch": range.map(event).collect::<Vec<_>>()}).to_string()
    };
    assert_eq!(env.post("/v1/batch", batch(0..95)).await, ok());
    assert_eq!(env.keen.calls().len(), 10);
    // Some events are rejected for their content: 200, and the others are stored.
    env.keen.fault(Fault::refuse_property("i", 103, "InvalidPropertyValueError").times(1));
    assert_eq!(env.post("/v1/batch", batch(100..110)).await, ok());
    assert_eq!(env.keen.events().len(), 104);
    env.until("it is counted", || async { env.stat("events_rejected").await == 1 }).await;
    assert_eq!(env.envoy.metric("events_rejected", &["error.InvalidPropertyValueError"]).await, 1);
    assert!(env.envoy.log().contains(
        "Keen rejected an event of source example, collection \"c1\": InvalidPropertyValueError"
    ));
    // 413 three times: split until it fits.
    env.keen.fault(Fault::status(413).times(3));
    assert_eq!(env.post("/v1/batch", batch(200..210)).await, ok());
    assert_eq!(env.keen.events().len(), 114);
    // A callout that is rejected with an error name is split down to single events. Here Keen
    // rejects all of them.
    let body = r#"{"message": "no", "error_code": "InvalidBatchError"}"#;
    env.keen.fault(Fault::status(400).body(body).times(3));
    assert_eq!(env.post("/v1/batch", batch(300..302)).await, ok());
    assert_eq!(env.keen.events().len(), 114);
    env.until("they are counted", || async { env.stat("events_rejected").await == 3 }).await;
    // One event over Keen's limit of 900,000 bytes.
    let words: Vec<String> = (0..95).map(|i| format!("{i}{}", "x".repeat(9_900))).collect();
    let large =
        json!({"event": "large", "userId": "u", "properties": {"words": words}}).to_string();
    assert_eq!(env.post("/v1/track", large).await, ok());
    env.until("it is counted", || async {
        env.envoy.metric("events_rejected", &["error.TooLarge"]).await == 1
    })
    .await;
    assert_eq!(env.keen.events().len(), 114);
    env.envoy.no_panic_in_log();
}

/// Two projects share one Keen. One fails in every way; the other is not affected.
#[tokio::test]
async fn failing_project_does_not_delay_other_projects() {
    let mut config = quick();
    config["sources"]["other"] = json!({"projectId": OTHER_PROJECT, "writeKey": "B".repeat(32)});
    let env = TestEnv::with(config).await;
    env.keen.add_project(Project::new(OTHER_PROJECT, &"B".repeat(32)));
    for (name, fault) in [
        ("401", Fault::status(401)),
        ("503", Fault::status(503)),
        ("cut", Fault::cut_before()),
        ("hang", Fault::hang()),
    ] {
        env.keen.fault(fault.project(PROJECT).forever());
        let failing = (0..50).map(|i| {
            let request =
                env.client.post(env.envoy.url("/v1/track")).basic_auth("writeKey", Some(""));
            tokio::spawn(request.body(track(&format!("{name}{i}"))).send())
        });
        let failing: Vec<_> = failing.collect();
        for i in 0..10 {
            let (status, _, waited) = env.post_as("other", track(&format!("{name}{i}"))).await;
            assert!(
                status == 200 && waited < Duration::from_millis(1000),
                "{name}: {status} after {waited:?}"
            );
        }
        // A batch for both projects gets 503. The event of the healthy project has been delivered
        // by then.
        let both = json!({"batch": [
            {"type": "track", "event": format!("{name} both"), "userId": "u", "writeKey": "writeKey", "messageId": name},
            {"type": "track", "event": format!("{name} both"), "userId": "u", "writeKey": "other", "messageId": name},
        ]});
        assert_eq!(env.post("/v1/batch", both.to_string()).await.0, 503, "{name}");
        let stored = env.keen.events_in(OTHER_PROJECT);
        assert!(stored.iter().any(|e| e.collection == format!("{name} both")), "{name}");
        for call in failing {
            assert_eq!(call.await.unwrap().unwrap().status(), 503, "{name}");
        }
        env.keen.clear_faults();
        env.until("it is well again", || async {
            env.post("/v1/batch", both.to_string()).await == ok()
        })
        .await;
    }
    assert_eq!(env.keen.events_in(OTHER_PROJECT).len(), 44);
    env.envoy.no_panic_in_log();
}

/// A write key reaches only its own project, whatever else a call contains.
#[tokio::test]
async fn write_key_reaches_only_its_own_project() {
    let mut config = harness::default_config();
    config["sources"]["other"] = json!({"projectId": OTHER_PROJECT, "writeKey": "B".repeat(32)});
    let env = TestEnv::with(config).await;
    env.keen.add_project(Project::new(OTHER_PROJECT, &"B".repeat(32)));
    let tricks = json!({
        "projectId": OTHER_PROJECT, "writeKey": "writeKey", "userId": "u", "event": format!("../{OTHER_PROJECT}/events"),
        "integrations": {"Keen IO": {"projectId": OTHER_PROJECT, "writeKey": "B".repeat(32), "traits": {"a": 1}}},
        "properties": {"keen": {"projectId": OTHER_PROJECT, "api_key": "B".repeat(32)}},
    });
    for path in [
        "/v1/track",
        "/v1/track?writeKey=other&api_key=other",
        "/v1/t?projectId=000000000000000000000001",
    ] {
        assert_eq!(env.post(path, tricks.to_string()).await, ok(), "{path}");
    }
    let calls = (0..200).map(|i| {
        let key = if i % 2 == 0 { "writeKey" } else { "other" };
        let request = env.client.post(env.envoy.url("/v1/track")).basic_auth(key, Some(""));
        tokio::spawn(request.body(track(key)).send())
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    for stored in env.keen.events_in(OTHER_PROJECT) {
        assert_eq!(stored.collection, "other");
    }
    for call in env.keen.calls() {
        let key = if call.project == PROJECT { WRITE_KEY.to_owned() } else { "B".repeat(32) };
        assert_eq!(call.header("authorization"), Some(key.as_str()));
    }
    assert!(env.keen.refusals().is_empty(), "{:?}", env.keen.refusals());
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn disconnected_waiters_events_are_delivered() {
    let env = TestEnv::new().await;
    env.keen.fault(Fault::hang());
    let calls = (0..20).map(|i| {
        let request = env.client.post(env.envoy.url("/v1/track")).basic_auth("writeKey", Some(""));
        tokio::spawn(request.body(track(&format!("left {i}"))).send())
    });
    let calls: Vec<_> = calls.collect();
    env.until("all wait", || async {
        env.envoy.stat("http.segment.downstream_rq_active").await == 20
    })
    .await;
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    env.until("all are gone", || async {
        env.envoy.stat("http.segment.downstream_rq_active").await == 0
    })
    .await;
    env.keen.clear_faults();
    env.until("their events are in Keen", || async { env.keen.events().len() == 20 }).await;
    env.envoy.no_panic_in_log();
}

/// Opens 2,000 connections with a caller each. One callout to Keen answers all of them.
#[tokio::test]
async fn two_thousand_waiters_share_one_callout() {
    let mut config = harness::default_config();
    config["delivery"] = json!({"holdMs": 60_000, "maxInFlight": 1, "maxBatchEvents": 5000});
    config["keen"]["timeoutMs"] = json!(60_000);
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let patient = |yaml: &mut Value| {
        let hcm = &mut yaml["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
        hcm["stream_idle_timeout"] = json!("70s");
        hcm["common_http_protocol_options"]["max_stream_duration"] = json!("70s");
    };
    let envoy =
        Envoy::builder().keen(keen.addr()).config(config).patch(patient).start().await.unwrap();
    let env = TestEnv { envoy, keen, client: reqwest::Client::new() };
    env.keen.fault(Fault::hang());
    let first = tokio::spawn(
        env.client
            .post(env.envoy.url("/v1/track"))
            .basic_auth("writeKey", Some(""))
            .body(track("first"))
            .send(),
    );
    env.until("the first is under way", || async { env.keen.calls().len() == 1 }).await;
    let calls = (0..2000).map(|i| {
        let body = json!({"userId": "u", "event": "e", "messageId": i.to_string()}).to_string();
        tokio::spawn(
            env.client
                .post(env.envoy.url("/v1/track"))
                .basic_auth("writeKey", Some(""))
                .body(body)
                .send(),
        )
    });
    let calls: Vec<_> = calls.collect();
    let start = Instant::now();
    while env.stat("requests").await < 2001 {
        assert!(start.elapsed() < 3 * PATIENCE, "{} requests", env.stat("requests").await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    env.keen.clear_faults();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    let sizes: Vec<usize> = env.keen.calls().iter().map(|call| call.events).collect();
    assert_eq!(sizes, [1, 2000]);
    env.envoy.no_panic_in_log();
}

/// Opens HTTP/2 connections with 100 streams each.
#[tokio::test]
async fn http2_connections_with_a_hundred_streams_are_answered() {
    let env = TestEnv::new().await;
    env.keen.fault(Fault::delay(20).forever());
    let mut calls = Vec::new();
    for connection in 0..10 {
        let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
        for stream in 0..100 {
            let body = json!({"userId": "u", "event": "h2", "messageId": format!("{connection}-{stream}")}).to_string();
            calls.push(tokio::spawn(
                client
                    .post(env.envoy.url("/v1/track"))
                    .basic_auth("writeKey", Some(""))
                    .body(body)
                    .send(),
            ));
        }
    }
    for call in calls {
        let reply = call.await.unwrap().unwrap();
        assert_eq!((reply.status().as_u16(), reply.version()), (200, reqwest::Version::HTTP_2));
    }
    assert_eq!(env.keen.events().len(), 1000);
    assert!(env.keen.calls().len() < 200, "{} callouts", env.keen.calls().len());
    assert!(env.envoy.stat("http.segment.downstream_cx_http2_total").await <= 10);
    env.envoy.no_panic_in_log();
}
