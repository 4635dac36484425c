//! `pauseAtHeaders: false`: Envoy's buffer filter, placed after this filter, holds the headers.
//! Control planes that cannot set `allow_on_headers_stop_iteration` need this.

use super::fixture::{TestEnv, ok, raw, track};
use mock_keen::Fault;
use serde_json::{Value, json};
use std::time::Duration;

/// The filter chain that Envoy Gateway builds from an EnvoyExtensionPolicy and a request buffer.
async fn env(mut config: Value) -> TestEnv {
    config["pauseAtHeaders"] = json!(false);
    TestEnv::patched(config, |bootstrap| {
        let plugin = harness::keen_edge(bootstrap).as_object_mut().unwrap();
        plugin.remove("allow_on_headers_stop_iteration").unwrap();
        let filters = bootstrap.pointer_mut(
            "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters",
        );
        let buffer = json!({
            "name": "envoy.filters.http.buffer",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer",
                "max_request_bytes": 1_048_576,
            },
        });
        filters.unwrap().as_array_mut().unwrap().insert(1, buffer);
    })
    .await
}

#[tokio::test]
async fn buffer_filter_behind_the_filter_holds_requests_until_keen_has_their_events() {
    let env = env(harness::default_config()).await;
    assert_eq!(env.post("/v1/track", track("small")).await, ok());
    let large = json!({"userId": "u", "event": "large", "properties": {"n": "x".repeat(400_000)}});
    assert_eq!(env.post("/v1/track", large.to_string()).await, ok());
    assert_eq!(env.post("/v1/track", "{").await.0, 400);
    let too_large = "x".repeat(2_000_000);
    let (status, reply) = env.post("/v1/track", too_large).await;
    assert_eq!(status, 400, "{reply}");
    // In two chunks and with trailers. The filter gets no body callback for the end of such a body.
    let body = track("chunked");
    let (first, second) = body.split_at(20);
    let request = format!(
        "POST /v1/t HTTP/1.1\r\nHost: x\r\nAuthorization: Basic d3JpdGVLZXk6\r\nConnection: close\r\n\
         Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\nX-Trailer: 1\r\n\r\n",
        first.len(),
        second.len()
    );
    let reply = raw(env.envoy.addr(), request.into_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert_eq!(env.collections(), ["chunked", "large", "small"]);
    // No request reached the route, which answers 404.
    assert_eq!(env.envoy.metric("responses", &["code.404"]).await, 0);
    assert_eq!(env.post("/other", "x").await.0, 404);
    assert_eq!(
        env.client
            .get(env.envoy.url("/v1/projects/writeKey/settings"))
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    env.envoy.no_panic_in_log();
}

/// The client waits for Keen, as it does when the filter holds the headers.
#[tokio::test]
async fn buffer_filter_behind_the_filter_keeps_waiters_that_keen_answers_late() {
    let env = env(harness::default_config()).await;
    env.keen.fault(Fault::hang().forever());
    let waiting = (0..20).map(|i| {
        let request = env.client.post(env.envoy.url("/v1/track")).basic_auth("writeKey", Some(""));
        tokio::spawn(request.body(track(&format!("waiting {i}"))).send())
    });
    let waiting: Vec<_> = waiting.collect();
    env.until("all wait", || async {
        env.envoy.stat("http.segment.downstream_rq_active").await == 20
    })
    .await;
    // A client that disconnects does not affect the others.
    waiting[0].abort();
    tokio::time::sleep(Duration::from_millis(100)).await;
    env.keen.clear_faults();
    for call in waiting.into_iter().skip(1) {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    env.until("Keen has all events", || async { env.keen.events().len() == 20 }).await;
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn buffer_filter_behind_the_filter_lets_mirrored_requests_continue() {
    let mut config = harness::default_config();
    config["intercept"] = json!("forward");
    let env = env(config).await;
    // The status of the route in envoy.yaml.
    assert_eq!(env.post("/v1/track", track("mirrored")).await.0, 404);
    env.until("Keen has the copy", || async { env.collections() == ["mirrored"] }).await;
    env.envoy.no_panic_in_log();
}
