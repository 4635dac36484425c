//! Requests after the filter's VM has failed. Only a build with the panic switch can fail.

use super::fixture::{TestEnv, ok, track};
use harness::Envoy;
use mock_keen::{Fault, MockKeen, Options};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Starts a filter that panics if a request has the header `x-keen-edge-panic`.
async fn test_env() -> TestEnv {
    let wasm = harness::root().join("target/keen_edge_panic_switch.wasm");
    assert!(wasm.is_file(), "run `scripts/build.sh panic-switch`");
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let shorter = |yaml: &mut Value| {
        let hcm = &mut yaml["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
        // envoy.yaml sets both. They are shorter here because the test waits for them.
        assert!(hcm["stream_idle_timeout"].is_string());
        assert!(hcm["common_http_protocol_options"]["max_stream_duration"].is_string());
        hcm["stream_idle_timeout"] = json!("2s");
        let plugin = harness::keen_edge(yaml);
        assert_eq!(plugin["failure_policy"], "FAIL_RELOAD");
        plugin["reload_config"]["backoff"]["base_interval"] = json!("0.2s");
    };
    let builder = Envoy::builder().keen(keen.addr()).wasm(wasm).patch(shorter);
    let envoy = builder.start().await.unwrap_or_else(|e| panic!("{e:?}"));
    TestEnv { envoy, keen, client: reqwest::Client::new() }
}

#[tokio::test]
async fn failed_vm_restarts_and_waiters_are_ended() {
    let env = test_env().await;
    assert_eq!(env.post("/v1/track", track("before")).await, ok());
    env.keen.fault(Fault::hang().forever());
    let waiting = (0..10).map(|i| {
        let request = env.client.post(env.envoy.url("/v1/track")).basic_auth("writeKey", Some(""));
        tokio::spawn(request.body(track(&format!("waiting {i}"))).send())
    });
    let waiting: Vec<_> = waiting.collect();
    env.until("all wait", || async {
        env.envoy.stat("http.segment.downstream_rq_active").await == 10
    })
    .await;
    let start = Instant::now();
    let last = env
        .client
        .post(env.envoy.url("/v1/track"))
        .header("x-keen-edge-panic", "now")
        .body("{}")
        .send();
    assert_eq!(last.await.unwrap().status(), 503);
    assert!(env.envoy.log().contains("panicked"));
    env.keen.clear_faults();
    // Their VM has failed, so Envoy's own limit ends them, and their SDKs retry.
    for call in waiting {
        let status = call.await.unwrap().unwrap().status().as_u16();
        assert!(matches!(status, 503 | 504), "{status}");
    }
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    env.until("a new VM serves", || async { env.post("/v1/track", track("after")).await == ok() })
        .await;
    for i in 0..10 {
        assert_eq!(env.post("/v1/track", track(&format!("waiting {i}"))).await, ok());
    }
    assert_eq!(env.keen.events().len(), 12);
    assert_eq!(env.envoy.stat("http.segment.downstream_rq_active").await, 0);
}

#[test]
fn release_build_has_no_panic_switch() {
    let holds = |path: &std::path::Path| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(16).any(|window| window == b"the panic switch")
    };
    assert!(holds(&harness::root().join("target/keen_edge_panic_switch.wasm")));
    assert!(!holds(&harness::wasm_path().unwrap()));
}

