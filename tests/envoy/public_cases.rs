//! The cases of `tests/public-cases`: forms of requests that people have reported, and similar
//! ones.

use super::cpu_cost::{BODY_BYTES, MAX_RATIO, ordinary_batch};
use super::fixture::{PATIENCE, TestEnv, gzip, ok, refused, track};
use mock_keen::Fault;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

const CASES: &str = include_str!("../public-cases/cases.jsonl");
const SIBLINGS: &str = include_str!("../public-cases/siblings.jsonl");
/// Cases that need more than one request. Each has its own test below.
const OWN_TESTS: [&str; 3] = ["retry-after-date", "gateway-buffer", "forwarded-for-with-port"];
/// Pointers in the bootstrap to the listener and to the connection manager.
const LISTENER: &str = "/static_resources/listeners/0";
const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

fn cases() -> Vec<Value> {
    let lines = CASES.lines().chain(SIBLINGS.lines());
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Returns the default configuration with the settings of a request.
fn config(request: &Value) -> Value {
    let mut config = harness::default_config();
    let mut put = |place: &str, settings: &Value| {
        for (name, value) in settings.as_object().into_iter().flatten() {
            config.pointer_mut(place).unwrap()[name] = value.clone();
        }
    };
    put("", &request["filter"]);
    put("/sources/writeKey", &request["settings"]);
    config
}

fn body(request: &Value) -> Vec<u8> {
    if let Some(hex) = request["body_hex"].as_str() {
        let digits = hex.as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        return digits.map(byte).collect();
    }
    let body = match request["body_python"].as_str() {
        Some(expression) => {
            let program = format!("import sys; sys.stdout.write({expression})");
            let output = Command::new("python3").args(["-c", &program]).output().unwrap();
            assert!(output.status.success(), "{expression}: {output:?}");
            output.stdout
        }
        None => request["body"].as_str().unwrap_or_default().as_bytes().to_vec(),
    };
    let is_gzip = |name: &str| name.eq_ignore_ascii_case("gzip");
    if request["gzip"] == json!(true)
        || request["headers"]["content-encoding"].as_str().is_some_and(is_gzip)
    {
        return gzip(&body);
    }
    body
}

/// Returns the request as bytes.
fn bytes(request: &Value) -> Vec<u8> {
    let body = body(request);
    let mut bytes = format!("{} ", text(&request["method"])).into_bytes();
    bytes.extend(text(&request["path"]).chars().map(|c| u8::try_from(c).unwrap()));
    let version = request["http"].as_str().unwrap_or("1.1");
    let length = body.len();
    let mut head = format!(" HTTP/{version}\r\nHost: edge.example\r\nContent-Length: {length}\r\n");
    for (name, value) in request["headers"].as_object().into_iter().flatten() {
        head.push_str(&format!("{name}: {}\r\n", text(value)));
    }
    if request["headers"].get("connection").is_none() {
        head.push_str("Connection: close\r\n");
    }
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(b"\r\n");
    bytes.extend(body);
    bytes
}

/// Sends a request and returns the response. Does not wait until Envoy closes the connection, which
/// may take a second.
async fn exchange(addr: SocketAddr, request: Vec<u8>) -> String {
    let exchange = move || {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&request).unwrap();
        let (mut reply, mut chunk) = (Vec::new(), [0; 65_536]);
        while !is_whole(&String::from_utf8_lossy(&reply)) {
            match stream.read(&mut chunk) {
                Ok(bytes) if bytes > 0 => reply.extend_from_slice(&chunk[..bytes]),
                _ => break,
            }
        }
        String::from_utf8_lossy(&reply).into_owned()
    };
    tokio::task::spawn_blocking(exchange).await.unwrap()
}

/// Whether a response has its whole body.
fn is_whole(reply: &str) -> bool {
    let Some((head, body)) = reply.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.and_then(|length| length.parse().ok()).is_some_and(|length: usize| body.len() >= length)
}

