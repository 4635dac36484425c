//! Configuration updates while callers wait.

use super::fixture::{TestEnv, ok, track};
use harness::{Dynamic, Envoy};
use mock_keen::{Fault, MockKeen, Options};
use serde_json::{Value, json};

async fn test_env(what: Dynamic, config: Value) -> TestEnv {
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let builder = Envoy::builder().keen(keen.addr()).config(config).concurrency(2).from_file(what);
    let envoy = builder.start().await.unwrap_or_else(|e| panic!("{e:?}"));
    TestEnv { envoy, keen, client: reqwest::Client::new() }
}

/// Waits until both workers have the configuration. The connections are spread over the workers.
async fn in_force(env: &TestEnv) {
    let refused = async || {
        let client = reqwest::Client::new();
        let request =
            client.post(env.envoy.url("/v1/track")).basic_auth("nobody", Some("")).body(track("x"));
        request.send().await.unwrap().status() == 400
    };
    env.until("the new configuration is in force", async || {
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
    let env = test_env(what, config.clone()).await;
    env.keen.fault(Fault::hang().forever());
    let waiting = (0..40).map(|i| {
        let request = env.client.post(env.envoy.url("/v1/track")).basic_auth("writeKey", Some(""));
        tokio::spawn(request.body(track(&format!("waiting {i}"))).send())
    });
    let waiting: Vec<_> = waiting.collect();
    env.until("all wait", || async {
        env.envoy.stat("http.segment.downstream_rq_active").await == 40
    })
    .await;
    config["sources"]["another"] = config["sources"]["writeKey"].clone();
    config["unknownSource"] = json!("reject");
    env.envoy.update(&config).unwrap();
    in_force(&env).await;
    env.keen.clear_faults();
    for call in waiting {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(env.keen.events().len(), 40);
    let client = reqwest::Client::new();
    let post = |key: &'static str| {
        client.post(env.envoy.url("/v1/track")).basic_auth(key, Some("")).body(track(key))
    };
    assert_eq!(post("another").send().await.unwrap().status(), 200);
    assert_eq!(env.keen.events().len(), 41);
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn waiter_during_filter_replacement_is_answered() {
    who_waits_is_answered(Dynamic::Filter).await;
}

#[tokio::test]
async fn waiter_during_listener_replacement_is_answered() {
    who_waits_is_answered(Dynamic::Listener).await;
}

/// Events of calls that were answered at once are in the memory of the old configuration, which
/// delivers them.
#[tokio::test]
async fn accepted_events_survive_filter_replacement() {
    let mut config = harness::default_config();
    config["delivery"]["ack"] = json!("accepted");
    config["keen"]["timeoutMs"] = json!(500);
    let env = test_env(Dynamic::Filter, config.clone()).await;
    env.keen.stop().await;
    for i in 0..30 {
        assert_eq!(env.post("/v1/track", track(&format!("before {i}"))).await, ok());
    }
    config["unknownSource"] = json!("reject");
    env.envoy.update(&config).unwrap();
    in_force(&env).await;
    for i in 0..30 {
        assert_eq!(env.post("/v1/track", track(&format!("after {i}"))).await, ok());
    }
    env.keen.start_again().await.unwrap();
    env.until("all is delivered", || async { env.keen.events().len() == 60 }).await;
    env.until("nothing is pending", || async {
        env.envoy.stat("wasmcustom.keen_edge_pending_bytes").await == 0
    })
    .await;
    assert_eq!(env.envoy.total("events_dropped").await, 0);
    env.envoy.no_panic_in_log();
}

/// Stops Envoy gracefully, as docs/operating.md describes, and by SIGTERM.
#[tokio::test]
async fn graceful_stop_answers_waiters_and_sigterm_drops_them() {
    let waiting = |env: &TestEnv, name: &'static str| {
        let calls = (0..20).map(|i| {
            let request =
                env.client.post(env.envoy.url("/v1/track")).basic_auth("writeKey", Some(""));
            tokio::spawn(request.body(track(&format!("{name} {i}"))).send())
        });
        calls.collect::<Vec<_>>()
    };
    let env = test_env(Dynamic::Filter, harness::default_config()).await;
    env.keen.fault(Fault::hang().forever());
    let calls = waiting(&env, "drained");
    env.until("all wait", || async {
        env.envoy.stat("http.segment.downstream_rq_active").await == 20
    })
    .await;
    env.envoy.admin_post("/healthcheck/fail").await;
    env.envoy.admin_post("/drain_listeners?graceful&skip_exit").await;
    env.keen.clear_faults();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    env.envoy.admin_post("/quitquitquit").await;
    env.until("Envoy has ended", || async { env.envoy.exited().is_some() }).await;
    assert_eq!(env.keen.events().len(), 20);
    env.envoy.no_panic_in_log();

    let env = test_env(Dynamic::Filter, harness::default_config()).await;
    env.keen.fault(Fault::hang().forever());
    let calls = waiting(&env, "cut");
    env.until("all wait", || async {
        env.envoy.stat("http.segment.downstream_rq_active").await == 20
    })
    .await;
    env.envoy.terminate().await;
    for call in calls {
        // No caller got 200, so every SDK retries.
        assert!(!call.await.unwrap().is_ok_and(|reply| reply.status() == 200));
    }
    env.envoy.no_panic_in_log();
}