/// Envoy keeps gauges when a VM fails. The next VM subtracts what the failed VM had reported, and
/// does not reset the gauges.
#[tokio::test]
async fn gauges_after_vm_failure_are_corrected() {
    let env = test_env().await;
    env.keen.fault(Fault::status(403).times(1));
    assert_eq!(env.post("/v1/track", track("down")).await.0, 503);
    env.until("the destination is down", async || {
        env.envoy.total("destination_up").await == 0 && env.envoy.total("callouts").await == 1
    })
    .await;
    env.keen.fault(Fault::hang().forever());
    let request = env.client.post(env.envoy.url("/v1/track")).basic_auth("writeKey", Some(""));
    let waiting = tokio::spawn(request.body(track("waiting")).send());
    env.until("it is pending", async || env.envoy.total("pending_bytes").await > 0).await;
    let last = env.client.post(env.envoy.url("/v1/track")).header("x-keen-edge-panic", "now");
    assert_eq!(last.body("{}").send().await.unwrap().status(), 503);
    waiting.await.unwrap().unwrap();
    assert!(env.envoy.total("pending_bytes").await > 0, "nothing has corrected it yet");
    env.until("a new VM serves", async || {
        // Sends a request that makes no callout, so the destination stays down.
        env.post("/v1/identify", r#"{"userId": "u"}"#).await == ok()
    })
    .await;
    env.until("nothing is pending", async || env.envoy.total("pending_bytes").await == 0).await;
    env.until("it is counted as lost", async || env.envoy.total("pending_bytes_lost").await > 0)
        .await;
    assert_eq!(env.envoy.total("destination_up").await, 0, "Keen has not been asked since");
    env.keen.clear_faults();
    assert_eq!(env.post("/v1/track", track("after")).await, ok());
    env.until("the destination is up", async || env.envoy.total("destination_up").await == 1).await;
}

fn capabilities(yaml: &mut Value) -> &mut serde_json::Map<String, Value> {
    let restriction = &mut harness::keen_edge(yaml)["vm_config"]["capability_restriction_config"];
    restriction["allowed_capabilities"].as_object_mut().unwrap()
}

/// Envoy does not start, and its log names the capability.
#[tokio::test]
async fn capability_withheld_refuses_the_start() {
    for name in [
        "proxy_log",
        "proxy_get_log_level",
        "proxy_get_current_time_nanoseconds",
        "proxy_set_tick_period_milliseconds",
        "proxy_get_buffer_bytes",
        "proxy_get_header_map_pairs",
        "proxy_get_property",
        "proxy_get_shared_data",
        "proxy_set_shared_data",
        "proxy_register_shared_queue",
        "proxy_enqueue_shared_queue",
        "proxy_dequeue_shared_queue",
        "proxy_send_local_response",
        "proxy_http_call",
        "proxy_set_effective_context",
        "proxy_define_metric",
        "proxy_increment_metric",
        "proxy_record_metric",
    ] {
        let without = |yaml: &mut Value| assert!(capabilities(yaml).remove(name).is_some());
        let error = Envoy::builder().patch(without).start().await.map(drop).unwrap_err();
        let text = format!("{error:?}");
        assert!(text.contains(name), "{name} is not named:\n{text}");
    }
}

#[tokio::test]
async fn filter_without_capability_list_serves() {
    let all = |yaml: &mut Value| {
        let vm = harness::keen_edge(yaml)["vm_config"].as_object_mut().unwrap();
        vm.remove("capability_restriction_config").unwrap();
    };
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let builder = Envoy::builder().keen(keen.addr()).concurrency(2).patch(all);
    let envoy = builder.start().await.unwrap_or_else(|e| panic!("{e:?}"));
    let env = TestEnv { envoy, keen, client: reqwest::Client::new() };
    env.keen.fault(Fault::chaos(7, 0.3));
    for i in 0..40 {
        // Retries as an SDK does.
        let body = track(&i.to_string());
        env.until("it is stored", || async { env.post("/v1/track", body.clone()).await == ok() })
            .await;
    }
    assert_eq!(env.keen.events().len(), 40);
    env.envoy.no_panic_in_log();
}

/// Runs two listeners with a minimal envoy.yaml. Their filters share a VM.
#[tokio::test]
async fn minimal_configuration_with_two_filters_in_one_vm_delivers() {
    let bare = |yaml: &mut Value| {
        let plugin = harness::keen_edge(yaml).as_object_mut().unwrap();
        for name in ["name", "root_id", "failure_policy", "reload_config"] {
            plugin.remove(name);
        }
        let vm = plugin["vm_config"].as_object_mut().unwrap();
        for name in ["vm_id", "capability_restriction_config"] {
            vm.remove(name);
        }
        vm.insert("runtime".to_owned(), json!("envoy.wasm.runtime.v8"));
        let listeners = yaml["static_resources"]["listeners"].as_array_mut().unwrap();
        let hcm = &mut listeners[0]["filter_chains"][0]["filters"][0]["typed_config"];
        for name in [
            "use_remote_address",
            "request_timeout",
            "stream_idle_timeout",
            "http2_protocol_options",
        ] {
            hcm.as_object_mut().unwrap().remove(name);
        }
        listeners[0].as_object_mut().unwrap().remove("per_connection_buffer_limit_bytes");
        let mut second = listeners[0].clone();
        second["name"] = json!("second");
        let filters = "/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config/configuration/value";
        second.pointer_mut(filters).unwrap()["sources"]["other"] =
            json!({"projectId": mock_keen::PROJECT, "writeKey": mock_keen::WRITE_KEY});
        listeners.push(second);
    };
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let builder = Envoy::builder().keen(keen.addr()).concurrency(2).patch(bare);
    let envoy = builder.start().await.unwrap_or_else(|e| panic!("{e:?}"));
    let env = TestEnv { envoy, keen, client: reqwest::Client::new() };
    env.keen.fault(Fault::chaos(3, 0.3));
    let second = env.envoy.listener("second").await.unwrap();
    for i in 0..30 {
        let (first, other) = (track(&format!("first {i}")), track(&format!("second {i}")));
        env.until("the first", || async { env.post("/v1/track", first.clone()).await == ok() })
            .await;
        env.until("the second", || async {
            let request =
                env.client.post(format!("http://{second}/v1/track")).basic_auth("other", Some(""));
            request.body(other.clone()).send().await.unwrap().status() == 200
        })
        .await;
    }
    assert_eq!(env.keen.events().len(), 60);
    env.envoy.no_panic_in_log();
}