/// Returns what is wrong with the outcome of a case.
async fn judge(env: &TestEnv, case: &Value) -> Vec<String> {
    let (request, expected) = (&case["request"], &case["expected"]);
    let mut wrong = Vec::new();
    env.keen.reset();
    let logged = env.envoy.log().len();
    let reply = exchange(env.envoy.addr(), bytes(request)).await;
    let status: u64 = reply.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap_or(0);
    if expected.get("status").is_some_and(|want| *want != status) {
        wrong.push(format!("status {status}"));
    }
    let stored = usize::try_from(expected["stored"].as_u64().unwrap_or(0)).unwrap();
    if env.keen.wait_for_events(stored, Duration::from_secs(3)).await.is_err()
        || (expected.get("stored").is_some() && env.keen.events().len() != stored)
    {
        wrong.push(format!("stored {:?}", env.keen.events()));
    }
    let mut members: Vec<(String, Value)> =
        expected["event"].as_object().cloned().unwrap_or_default().into_iter().collect();
    if expected.get("ip_address").is_some() {
        members.push(("ip_address".to_owned(), json!("127.0.0.1")));
    }
    for stored in env.keen.events() {
        let event = &stored.event;
        for (name, want) in &members {
            if event[name] != *want {
                wrong.push(format!("{name} is {}", event[name]));
            }
        }
        for name in expected["absent"].as_array().into_iter().flatten() {
            if event.get(text(name)).is_some() {
                wrong.push(format!("{name} is {}", event[text(name)]));
            }
        }
        let timestamp = &event["keen"]["timestamp"];
        if expected.get("keen.timestamp").is_some_and(|want| want != timestamp) {
            wrong.push(format!("keen.timestamp is {timestamp}"));
        }
    }
    if let Some(part) = expected["contains"].as_str()
        && !reply.contains(part)
    {
        wrong.push("a part of the body is missing".to_owned());
    }
    if let Some(message) = expected["message"].as_str() {
        let (_, body) = reply.split_once("\r\n\r\n").unwrap_or_default();
        let body = serde_json::from_str(body).unwrap_or(Value::Null);
        if (400, body) != refused(message) {
            wrong.push("another message".to_owned());
        }
    }
    if let Some(reason) = expected["reason"].as_str() {
        let start = Instant::now();
        let line = format!("\"reason\":\"{reason}\"");
        while !env.envoy.log()[logged..].contains(&line) && start.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if !env.envoy.log()[logged..].contains(&line) {
            wrong.push(format!("no {line} in the access log"));
        }
    }
    if !env.keen.refusals().is_empty() {
        wrong.push(format!("Keen refuses {:?}", env.keen.refusals()));
    }
    if expected.get("cpu").is_some() {
        let ratio = cpu_ratio(env, request).await;
        if ratio > MAX_RATIO {
            wrong.push(format!("{ratio:.2} times the cost of an ordinary batch"));
        }
    }
    if !wrong.is_empty() {
        wrong.push(reply);
    }
    wrong
}

/// Returns Envoy's CPU time for a request, divided by that for an ordinary batch.
async fn cpu_ratio(env: &TestEnv, request: &Value) -> f64 {
    let cpu_time = async |request: Vec<u8>, repeats: u32| {
        let before = env.envoy.cpu_time();
        for _ in 0..repeats {
            exchange(env.envoy.addr(), request.clone()).await;
        }
        (env.envoy.cpu_time() - before).as_secs_f64() / f64::from(repeats)
    };
    let batch = ordinary_batch(BODY_BYTES);
    assert!(batch.len() <= BODY_BYTES);
    let ordinary = json!({
        "method": "POST", "path": "/v1/batch", "body": batch,
        "headers": {"authorization": "Basic d3JpdGVLZXk6"},
    });
    let ordinary = bytes(&ordinary);
    cpu_time(ordinary.clone(), 2).await;
    let base = cpu_time(ordinary, 15).await;
    cpu_time(bytes(request), 4).await / base
}

#[tokio::test]
async fn public_cases_have_their_expected_outcome() {
    let mut groups: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for case in cases() {
        if OWN_TESTS.contains(&text(&case["id"])) {
            continue;
        }
        let request = &case["request"];
        assert!(request.get("keen").is_none() && request.get("envoy").is_none(), "{case}");
        groups.entry(config(request).to_string()).or_default().push(case);
    }
    let (mut failed, mut run) = (Vec::new(), 0);
    for (config, cases) in groups {
        let env = TestEnv::with(serde_json::from_str(&config).unwrap()).await;
        for case in cases {
            let wrong = judge(&env, &case).await;
            if !wrong.is_empty() {
                failed.push(format!("{} ({}): {}", case["id"], case["why"], wrong.join("; ")));
            }
            run += 1;
        }
        env.envoy.no_panic_in_log();
    }
    println!("{run} cases run");
    assert!(failed.is_empty(), "{} of {run} cases:\n{}", failed.len(), failed.join("\n"));
    assert!(run > 300, "{run} cases");
}

/// Keen answers 429 with an HTTP date 3 s ahead, in each form of HTTP dates.
#[tokio::test]
async fn retry_after_with_http_date_delays_the_retry() {
    let env = TestEnv::new().await;
    for form in ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"] {
        let until = SystemTime::now() + Duration::from_secs(3);
        let date = chrono::DateTime::<chrono::Utc>::from(until).format(form).to_string();
        env.keen.reset();
        env.keen.fault(Fault::status(429).retry_after(&date).times(1));
        let start = Instant::now();
        assert_eq!(env.post("/v1/track", track("later")).await, ok(), "{date}");
        // The date has whole seconds.
        let waited = start.elapsed();
        let range = Duration::from_millis(1_950)..Duration::from_secs(5);
        assert!(range.contains(&waited), "{date}: {waited:?}");
    }
    env.envoy.no_panic_in_log();
}

