//! Malicious input. The caller is answered or disconnected, and the filter serves the next request.

use super::fixture::{PATIENCE, TestEnv, gzip, ok, track};
use mock_keen::WRITE_KEY;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const KEY: &str = "authorization: Basic d3JpdGVLZXk6\r\n";

fn post(headers: &[u8], body: &[u8]) -> Vec<u8> {
    let start = "POST /v1/track HTTP/1.1\r\nhost: e\r\nconnection: close\r\n";
    [
        start.as_bytes(),
        format!("content-length: {}\r\n", body.len()).as_bytes(),
        headers,
        b"\r\n",
        body,
    ]
    .concat()
}

/// Sends raw bytes and returns the response, or the part that was received before a close or a
/// timeout.
async fn raw(addr: SocketAddr, bytes: Vec<u8>) -> String {
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let _ = stream.write_all(&bytes);
        let (mut reply, mut piece) = (Vec::new(), [0; 4096]);
        while !is_whole(&String::from_utf8_lossy(&reply)) {
            match stream.read(&mut piece) {
                Ok(count @ 1..) => reply.extend_from_slice(&piece[..count]),
                _ => break,
            }
        }
        String::from_utf8_lossy(&reply).into_owned()
    })
    .await
    .unwrap()
}

fn is_whole(reply: &str) -> bool {
    let last = reply.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(reply);
    let Some((head, body)) = last.split_once("\r\n\r\n") else { return false };
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}

fn status(reply: &str) -> u16 {
    reply.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// SplitMix64 with a fixed seed, so that failures are reproducible.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn bytes(state: &mut u64, count: usize) -> Vec<u8> {
    (0..count).map(|_| u8::try_from(random(state) & 255).unwrap()).collect()
}

