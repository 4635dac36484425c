//! `analytics-node` 5.2.0 ends its own process: it rejects a promise that nothing handles.

use clients::{ClientPath, NetworkFault, SdkProcess, TestEnvironment, install, progress};

/// The row of the table in `docs/clients.md`.
pub fn row() -> (&'static str, [&'static str; 4]) {
    ("`analytics-node` 5.2.0", ["retries", "retries", "retries", "ends its process"])
}

#[tokio::test]
async fn analytics_node_5_2_0_when_a_request_fails_ends_its_process() {
    let script = install("node").await.join("analytics-node-legacy.mjs").display().to_string();
    let package = "analytics-node-legacy-5.2.0";
    let process = SdkProcess {
        name: package.to_owned(),
        command: vec!["node".to_owned(), script, package.to_owned()],
        environment: Vec::new(),
    };
    let response = |status| NetworkFault::Response { status, retry_after: None };
    let environment = TestEnvironment::start(|_| {}).await;
    for (what, network_fault) in [
        ("by HTTP", None),
        ("after 503", Some(response(503))),
        ("after 429", Some(response(429))),
        ("after a lost response", Some(NetworkFault::ResponseLost)),
    ] {
        let path = ClientPath { network_fault, ..ClientPath::default() };
        let run = environment.run(&process, &path).await;
        assert_eq!((run.report.delivered, run.events.len()), (8, 5), "{what}: {run:?}");
        progress(&format!("{package} {what}"));
    }
    let (status, log) = environment.run_to_exit(&process, response(400)).await;
    assert!(!status.success(), "after 400: {status}: {log}");
    progress(&format!("{package} after 400"));
    let (status, log) = environment.run_without_envoy(&process).await;
    assert!(!status.success() && log.contains("ECONNREFUSED"), "{status}: {log}");
    progress(&format!("{package} without Envoy"));
}
