//! Calls that come as the address of an image.

use super::fixture::{TestEnv, ok, track};
use mock_keen::Fault;
use serde_json::{Value, json};

const GIF: &[u8] =
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\
\x01\x00\x01\x00\x00\x02\x01D\x00;";

async fn shown(s: &TestEnv, path: &str) -> reqwest::header::HeaderMap {
    let reply = s.client.get(s.envoy.url(path)).send().await.unwrap();
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
    let s = TestEnv::new().await;
    let percent = |text: String| text.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    for (name, data) in [
        ("base64", STANDARD.encode(opened("base64"))),
        ("base64 unpadded", STANDARD_NO_PAD.encode(opened("base64 unpadded"))),
        ("base64url", URL_SAFE.encode(opened("base64url"))),
        ("base64url unpadded", URL_SAFE_NO_PAD.encode(opened("base64url unpadded"))),
        ("percent", percent(STANDARD.encode(opened("percent")))),
    ] {
        let headers = shown(&s, &format!("/v1/pixel/track?data={data}")).await;
        assert!(headers["cache-control"].to_str().unwrap().contains("no-store"), "{name}");
    }
    s.keen.wait_for_events(5, super::fixture::PATIENCE).await.unwrap();
    for stored in s.keen.events() {
        let (event, properties) = (&stored.event, ("?>?>~~", 1, "ü?>"));
        assert_eq!(
            (&event["subject"], &event["n"], &event["userId"]),
            (&json!(properties.0), &json!(1), &json!(properties.2))
        );
    }
    let names = ["base64", "base64 unpadded", "base64url", "base64url unpadded", "percent"];
    assert_eq!(s.collections(), names);
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn pixel_with_query_fields_is_delivered() {
    let s = TestEnv::new().await;
    let track = "userId=user_123&event=Email%20Opened&properties.subject=The%20Electric+Daily&properties.email=jane.kim@example.com";
    shown(&s, &format!("/v1/pixel/track?{track}&writeKey=writeKey")).await;
    shown(&s, "/v1/pixel/page/?anonymousId=a&name=Landing&properties.url=https%3A%2F%2Fexample.com&writeKey=writeKey")
        .await;
    shown(&s, "/v1/pixel/screen?userId=u&name=Main&writeKey=writeKey").await;
    // Each showing is a call of its own, as no id says otherwise.
    shown(&s, &format!("/v1/pixel/track?{track}&writeKey=writeKey")).await;
    shown(&s, &format!("/v1/pixel/track?{track}&writeKey=writeKey&integrations.Keen%20IO=false"))
        .await;
    for call in ["identify", "group", "alias"] {
        shown(&s, &format!("/v1/pixel/{call}?userId=u&traits.email=a&writeKey=writeKey")).await;
    }
    s.keen.wait_for_events(4, super::fixture::PATIENCE).await.unwrap();
    assert_eq!(
        s.collections(),
        ["Email Opened", "Email Opened", "Viewed Landing Page", "Viewed Main Screen"]
    );
    let stored = s.keen.events();
    let opened = &stored.iter().find(|stored| stored.collection == "Email Opened").unwrap().event;
    assert_eq!(opened["subject"], "The Electric Daily");
    assert_eq!(opened["email"], "jane.kim@example.com");
    assert_eq!(opened["userId"], "user_123");
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn invalid_pixel_is_answered_with_image() {
    let s = TestEnv::new().await;
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
        shown(&s, path).await;
    }
    let deep = ["a"; 5_000].join(".");
    shown(&s, &format!("/v1/pixel/track?writeKey=writeKey&{deep}=1")).await;
    // Whoever asks ahead of a reader, or otherwise, sees nothing and stands for nobody.
    let path = "/v1/pixel/track?writeKey=writeKey&event=ahead&userId=u";
    let head = s.client.head(s.envoy.url(path)).send().await.unwrap();
    assert_eq!(
        (head.status().as_u16(), head.headers()["content-type"].to_str().unwrap()),
        (200, "image/gif")
    );
    assert_eq!(s.post("/v1/track", track("alive")).await, ok());
    assert_eq!(s.collections(), ["alive"]);
    s.envoy.no_panic_in_log();
}

/// Nobody sends an image's call again, so Keen's trouble is the filter's to wait for.
#[tokio::test]
async fn pixel_event_is_retried_after_keen_failure() {
    let mut config = harness::default_config();
    config["delivery"]["holdMs"] = json!(300);
    config["delivery"]["retries"] = json!(0);
    let s = TestEnv::with(config).await;
    s.keen.fault(Fault::status(503).times(3));
    let origin = "https://mail.example.com";
    let path = "/v1/pixel/track?writeKey=writeKey&event=opened&userId=u&messageId=once";
    let reply = s.client.get(s.envoy.url(path)).header("origin", origin).send().await.unwrap();
    assert_eq!(reply.headers()["access-control-allow-origin"], origin);
    assert_eq!(reply.bytes().await.unwrap(), GIF);
    s.keen.wait_for_events(1, super::fixture::PATIENCE).await.unwrap();
    let stored: Vec<Value> = s.keen.events().into_iter().map(|stored| stored.event).collect();
    assert_eq!(stored[0]["keen"]["uniqueness_token"], "once");
    s.envoy.no_panic_in_log();
}
