//! `analytics-kotlin` with and without its settings document.

use super::sdk::kotlin_with;
use super::suite::assert_delivered;
use clients::{ClientPath, NetworkFault, TestEnvironment, install, progress};

/// Without a settings document and without `defaultSettings` the SDK drops every event.
#[tokio::test]
async fn kotlin_sdk_without_settings_document_needs_default_settings() {
    let home = install("kotlin").await;
    let environment = TestEnvironment::start(|_| {}).await;
    let network_fault = Some(NetworkFault::NoProjectSettings);
    let path = ClientPath { network_fault, ..ClientPath::default() };

    let name = "analytics-kotlin 1.27.0, no settings document, with defaultSettings";
    let sdk = kotlin_with(&home, name, &["/v1"]);
    let run = environment.run(&sdk.process, &path).await;
    assert_delivered(name, &sdk, &run);
    assert!(run.paths("POST").contains(&"/v1/m"), "no telemetry at Telemetry.host: {run:?}");
    progress(name);

    let name = "analytics-kotlin 1.27.0, no settings document, without defaultSettings";
    let sdk = kotlin_with(&home, name, &["/v1", "no-default-settings"]);
    let run = environment.run(&sdk.process, &path).await;
    assert!(run.events.is_empty() && run.statuses().is_empty(), "{run:?}");
    progress(name);

    let name = "analytics-kotlin 1.27.0 without /v1, settings document of the filter";
    let sdk = kotlin_with(&home, name, &["", "no-default-settings"]);
    let run = environment.run(&sdk.process, &ClientPath::default()).await;
    assert_delivered(name, &sdk, &run);
    progress(name);
}
