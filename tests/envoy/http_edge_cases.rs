//! Request forms of Segment's API, and their responses.

use super::fixture::{TestEnv, gzip, ok, raw, refused, track};
use serde_json::json;

#[tokio::test]
async fn every_request_form_is_delivered() {
    let env = TestEnv::new().await;
    assert_eq!(env.post("/v1/track", track("single")).await, ok());
    assert_eq!(env.post("/v1/t/", track("short")).await, ok());
    let batch = json!({"batch": [
        {"type": "track", "event": "in batch", "userId": "u"},
        {"type": "identify", "userId": "u", "traits": {"a": 1}},
        {"type": "page", "name": "Home", "userId": "u"},
        {"type": "screen", "category": "Main", "userId": "u"},
        {"type": "track", "userId": "u"},
    ]});
    assert_eq!(env.post("/v1/batch", batch.to_string()).await, ok());
    let packed = gzip(track("packed").as_bytes());
    assert_eq!(env.post_with("/v1/track", packed, &[("content-encoding", "gzip")]).await, ok());
    for path in ["/v1/identify", "/v1/group", "/v1/alias", "/v1/m"] {
        assert_eq!(env.post(path, "{\"userId\": \"u\"}").await, ok(), "{path}");
    }
    for path in
        ["/b", "/v1/b", "/v1/b/b", "/v1/batch/b", "/v1/import/", "//v1/batch", "/v1/v1/batch?x=1"]
    {
        let batch = json!({"batch": [{"type": "track", "event": path, "userId": "u"}]});
        assert_eq!(env.post(path, batch.to_string()).await, ok(), "{path}");
    }
    // The write key is in the body. The OAuth header is not a write key.
    let body = json!({"event": "by body", "userId": "u", "writeKey": "writeKey"}).to_string();
    let request = env.client.post(env.envoy.url("/v1/track")).bearer_auth("token").body(body);
    assert_eq!(request.send().await.unwrap().status(), 200);
    let names = env.collections();
    let (paths, names): (Vec<_>, Vec<_>) = names.iter().partition(|name| name.starts_with('/'));
    assert_eq!(paths.len(), 7);
    assert_eq!(
        names,
        [
            "Viewed Home Page",
            "Viewed Main Screen",
            "by body",
            "in batch",
            "packed",
            "short",
            "single"
        ]
    );
    assert!(env.keen.refusals().is_empty());
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn chunked_body_with_trailers_is_delivered() {
    let env = TestEnv::new().await;
    let body = track("chunked");
    let (head, tail) = body.split_at(10);
    for (name, trailer) in [("plain", ""), ("with trailers", "x-checksum: 1\r\n")] {
        let request = format!(
            "POST /v1/track HTTP/1.1\r\nhost: e\r\nauthorization: Basic d3JpdGVLZXk6\r\ntransfer-encoding: chunked\r\n\
             connection: close\r\n\r\n{:x}\r\n{head}\r\n{:x}\r\n{tail}\r\n0\r\n{trailer}\r\n",
            head.len(),
            tail.len()
        );
        let reply = raw(env.envoy.addr(), request.into_bytes()).await;
        assert!(reply.starts_with("HTTP/1.1 200"), "{name}: {reply}");
    }
    // Both have the same token, so Keen stores one.
    assert_eq!(env.collections(), ["chunked"]);
    env.envoy.no_panic_in_log();
}

/// nginx's `proxy_pass` uses HTTP/1.0 by default, with or without a Host.
#[tokio::test]
async fn http_1_0_request_is_answered_200() {
    let env = TestEnv::new().await;
    for (event, host) in [("with host", "Host: edge.example\r\n"), ("without host", "")] {
        let body = track(event);
        let request = format!(
            "POST /v1/track HTTP/1.0\r\n{host}Connection: close\r\nContent-Length: {}\r\n\
             Authorization: Basic d3JpdGVLZXk6\r\n\r\n{body}",
            body.len()
        );
        let reply = raw(env.envoy.addr(), request.into_bytes()).await;
        assert!(reply.starts_with("HTTP/1.0 200") || reply.starts_with("HTTP/1.1 200"), "{reply}");
        assert!(reply.contains("\"success\": true"), "{reply}");
    }
    assert_eq!(env.collections(), ["with host", "without host"]);
    env.envoy.no_panic_in_log();
}

/// Apache HttpClient 5.4 offers TLS with each cleartext request, Java's own client offers h2c.
#[tokio::test]
async fn request_with_upgrade_offer_is_answered_200() {
    let env = TestEnv::new().await;
    let offers = [
        ("TLS/1.2", "Connection: Upgrade, close\r\nUpgrade: TLS/1.2\r\n"),
        ("tls/1.3", "Connection: close, upgrade\r\nUpgrade: tls/1.3\r\n"),
        (
            "h2c",
            "Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n\
             HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n",
        ),
    ];
    for (name, headers) in offers {
        let body = track(name);
        let request = format!(
            "POST /v1/track HTTP/1.1\r\nHost: edge.example\r\n{headers}Content-Length: {}\r\n\
             Authorization: Basic d3JpdGVLZXk6\r\n\r\n{body}",
            body.len()
        );
        let reply = raw(env.envoy.addr(), request.into_bytes()).await;
        assert!(reply.starts_with("HTTP/1.1 200"), "{name}: {reply}");
    }
    assert_eq!(env.collections().len(), offers.len());
    env.envoy.no_panic_in_log();
}

/// Envoy answers 413 to a body over its buffer. SDKs retry a 413, and without CORS a browser cannot
/// read it.
#[tokio::test]
async fn envoys_413_becomes_400() {
    let env = TestEnv::new().await;
    let body = vec![b' '; 1_500_000];
    let chunked: Vec<u8> =
        [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
    for (length, body) in
        [("content-length: 1500000", body), ("transfer-encoding: chunked", chunked)]
    {
        let head = format!(
            "POST /v1/track HTTP/1.1\r\nhost: e\r\norigin: https://shop.example\r\n{length}\r\n\r\n"
        );
        let reply = raw(env.envoy.addr(), [head.as_bytes(), &body].concat()).await;
        assert!(reply.starts_with("HTTP/1.1 400"), "{length}: {reply}");
        assert!(reply.contains("Exceed payload limit"), "{length}: {reply}");
        assert!(
            reply.contains("access-control-allow-origin: https://shop.example"),
            "{length}: {reply}"
        );
    }
    assert_eq!(env.post("/v1/track", track("after")).await, ok());
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn malformed_request_is_answered_400() {
    let env = TestEnv::new().await;
    for body in ["", "{", "[]", "\u{fffd}", "{\"batch\": 1}", "[[[[", "{\"event\": 01}"] {
        assert_eq!(env.post("/v1/batch", body).await, refused("malformed JSON"), "{body}");
    }
    assert_eq!(env.post("/v1/track", vec![0xff, 0xfe, 0x00]).await, refused("malformed JSON"));
    assert_eq!(env.post("/v1/batch", "[".repeat(400_000)).await, refused("malformed JSON"));
    assert_eq!(
        env.post("/v1/batch", " ".repeat(600_211)).await,
        refused("Exceed payload limit: body is 600,211 bytes, the limit is 524,288")
    );
    let bomb = gzip(&vec![b' '; 50_000_000]);
    assert_eq!(
        env.post_with("/v1/batch", bomb, &[("content-encoding", "gzip")]).await,
        refused("Exceed payload limit: body is over 524,288 bytes, the limit")
    );
    let packed = gzip(track("x").as_bytes());
    let cut = packed[..packed.len() - 4].to_vec();
    let corrupt = "malformed content encoding: the gzip is cut or corrupt";
    for (body, encoding, message) in
        [(cut, "gzip", corrupt), (packed, "br", "only gzip is supported")]
    {
        let got = env.post_with("/v1/track", body, &[("content-encoding", encoding)]).await;
        assert_eq!(got, refused(message), "{encoding}");
    }
    let nobody = env
        .client
        .post(env.envoy.url("/v1/track"))
        .body("{\"event\": \"e\"}")
        .send()
        .await
        .unwrap();
    assert_eq!(nobody.status(), 400);
    assert!(nobody.text().await.unwrap().contains("An invalid write key was provided"));
    for path in ["/v1/track", "/v1/b", "/v1/m", "/v1/import/"] {
        for method in [reqwest::Method::GET, reqwest::Method::PUT, reqwest::Method::DELETE] {
            let reply = env
                .client
                .request(method, env.envoy.url(path))
                .basic_auth("writeKey", Some(""))
                .send()
                .await
                .unwrap();
            assert_eq!(reply.status(), 400, "{path}");
            assert!(
                reply.text().await.unwrap().contains("\"message\": \"malformed JSON: POST only\""),
                "{path}"
            );
        }
    }
    // An unknown key gets 200, as at Segment, and nothing is sent.
    let stranger = env
        .client
        .post(env.envoy.url("/v1/track"))
        .basic_auth("stranger", Some(""))
        .body(track("x"));
    assert_eq!(stranger.send().await.unwrap().status(), 200);
    assert_eq!(env.client.get(env.envoy.url("/elsewhere")).send().await.unwrap().status(), 404);
    assert!(env.keen.events().is_empty());
    assert_eq!(env.post("/v1/track", track("alive")).await, ok());
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn non_utf8_header_is_answered() {
    let env = TestEnv::new().await;
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
        let reply = raw(env.envoy.addr(), request).await;
        assert!(reply.starts_with("HTTP/1.1 200") || reply.starts_with("HTTP/1.1 400"), "{reply}");
    }
    assert_eq!(env.post("/v1/track", track("alive")).await, ok());
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn client_address_in_event_is_envoys() {
    let env = TestEnv::new().await;
    let browser = ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)");
    env.post_with("/v1/track", track("browser"), &[browser, ("x-forwarded-for", "6.6.6.6")]).await;
    env.post_with("/v1/track", track("server"), &[("user-agent", "analytics-python/2.4.0")]).await;
    for stored in env.keen.events() {
        let (ip, agent) = (&stored.event["ip_address"], &stored.event["user_agent"]);
        match stored.collection.as_str() {
            "browser" => assert_eq!((ip, agent), (&json!("127.0.0.1"), &json!(browser.1))),
            _ => assert!(ip.is_null() && agent.is_null(), "{stored:?}"),
        }
    }
    assert_eq!(env.collections(), ["browser", "server"]);
}

#[tokio::test]
async fn message_write_key_selects_source() {
    let mut config = harness::default_config();
    let project = |n: u32| format!("5181bcd23843312d8700000{n}");
    for n in 1..=2 {
        config["sources"][format!("key{n}")] =
            json!({"projectId": project(n), "writeKey": mock_keen::WRITE_KEY});
    }
    let env = TestEnv::with(config).await;
    for n in 1..=2 {
        env.keen.add_project(mock_keen::Project::new(&project(n), mock_keen::WRITE_KEY));
    }
    let message = |event: &str, key: serde_json::Value| json!({"type": "track", "event": event, "userId": "u", "writeKey": key});
    let mut batch = json!({"batch": [
        message("own", json!("key1")),
        message("other", json!("key2")),
        message("of nobody", json!("key3")),
        message("of the header", json!(null)),
        message("empty", json!("")),
    ]});
    assert_eq!(env.post("/v1/batch", batch.to_string()).await, ok());
    // The body's key has precedence over the header's.
    batch["writeKey"] = json!("key2");
    assert_eq!(env.post("/v1/batch", batch.to_string()).await, ok());
    let got = |project: &str| {
        let mut names: Vec<String> =
            env.keen.events_in(project).into_iter().map(|event| event.collection).collect();
        names.sort();
        names
    };
    assert_eq!(got(&project(1)), ["own", "own"]);
    assert_eq!(got(&project(2)), ["empty", "of the header", "other", "other"]);
    assert_eq!(got(mock_keen::PROJECT), ["empty", "of the header"]);
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn decompressor_before_filter_delivers_events() {
    let env = TestEnv::patched(harness::default_config(), |bootstrap| {
        let filters = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";
        bootstrap.pointer_mut(filters).unwrap().as_array_mut().unwrap().insert(0, json!({
            "name": "envoy.filters.http.decompressor",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.decompressor.v3.Decompressor",
                "decompressor_library": {
                    "name": "gzip",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.compression.gzip.decompressor.v3.Gzip"},
                },
            },
        }));
    })
    .await;
    let packed = gzip(track("packed").as_bytes());
    assert_eq!(
        env.post_with("/v1/track", packed.clone(), &[("content-encoding", "gzip")]).await,
        ok()
    );
    // The decompressor passes truncated input on, which is not valid JSON.
    let cut = packed[..packed.len() / 2].to_vec();
    assert_eq!(env.post_with("/v1/track", cut, &[("content-encoding", "gzip")]).await.0, 400);
    assert_eq!(env.post("/v1/track", track("plain")).await, ok());
    assert_eq!(env.collections(), ["packed", "plain"]);
    assert_eq!(env.envoy.stat("http.segment.decompressor.gzip.gzip.request.decompressed").await, 2);
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn unknown_write_key_with_reject_is_answered_400() {
    let mut config = harness::default_config();
    config["unknownSource"] = json!("reject");
    let env = TestEnv::with(config).await;
    let post = async |key: &str, body: serde_json::Value| {
        let request = env
            .client
            .post(env.envoy.url("/v1/batch"))
            .basic_auth(key, Some(""))
            .body(body.to_string());
        let reply = request.send().await.unwrap();
        (
            reply.status().as_u16(),
            serde_json::from_str::<serde_json::Value>(&reply.text().await.unwrap()).unwrap(),
        )
    };
    let message = |event: &str, key: &str| json!({"type": "track", "event": event, "userId": "u", "writeKey": key});
    let refused = refused("An invalid write key was provided");
    assert_eq!(
        post("stranger", json!({"batch": [{"type": "track", "event": "a", "userId": "u"}]})).await,
        refused
    );
    assert_eq!(post("writeKey", json!({"batch": [message("b", "stranger")]})).await, refused);
    // With one known key the request is accepted; messages with unknown keys are dropped.
    let mixed = json!({"batch": [message("c", "stranger"), message("d", "writeKey")]});
    assert_eq!(post("stranger", mixed).await, ok());
    assert_eq!(post("writeKey", json!({"batch": []})).await, ok());
    assert_eq!(env.collections(), ["d"]);
    env.envoy.no_panic_in_log();
}
