//! Browsers: CORS on every response, project settings, and replacements for Envoy's local replies.

use super::fixture::{PATIENCE, TestEnv, ok, raw, track};
use mock_keen::Fault;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

const ORIGIN: &str = "https://shop.example.com";

async fn send(
    env: &TestEnv,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> (u16, HeaderMap, String) {
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = env.client.request(method, env.envoy.url(path)).body(body);
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
    let env = TestEnv::with(config).await;
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
        let (got, headers, body) = send(&env, method, path, &[key, ("origin", ORIGIN)], body).await;
        assert_eq!(got, status, "{method} {path}: {body}");
        assert!(readable(&headers), "{method} {path}: {headers:?}");
        assert_eq!(
            got == 429,
            headers.contains_key("retry-after") && headers.contains_key("x-ratelimit-reset")
        );
        // Without Origin there is no CORS, but `Vary` is needed for caches.
        let (_, headers, _) = send(&env, "GET", "/v1/t", &[], "").await;
        assert_eq!(
            (value(&headers, "access-control-allow-origin"), value(&headers, "vary")),
            ("", "Origin")
        );
    }
    env.keen.fault(Fault::status(503).forever());
    let (status, headers, body) =
        send(&env, "POST", "/v1/t", &[key, ("origin", ORIGIN)], track("failed")).await;
    assert!(
        status == 503 && readable(&headers) && headers.contains_key("retry-after"),
        "{status} {headers:?}"
    );
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["success"], false);
    assert_eq!(env.collections(), ["taken"]);
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn preflight_allows_every_sdk_header() {
    let env = TestEnv::new().await;
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
            let (status, headers, _) = send(&env, "OPTIONS", path, &headers, "").await;
            assert!(status == 200 && readable(&headers), "{path}: {headers:?}");
            assert_eq!(value(&headers, "access-control-allow-headers"), want);
            assert_eq!(value(&headers, "access-control-allow-methods"), "GET, POST, OPTIONS");
            assert_eq!(value(&headers, "access-control-max-age"), "86400");
        }
    }
    // The route handles other paths.
    assert_eq!(send(&env, "OPTIONS", "/elsewhere", &[("origin", ORIGIN)], "").await.0, 404);
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn disallowed_origin_gets_no_cors_headers() {
    let mut config = harness::default_config();
    config["cors"] = json!({"allowOrigins": ["https://shop.example.com", "https://*.example.org"]});
    let env = TestEnv::with(config).await;
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
                &env,
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
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn origin_cannot_inject_response_headers() {
    let env = TestEnv::new().await;
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
        let reply = raw(env.envoy.addr(), request).await.to_lowercase();
        assert!(
            reply.starts_with("http/1.1 200") || reply.starts_with("http/1.1 400"),
            "{name}: {reply}"
        );
        assert!(
            !reply.contains("x: y") && !reply.contains("b: c") && !reply.contains("allow-origin"),
            "{name}: {reply}"
        );
    }
    assert_eq!(env.post("/v1/track", track("alive")).await, ok());
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn envoys_local_replies_become_segment_responses() {
    let mut config = harness::default_config();
    config["delivery"]["holdMs"] = json!(10_000);
    let env = TestEnv::patched(config, |bootstrap| {
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
    // A body over Envoy's buffer, a body without an end, and a Keen that does not reply.
    env.keen.fault(Fault::hang().forever());
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
        let reply = raw_until_answered(&env, request).await;
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
    // The event of the caller that got 503 is still delivered.
    env.keen.clear_faults();
    env.keen.wait_for_events(1, PATIENCE).await.unwrap();
    env.envoy.no_panic_in_log();
}

/// Reads one response, up to its content-length.
async fn raw_until_answered(env: &TestEnv, request: String) -> String {
    use std::io::{Read, Write};
    let addr = env.envoy.addr();
    tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut writing = stream.try_clone().unwrap();
        // Envoy may close the connection during the write.
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
    let env = TestEnv::with(config).await;
    for path in [
        "/v1/projects/writeKey/settings",
        "/v1/projects/projects/writeKey/settings/?x=1",
        "/projects/writeKey/settings",
        "/v1//projects/write%4bey//settings",
    ] {
        let (status, headers, body) = send(&env, "GET", path, &[("origin", ORIGIN)], "").await;
        assert_eq!((status, value(&headers, "content-type")), (200, "application/json"), "{path}");
        let settings: Value = serde_json::from_str(&body).unwrap();
        let segment = &settings["integrations"]["Segment.io"];
        assert_eq!(segment["apiKey"], "writeKey");
        assert_eq!(segment["apiHost"], "edge.example.com/v1");
        assert_eq!(segment["unbundledIntegrations"], json!(["Keen IO"]));
        // If another entry came first, analytics-next would load code from Segment's CDN.
        assert_eq!(settings["integrations"].as_object().unwrap().len(), 1);
        assert_eq!(settings["metrics"]["sampleRate"], 0);
        assert!(settings["plan"].is_object());
    }
    assert_eq!(send(&env, "HEAD", "/v1/projects/writeKey/settings", &[], "").await.0, 200);
    let env = TestEnv::new().await;
    let (_, _, body) = send(&env, "GET", "/v1/projects/writeKey/settings", &[], "").await;
    assert!(!body.contains("apiHost"), "{body}");
    env.envoy.no_panic_in_log();
}
