//! Memory bounds for many streams with large headers, and for bodies with very many messages. The
//! VM survives.

use super::fixture::{TestEnv, ok, track};
use super::http2_raw::{Http2, VALUE_BYTES};
use mock_keen::Fault;
use serde_json::{Value, json};
use std::time::Duration;

const CONNECTIONS: usize = 100;
const STREAMS: usize = 100;
/// Bytes of the header in each stream. Envoy's default limit is 60 KiB.
const REPEATS: usize = 14;
/// Bytes that Envoy itself holds for the headers of these streams.
const HEADER_BYTES: u64 = (CONNECTIONS * STREAMS * REPEATS * VALUE_BYTES) as u64;
/// Allowed growth of resident memory in addition to the headers: about 20 KB per stream in Envoy,
/// and the memory of the filter. A filter that kept the headers would add another 540 MB.
const OVERHEAD: u64 = 280 << 20;

/// Opens 10,000 streams, each with a header `name` of 55 KB.
async fn open_streams(env: &TestEnv, name: &'static str, complete: bool) -> Vec<Http2> {
    let addr = env.envoy.addr();
    tokio::task::spawn_blocking(move || {
        (0..CONNECTIONS)
            .map(|connection| {
                let mut http2 = Http2::connect(addr).unwrap();
                for stream in 0..STREAMS {
                    let body = track(&format!("{connection}-{stream}"));
                    let body = complete.then_some(body.as_bytes());
                    http2.post(name, REPEATS, body).unwrap();
                }
                http2.discard_received();
                http2
            })
            .collect()
    })
    .await
    .unwrap()
}

async fn assert_streams_cost_bounded_memory(name: &'static str, complete: bool) {
    let env = TestEnv::new().await;
    assert_eq!(env.post("/v1/track", track("before")).await, ok());
    if complete {
        env.keen.fault(Fault::hang().forever());
    }
    let before = env.envoy.rss_bytes();
    let streams = open_streams(&env, name, complete).await;
    let total = u64::try_from(CONNECTIONS * STREAMS).unwrap();
    env.until("Envoy has all streams", || async {
        env.envoy.stat("http.segment.downstream_rq_http2_total").await >= total
    })
    .await;
    let open = env.envoy.stat("http.segment.downstream_rq_active").await;
    let growth = env.envoy.rss_bytes().saturating_sub(before);
    println!(
        "{name}, {}: {open} of {total} streams open, {} MB more resident memory, of which {} MB headers in Envoy",
        if complete { "waiting" } else { "reading" },
        growth >> 20,
        (HEADER_BYTES * open / total) >> 20
    );
    // On a slow machine the first ones time out before the last ones are open.
    assert!(open >= total / 2, "{open} of {total}");
    assert!(growth < HEADER_BYTES + OVERHEAD, "{growth}");
    drop(streams);
    env.keen.clear_faults();
    env.until("it serves again", || async { env.post("/v1/track", track("after")).await == ok() })
        .await;
    env.envoy.no_panic_in_log();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_reading_streams_with_large_headers_cost_bounded_memory() {
    for name in ["origin", "referer", "x-any"] {
        assert_streams_cost_bounded_memory(name, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_waiting_streams_with_large_headers_cost_bounded_memory() {
    for name in ["origin", "referer", "x-any"] {
        assert_streams_cost_bounded_memory(name, true).await;
    }
}

/// An Envoy whose connections buffer `limit` bytes.
async fn env_with_buffers(config: Value, limit: usize) -> TestEnv {
    TestEnv::patched(config, move |bootstrap| {
        let listener = &mut bootstrap["static_resources"]["listeners"][0];
        listener["per_connection_buffer_limit_bytes"] = json!(limit);
    })
    .await
}

#[tokio::test]
async fn bodies_of_empty_objects_cost_bounded_memory() {
    const MIB: usize = 1 << 20;
    let mut config = harness::default_config();
    config["limits"] = json!({"bodyBytes": 16 * MIB});
    let env = env_with_buffers(config, 40 * MIB).await;
    assert_eq!(env.post("/v1/track", track("before")).await, ok());
    for size in [MIB / 2, 4 * MIB, 16 * MIB] {
        let before = env.envoy.rss_bytes();
        let frame = r#"{"batch":[]}"#.len();
        let body = format!(r#"{{"batch":[{}]}}"#, vec!["{}"; (size - frame) / 3].join(","));
        for _ in 0..3 {
            let (status, answer) = env.post("/v1/batch", body.clone()).await;
            assert_eq!(status, 400, "{answer}");
            let message = answer["message"].as_str().unwrap();
            assert!(message.starts_with("Exceed payload limit"), "{answer}");
        }
        let growth = env.envoy.rss_bytes().saturating_sub(before);
        println!("{} bytes of {{}}: {} MB more resident memory", body.len(), growth >> 20);
        assert!(growth < 8 * size as u64 + (64 << 20), "{size}: {growth}");
        assert_eq!(env.post("/v1/track", track(&format!("after {size}"))).await, ok());
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    env.envoy.no_panic_in_log();
}

/// As many messages as `limits.messages` can allow, in bodies that are accepted.
#[tokio::test]
async fn hundred_thousand_messages_of_one_body_cost_bounded_memory() {
    const MESSAGES: usize = 100_000;
    let mut config = harness::default_config();
    config["limits"] = json!({"bodyBytes": 4 << 20, "messages": MESSAGES});
    let env = env_with_buffers(config, 10 << 20).await;
    assert_eq!(env.post("/v1/track", track("before")).await, ok());
    for message in ["{}", r#"{"type":"page","context":{"ip":null}}"#] {
        let before = env.envoy.rss_bytes();
        let body = format!(r#"{{"batch":[{}]}}"#, vec![message; MESSAGES].join(","));
        for _ in 0..3 {
            assert_eq!(env.post("/v1/batch", body.clone()).await, ok());
        }
        let growth = env.envoy.rss_bytes().saturating_sub(before);
        println!("{MESSAGES} x {message}: {} MB more resident memory", growth >> 20);
        assert!(growth < 256 << 20, "{growth}");
        assert_eq!(env.post("/v1/track", track(message)).await, ok());
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    env.envoy.no_panic_in_log();
}
