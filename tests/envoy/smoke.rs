//! The suite that `make test-envoy-versions` runs on each supported version of Envoy. It has one
//! test for each feature of Envoy that the filter needs.

use super::fixture::{TestEnv, gzip, ok, track};
use mock_keen::Fault;
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

/// Moves the capability list in `envoy.yaml` to where Envoy before 1.40 expects it:
/// docs/operating.md.
fn adapt(bootstrap: &mut Value) {
    if is_before_1_40() {
        move_capabilities(bootstrap);
    }
}

async fn test_env(config: Value) -> TestEnv {
    TestEnv::patched(config, adapt).await
}

fn is_before_1_40() -> bool {
    let envoy = harness::envoy_path().unwrap();
    let output = Command::new(envoy).arg("--version").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.trim().split('/').find(|part| part.starts_with("1.")).unwrap();
    version.split('.').nth(1).unwrap().parse::<u32>().unwrap() < 40
}

fn move_capabilities(bootstrap: &mut Value) {
    let plugin = harness::keen_edge(bootstrap);
    let vm_config = plugin["vm_config"].as_object_mut().unwrap();
    let capabilities = vm_config.remove("capability_restriction_config").unwrap();
    plugin["capability_restriction_config"] = capabilities;
}

/// Asserts that the Envoy that runs has the version in `ENVOY_VERSION`.
#[tokio::test]
async fn envoy_of_any_supported_version_delivers_an_event() {
    let s = test_env(harness::default_config()).await;
    let info: Value = serde_json::from_str(&s.envoy.admin("/server_info").await).unwrap();
    let version = info["version"].as_str().unwrap().split('/').nth(1).unwrap();
    println!("Envoy {version}");
    if let Ok(wanted) = std::env::var("ENVOY_VERSION") {
        assert_eq!(version, wanted);
    }
    assert_eq!(s.post("/v1/track", track("Purchased")).await, ok());
    let batch =
        json!({"batch": [{"type": "page", "name": "Home"}, {"type": "track", "event": "a"}]});
    assert_eq!(s.post("/v1/batch", batch.to_string()).await, ok());
    assert_eq!(s.collections(), ["Purchased", "Viewed Home Page", "a"]);
    let other = s.client.get(s.envoy.url("/other")).send().await.unwrap();
    assert_eq!(other.status(), 404, "the route answers what is not Segment's");
    s.envoy.no_panic_in_log();
}

/// Sends a body in parts, and one over Envoy's buffer limit.
#[tokio::test]
async fn bodies_of_any_size_are_read_to_their_end() {
    let s = test_env(harness::default_config()).await;
    let message = |n: usize| {
        json!({"type": "track", "event": "e", "userId": "u", "messageId": n.to_string(),
            "properties": {"text": "x".repeat(900)}})
    };
    let batch = json!({"batch": (0..400).map(message).collect::<Vec<_>>()}).to_string();
    assert!(batch.len() > 350_000);
    assert_eq!(s.post("/v1/batch", batch).await, ok());
    assert_eq!(s.keen.events().len(), 400);
    let (status, answer) = s.post("/v1/batch", "x".repeat(3_000_000)).await;
    assert_eq!(status, 400);
    assert!(answer["message"].as_str().unwrap().starts_with("Exceed payload limit"), "{answer}");
}

#[tokio::test]
async fn gzip_bodies_are_inflated() {
    let s = test_env(harness::default_config()).await;
    let body = gzip(track("zipped").as_bytes());
    assert_eq!(s.post_with("/v1/track", body, &[("content-encoding", "gzip")]).await, ok());
    let cut = gzip(track("cut").as_bytes())[..20].to_vec();
    assert_eq!(s.post_with("/v1/track", cut, &[("content-encoding", "gzip")]).await.0, 400);
    assert_eq!(s.collections(), ["zipped"]);
}

#[tokio::test]
async fn invalid_configuration_refuses_the_start() {
    let mut config = harness::default_config();
    config["sources"]["writeKey"]["ipAddOn"] = json!(true);
    let builder = harness::Envoy::builder().config(config).patch(adapt);
    let error = builder.start().await.unwrap_err();
    let wanted = "unknown setting; did you mean ipAddon?";
    assert!(error.log.contains(wanted), "{error}");
}

