//! `intercept: forward`: Keen gets a copy, and the call reaches the route unchanged.

use super::fixture::{PATIENCE, TestEnv, gzip, raw, track};
use harness::Envoy;
use mock_keen::{Fault, MockKeen, Options};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

const ANSWER: &str = "HTTP/1.1 202 Accepted\r\ncontent-length: 7\r\nx-segment: yes\r\nconnection: close\r\n\r\nSegment";

/// An upstream in place of Segment. It stores the bytes of each request.
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
    // The filter adds nothing. CORS headers are up to the upstream too.
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

/// Returns the YAML block with this label in docs/migrating.md.
fn documented(label: &str) -> Value {
    let page = std::fs::read_to_string(harness::root().join("docs/migrating.md")).unwrap();
    let mut lines = page.lines();
    let fence = lines.find(|line| line.trim_start() == format!("```yaml {label}")).unwrap();
    let indent = fence.len() - fence.trim_start().len();
    let block = lines.take_while(|line| line.trim_start() != "```");
    let block: Vec<&str> = block.map(|line| line.get(indent..).unwrap_or("")).collect();
    harness::yaml(&block.join("\n"))
}

/// Starts an Envoy with the routes and clusters of docs/migrating.md. Their addresses are replaced
/// by these upstreams.
async fn migrating(segment: &Segment, cdn: &Segment, config: Value) -> TestEnv {
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let source = &config["sources"]["wk_4f1c9a7b2d"];
    let project = source["projectId"].as_str().unwrap();
    keen.add_project(mock_keen::Project::new(project, source["writeKey"].as_str().unwrap()));
    let ports = [segment.addr.port(), cdn.addr.port()];
    let envoy = Envoy::builder().keen(keen.addr()).config(config).patch(move |bootstrap| {
        *harness::routes(bootstrap) = documented("routes");
        for (cluster, port) in documented("clusters").as_array().unwrap().iter().zip(ports) {
            let mut cluster = cluster.clone();
            let address =
                "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
            let address = cluster.pointer_mut(address).unwrap();
            assert_eq!(address["port_value"], 443);
            *address = json!({"address": "127.0.0.1", "port_value": port});
            // Envoy has checked the TLS settings. The upstream of the test has no TLS.
            assert!(cluster.as_object_mut().unwrap().remove("transport_socket").is_some());
            bootstrap["static_resources"]["clusters"].as_array_mut().unwrap().push(cluster);
        }
    });
    let envoy = envoy.start().await.unwrap_or_else(|error| panic!("{error}"));
    TestEnv { envoy, keen, client: reqwest::Client::new() }
}

/// The steps of docs/migrating.md: a parallel run, the cut-over, and the way back.
#[tokio::test]
async fn documented_migration_moves_events_from_segment_to_keen() {
    let (segment, cdn) = (Segment::start(), Segment::start());
    let mut config = harness::default_config();
    for (name, value) in documented("configuration").as_object().unwrap() {
        config[name] = value.clone();
    }
    let post = async |env: &TestEnv, event: &str| {
        let request = env.client.post(env.envoy.url("/v1/track")).body(track(event));
        let reply = request.basic_auth("wk_4f1c9a7b2d", Some("")).send().await.unwrap();
        (reply.status().as_u16(), reply.text().await.unwrap())
    };
    for (run, event) in ["parallel run", "roll back"].into_iter().enumerate() {
        let env = migrating(&segment, &cdn, config.clone()).await;
        assert_eq!(post(&env, event).await, (202, "Segment".to_owned()));
        let (head, body) = segment.last();
        assert!(head.contains("host: api.segment.io"), "{head}");
        assert_eq!(body, track(event).into_bytes());
        env.keen.wait_for_events(1, PATIENCE).await.unwrap();
        assert_eq!(env.keen.events_in("5181bcd23843312d87000001")[0].collection, event);
        let settings = env.envoy.url("/v1/projects/wk_4f1c9a7b2d/settings");
        assert_eq!(env.client.get(settings).send().await.unwrap().status(), 202);
        assert!(cdn.last().0.contains("host: cdn.segment.com"));
        assert_eq!(segment.requests.lock().unwrap().len(), run + 1);
    }
    // The cut-over. Segment is no longer called.
    config["intercept"] = json!("respond");
    config["sources"]["wk_4f1c9a7b2d"]["projectId"] = json!("5181bcd23843312d87000002");
    let env = migrating(&segment, &cdn, config).await;
    assert_eq!(post(&env, "cut over").await, (200, "{\n  \"success\": true\n}".to_owned()));
    assert_eq!(env.keen.events_in("5181bcd23843312d87000002")[0].collection, "cut over");
    assert_eq!(segment.requests.lock().unwrap().len(), 2);
}
