//! Spans of Envoy in a real OpenTelemetry Collector, with `deploy/tracing`.

use harness::Envoy;
use mock_keen::{Fault, MockKeen, Options};
use observability::{Program, empty_dir, tool};
use serde_json::{Value, json};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

/// Envoy sends spans every 5 s.
const PATIENCE: Duration = Duration::from_secs(30);
const VARIANT: &str = "deploy/tracing/envoy-tracing.yaml";

fn read(path: &str) -> String {
    fs::read_to_string(harness::root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The variant differs from `envoy.yaml` only by these insertions. `UPDATE_DEPLOY=1` rewrites it.
#[test]
fn tracing_variant_is_envoy_yaml_with_a_tracer_added() {
    let insertions = read("deploy/tracing/envoy-tracing.insertions.yaml");
    let expected = harness::with_insertions(&read("envoy.yaml"), &insertions);
    if std::env::var_os("UPDATE_DEPLOY").is_some() {
        fs::write(harness::root().join(VARIANT), &expected).unwrap();
    }
    let found = fs::read_to_string(harness::root().join(VARIANT)).unwrap_or_default();
    assert!(found == expected, "{VARIANT} is out of date; run this test with UPDATE_DEPLOY=1");
}

/// Returns `deploy/tracing/collector.yaml` with a free port.
async fn collector() -> (Program, SocketAddr) {
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = read("deploy/tracing/collector.yaml");
    let shipped = "127.0.0.1:4318";
    assert!(config.contains(shipped));
    let dir = empty_dir("collector");
    let path = dir.join("collector.yaml");
    fs::write(&path, config.replace(shipped, &addr.to_string())).unwrap();
    let args = [format!("--config=file:{}", path.display())];
    let mut program = Program::start(Path::new(tool("collector").trim()), &args, &dir);
    program.until_logged(|log| log.contains("Everything is ready.").then_some(())).await;
    (program, addr)
}

/// Starts Envoy with the tracer of the variant. Each call has a span.
async fn edge(keen: &MockKeen, collector: SocketAddr) -> Envoy {
    const HCM: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    let variant = harness::yaml(&read(VARIANT));
    let patch = move |bootstrap: &mut Value| {
        let mut tracing = variant.pointer(HCM).unwrap()["tracing"].clone();
        tracing["random_sampling"]["value"] = json!(100);
        bootstrap.pointer_mut(HCM).unwrap()["tracing"] = tracing;
        let clusters = variant["static_resources"]["clusters"].as_array().unwrap();
        let mut cluster = clusters.iter().find(|c| c["name"] == "otel_collector").unwrap().clone();
        let endpoint =
            "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
        cluster.pointer_mut(endpoint).unwrap()["port_value"] = json!(collector.port());
        bootstrap["static_resources"]["clusters"].as_array_mut().unwrap().push(cluster);
    };
    let started = Envoy::builder().keen(keen.addr()).patch(patch).start().await;
    started.unwrap_or_else(|error| panic!("{error}"))
}

/// Returns the spans in the collector's output, each as its lines.
fn spans(log: &str) -> Vec<&str> {
    log.split("Span #").skip(1).collect()
}

fn has(span: &str, name: &str, value: &str) -> bool {
    span.lines().any(|line| line.trim() == format!("-> {name}: Str({value})"))
}

#[tokio::test]
async fn each_call_has_a_span_and_callouts_have_none() {
    let (program, collector) = collector().await;
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let envoy = edge(&keen, collector).await;
    let client = reqwest::Client::new();
    let send = async |path: &str, key: &str, body: &str| {
        let call = client.post(envoy.url(path)).basic_auth(key, Some(""));
        let call =
            call.header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        call.body(body.to_owned()).send().await.unwrap().status().as_u16()
    };
    keen.fault(Fault::delay(300).times(1));
    let track = r#"{"userId": "u", "event": "Purchased"}"#;
    assert_eq!(send("/v1/track", "writeKey", track).await, 200);
    assert_eq!(send("/v1/track", "writeKey", "{").await, 400);
    let settings = envoy.url("/v1/projects/writeKey/settings");
    assert_eq!(client.get(settings).send().await.unwrap().status(), 200);

    let start = Instant::now();
    while spans(&program.log()).len() < 3 {
        assert!(start.elapsed() < PATIENCE, "{}", program.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Waits for another interval, in which a span of a callout would have arrived.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let log = program.log();
    let spans = spans(&log);
    assert_eq!(spans.len(), 3, "{log}");
    assert!(log.contains("-> service.name: Str(keen-edge)"), "{log}");
    for span in &spans {
        assert!(span.contains("Kind           : Server"), "{span}");
    }
    let delivered = spans.iter().find(|s| has(s, "http.status_code", "200") && s.contains("POST"));
    let delivered = delivered.unwrap_or_else(|| panic!("{log}"));
    assert!(delivered.contains("Trace ID       : 0af7651916cd43dd8448eb211c80319c"), "{delivered}");
    assert!(delivered.contains("Parent ID      : b7ad6b7169203331"), "{delivered}");
    let rejected = spans.iter().find(|span| has(span, "http.status_code", "400"));
    let rejected = rejected.unwrap_or_else(|| panic!("{log}"));
    assert!(has(rejected, "keen_edge.reason", "malformed_json"), "{rejected}");
    // The path is cut before the write key.
    assert!(log.contains("/v1/projects/") && !log.contains("writeKey"), "{log}");
    assert!(envoy.stat("tracing.opentelemetry.spans_sent").await >= 3);
    envoy.no_panic_in_log();
}

/// A call does not wait for its span.
#[tokio::test]
async fn collector_that_is_down_costs_no_call() {
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let envoy = edge(&keen, closed).await;
    let client = reqwest::Client::new();
    for round in 0..20 {
        let body = json!({"userId": "u", "event": "Purchased", "messageId": round}).to_string();
        let call = client.post(envoy.url("/v1/track")).basic_auth("writeKey", Some(""));
        assert_eq!(call.body(body).send().await.unwrap().status(), 200);
    }
    assert_eq!(keen.events().len(), 20);
}