/// Checks client addresses, project settings, and users that workers share.
#[tokio::test]
async fn device_mode_has_settings_address_and_traits() {
    let mut config = harness::default_config();
    let source = &mut config["sources"]["writeKey"];
    source["mode"] = json!("device");
    source["rememberUsers"] = json!(true);
    source["bundled"] = json!(true);
    let s = test_env(config).await;
    let settings =
        s.client.get(s.envoy.url("/v1/projects/writeKey/settings")).send().await.unwrap();
    assert_eq!(settings.status(), 200);
    let settings: Value = serde_json::from_str(&settings.text().await.unwrap()).unwrap();
    assert_eq!(settings["integrations"]["Keen IO"]["projectId"], "5181bcd23843312d87000000");
    let identify = json!({"userId": "u", "traits": {"plan": "gold"}, "messageId": "i"});
    assert_eq!(s.post("/v1/identify", identify.to_string()).await, ok());
    assert_eq!(s.post("/v1/t", track("Purchased")).await, ok());
    let event = s.keen.events().remove(0).event;
    assert_eq!(event["user"], json!({"userId": "u", "traits": {"id": "u", "plan": "gold"}}));
    assert_eq!(event["ip_address"], "127.0.0.1");
}

#[tokio::test]
async fn local_replies_of_envoy_have_cors_headers() {
    let s = test_env(harness::default_config()).await;
    let origin = ("origin", "https://shop.example");
    let preflight = s.client.request(reqwest::Method::OPTIONS, s.envoy.url("/v1/t"));
    let preflight = preflight.header(origin.0, origin.1);
    let preflight = preflight.header("access-control-request-method", "POST").send().await.unwrap();
    assert_eq!(preflight.headers()["access-control-allow-origin"], origin.1);
    let long = s.client.post(s.envoy.url("/v1/batch")).header(origin.0, origin.1);
    let long = long.body("x".repeat(3_000_000)).send().await.unwrap();
    assert_eq!(long.status(), 400);
    assert_eq!(long.headers()["access-control-allow-origin"], origin.1);
}

/// Envoy applies the capability list, so the filter refuses the start without one of its
/// capabilities.
#[tokio::test]
async fn capability_withheld_refuses_the_start() {
    let builder = harness::Envoy::builder().patch(|bootstrap| {
        let restriction =
            &mut harness::keen_edge(bootstrap)["vm_config"]["capability_restriction_config"];
        restriction["allowed_capabilities"].as_object_mut().unwrap().remove("proxy_http_call");
        adapt(bootstrap);
    });
    let error = builder.start().await.unwrap_err();
    assert!(error.log.contains("proxy_http_call"), "{error}");
}

/// Checks retries, 503, labels and histograms.
#[tokio::test]
async fn metrics_have_labels_in_prometheus() {
    let s = test_env(harness::default_config()).await;
    s.keen.fault(Fault::status(500).times(1));
    assert_eq!(s.post("/v1/track", track("retried")).await, ok());
    s.keen.fault(Fault::status(402).times(1));
    assert_eq!(s.post("/v1/track", track("down")).await.0, 503);
    let project = "project=\"5181bcd23843312d87000000\"";
    let wanted = [
        "keen_edge_requests{} 2".to_owned(),
        "keen_edge_responses{code=\"200\"} 1".to_owned(),
        "keen_edge_requests_rejected{reason=\"destination_rejected\"} 1".to_owned(),
        "keen_edge_messages{source=\"example\"} 2".to_owned(),
        format!("keen_edge_callouts_retried{{{project}}} 1"),
        format!("keen_edge_destination_up{{{project}}} 0"),
        concat!("keen_edge_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1").to_owned(),
        "keen_edge_callout_ms_count{} 3".to_owned(),
        "keen_edge_delivery_ms_count{} 1".to_owned(),
    ];
    s.until("all metrics are there", async || {
        let prometheus = s.envoy.admin("/stats/prometheus").await;
        wanted.iter().all(|line| prometheus.lines().any(|found| found == line))
    })
    .await;
}

/// Runs the steps of `docs/operating.md`.
#[tokio::test]
async fn graceful_shutdown_answers_waiting_clients() {
    let s = test_env(harness::default_config()).await;
    s.keen.fault(Fault::delay(1_500).times(1));
    let call = s.client.post(s.envoy.url("/v1/track")).basic_auth("writeKey", Some(""));
    let waiting = tokio::spawn(call.body(track("waiting")).send());
    s.until("it waits", async || s.envoy.stat("http.segment.downstream_rq_active").await == 1)
        .await;
    s.envoy.admin_post("/healthcheck/fail").await;
    s.envoy.admin_post("/drain_listeners?graceful&skip_exit").await;
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    s.envoy.admin_post("/quitquitquit").await;
    let limit = Instant::now() + Duration::from_secs(10);
    while s.envoy.exited().is_none() {
        assert!(Instant::now() < limit, "Envoy runs on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(s.envoy.exited().unwrap().success());
    s.envoy.no_panic_in_log();
}
