//! The filter's configuration, replaced while callers wait.

use super::fixture::{TestEnv, ok, track};
use harness::{Dynamic, Envoy};
use mock_keen::{Fault, MockKeen, Options};
use serde_json::{Value, json};

async fn setting(what: Dynamic, config: Value) -> TestEnv {
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let builder = Envoy::builder().keen(keen.addr()).config(config).concurrency(2).from_file(what);
    let envoy = builder.start().await.unwrap_or_else(|e| panic!("{e:?}"));
    TestEnv { envoy, keen, client: reqwest::Client::new() }
}

/// Until both workers have it: connections are spread over them.
async fn in_force(s: &TestEnv) {
    let refused = async || {
        let client = reqwest::Client::new();
        let request =
            client.post(s.envoy.url("/v1/track")).basic_auth("nobody", Some("")).body(track("x"));
        request.send().await.unwrap().status() == 400
    };
    s.until("the new configuration is in force", async || {
        for _ in 0..8 {
            if !refused().await {
                return false;
            }
        }
        true
    })
    .await;
}

async fn who_waits_is_answered(what: Dynamic) {
    let mut config = harness::default_config();
    let s = setting(what, config.clone()).await;
    s.keen.fault(Fault::hang().forever());
    let waiting = (0..40).map(|i| {
        let request = s.client.post(s.envoy.url("/v1/track")).basic_auth("writeKey", Some(""));
        tokio::spawn(request.body(track(&format!("waiting {i}"))).send())
    });
    let waiting: Vec<_> = waiting.collect();
    s.until("all wait", || async { s.envoy.stat("http.segment.downstream_rq_active").await == 40 })
        .await;
    config["sources"]["another"] = config["sources"]["writeKey"].clone();
    config["unknownSource"] = json!("reject");
    s.envoy.update(&config).unwrap();
    in_force(&s).await;
    s.keen.clear_faults();
    for call in waiting {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(s.keen.events().len(), 40);
    let client = reqwest::Client::new();
    let post = |key: &'static str| {
        client.post(s.envoy.url("/v1/track")).basic_auth(key, Some("")).body(track(key))
    };
    assert_eq!(post("another").send().await.unwrap().status(), 200);
    assert_eq!(s.keen.events().len(), 41);
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn waiter_during_filter_replacement_is_answered() {
    who_waits_is_answered(Dynamic::Filter).await;
}

#[tokio::test]
async fn waiter_during_listener_replacement_is_answered() {
    who_waits_is_answered(Dynamic::Listener).await;
}

/// What was answered at once is in the old configuration's memory: it is delivered all the same.
#[tokio::test]
async fn accepted_events_survive_filter_replacement() {
    let mut config = harness::default_config();
    config["delivery"]["ack"] = json!("accepted");
    config["keen"]["timeoutMs"] = json!(500);
    let s = setting(Dynamic::Filter, config.clone()).await;
    s.keen.stop().await;
    for i in 0..30 {
        assert_eq!(s.post("/v1/track", track(&format!("before {i}"))).await, ok());
    }
    config["unknownSource"] = json!("reject");
    s.envoy.update(&config).unwrap();
    in_force(&s).await;
    for i in 0..30 {
        assert_eq!(s.post("/v1/track", track(&format!("after {i}"))).await, ok());
    }
    s.keen.start_again().await.unwrap();
    s.until("all is delivered", || async { s.keen.events().len() == 60 }).await;
    s.until("nothing is pending", || async {
        s.envoy.stat("wasmcustom.keen_edge_pending_bytes").await == 0
    })
    .await;
    assert_eq!(s.envoy.stat("wasmcustom.keen_edge_events_dropped").await, 0);
    s.envoy.no_panic_in_log();
}

/// The stop that docs/operating.md describes, and the one that cuts.
#[tokio::test]
async fn graceful_stop_answers_waiters_and_sigterm_drops_them() {
    let waiting = |s: &TestEnv, name: &'static str| {
        let calls = (0..20).map(|i| {
            let request = s.client.post(s.envoy.url("/v1/track")).basic_auth("writeKey", Some(""));
            tokio::spawn(request.body(track(&format!("{name} {i}"))).send())
        });
        calls.collect::<Vec<_>>()
    };
    let s = setting(Dynamic::Filter, harness::default_config()).await;
    s.keen.fault(Fault::hang().forever());
    let calls = waiting(&s, "drained");
    s.until("all wait", || async { s.envoy.stat("http.segment.downstream_rq_active").await == 20 })
        .await;
    s.envoy.admin_post("/healthcheck/fail").await;
    s.envoy.admin_post("/drain_listeners?graceful&skip_exit").await;
    s.keen.clear_faults();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    s.envoy.admin_post("/quitquitquit").await;
    s.until("Envoy has ended", || async { s.envoy.exited().is_some() }).await;
    assert_eq!(s.keen.events().len(), 20);
    s.envoy.no_panic_in_log();

    let s = setting(Dynamic::Filter, harness::default_config()).await;
    s.keen.fault(Fault::hang().forever());
    let calls = waiting(&s, "cut");
    s.until("all wait", || async { s.envoy.stat("http.segment.downstream_rq_active").await == 20 })
        .await;
    s.envoy.terminate().await;
    for call in calls {
        // Nobody is told 200: each sends again.
        assert!(!call.await.unwrap().is_ok_and(|reply| reply.status() == 200));
    }
    s.envoy.no_panic_in_log();
}