/// The body of each 429 and 503 has the reason as a sentence. The access log has it as a word.
#[tokio::test]
async fn response_429_or_503_states_its_reason() {
    let mut config = harness::default_config();
    config["delivery"] = json!({"holdMs": 800, "retries": 0, "maxPendingBytes": 2_000});
    let env = TestEnv::with(config).await;
    let large = json!({"userId": "u", "event": "E", "properties": {"text": "t".repeat(3_000)}});
    let queue_full = "too many requests: the queue is full (delivery.maxPendingBytes)";
    for (fault, body, status, message, reason) in [
        (None, large.to_string(), 429, queue_full, "queue_full"),
        (Some(Fault::hang()), track("a"), 503, "not confirmed in time", "unconfirmed"),
        (
            Some(Fault::status(401)),
            track("b"),
            503,
            "destination rejected the call",
            "destination_rejected",
        ),
    ] {
        env.keen.clear_faults();
        if let Some(fault) = fault {
            env.keen.fault(fault.times(1));
        }
        let (got, answer) = env.post("/v1/track", body).await;
        assert_eq!((got, answer["message"].as_str()), (status, Some(message)), "{answer}");
        let want = [format!("\"reason\":\"{reason}\""), format!("\"status\":{status}")];
        env.until(reason, async || {
            let log = env.envoy.log();
            log.lines().any(|line| want.iter().all(|part| line.contains(part)))
        })
        .await;
    }
    env.envoy.no_panic_in_log();
}

/// The listener's buffer is as small as in Envoy Gateway. The batch has 100 KB.
#[tokio::test]
async fn batch_over_the_listener_buffer_is_answered_400_and_logged_once() {
    let limited = |bootstrap: &mut Value| {
        bootstrap.pointer_mut(LISTENER).unwrap()["per_connection_buffer_limit_bytes"] =
            json!(32_768);
    };
    let batch = |bytes: usize| {
        let message = json!({"type": "track", "event": "E", "userId": "u"});
        json!({"batch": vec![message; bytes / 45]}).to_string()
    };
    let message = "Exceed payload limit: body is larger than Envoy's buffer limit";
    let warning =
        "per_connection_buffer_limit_bytes of the listener is below limits.bodyBytes (524288)";
    let env = TestEnv::patched(harness::default_config(), limited).await;
    for _ in 0..3 {
        assert_eq!(env.post("/v1/batch", batch(100_000)).await, refused(message));
    }
    assert_eq!(env.post("/v1/batch", batch(10_000)).await, ok());
    env.until("the access log has the reason", async || {
        env.envoy.log().contains("\"reason\":\"buffer_limit\"")
    })
    .await;
    let log = env.envoy.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(warning)).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    env.envoy.no_panic_in_log();
    // Envoy's own 413 reaches the client of a mirrored request. The filter only logs the cause.
    let mut config = harness::default_config();
    config["intercept"] = json!("forward");
    let env = TestEnv::patched(config, limited).await;
    assert_eq!(env.post("/v1/batch", batch(100_000)).await.0, 413);
    assert_eq!(env.envoy.log().matches(warning).count(), 1);
    // With the buffer of envoy.yaml, a larger body is not a configuration error.
    let env = TestEnv::new().await;
    assert_eq!(env.post("/v1/batch", batch(1_500_000)).await, refused(message));
    assert_eq!(env.envoy.log().matches("per_connection_buffer_limit_bytes").count(), 0);
    let operating = std::fs::read_to_string(harness::root().join("docs/operating.md")).unwrap();
    assert!(operating.contains("`per_connection_buffer_limit_bytes` at least `limits.bodyBytes`"));
}

/// Envoy does not read an address with a port. docs/operating.md says what to do.
#[tokio::test]
async fn forwarded_for_with_port_is_ignored() {
    let env = TestEnv::patched(harness::default_config(), |bootstrap| {
        bootstrap.pointer_mut(MANAGER).unwrap()["xff_num_trusted_hops"] = json!(1);
    })
    .await;
    for (header, want) in [("203.0.113.9", "203.0.113.9"), ("203.0.113.9:4711", "127.0.0.1")] {
        env.keen.reset();
        let headers = [("x-forwarded-for", header)];
        assert_eq!(env.post_with("/v1/t", track("seen"), &headers).await, ok());
        assert_eq!(env.keen.events()[0].event["ip_address"], want, "{header}");
    }
    let operating = std::fs::read_to_string(harness::root().join("docs/operating.md")).unwrap();
    assert!(operating.contains("`X-Forwarded-For` with a port"));
}
