//! Segment's pixel: a message in the URL of an image.

use super::fixture::{TestEnv, ok, track};
use mock_keen::Fault;
use serde_json::{Value, json};

const GIF: &[u8] =
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\
\x01\x00\x01\x00\x00\x02\x01D\x00;";

async fn shown(env: &TestEnv, path: &str) -> reqwest::header::HeaderMap {
    let reply = env.client.get(env.envoy.url(path)).send().await.unwrap();
    assert_eq!(reply.status(), 200, "{path}");
    assert_eq!(reply.headers()["content-type"], "image/gif", "{path}");
    let headers = reply.headers().clone();
    assert_eq!(reply.bytes().await.unwrap(), GIF, "{path}");
    headers
}

fn opened(event: &str) -> String {
    json!({"writeKey": "writeKey", "userId": "ü?>", "event": event, "properties": {"subject": "?>?>~~", "n": 1}})
        .to_string()
}

#[tokio::test]
async fn pixel_with_any_base64_data_is_delivered() {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
    let env = TestEnv::new().await;
    let percent = |text: String| text.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    for (name, data) in [
        ("base64", STANDARD.encode(opened("base64"))),
        ("base64 unpadded", STANDARD_NO_PAD.encode(opened("base64 unpadded"))),
        ("base64url", URL_SAFE.encode(opened("base64url"))),
        ("base64url unpadded", URL_SAFE_NO_PAD.encode(opened("base64url unpadded"))),
        ("percent", percent(STANDARD.encode(opened("percent")))),
    ] {
        let headers = shown(&env, &format!("/v1/pixel/track?data={data}")).await;
        assert!(headers["cache-control"].to_str().unwrap().contains("no-store"), "{name}");
    }
    env.keen.wait_for_events(5, super::fixture::PATIENCE).await.unwrap();
    for stored in env.keen.events() {
        let (event, properties) = (&stored.event, ("?>?>~~", 1, "ü?>"));
        assert_eq!(
            (&event["subject"], &event["n"], &event["userId"]),
            (&json!(properties.0), &json!(1), &json!(properties.2))
        );
    }
    let names = ["base64", "base64 unpadded", "base64url", "base64url unpadded", "percent"];
    assert_eq!(env.collections(), names);
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn pixel_with_query_fields_is_delivered() {
    let env = TestEnv::new().await;
    let track = "userId=user_123&event=Email%20Opened&properties.subject=The%20Electric+Daily&properties.email=jane.kim@example.com";
    shown(&env, &format!("/v1/pixel/track?{track}&writeKey=writeKey")).await;
    shown(&env, "/v1/pixel/page/?anonymousId=a&name=Landing&properties.url=https%3A%2F%2Fexample.com&writeKey=writeKey")
        .await;
    shown(&env, "/v1/pixel/screen?userId=u&name=Main&writeKey=writeKey").await;
    // Each request without a messageId is a separate event.
    shown(&env, &format!("/v1/pixel/track?{track}&writeKey=writeKey")).await;
    shown(&env, &format!("/v1/pixel/track?{track}&writeKey=writeKey&integrations.Keen%20IO=false"))
        .await;
    for call in ["identify", "group", "alias"] {
        shown(&env, &format!("/v1/pixel/{call}?userId=u&traits.email=a&writeKey=writeKey")).await;
    }
    env.keen.wait_for_events(4, super::fixture::PATIENCE).await.unwrap();
    assert_eq!(
        env.collections(),
        ["Email Opened", "Email Opened", "Viewed Landing Page", "Viewed Main Screen"]
    );
    let stored = env.keen.events();
    let opened = &stored.iter().find(|stored| stored.collection == "Email Opened").unwrap().event;
    assert_eq!(opened["subject"], "The Electric Daily");
    assert_eq!(opened["email"], "jane.kim@example.com");
    assert_eq!(opened["userId"], "user_123");
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn invalid_pixel_is_answered_with_image() {
    let env = TestEnv::new().await;
    for path in [
        "/v1/pixel/track",
        "/v1/pixel/track?",
        "/v1/pixel/track?data=",
        "/v1/pixel/track?data=!!!",
        "/v1/pixel/track?data=e30",
        "/v1/pixel/track?data=W10",
        "/v1/pixel/track?data=%ff%fe",
        "/v1/pixel/track?writeKey=stranger&event=x&userId=u",
        "/v1/pixel/track?event=no+key&userId=u",
        "/v1/pixel/other?writeKey=writeKey",
    ] {
        shown(&env, path).await;
    }
    let deep = ["a"; 5_000].join(".");
    shown(&env, &format!("/v1/pixel/track?writeKey=writeKey&{deep}=1")).await;
    // Prefetches and HEAD requests become no event.
    let path = "/v1/pixel/track?writeKey=writeKey&event=ahead&userId=u";
    let head = env.client.head(env.envoy.url(path)).send().await.unwrap();
    assert_eq!(
        (head.status().as_u16(), head.headers()["content-type"].to_str().unwrap()),
        (200, "image/gif")
    );
    assert_eq!(env.post("/v1/track", track("alive")).await, ok());
    assert_eq!(env.collections(), ["alive"]);
    env.envoy.no_panic_in_log();
}

/// No client retries an image, so the filter retries until Keen has stored the event.
#[tokio::test]
async fn pixel_event_is_retried_after_keen_failure() {
    let mut config = harness::default_config();
    config["delivery"]["holdMs"] = json!(300);
    config["delivery"]["retries"] = json!(0);
    let env = TestEnv::with(config).await;
    env.keen.fault(Fault::status(503).times(3));
    let origin = "https://mail.example.com";
    let path = "/v1/pixel/track?writeKey=writeKey&event=opened&userId=u&messageId=once";
    let reply = env.client.get(env.envoy.url(path)).header("origin", origin).send().await.unwrap();
    assert_eq!(reply.headers()["access-control-allow-origin"], origin);
    assert_eq!(reply.bytes().await.unwrap(), GIF);
    env.keen.wait_for_events(1, super::fixture::PATIENCE).await.unwrap();
    let stored: Vec<Value> = env.keen.events().into_iter().map(|stored| stored.event).collect();
    assert_eq!(stored[0]["keen"]["uniqueness_token"], "once");
    env.envoy.no_panic_in_log();
}
