//! Requests of SDKs that cannot be installed here, written after their source code: Kotlin, Swift,
//! C#, React Native, Android, Elixir, and old analytics.js. `tests/captures` has recordings of PHP
//! and Ruby.

use super::fixture::{TestEnv, gzip, raw};
use serde_json::{Value, json};

/// A request as an SDK sends it.
struct Wire {
    name: &'static str,
    path: &'static str,
    /// Headers except Host and those for the body's length.
    headers: &'static [(&'static str, &'static str)],
    gzip: bool,
    chunked: bool,
    body: Value,
    /// Collection and properties of the event in its body.
    event: (&'static str, Value),
}

/// Returns a body of the mobile SDKs, which have the key and the time after the batch.
fn batch(messages: Value) -> Value {
    json!({"batch": messages, "sentAt": "2026-11-23T22:03:14.700Z", "writeKey": "writeKey"})
}

/// Returns a message with the fields that mobile SDKs add.
fn mobile(library: &str, version: &str, event: &str) -> Value {
    json!({
        "type": "track", "event": event, "properties": {"item": "T-Shirt", "revenue": 19.99},
        "anonymousId": "a-1", "userId": "u-1", "messageId": format!("m-{library}"),
        "timestamp": "2026-11-23T22:03:12.908Z", "integrations": {},
        "context": {
            "library": {"name": library, "version": version}, "locale": "en-US", "timezone": "Europe/Berlin",
            "app": {"name": "Shop", "version": "1.0", "build": "1", "namespace": "com.example.shop"},
            "device": {"id": "d-1", "manufacturer": "Example", "model": "One", "name": "one", "type": "phone"},
            "os": {"name": "OS", "version": "17"}, "screen": {"density": 2, "height": 1000, "width": 500},
            "network": {"cellular": false, "wifi": true, "bluetooth": false}, "instanceId": "i-1",
        },
        "_metadata": {"bundled": [], "unbundled": [], "bundledIds": []},
    })
}

fn bought() -> Value {
    json!({"item": "T-Shirt", "revenue": 19.99, "userId": "u-1"})
}

/// A null in `context` stays null in the event.
fn with_nulls(mut event: Value) -> Value {
    for name in ["ip_address", "page_url", "referrer_url", "user_agent"] {
        event[name] = Value::Null;
    }
    event
}

fn wires() -> Vec<Wire> {
    vec![
        Wire {
            name: "analytics-kotlin 1.24.1",
            path: "/v1/b",
            headers: &[
                ("Content-Type", "text/plain"),
                ("Content-Encoding", "gzip"),
                ("User-Agent", "analytics-kotlin/1.24.1"),
                ("Connection", "Keep-Alive"),
                ("Accept-Encoding", "gzip"),
            ],
            gzip: true,
            chunked: true,
            body: batch(json!([mobile("analytics-kotlin", "1.24.1", "Kotlin")])),
            event: ("Kotlin", bought()),
        },
        Wire {
            name: "analytics-swift 1.9.4",
            path: "/v1/b",
            headers: &[
                ("Content-Type", "application/json; charset=utf-8"),
                ("User-Agent", "analytics-ios/1.9.4"),
                ("Accept-Encoding", "gzip"),
                ("Accept", "*/*"),
            ],
            gzip: false,
            chunked: false,
            body: batch(json!([mobile("analytics-swift", "1.9.4", "Swift")])),
            event: ("Swift", bought()),
        },
        Wire {
            name: "Analytics-CSharp",
            path: "/v1/b",
            // Sends no Content-Type.
            headers: &[("Content-Encoding", "gzip")],
            gzip: true,
            chunked: false,
            body: batch(json!([mobile("Analytics-CSharp", "2.5.3", "CSharp")])),
            event: ("CSharp", bought()),
        },
        Wire {
            name: "analytics-react-native 2.24.1",
            // Version 2.20.4 doubles the path.
            path: "/v1/b/b",
            headers: &[("Content-Type", "application/json; charset=utf-8"), ("X-Retry-Count", "0")],
            gzip: false,
            chunked: false,
            body: batch(json!([mobile(
                "@segment/analytics-react-native",
                "2.24.1",
                "React Native"
            )])),
            event: ("React Native", bought()),
        },
        Wire {
            name: "analytics-android 4",
            path: "/v1/import",
            headers: &[
                ("Content-Type", "application/json"),
                ("Content-Encoding", "gzip"),
                ("User-Agent", "analytics-android/4.11.3"),
            ],
            gzip: true,
            chunked: true,
            body: json!({
                "batch": [mobile("analytics-android", "4.11.3", "Android")],
                "sentAt": "2026-11-23T22:03:14.700Z",
                "writeKey": "writeKey",
            }),
            event: ("Android", bought()),
        },
        Wire {
            name: "analytics-elixir",
            path: "/v1/batch",
            headers: &[
                ("Content-Type", "application/json"),
                ("Authorization", "Basic d3JpdGVLZXk6"),
            ],
            gzip: false,
            chunked: false,
            // Unset fields are null.
            body: json!({"batch": [{
                "type": "track", "event": "Elixir", "userId": "u-1", "anonymousId": null, "timestamp": null,
                "integrations": null, "sentAt": null, "messageId": null, "version": null,
                "properties": {"item": "T-Shirt", "revenue": 19.99},
                "context": {
                    "active": null, "app": null, "campaign": null, "device": null, "ip": null, "locale": null,
                    "location": null, "network": null, "os": null, "page": null, "referrer": null, "screen": null,
                    "timezone": null, "traits": null, "userAgent": null,
                    "library": {"name": "analytics_elixir", "version": "0.2.7", "transport": "http"},
                },
            }]}),
            event: ("Elixir", with_nulls(bought())),
        },
        Wire {
            name: "analytics.js 4",
            path: "/v1/t",
            headers: &[("Content-Type", "text/plain"), ("Origin", "https://shop.example.com")],
            gzip: false,
            chunked: false,
            body: json!({
                "timestamp": "2026-11-23T22:03:12.908Z", "integrations": {}, "anonymousId": "a-1", "userId": "u-1",
                "type": "track", "event": "Classic", "properties": {"item": "T-Shirt", "revenue": 19.99},
                "context": {"library": {"name": "analytics.js", "version": "4.4.7"}},
                "messageId": "ajs-0123456789abcdef", "writeKey": "writeKey", "sentAt": "2026-11-23T22:03:12.910Z",
                "_metadata": {"bundled": ["Segment.io"], "unbundled": ["Keen IO"]},
            }),
            event: ("Classic", bought()),
        },
        Wire {
            name: "analytics-node 3.1.0 with OAuth",
            path: "/v1/batch",
            headers: &[
                ("Content-Type", "application/json"),
                ("Authorization", "Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln"),
            ],
            gzip: false,
            chunked: false,
            body: json!({
                "batch": [mobile("@segment/analytics-node", "3.1.0", "OAuth")],
                "writeKey": "writeKey", "sentAt": "2026-11-23T22:03:12.910Z",
            }),
            event: ("OAuth", bought()),
        },
    ]
}

impl Wire {
    fn bytes(&self) -> Vec<u8> {
        let text = self.body.to_string().into_bytes();
        let body = if self.gzip { gzip(&text) } else { text };
        let mut head = format!("POST {} HTTP/1.1\r\nHost: edge.example.com\r\n", self.path);
        for (name, value) in self.headers.iter().filter(|(name, _)| *name != "Connection") {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("Connection: close\r\n");
        let mut bytes = Vec::new();
        if self.chunked {
            bytes.extend(format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes());
            for chunk in body.chunks(100) {
                bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
        } else {
            bytes.extend(format!("{head}Content-Length: {}\r\n\r\n", body.len()).into_bytes());
            bytes.extend(body);
        }
        bytes
    }
}

#[tokio::test]
async fn sdk_requests_get_segments_response_and_are_delivered() {
    let mut config = harness::default_config();
    for addon in ["ipAddon", "uaAddon", "urlAddon", "referrerAddon"] {
        config["sources"]["writeKey"][addon] = json!(false);
    }
    let env = TestEnv::with(config).await;
    for wire in wires() {
        let name = wire.name;
        let reply = raw(env.envoy.addr(), wire.bytes()).await;
        let (head, body) =
            reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{name}: {reply}"));
        let head = head.to_lowercase();
        // The exact response matters: Ruby parses an object, PHP needs status 200, Java needs
        // `success`.
        assert!(head.starts_with("http/1.1 200 ok"), "{name}: {reply}");
        assert_eq!(body, "{\n  \"success\": true\n}", "{name}");
        for line in ["content-type: application/json", "content-length: 21", "vary: origin"] {
            assert!(head.lines().any(|l| l == line), "{name}: no {line} in {head}");
        }
        let (collection, want) = &wire.event;
        let stored = env.keen.events();
        let found: Vec<_> =
            stored.iter().filter(|stored| stored.collection == *collection).collect();
        assert_eq!(found.len(), 1, "{name}: {stored:?}");
        let mut event = found[0].event.clone();
        let keen = event.as_object_mut().unwrap().remove("keen").unwrap();
        assert_eq!(event, *want, "{name}");
        assert!(!keen["uniqueness_token"].as_str().unwrap().is_empty(), "{name}");
        // The same request sent twice is one event if the event has an id.
        raw(env.envoy.addr(), wire.bytes()).await;
        let stored =
            env.keen.events().into_iter().filter(|stored| stored.collection == *collection).count();
        assert_eq!(stored, if name == "analytics-elixir" { 2 } else { 1 }, "{name}");
    }
    assert!(env.keen.refusals().is_empty(), "{:?}", env.keen.refusals());
    env.envoy.no_panic_in_log();
}

/// After a crash mobile SDKs send truncated batch files. They delete them after a 400.
#[tokio::test]
async fn truncated_batch_is_answered_400() {
    let env = TestEnv::new().await;
    let whole = batch(json!([mobile("analytics-swift", "1.9.4", "Swift")])).to_string();
    for (name, body) in [
        ("NULs at the end", [whole.as_bytes(), &[0; 64]].concat()),
        ("two in one", [whole.as_bytes(), whole.as_bytes()].concat()),
        (
            "empty places",
            br#"{"batch":[, , ],"sentAt":"2026-11-23T22:03:14.700Z","writeKey":"writeKey"}"#
                .to_vec(),
        ),
        ("cut", whole.as_bytes()[..whole.len() - 40].to_vec()),
        ("nothing", Vec::new()),
    ] {
        let head = format!(
            "POST /v1/b HTTP/1.1\r\nHost: e\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let reply = raw(env.envoy.addr(), [head.as_bytes(), &body].concat()).await;
        assert!(reply.starts_with("HTTP/1.1 400"), "{name}: {reply}");
        let body: Value = serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap();
        let want =
            json!({"success": false, "message": "malformed JSON", "code": "invalid_request"});
        assert_eq!(body, want, "{name}");
    }
    assert!(env.keen.events().is_empty());
    env.envoy.no_panic_in_log();
}
