//! Segment's edge: calls in every form, and the answers.

use super::setting::{PATIENCE, Setting, gzip, ok, raw, refused, track};
use serde_json::json;

#[tokio::test]
async fn calls_in_every_form_arrive() {
    let s = Setting::new().await;
    assert_eq!(s.post("/v1/track", track("single")).await, ok());
    assert_eq!(s.post("/v1/t/", track("short")).await, ok());
    let batch = json!({"batch": [
        {"type": "track", "event": "in batch", "userId": "u"},
        {"type": "identify", "userId": "u", "traits": {"a": 1}},
        {"type": "page", "name": "Home", "userId": "u"},
        {"type": "screen", "category": "Main", "userId": "u"},
        {"type": "track", "userId": "u"},
    ]});
    assert_eq!(s.post("/v1/batch", batch.to_string()).await, ok());
    let packed = gzip(track("packed").as_bytes());
    assert_eq!(s.post_with("/v1/track", packed, &[("content-encoding", "gzip")]).await, ok());
    for path in ["/v1/identify", "/v1/group", "/v1/alias", "/v1/m"] {
        assert_eq!(s.post(path, "{\"userId\": \"u\"}").await, ok(), "{path}");
    }
    // The key in the body, with an OAuth header that is no key.
    let body = json!({"event": "by body", "userId": "u", "writeKey": "writeKey"}).to_string();
    let request = s.client.post(s.envoy.url("/v1/track")).bearer_auth("token").body(body);
    assert_eq!(request.send().await.unwrap().status(), 200);
    assert_eq!(
        s.collections(),
        ["Viewed Home Page", "Viewed Main Screen", "by body", "in batch", "packed", "short", "single"]
    );
    assert!(s.keen.refusals().is_empty());
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn chunks_and_trailers() {
    let s = Setting::new().await;
    let body = track("chunked");
    let (head, tail) = body.split_at(10);
    for (name, trailer) in [("plain", ""), ("with trailers", "x-checksum: 1\r\n")] {
        let request = format!(
            "POST /v1/track HTTP/1.1\r\nhost: e\r\nauthorization: Basic d3JpdGVLZXk6\r\ntransfer-encoding: chunked\r\n\
             connection: close\r\n\r\n{:x}\r\n{head}\r\n{:x}\r\n{tail}\r\n0\r\n{trailer}\r\n",
            head.len(),
            tail.len()
        );
        let reply = raw(s.envoy.addr(), request.into_bytes()).await;
        assert!(reply.starts_with("HTTP/1.1 200"), "{name}: {reply}");
    }
    // One token, so one event.
    assert_eq!(s.collections(), ["chunked"]);
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn what_makes_no_sense_gets_a_400_that_no_sdk_repeats() {
    let s = Setting::new().await;
    for body in ["", "{", "[]", "\u{fffd}", "{\"batch\": 1}", "[[[[", "{\"event\": 01}"] {
        assert_eq!(s.post("/v1/batch", body).await, refused("malformed JSON"), "{body}");
    }
    assert_eq!(s.post("/v1/track", vec![0xff, 0xfe, 0x00]).await, refused("malformed JSON"));
    assert_eq!(s.post("/v1/batch", "[".repeat(400_000)).await, refused("malformed JSON"));
    assert_eq!(s.post("/v1/batch", " ".repeat(600_000)).await, refused("Exceed payload limit"));
    let bomb = gzip(&vec![b' '; 50_000_000]);
    assert_eq!(s.post_with("/v1/batch", bomb, &[("content-encoding", "gzip")]).await, refused("Exceed payload limit"));
    let packed = gzip(track("x").as_bytes());
    let cut = packed[..packed.len() - 4].to_vec();
    for (body, encoding) in [(cut, "gzip"), (packed, "br")] {
        let got = s.post_with("/v1/track", body, &[("content-encoding", encoding)]).await;
        assert_eq!(got, refused("malformed content encoding"), "{encoding}");
    }
    let nobody = s.client.post(s.envoy.url("/v1/track")).body("{\"event\": \"e\"}").send().await.unwrap();
    assert_eq!(nobody.status(), 400);
    assert!(nobody.text().await.unwrap().contains("An invalid write key was provided"));
    assert_eq!(s.client.get(s.envoy.url("/v1/track")).send().await.unwrap().status(), 400);
    // An unknown key is Segment's 200, and nothing is sent.
    let stranger = s.client.post(s.envoy.url("/v1/track")).basic_auth("stranger", Some("")).body(track("x"));
    assert_eq!(stranger.send().await.unwrap().status(), 200);
    assert_eq!(s.client.get(s.envoy.url("/elsewhere")).send().await.unwrap().status(), 404);
    assert!(s.keen.events().is_empty());
    assert_eq!(s.post("/v1/track", track("alive")).await, ok());
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn header_bytes_of_any_kind() {
    let s = Setting::new().await;
    let body = track("bytes");
    for header in [
        &b"user-agent: \xff\xfe\x80"[..],
        b"authorization: Basic \xff",
        b"referer: \xe9",
        b"origin: \xff",
        b"x-any: \x80",
        b"content-encoding: \xff",
    ] {
        let mut request = format!(
            "POST /v1/track?\u{e9} HTTP/1.1\r\nhost: e\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        )
        .into_bytes();
        if !header.starts_with(b"authorization") {
            request.extend_from_slice(b"authorization: Basic d3JpdGVLZXk6\r\n");
        }
        request.extend_from_slice(header);
        request.extend_from_slice(b"\r\n\r\n");
        request.extend_from_slice(body.as_bytes());
        let reply = raw(s.envoy.addr(), request).await;
        assert!(reply.starts_with("HTTP/1.1 200") || reply.starts_with("HTTP/1.1 400"), "{reply}");
    }
    assert_eq!(s.post("/v1/track", track("alive")).await, ok());
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn browsers_get_cors_and_settings() {
    let s = Setting::new().await;
    let origin = "https://shop.example.com";
    let preflight = s.client.request(reqwest::Method::OPTIONS, s.envoy.url("/v1/t"));
    let preflight =
        preflight.header("origin", origin).header("access-control-request-headers", "authorization,x-retry-count");
    let reply = preflight.send().await.unwrap();
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.headers()["access-control-allow-origin"], origin);
    assert_eq!(reply.headers()["access-control-allow-headers"], "authorization,x-retry-count");
    for body in [track("cors"), "{".to_owned(), " ".repeat(3_000_000)] {
        let request = s.client.post(s.envoy.url("/v1/t")).basic_auth("writeKey", Some("")).header("origin", origin);
        let Ok(reply) = request.body(body).send().await else { continue };
        assert!(matches!(reply.status().as_u16(), 200 | 400));
        assert_eq!(reply.headers()["access-control-allow-origin"], origin);
    }
    let settings =
        s.client.get(s.envoy.url("/v1/projects/writeKey/settings")).send().await.unwrap().text().await.unwrap();
    let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
    assert_eq!(settings["integrations"]["Segment.io"]["apiKey"], "writeKey");
    assert_eq!(settings["metrics"]["sampleRate"], 0);
    s.keen.wait_for_events(1, PATIENCE).await.unwrap();
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn the_address_is_the_one_envoy_vouches_for() {
    let s = Setting::new().await;
    let browser = ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)");
    s.post_with("/v1/track", track("browser"), &[browser, ("x-forwarded-for", "6.6.6.6")]).await;
    s.post_with("/v1/track", track("server"), &[("user-agent", "analytics-python/2.4.0")]).await;
    for stored in s.keen.events() {
        let (ip, agent) = (&stored.event["ip_address"], &stored.event["user_agent"]);
        match stored.collection.as_str() {
            "browser" => assert_eq!((ip, agent), (&json!("127.0.0.1"), &json!(browser.1))),
            _ => assert!(ip.is_null() && agent.is_null(), "{stored:?}"),
        }
    }
    assert_eq!(s.collections(), ["browser", "server"]);
}
