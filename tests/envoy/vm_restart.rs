//! Requests after the filter's VM has failed. Only the panic-switch build can fail.

use super::fixture::{TestEnv, ok, track};
use harness::Envoy;
use mock_keen::{Fault, MockKeen, Options};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A filter that panics if a request has the header `x-keen-edge-panic`.
async fn setting() -> TestEnv {
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
    let env = setting().await;
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
    // Their VM is gone, so Envoy's own limit ends them, and their SDKs retry.
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

/// The filter works without capability_restriction_config, and with fewer capabilities than envoy.yaml grants.
#[tokio::test]
async fn missing_capability_is_handled() {
    type Change = fn(&mut Value);
    let all: Change = |yaml| {
        harness::keen_edge(yaml)["vm_config"]
            .as_object_mut()
            .unwrap()
            .remove("capability_restriction_config");
    };
    let few: Change = |yaml| {
        let restriction =
            &mut harness::keen_edge(yaml)["vm_config"]["capability_restriction_config"];
        let allowed = restriction["allowed_capabilities"].as_object_mut().unwrap();
        for name in [
            "proxy_log",
            "proxy_get_property",
            "proxy_define_metric",
            "proxy_increment_metric",
            "proxy_record_metric",
            "proxy_get_shared_data",
            "proxy_set_shared_data",
            "proxy_on_response_headers",
        ] {
            assert!(allowed.remove(name).is_some(), "{name}");
        }
    };
    for (name, change) in [("all", all), ("few", few)] {
        let keen = MockKeen::start(Options::default()).await.unwrap();
        let builder = Envoy::builder().keen(keen.addr()).concurrency(2).patch(change);
        let envoy = builder.start().await.unwrap_or_else(|e| panic!("{e:?}"));
        let env = TestEnv { envoy, keen, client: reqwest::Client::new() };
        env.keen.fault(Fault::chaos(7, 0.3));
        for i in 0..40 {
            // Retries as an SDK does.
            let body = track(&i.to_string());
            env.until(name, || async { env.post("/v1/track", body.clone()).await == ok() }).await;
        }
        assert_eq!(env.keen.events().len(), 40, "{name}");
        env.envoy.no_panic_in_log();
    }
}

/// A minimal envoy.yaml, and two listeners whose filters share a VM.
#[tokio::test]
async fn other_vm_settings_are_handled() {
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
