//! moto checks the signatures that Envoy makes.

use harness::Envoy;
use mock_keen::{Fault, MockKeen};
use overflow_queues::{
    Moto, builder, config, ids_in, keen, post, start, track, until, with_credentials,
};
use std::time::Duration;

async fn envoy(keen: &MockKeen, moto: &Moto, secret: &str) -> Envoy {
    let (keen, queue) = (keen.addr(), moto.addr);
    let (key, secret, url) = (moto.access_key.clone(), secret.to_owned(), moto.queue_url.clone());
    start(move || with_credentials(builder(keen, queue, config(&url)), &key, &secret)).await
}

#[test]
fn cluster_beside_envoy_yaml_is_valid() {
    let cluster = std::fs::read_to_string(harness::root().join("deploy/envoy-sqs.yaml")).unwrap();
    let mut envoy = std::process::Command::new(harness::envoy_path().unwrap());
    envoy.args(["--mode", "validate", "--config-path", "envoy.yaml", "--config-yaml", &cluster]);
    let output = envoy.current_dir(harness::root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_signed_with_the_right_secret_are_accepted() {
    let (keen, moto) = (keen().await, Moto::start().await);
    let envoy = envoy(&keen, &moto, &moto.secret_key).await;
    keen.fault(Fault::status(503).forever());
    for number in 0..5 {
        assert_eq!(post(&envoy, track(&format!("{number} é \u{1f600}"))).await, 200);
    }
    until(Duration::from_secs(10), "all are counted", async || {
        envoy.total("events_overflowed").await == 5
    })
    .await;
    assert!(keen.events().is_empty());
    keen.clear_faults();
    until(Duration::from_secs(90), "all are received, delivered and deleted", async || {
        envoy.total("events_drained").await == 5
    })
    .await;
    assert_eq!(ids_in(&keen).len(), 5);
    assert_eq!(envoy.stat("wasmcustom.keen_edge_overflow_up").await, 1);
    assert!(!envoy.log().contains("does not accept a request"), "{}", envoy.log_tail(20));
    envoy.no_panic_in_log();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_signed_with_a_wrong_secret_are_refused() {
    let (keen, moto) = (keen().await, Moto::start().await);
    let envoy = envoy(&keen, &moto, "a wrong secret").await;
    keen.fault(Fault::status(503).forever());
    assert_eq!(post(&envoy, track("event")).await, 503);
    until(Duration::from_secs(10), "the queue counts as unreachable", async || {
        envoy.stat("wasmcustom.keen_edge_overflow_up").await == 0
    })
    .await;
    assert_eq!(envoy.total("events_overflowed").await, 0);
    let log = envoy.log();
    // moto's error is XML, so it has no name here.
    assert!(log.contains("does not accept a request: status 403"), "{}", envoy.log_tail(20));
    assert!(!log.contains(&moto.access_key) && !log.contains("a wrong secret"));
    keen.clear_faults();
    until(Duration::from_secs(10), "Keen takes events without the queue", async || {
        post(&envoy, track("event")).await == 200
    })
    .await;
    envoy.no_panic_in_log();
}
