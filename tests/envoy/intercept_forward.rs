//! `intercept: forward`: Keen gets a copy, and the call reaches the route unchanged.

use super::fixture::{PATIENCE, TestEnv, gzip, raw, track};
use harness::Envoy;
use mock_keen::{Fault, MockKeen, Options};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

const ANSWER: &str = "HTTP/1.1 202 Accepted\r\ncontent-length: 7\r\nx-segment: yes\r\nconnection: close\r\n\r\nSegment";

/// An upstream in place of Segment. It keeps each request byte for byte.
struct Segment {
    addr: SocketAddr,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Segment {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, kept) = (stream.unwrap(), Arc::clone(&kept));
                std::thread::spawn(move || {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    let mut request = Vec::new();
                    let mut chunk = [0; 65_536];
                    while !is_whole(&request) {
                        match stream.read(&mut chunk) {
                            Ok(n) if n > 0 => request.extend_from_slice(&chunk[..n]),
                            _ => return,
                        }
                    }
                    kept.lock().unwrap().push(request);
                    let _ = stream.write_all(ANSWER.as_bytes());
                });
            }
        });
        Self { addr, requests }
    }

    fn last(&self) -> (String, Vec<u8>) {
        let request = self.requests.lock().unwrap().last().cloned().unwrap();
        let at = head_end(&request).unwrap();
        (String::from_utf8(request[..at].to_vec()).unwrap().to_lowercase(), request[at..].to_vec())
    }
}