async fn lives(env: &TestEnv) {
    assert_eq!(env.post("/v1/track", track("alive")).await, ok());
    assert_eq!(env.envoy.stat("wasm.envoy.wasm.runtime.v8.active").await, 3, "a VM was lost");
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn any_header_bytes_and_sizes_are_answered() {
    let env = TestEnv::new().await;
    let body = track("headers");
    for byte in 0x80..=0xff_u8 {
        let mut headers = KEY.as_bytes().to_vec();
        for name in [
            "user-agent",
            "referer",
            "origin",
            "content-type",
            "x-forwarded-for",
            "x-request-id",
            "cookie",
        ] {
            headers.extend_from_slice(&[name.as_bytes(), b": ", &[byte; 3], b"\r\n"].concat());
        }
        assert_eq!(
            status(&raw(env.envoy.addr(), post(&headers, body.as_bytes())).await),
            200,
            "{byte:#x}"
        );
        // A key that is not UTF-8 is ignored.
        let headers =
            [b"authorization: ", &[byte][..], b"\r\ncontent-encoding: ", &[byte], b"\r\n"].concat();
        assert_eq!(
            status(&raw(env.envoy.addr(), post(&headers, body.as_bytes())).await),
            400,
            "{byte:#x}"
        );
    }
    for size in [0, 1, 8_000, 55_000, 70_000] {
        for name in
            ["user-agent", "referer", "origin", "authorization", "content-encoding", "x-any"]
        {
            let headers = format!("{name}: {}\r\n", "a".repeat(size));
            let got =
                status(&raw(env.envoy.addr(), post(headers.as_bytes(), body.as_bytes())).await);
            let expected: &[u16] = if size > 60 * 1024 { &[431] } else { &[200, 400] };
            assert!(expected.contains(&got), "{name} of {size}: {got}");
        }
    }
    lives(&env).await;
}

#[tokio::test]
async fn any_authorization_header_is_answered() {
    let env = TestEnv::new().await;
    let body = track("authorized");
    let no_key = [
        "",
        "Basic",
        "Basic ",
        "Basic  ",
        "basic",
        "Bearer",
        "Bearer x",
        "Basic =",
        "Basic ====",
        "Basic Og==",
        "Basic %00",
        "Basic d3JpdGVLZXk6!",
        "Digest username=\"writeKey\"",
        "Basic \t",
        "\u{1}",
        "Basic /w==",
        "Basic AAAA",
        "Negotiate d3JpdGVLZXk6",
        "d3JpdGVLZXk6",
        "Basicd3JpdGVLZXk6",
    ];
    for value in no_key {
        let headers = format!("authorization: {value}\r\n");
        let reply = raw(env.envoy.addr(), post(headers.as_bytes(), body.as_bytes())).await;
        // A readable but unknown key gets 200, as at Segment, and nothing is sent.
        assert!(matches!(status(&reply), 200 | 400), "{value:?}: {reply}");
    }
    assert!(env.keen.events().is_empty());
    let twice = format!("{KEY}authorization: Basic b3RoZXI6\r\n");
    // Envoy joins the two headers, so there is no valid key.
    assert_eq!(status(&raw(env.envoy.addr(), post(twice.as_bytes(), body.as_bytes())).await), 400);
    let many: String = (0..50).map(|i| format!("authorization: Basic {i}\r\n")).collect();
    assert_eq!(status(&raw(env.envoy.addr(), post(many.as_bytes(), body.as_bytes())).await), 400);
    let long = format!("authorization: Basic {}\r\n", "QUJD".repeat(12_000));
    let got = status(&raw(env.envoy.addr(), post(long.as_bytes(), body.as_bytes())).await);
    assert!(matches!(got, 200 | 400), "{got}");
    assert!(env.keen.events().is_empty());
    lives(&env).await;
}

#[tokio::test]
async fn any_body_bytes_are_answered() {
    let env = TestEnv::new().await;
    let mut seed = 0x5eed;
    let valid = json!({"batch": [serde_json::from_str::<Value>(&track("a")).unwrap(), {"type": "page", "name": "n"}]})
        .to_string();
    let packed = gzip(valid.as_bytes());
    for round in 0..400_usize {
        let length = usize::try_from(random(&mut seed)).unwrap() % 3000;
        let (body, encoding) = match round % 4 {
            0 => (bytes(&mut seed, length), ""),
            1 => (bytes(&mut seed, length), "gzip"),
            2 => (packed[..length % packed.len()].to_vec(), "gzip"),
            _ => {
                // Flips one bit of a valid body.
                let (source, encoding) =
                    if round % 8 == 3 { (valid.as_bytes(), "") } else { (&packed[..], "gzip") };
                let mut body = source.to_vec();
                let place = length % body.len();
                body[place] ^= 1 << (length % 8);
                (body, encoding)
            }
        };
        let got = env.post_with("/v1/batch", body.clone(), &[("content-encoding", encoding)]).await;
        assert!(matches!(got.0, 200 | 400), "round {round}: {got:?} to {body:?}");
    }
    lives(&env).await;
}

/// Bodies that expand, nest deeply or have very many members are answered soon and in bounded
/// memory.
#[tokio::test]
async fn expanding_bodies_are_rejected() {
    let env = TestEnv::new().await;
    let keys = |count: usize, key: &dyn Fn(usize) -> String| {
        let members: Vec<String> = (0..count).map(|i| format!("\"{}\":1", key(i))).collect();
        format!("{{\"event\":\"e\",\"userId\":\"u\",\"properties\":{{{}}}}}", members.join(","))
    };
    let words: Vec<String> = (0..25).map(|_| "t".repeat(9_900)).collect();
    let shared = json!({"batch": vec![json!({"type": "track", "event": "e"}); 2_400], "integrations": {"Keen IO": {"traits": {"w": words}}}});
    let mut nested = gzip(&vec![b' '; 20_000_000]);
    for _ in 0..3 {
        nested = gzip(&nested);
    }
    let members: Vec<u8> = std::iter::repeat_n(gzip(b""), 20_000).flatten().collect();
    let deep = |open: &str, count: usize| {
        format!("{{\"event\":\"e\",\"properties\":{{\"a\":{}", open.repeat(count))
    };
    let closed = format!("{}1{}", "[".repeat(200_000), "]".repeat(200_000));
    let cases: Vec<(&str, Vec<u8>, &str, u16)> = vec![
        ("a bomb", gzip(&vec![0; 200_000_000]), "gzip", 400),
        ("a bomb in a bomb", nested, "gzip", 400),
        ("20,000 empty members", members, "gzip", 400),
        ("1 MB of [", "[".repeat(1_000_000).into_bytes(), "", 400),
        ("500 KB of [", "[".repeat(500_000).into_bytes(), "", 400),
        ("objects without end", deep("{\"a\":", 90_000).into_bytes(), "", 400),
        (
            "arrays within arrays",
            format!("{{\"event\":\"e\",\"userId\":\"u\",\"properties\":{{\"a\":{closed}}}}}")
                .into_bytes(),
            "",
            200,
        ),
        (
            "100,000 keys, packed",
            gzip(keys(50_000, &|i| format!("k{i:x}")).as_bytes()),
            "gzip",
            200,
        ),
        ("one key 60,000 times", keys(60_000, &|_| "a".to_owned()).into_bytes(), "", 200),
        (
            "keys that become equal",
            keys(30_000, &|i| format!("a{}b{}", if i % 2 == 0 { "." } else { "_" }, i / 2))
                .into_bytes(),
            "",
            200,
        ),
        (
            "keys that collide in common hashes",
            keys(15_000, &|i| {
                (0..14).map(|bit| if i >> bit & 1 == 0 { "Aa" } else { "BB" }).collect()
            })
            .into_bytes(),
            "",
            200,
        ),
        (
            "300,000 empty messages",
            format!("{{\"batch\":[{}{{}}]}}", "{},".repeat(170_000)).into_bytes(),
            "",
            200,
        ),
        (
            "escapes",
            json!({"event": "e", "userId": "u", "properties": {"a": "\u{1}".repeat(80_000)}})
                .to_string()
                .into_bytes(),
            "",
            200,
        ),
        (
            "a name of 400 KB",
            json!({"event": "e".repeat(400_000), "userId": "\u{1F600}".repeat(20_000)})
                .to_string()
                .into_bytes(),
            "",
            200,
        ),
        ("traits of a batch with 2,400 messages", shared.to_string().into_bytes(), "", 429),
    ];
    lives(&env).await;
    let before = env.envoy.rss_bytes();
    for (name, body, encoding, want) in cases {
        let start = Instant::now();
        let got = env.post_with("/v1/batch", body.clone(), &[("content-encoding", encoding)]).await;
        let track = env.post_with("/v1/track", body, &[("content-encoding", encoding)]).await;
        println!("{name}: {} and {} in {:?}", got.0, track.0, start.elapsed());
        assert!(got.0 == want || track.0 == want, "{name}: {got:?}, {track:?}");
        assert!(start.elapsed() < Duration::from_secs(8), "{name}: {:?}", start.elapsed());
    }
    let grown = env.envoy.rss_bytes().saturating_sub(before);
    println!("resident memory grew by {} MB", grown >> 20);
    assert!(grown < 300 << 20, "{grown}");
    assert!(env.keen.refusals().is_empty(), "{:?}", env.keen.refusals());
    env.until("it is all delivered", || async {
        env.envoy.stat("wasmcustom.keen_edge_pending_bytes").await == 0
    })
    .await;
    lives(&env).await;
}

#[tokio::test]
async fn slow_and_endless_requests_are_ended() {
    let env =
        TestEnv::patched(harness::default_config(), |yaml| {
            let hcm = &mut yaml["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
                [0]["typed_config"];
            hcm["request_timeout"] = json!("1s");
            hcm["request_headers_timeout"] = json!("1s");
        })
        .await;
    let body = track("slow");
    let whole = post(KEY.as_bytes(), body.as_bytes());
    for cut in [10, 60, whole.len() - body.len(), whole.len() - 1] {
        let reply = raw(env.envoy.addr(), whole[..cut].to_vec()).await;
        assert!(
            reply.is_empty() || matches!(status(&reply), 400 | 408 | 503),
            "cut at {cut}: {reply}"
        );
    }
    // The body arrives chunk by chunk, within the time limit.
    let reply = tokio::task::spawn_blocking({
        let (addr, body) = (env.envoy.addr(), body.clone());
        move || {
            let mut stream = TcpStream::connect(addr).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let head = format!(
                "POST /v1/track HTTP/1.1\r\nhost: e\r\nconnection: close\r\n{KEY}transfer-encoding: chunked\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            for byte in body.bytes() {
                stream.write_all(&[b"1\r\n", &[byte][..], b"\r\n"].concat()).unwrap();
                std::thread::sleep(Duration::from_millis(2));
            }
            stream.write_all(b"0\r\n\r\n").unwrap();
            let mut reply = String::new();
            let _ = stream.read_to_string(&mut reply);
            reply
        }
    });
    assert_eq!(status(&reply.await.unwrap()), 200);
    // Opens 200 connections that start a request and disconnect.
    for i in 0..200 {
        let mut stream = TcpStream::connect(env.envoy.addr()).unwrap();
        let _ = stream.write_all(&whole[..whole.len() * i / 200]);
    }
    env.until("all are gone", || async {
        env.envoy.stat("http.segment.downstream_rq_active").await == 0
    })
    .await;
    assert_eq!(env.collections(), ["slow"]);
    lives(&env).await;
}

#[tokio::test]
async fn smuggling_and_upgrade_attempts_are_rejected() {
    let env = TestEnv::new().await;
    let body = track("outer");
    let smuggled = String::from_utf8(post(KEY.as_bytes(), track("smuggled").as_bytes())).unwrap();
    let start = format!("POST /v1/track HTTP/1.1\r\nhost: e\r\n{KEY}");
    let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for (name, request) in [
        (
            "both lengths, chunked first",
            format!(
                "{start}transfer-encoding: chunked\r\ncontent-length: {}\r\n\r\n{chunk}{smuggled}",
                chunk.len() + smuggled.len()
            ),
        ),
        (
            "both lengths, length first",
            format!(
                "{start}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{smuggled}"
            ),
        ),
        (
            "two lengths",
            format!(
                "{start}content-length: {}\r\ncontent-length: {}\r\n\r\n{body}{smuggled}",
                body.len(),
                body.len() + smuggled.len()
            ),
        ),
        (
            "a list of lengths",
            format!("{start}content-length: {}, 5\r\n\r\n{body}{smuggled}", body.len()),
        ),
        (
            "a length with a sign",
            format!("{start}content-length: +{}\r\n\r\n{body}{smuggled}", body.len()),
        ),
        ("a negative length", format!("{start}content-length: -1\r\n\r\n{body}{smuggled}")),
        ("a length in hex", format!("{start}content-length: 0x10\r\n\r\n{body}{smuggled}")),
        (
            "chunked by another name",
            format!("{start}transfer-encoding: xchunked\r\n\r\n{chunk}{smuggled}"),
        ),
        (
            "chunked, and more",
            format!("{start}transfer-encoding: chunked, identity\r\n\r\n{chunk}{smuggled}"),
        ),
        (
            "a space before the colon",
            format!("{start}transfer-encoding : chunked\r\n\r\n{chunk}{smuggled}"),
        ),
        (
            "a folded header",
            format!("{start}x-a: b\r\n transfer-encoding: chunked\r\n\r\n{smuggled}"),
        ),
        (
            "a chunk size that overflows",
            format!(
                "{start}transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{body}{smuggled}"
            ),
        ),
        (
            "a chunk size with a sign",
            format!("{start}transfer-encoding: chunked\r\n\r\n+5\r\n{body}{smuggled}"),
        ),
        ("a NUL in a header", format!("{start}x-a: \0\r\n\r\n{smuggled}")),
    ] {
        let reply = raw(env.envoy.addr(), request.into_bytes()).await;
        assert!(reply.is_empty() || matches!(status(&reply), 400 | 501 | 503), "{name}: {reply}");
        if name == "chunked by another name" {
            assert_eq!(status(&reply), 501, "{reply}");
        }
        assert!(!env.collections().contains(&"smuggled".to_owned()), "{name}");
    }
    for (name, request) in [
        (
            "a WebSocket",
            format!(
                "GET /v1/track HTTP/1.1\r\nhost: e\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: x\r\n{KEY}\r\n"
            ),
        ),
        (
            "h2c",
            format!(
                "POST /v1/track HTTP/1.1\r\nhost: e\r\nconnection: upgrade, http2-settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n{KEY}content-length: {}\r\n\r\n{body}",
                body.len()
            ),
        ),
        ("CONNECT", format!("CONNECT e:443 HTTP/1.1\r\nhost: e:443\r\n{KEY}\r\n")),
        ("TRACE", format!("TRACE /v1/track HTTP/1.1\r\nhost: e\r\nconnection: close\r\n{KEY}\r\n")),
        ("no host", format!("POST /v1/track HTTP/1.1\r\n{KEY}content-length: 2\r\n\r\n{{}}")),
        (
            "an absolute path",
            format!(
                "POST http://e/v1/track HTTP/1.1\r\nhost: e\r\nconnection: close\r\n{KEY}content-length: {}\r\n\r\n{body}",
                body.len()
            ),
        ),
        (
            "HTTP/1.0",
            format!("POST /v1/track HTTP/1.0\r\n{KEY}content-length: {}\r\n\r\n{body}", body.len()),
        ),
        ("HTTP/2 in the middle", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_owned()),
        ("no HTTP", "\u{0}\u{1}\u{2}\r\n\r\n".to_owned()),
    ] {
        let reply = raw(env.envoy.addr(), request.into_bytes()).await;
        assert!(reply.is_empty() || (200..=505).contains(&status(&reply)), "{name}: {reply}");
        if name == "a WebSocket" {
            assert_eq!(status(&reply), 403, "{reply}");
        }
    }
    // Envoy answers `Expect: 100-continue`.
    let expecting =
        post(format!("{KEY}expect: 100-continue\r\n").as_bytes(), track("expected").as_bytes());
    let reply = raw(env.envoy.addr(), expecting).await;
    assert!(reply.starts_with("HTTP/1.1 100") && reply.contains("HTTP/1.1 200"), "{reply}");
    // Trailers have any name and value.
    for trailers in [
        "x-a: b\r\n",
        "authorization: Basic b3RoZXI6\r\n",
        "content-length: 5\r\n",
        ":path: /\r\n",
        "x: \u{80}\r\n",
    ] {
        let request = format!(
            "{start}connection: close\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n{trailers}\r\n",
            body.len()
        );
        let reply = raw(env.envoy.addr(), request.into_bytes()).await;
        assert!(matches!(status(&reply), 200 | 400 | 503), "{trailers:?}: {reply}");
    }
    assert!(!env.collections().contains(&"smuggled".to_owned()));
    assert!(!env.envoy.log().contains(&WRITE_KEY[..16]));
    lives(&env).await;
}
