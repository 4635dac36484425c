//! Requests with `Content-Type: application/grpc`. Envoy converts local responses to them to gRPC's
//! form.

use super::fixture::{TestEnv, ok, track};
use mock_keen::Fault;

async fn post(s: &TestEnv, path: &str, body: String) -> reqwest::Response {
    let request = s.client.post(s.envoy.url(path)).basic_auth("writeKey", Some("")).body(body);
    let request =
        request.header("content-type", "application/grpc").header("origin", "https://a.example");
    request.send().await.unwrap()
}

#[tokio::test]
async fn response_to_grpc_content_type_has_its_own_status() {
    let s = TestEnv::new().await;
    let large = format!("{{\"event\": \"{}\"}}", "x".repeat(600_000));
    for (what, path, body, status) in [
        ("an event that Keen takes", "/v1/track", track("e"), 200),
        ("no event", "/v1/identify", r#"{"userId": "u"}"#.to_owned(), 200),
        ("no JSON", "/v1/track", "{".to_owned(), 400),
        ("too large", "/v1/track", large, 400),
    ] {
        let reply = post(&s, path, body).await;
        let header = |name: &str| reply.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(reply.status(), status, "{what}");
        assert_eq!(header("content-type").as_deref(), Some("application/json"), "{what}");
        assert_eq!(header("access-control-allow-origin").as_deref(), Some("https://a.example"));
        for name in ["grpc-status", "grpc-message", "x-keen-edge-status"] {
            assert_eq!(header(name), None, "{what}");
        }
    }
    s.keen.fault(Fault::status(403).times(1));
    let reply = post(&s, "/v1/track", track("down")).await;
    assert_eq!(reply.status(), 503);
    assert!(reply.headers().contains_key("retry-after"));
    assert_eq!(s.post("/v1/track", track("plain")).await, ok());
    assert_eq!(s.keen.events().len(), 2);
    s.envoy.no_panic_in_log();
}
