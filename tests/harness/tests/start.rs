//! Tests of the harness, with `target/keen_edge.wasm`.

use harness::{Envoy, default_config};
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test]
async fn two_envoys_run_side_by_side() -> Result<(), harness::StartError> {
    let (one, other) =
        tokio::try_join!(Envoy::builder().start(), Envoy::builder().string_config().start())?;
    assert_ne!(one.addr(), other.addr());
    assert_eq!(one.admin("/ready").await, "LIVE\n");
    assert_eq!(one.stat("server.live").await, 1);
    assert_eq!(one.stat("server.concurrency").await, 1);
    assert!(other.rss_bytes() > 1 << 20, "{}", other.rss_bytes());
    assert!(other.cpu_time() > Duration::ZERO);
    one.no_panic_in_log();
    other.no_panic_in_log();
    Ok(())
}

#[tokio::test]
async fn rejected_configuration_fails_start_at_once() {
    let began = Instant::now();
    let mut config = default_config();
    config["sources"] = json!({});
    let Err(error) = Envoy::builder().config(config).start().await else { panic!("it started") };
    assert!(error.log.contains("/sources"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn patched_bootstrap_takes_effect() -> Result<(), harness::StartError> {
    let envoy = Envoy::builder()
        .concurrency(2)
        .patch(|yaml| yaml["node"]["id"] = json!("another"))
        .start()
        .await?;
    assert!(envoy.admin("/server_info").await.contains("\"id\": \"another\""));
    assert_eq!(envoy.stat("server.concurrency").await, 2);
    envoy.terminate().await;
    assert!(envoy.exited().is_some());
    assert!(envoy.log().contains("ENVOY_SIGTERM"));
    Ok(())
}