fn head_end(request: &[u8]) -> Option<usize> {
    request.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

fn is_whole(request: &[u8]) -> bool {
    let Some(at) = head_end(request) else { return false };
    let head = String::from_utf8_lossy(&request[..at]).to_lowercase();
    if head.contains("transfer-encoding: chunked") {
        return request.ends_with(b"0\r\n\r\n");
    }
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    request.len() - at >= length.unwrap_or(0)
}

async fn test_env(change: impl FnOnce(&mut Value)) -> (TestEnv, Segment) {
    let segment = Segment::start();
    let addr = segment.addr;
    let mut config = harness::default_config();
    config["intercept"] = json!("forward");
    change(&mut config);
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let envoy = Envoy::builder()
        .keen(keen.addr())
        .config(config)
        .patch(move |bootstrap| {
            let endpoint = json!({"address": {"socket_address": {"address": "127.0.0.1", "port_value": addr.port()}}});
            bootstrap["static_resources"]["clusters"].as_array_mut().unwrap().push(json!({
                "name": "segment", "type": "STATIC", "connect_timeout": "2s",
                "load_assignment": {"cluster_name": "segment", "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
            }));
            *harness::routes(bootstrap) = json!([{"match": {"prefix": "/"}, "route": {"cluster": "segment"}}]);
        })
        .start()
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    (TestEnv { envoy, keen, client: reqwest::Client::new() }, segment)
}

async fn send(env: &TestEnv, head: &str, body: &[u8]) -> String {
    let mut request = head.replace('\n', "\r\n").into_bytes();
    request.extend_from_slice(body);
    raw(env.envoy.addr(), request).await
}

#[tokio::test]
async fn forwarded_call_is_unchanged_and_mirrored() {
    let (env, segment) = test_env(|_| {}).await;
    let plain = format!(" {}\n", track("plain"));
    let packed = gzip(track("packed").as_bytes());
    let key = "authorization: Basic d3JpdGVLZXk6\n";
    for (name, head, body) in [
        ("plain", String::new(), plain.as_bytes()),
        ("packed", "content-encoding: gzip\nx-own: a b\n".to_owned(), packed.as_slice()),
    ] {
        let length = body.len();
        let head = format!(
            "POST /v1/track?x=1 HTTP/1.1\nhost: api.segment.io\nconnection: close\n{key}{head}content-length: {length}\n\n"
        );
        let reply = send(&env, &head, body).await;
        assert!(
            reply.starts_with("HTTP/1.1 202") && reply.contains("x-segment: yes"),
            "{name}: {reply}"
        );
        assert!(reply.ends_with("Segment"), "{name}: {reply}");
        let (got, arrived) = segment.last();
        assert_eq!(arrived, body, "{name}");
        assert!(got.starts_with("post /v1/track?x=1 http/1.1\r\n"), "{got}");
        for line in head
            .to_lowercase()
            .lines()
            .skip(1)
            .filter(|l| !l.is_empty() && !l.starts_with("connection"))
        {
            assert!(got.contains(&format!("{line}\r\n")), "{name}: {line} is missing in {got}");
        }
    }
    // Chunked, with trailers.
    let head = format!(
        "POST /v1/t HTTP/1.1\nhost: a\nconnection: close\n{key}transfer-encoding: chunked\n\n"
    );
    let body = track("chunked");
    let (first, rest) = body.split_at(10);
    let chunks = format!(
        "{:x}\r\n{first}\r\n{:x}\r\n{rest}\r\n0\r\nx-trailer: 1\r\n\r\n",
        first.len(),
        rest.len()
    );
    assert!(send(&env, &head, chunks.as_bytes()).await.starts_with("HTTP/1.1 202"));
    env.until("Keen has all copies", || async {
        env.collections() == ["chunked", "packed", "plain"]
    })
    .await;
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn forwarded_invalid_call_reaches_route() {
    let (env, segment) = test_env(|_| {}).await;
    let large = format!("{{\"event\":\"{}\"}}", "x".repeat(600_000));
    let huge = vec![b' '; 3_000_000];
    for (path, body) in [
        ("/v1/track", b"no json".to_vec()),
        ("/v1/identify", b"{}".to_vec()),
        ("/v1/m", b"{}".to_vec()),
        ("/other", b"x".to_vec()),
        ("/v1/track", large.into_bytes()),
        ("/v1/batch", huge),
    ] {
        let (sent, size) = (segment.requests.lock().unwrap().len(), body.len());
        let reply = env.client.post(env.envoy.url(path)).body(body.clone()).send().await.unwrap();
        assert_eq!(reply.status(), 202, "{path}, {size} bytes");
        assert_eq!(segment.requests.lock().unwrap().len(), sent + 1);
        assert!(segment.last().1 == body, "{path}, {size} bytes");
    }
    let reply =
        env.client.get(env.envoy.url("/v1/projects/writeKey/settings")).send().await.unwrap();
    assert_eq!(reply.status(), 202);
    assert!(env.keen.events().is_empty());
    env.until("uncopied calls are counted", || async {
        // Not JSON, no write key, over the limit, far over the limit.
        env.envoy.stat("wasmcustom.keen_edge_requests_mirror_dropped").await == 4
    })
    .await;
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn settings_and_pixel_are_answered_by_filter() {
    let (env, segment) = test_env(|_| {}).await;
    let origin = "https://shop.example.com";
    let preflight = env
        .client
        .request(reqwest::Method::OPTIONS, env.envoy.url("/v1/t"))
        .header("origin", origin);
    let reply = preflight.send().await.unwrap();
    // The filter adds nothing: CORS is the upstream's job too.
    assert_eq!(
        (reply.status().as_u16(), reply.headers().get("access-control-allow-origin")),
        (202, None)
    );
    let path = "/v1/pixel/track?writeKey=writeKey&event=opened&userId=u&properties.a=%3F";
    let reply = env.client.get(env.envoy.url(path)).send().await.unwrap();
    assert_eq!((reply.status().as_u16(), reply.text().await.unwrap().as_str()), (202, "Segment"));
    assert!(segment.last().0.starts_with(&format!("get {} http/1.1\r\n", path.to_lowercase())));
    env.until("Keen has the copy", || async { env.collections() == ["opened"] }).await;
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn forwarded_call_with_failing_keen_reaches_route() {
    let (env, segment) = test_env(|config| {
        config["keen"]["timeoutMs"] = json!(500);
        config["delivery"]["maxPendingBytes"] = json!(3000);
    })
    .await;
    env.keen.fault(Fault::hang().forever());
    for i in 0..30 {
        assert_eq!(env.post("/v1/track", track(&format!("e{i}"))).await.0, 202);
    }
    assert_eq!(segment.requests.lock().unwrap().len(), 30);
    env.keen.clear_faults();
    env.until("the copies that fit are in Keen, the others counted", || async {
        let dropped = env.envoy.total("events_dropped").await;
        dropped > 0 && env.keen.events().len() as u64 + dropped == 30
    })
    .await;
    env.envoy.no_panic_in_log();
}
