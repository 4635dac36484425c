//! Valid and invalid configurations when Envoy starts.

use super::fixture::{TestEnv, ok, track};
use harness::Envoy;
use mock_keen::{MockKeen, Options};
use serde_json::json;

#[tokio::test]
async fn invalid_configuration_is_rejected_with_its_pointer() {
    for (pointer, value, want) in [
        (
            "/sources/writeKey/projectId",
            json!("9181bcd2"),
            "/sources/writ…/projectId: must be 24 hexadecimal characters, found 8",
        ),
        ("/sources/writeKey/ipAddon", json!(1), "/sources/writ…/ipAddon: must be true or false"),
        ("/delivery/holdMs", json!(-1), "/delivery/holdMs: must be a whole number"),
        ("/keen/cluster", json!(5), "/keen/cluster: must be a string"),
    ] {
        let mut config = harness::default_config();
        *config.pointer_mut(pointer).unwrap() = value;
        let Err(error) = Envoy::builder().config(config).start().await else {
            panic!("{pointer} was taken")
        };
        let log = format!("{error:?}");
        assert!(log.contains(want), "{pointer}: {log}");
        assert!(!log.contains("ABCDEF0123456789"), "a key in the log");
    }
}

#[tokio::test]
async fn every_mistake_of_a_configuration_is_in_the_log() {
    let mut config = harness::default_config();
    config["keen"]["authority"] = json!("https://api.keen.io");
    config["delivery"]["retrys"] = json!(3);
    let source = config["sources"]["writeKey"].take();
    config["sources"] = json!({"wk_4f1c00112233": source, "wk:4f1c00112233": source});
    config["sources"]["wk_4f1c00112233"]["ipAddOn"] = json!(true);
    let Err(error) = Envoy::builder().config(config).start().await else { panic!("was taken") };
    let log = format!("{error:?}");
    for want in [
        "/keen/authority: must be a host without scheme and path, found",
        "/delivery/retrys: unknown setting; did you mean retries?",
        "/sources/wk_4f1c…/ipAddOn: unknown setting; did you mean ipAddon?",
        "/sources/wk:4f1c…: a write key must not contain a colon",
    ] {
        assert!(log.contains(want), "{want}: {log}");
    }
    assert!(!log.contains("00112233") && !log.contains("ABCDEF0123456789"), "a key in the log");
}

/// Asserts that Envoy does not start and that its log contains `want`.
async fn refused(builder: harness::Builder, want: &str) {
    let Err(error) = builder.start().await else { panic!("taken: {want}") };
    let log = format!("{error:?}");
    assert!(log.contains(want), "{want}: {log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn non_object_configuration_is_rejected() {
    let without = Envoy::builder().patch(|bootstrap| {
        harness::keen_edge(bootstrap).as_object_mut().unwrap().remove("configuration");
    });
    refused(without, "configuration refused: : a configuration is required, found none").await;
    refused(
        Envoy::builder().raw_config("keen: {cluster: keen}"),
        "must be JSON or a google.protobuf.Struct",
    )
    .await;
    refused(Envoy::builder().raw_config("[]"), ": must be an object, found an array").await;
    let mut unknown = harness::default_config();
    unknown["delivery"]["holdMS"] = json!(5000);
    refused(
        Envoy::builder().config(unknown),
        "/delivery/holdMS: unknown setting; did you mean holdMs?",
    )
    .await;
    let mut nobody = harness::default_config();
    nobody["sources"] = json!({});
    refused(Envoy::builder().config(nobody), "/sources: must name at least one source").await;
}

#[tokio::test]
async fn string_value_configuration_equals_struct() {
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let envoy = Envoy::builder().keen(keen.addr()).string_config().start().await.unwrap();
    let env = TestEnv { envoy, keen, client: reqwest::Client::new() };
    assert_eq!(env.post("/v1/track", track("string")).await, ok());
    assert_eq!(env.collections(), ["string"]);
}
