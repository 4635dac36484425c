//! Keen keys from SDS, added by Envoy's credential injector. Runs the YAML blocks of
//! docs/security.md.

use super::fixture::{TestEnv, ok, track};
use harness::Envoy;
use mock_keen::{MockKeen, Options, PROJECT, Project, WRITE_KEY};
use serde_json::Value;

/// Returns the YAML blocks of the page, in order.
fn blocks() -> Vec<String> {
    let page = std::fs::read_to_string(harness::root().join("docs/security.md")).unwrap();
    page.split("```yaml\n")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("\n```")?.0.to_owned()))
        .collect()
}

#[tokio::test]
async fn injected_keen_key_delivers_events() {
    let [cluster, secret] = blocks().try_into().unwrap();
    let file =
        harness::root().join(format!("target/tmp/keen-write-key-{}.yaml", std::process::id()));
    std::fs::write(&file, &secret).unwrap();
    let cluster = cluster.replace("/etc/envoy/keen-write-key.yaml", &file.to_string_lossy());
    let cluster: Value = harness::yaml(&cluster);
    let mut config = harness::default_config();
    config["sources"]["writeKey"].as_object_mut().unwrap().remove("writeKey");
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let patch = move |yaml: &mut Value| {
        let keen = &mut yaml["static_resources"]["clusters"][0];
        keen["typed_extension_protocol_options"] =
            cluster["typed_extension_protocol_options"].clone();
    };
    let builder = Envoy::builder().keen(keen.addr()).config(config).patch(patch);
    let envoy = builder.start().await.unwrap_or_else(|e| panic!("{e:?}"));
    let env = TestEnv { envoy, keen, client: reqwest::Client::new() };
    assert_eq!(env.post("/v1/track", track("injected")).await, ok());
    assert_eq!(env.keen.calls()[0].header("authorization"), Some(WRITE_KEY));

    // A new key, in a file that replaces the old file.
    let other = "C0FFEE".repeat(10);
    env.keen.add_project(Project::new(PROJECT, &other));
    let new = file.with_extension("new");
    std::fs::write(&new, secret.replace(WRITE_KEY, &other)).unwrap();
    std::fs::rename(&new, &file).unwrap();
    env.until("the new key is used", || async {
        env.post("/v1/track", track("after")).await == ok()
    })
    .await;
    assert_eq!(env.collections(), ["after", "injected"]);
    let dump = env.envoy.admin("/config_dump").await;
    for key in [WRITE_KEY, &other] {
        assert!(!dump.contains(key), "a key in /config_dump");
        assert!(!env.envoy.log().contains(key), "a key in the log");
    }
    env.envoy.no_panic_in_log();
    let _ = std::fs::remove_file(file);
}

#[tokio::test]
async fn missing_keen_key_is_answered_503() {
    let mut config = harness::default_config();
    config["sources"]["writeKey"].as_object_mut().unwrap().remove("writeKey");
    let env = TestEnv::with(config).await;
    assert_eq!(env.post("/v1/track", track("no key")).await.0, 503);
    assert!(env.envoy.log().contains(&format!("Keen answers 401 to project {PROJECT}")));
}
