//! What pages in a browser need: CORS on every answer, settings, and answers in place of Envoy's own.

use super::fixture::{PATIENCE, TestEnv, ok, raw, track};
use mock_keen::Fault;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

const ORIGIN: &str = "https://shop.example.com";

async fn send(
    s: &TestEnv,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> (u16, HeaderMap, String) {
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = s.client.request(method, s.envoy.url(path)).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let reply = request.send().await.unwrap();
    (reply.status().as_u16(), reply.headers().clone(), reply.text().await.unwrap())
}

fn value<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let values: Vec<_> = headers.get_all(name).iter().collect();
    assert!(values.len() < 2, "{name} twice: {values:?}");
    values.first().map_or("", |value| value.to_str().unwrap())
}

fn readable(headers: &HeaderMap) -> bool {
    value(headers, "access-control-allow-origin") == ORIGIN
        && value(headers, "access-control-allow-credentials") == "true"
        && value(headers, "access-control-expose-headers").contains("Retry-After")
        && value(headers, "vary") == "Origin"
}

#[tokio::test]
async fn every_response_has_cors_headers() {
    let mut config = harness::default_config();
    config["delivery"]["holdMs"] = json!(300);
    config["delivery"]["maxPendingBytes"] = json!(2000);
    let s = TestEnv::with(config).await;
    let key = ("authorization", "Basic d3JpdGVLZXk6");
    let large = " ".repeat(600_000);
    let full =
        json!({"event": "e", "userId": "u", "properties": {"text": "x".repeat(3000)}}).to_string();
    for (method, path, body, status) in [
        ("POST", "/v1/t", track("taken"), 200),
        ("POST", "/v1/i", "{}".to_owned(), 200),
        ("POST", "/v1/m", "{}".to_owned(), 200),
        ("GET", "/v1/projects/writeKey/settings", String::new(), 200),
        ("GET", "/v1/projects/write%20key/settings", String::new(), 400),
        ("GET", "/v1/pixel/track?data=e30", String::new(), 200),
        ("GET", "/v1/t", String::new(), 400),
        ("POST", "/v1/t", "{".to_owned(), 400),
        ("POST", "/v1/t", large, 400),
        ("POST", "/v1/t", full, 429),
    ] {
        let (got, headers, body) = send(&s, method, path, &[key, ("origin", ORIGIN)], body).await;
        assert_eq!(got, status, "{method} {path}: {body}");
        assert!(readable(&headers), "{method} {path}: {headers:?}");
        assert_eq!(
            got == 429,
            headers.contains_key("retry-after") && headers.contains_key("x-ratelimit-reset")
        );
        // Without an origin there is nothing to allow, and a cache must know why.
        let (_, headers, _) = send(&s, "GET", "/v1/t", &[], "").await;
        assert_eq!(
            (value(&headers, "access-control-allow-origin"), value(&headers, "vary")),
            ("", "Origin")
        );
    }
    s.keen.fault(Fault::status(503).forever());
    let (status, headers, body) =
        send(&s, "POST", "/v1/t", &[key, ("origin", ORIGIN)], track("failed")).await;
    assert!(
        status == 503 && readable(&headers) && headers.contains_key("retry-after"),
        "{status} {headers:?}"
    );
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["success"], false);
    assert_eq!(s.collections(), ["taken"]);
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn preflight_allows_every_sdk_header() {
    let s = TestEnv::new().await;
    for path in [
        "/v1/t",
        "/v1/b",
        "/v1/batch",
        "/v1/m",
        "/v1/projects/writeKey/settings",
        "/v1/pixel/track",
    ] {
        for (asked, want) in [
            ("authorization,x-retry-count", "authorization,x-retry-count"),
            ("x-customers-own", "x-customers-own"),
            ("", "authorization, content-type, x-retry-count"),
        ] {
            let mut headers = vec![("origin", ORIGIN), ("access-control-request-method", "POST")];
            if !asked.is_empty() {
                headers.push(("access-control-request-headers", asked));
            }
            let (status, headers, _) = send(&s, "OPTIONS", path, &headers, "").await;
            assert!(status == 200 && readable(&headers), "{path}: {headers:?}");
            assert_eq!(value(&headers, "access-control-allow-headers"), want);
            assert_eq!(value(&headers, "access-control-allow-methods"), "GET, POST, OPTIONS");
            assert_eq!(value(&headers, "access-control-max-age"), "86400");
        }
    }
    // Other paths belong to the route.
    assert_eq!(send(&s, "OPTIONS", "/elsewhere", &[("origin", ORIGIN)], "").await.0, 404);
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn disallowed_origin_gets_no_cors_headers() {
    let mut config = harness::default_config();
    config["cors"] = json!({"allowOrigins": ["https://shop.example.com", "https://*.example.org"]});
    let s = TestEnv::with(config).await;
    for (origin, allowed) in [
        (ORIGIN, true),
        ("https://www.example.org", true),
        ("http://shop.example.com", false),
        ("https://example.org", false),
        ("https://evilexample.org", false),
        ("null", false),
    ] {
        for method in ["POST", "OPTIONS"] {
            let (status, headers, _) = send(
                &s,
                method,
                "/v1/i",
                &[("origin", origin), ("authorization", "Basic d3JpdGVLZXk6")],
                "{}",
            )
            .await;
            let got = value(&headers, "access-control-allow-origin");
            assert_eq!(
                (status, got),
                (200, if allowed { origin } else { "" }),
                "{method} {origin}"
            );
            assert_eq!(headers.contains_key("access-control-allow-credentials"), allowed);
            assert_eq!(value(&headers, "vary"), "Origin");
        }
    }
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn origin_cannot_inject_response_headers() {
    let s = TestEnv::new().await;
    for (name, origin, asked) in [
        ("bytes", &b"https://a.b\xff\xfe"[..], &b"\xff"[..]),
        ("controls", b"https://a.b\tx: y", b"a\tb: c"),
        ("long", &[b'a'; 9_000], &[b'b'; 9_000]),
    ] {
        let mut request =
            b"OPTIONS /v1/t HTTP/1.1\r\nhost: e\r\nconnection: close\r\norigin: ".to_vec();
        request.extend_from_slice(origin);
        request.extend_from_slice(b"\r\naccess-control-request-headers: ");
        request.extend_from_slice(asked);
        request.extend_from_slice(b"\r\n\r\n");
        let reply = raw(s.envoy.addr(), request).await.to_lowercase();
        assert!(
            reply.starts_with("http/1.1 200") || reply.starts_with("http/1.1 400"),
            "{name}: {reply}"
        );
        assert!(
            !reply.contains("x: y") && !reply.contains("b: c") && !reply.contains("allow-origin"),
            "{name}: {reply}"
        );
    }
    assert_eq!(s.post("/v1/track", track("alive")).await, ok());
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn envoys_local_replies_become_segment_responses() {
    let mut config = harness::default_config();
    config["delivery"]["holdMs"] = json!(10_000);
    let s = TestEnv::patched(config, |bootstrap| {
        let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
        let manager = bootstrap.pointer_mut(manager).unwrap();
        manager["request_timeout"] = json!("1s");
        manager["stream_idle_timeout"] = json!("2s");
    })
    .await;
    let head = |length: usize| {
        format!(
            "POST /v1/t HTTP/1.1\r\nhost: e\r\norigin: {ORIGIN}\r\nauthorization: Basic d3JpdGVLZXk6\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    // More than Envoy holds; a body that does not end; a Keen that does not answer.
    s.keen.fault(Fault::hang().forever());
    for (name, request, status, message) in [
        (
            "413",
            [head(3_000_000), " ".repeat(3_000_000)].concat(),
            400,
            "Exceed payload limit: body is larger than Envoy's buffer limit",
        ),
        ("408", [head(100), "{".to_owned()].concat(), 503, "not confirmed in time"),
        ("504", [head(track("slow").len()), track("slow")].concat(), 503, "not confirmed in time"),
    ] {
        let reply = raw_until_answered(&s, request).await;
        let (head, body) =
            reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{name}: {reply}"));
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{name}: {reply}");
        let body: Value =
            serde_json::from_str(body).unwrap_or_else(|error| panic!("{name}: {error}: {reply}"));
        assert_eq!(
            (&body["success"], body["message"].as_str().unwrap()),
            (&json!(false), message),
            "{name}"
        );
        assert!(body["code"].is_string());
        let head = head.to_lowercase();
        assert!(
            head.contains(&format!("access-control-allow-origin: {ORIGIN}\r\n")),
            "{name}: {head}"
        );
        assert!(head.contains("content-type: application/json"), "{name}: {head}");
        assert_eq!(head.contains("\r\nretry-after: "), status == 503, "{name}: {head}");
    }
    // The event whose caller was sent away still goes.
    s.keen.clear_faults();
    s.keen.wait_for_events(1, PATIENCE).await.unwrap();
    s.envoy.no_panic_in_log();
}

/// What is answered before the body is sent: the answer, as far as its length says.
async fn raw_until_answered(s: &TestEnv, request: String) -> String {
    use std::io::{Read, Write};
    let addr = s.envoy.addr();
    tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut writing = stream.try_clone().unwrap();
        // Envoy may close while this still writes.
        let writer = std::thread::spawn(move || writing.write_all(request.as_bytes()));
        let mut reply = Vec::new();
        let mut chunk = [0; 4096];
        while !is_whole(&reply) {
            match stream.read(&mut chunk) {
                Ok(n) if n > 0 => reply.extend_from_slice(&chunk[..n]),
                _ => break,
            }
        }
        drop(stream);
        let _ = writer.join();
        String::from_utf8_lossy(&reply).into_owned()
    })
    .await
    .unwrap()
}

fn is_whole(reply: &[u8]) -> bool {
    let text = String::from_utf8_lossy(reply);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head
        .to_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
        || head.contains("chunked") && body.ends_with("0\r\n\r\n")
}

#[tokio::test]
async fn settings_response_contains_requested_write_key() {
    let mut config = harness::default_config();
    config["settings"] = json!({"apiHost": "edge.example.com/v1"});
    let s = TestEnv::with(config).await;
    for path in [
        "/v1/projects/writeKey/settings",
        "/v1/projects/projects/writeKey/settings/?x=1",
        "/projects/writeKey/settings",
        "/v1//projects/write%4bey//settings",
    ] {
        let (status, headers, body) = send(&s, "GET", path, &[("origin", ORIGIN)], "").await;
        assert_eq!((status, value(&headers, "content-type")), (200, "application/json"), "{path}");
        let settings: Value = serde_json::from_str(&body).unwrap();
        let segment = &settings["integrations"]["Segment.io"];
        assert_eq!(segment["apiKey"], "writeKey");
        assert_eq!(segment["apiHost"], "edge.example.com/v1");
        assert_eq!(segment["unbundledIntegrations"], json!(["Keen IO"]));
        // One more, and analytics-next would fetch code from Segment's CDN before it sends anything.
        assert_eq!(settings["integrations"].as_object().unwrap().len(), 1);
        assert_eq!(settings["metrics"]["sampleRate"], 0);
        assert!(settings["plan"].is_object());
    }
    assert_eq!(send(&s, "HEAD", "/v1/projects/writeKey/settings", &[], "").await.0, 200);
    let s = TestEnv::new().await;
    let (_, _, body) = send(&s, "GET", "/v1/projects/writeKey/settings", &[], "").await;
    assert!(!body.contains("apiHost"), "{body}");
    s.envoy.no_panic_in_log();
}
