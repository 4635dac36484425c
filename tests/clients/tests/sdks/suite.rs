//! The faults that every SDK of `sdk.rs` meets.

use super::expected;
use super::sdk::{Reaction, Sdk};
use clients::{ClientPath, NetworkFault, Run, TestEnvironment, progress};
use futures_util::future::join_all;
use mock_keen::Fault;
use serde_json::json;

pub async fn run(sdks: &[Sdk]) {
    keen_faults_are_invisible_and_network_faults_are_survived(sdks).await;
    unconfirmed_response_is_retried(sdks).await;
    too_many_requests_response_is_retried(sdks).await;
}

async fn keen_faults_are_invisible_and_network_faults_are_survived(sdks: &[Sdk]) {
    let environment = TestEnvironment::start(|_| {}).await;
    // The filter retries at Keen, so the SDK gets a 200.
    for (what, path) in [
        ("by HTTP", ClientPath::default()),
        ("by TLS", ClientPath { tls: true, ..ClientPath::default() }),
        ("with 503 from Keen", keen_fault(Fault::status(503))),
        ("with 429 from Keen", keen_fault(Fault::status(429).retry_after("2"))),
        ("with a lost reply of Keen", keen_fault(Fault::cut_after())),
    ] {
        for (sdk, run) in each(&environment, sdks, &path).await {
            let name = format!("{} {what}", sdk.process.name);
            assert_delivered(&name, sdk, &run);
            assert_eq!(run.log, "", "{name}: it logged");
            assert_eq!(run.statuses(), vec![200; sdk.posts], "{name}");
            progress(&name);
        }
    }
    let response = |status, retry_after| NetworkFault::Response { status, retry_after };
    for (what, fault) in [
        ("after 503", response(503, None)),
        ("after 429 with Retry-After", response(429, Some(2))),
        ("after a lost response", NetworkFault::ResponseLost),
        ("after 400", response(400, None)),
    ] {
        let path = ClientPath { network_fault: Some(fault), ..ClientPath::default() };
        for (sdk, run) in each(&environment, sdks, &path).await {
            let name = format!("{} {what}", sdk.process.name);
            match reaction(sdk, fault) {
                Reaction::Retries => {
                    assert_delivered(&name, sdk, &run);
                    assert_eq!(run.posts, sdk.posts + 1, "{name}: {run:?}");
                }
                Reaction::Drops => assert_dropped(&name, sdk, &run),
            }
            progress(&name);
        }
    }
    environment.assert_nothing_rejected();
}

/// The filter answers 503 once, because Keen did not confirm in time.
async fn unconfirmed_response_is_retried(sdks: &[Sdk]) {
    let environment =
        TestEnvironment::start(|config| config["delivery"] = json!({"holdMs": 1000, "retries": 0}))
            .await;
    let path = keen_fault(Fault::status(503));
    for (sdk, run) in each(&environment, sdks, &path).await {
        let name = format!("{} after the filter's 503", sdk.process.name);
        let statuses = run.statuses();
        let unavailable = statuses.iter().filter(|status| **status == 503).count();
        assert_eq!(unavailable, 1, "{name}: {run:?}");
        match sdk.reactions.unavailable {
            Reaction::Retries => {
                assert_delivered(&name, sdk, &run);
                assert_eq!(statuses.len(), sdk.posts + 1, "{name}: {run:?}");
            }
            Reaction::Drops => {
                assert_reported(&name, sdk, &run);
                assert_eq!(statuses.len(), sdk.posts, "{name}: {run:?}");
            }
        }
        progress(&name);
    }
    environment.assert_nothing_rejected();
}

/// The filter answers 429 until its queue has room again.
async fn too_many_requests_response_is_retried(sdks: &[Sdk]) {
    let retries = |sdk: &&Sdk| sdk.reactions.too_many_requests == Reaction::Retries;
    let patient: Vec<&Sdk> = sdks.iter().filter(|sdk| sdk.is_patient).filter(retries).collect();
    if patient.is_empty() {
        return;
    }
    let environment = TestEnvironment::start(|config| {
        config["delivery"] = json!({"holdMs": 60_000, "maxPendingBytes": 100_000});
        config["keen"]["timeoutMs"] = json!(60_000);
    })
    .await;
    for sdk in patient {
        let name = format!("{} after the filter's 429", sdk.process.name);
        let run = environment.run_while_full(&sdk.process, 99_000).await;
        assert_delivered(&name, sdk, &run);
        let statuses = run.statuses();
        assert!(statuses.contains(&429), "{name}: {run:?}");
        let ok = statuses.iter().filter(|status| **status == 200).count();
        assert_eq!(ok, sdk.posts, "{name}: {run:?}");
        progress(&name);
    }
    environment.assert_nothing_rejected();
}

fn keen_fault(fault: Fault) -> ClientPath {
    ClientPath { keen_fault: Some(fault), ..ClientPath::default() }
}

fn reaction(sdk: &Sdk, fault: NetworkFault) -> Reaction {
    let reactions = sdk.reactions;
    match fault {
        NetworkFault::Response { status: 429, .. } => reactions.too_many_requests,
        NetworkFault::Response { status: 400, .. } => reactions.bad_request,
        NetworkFault::Response { .. } => reactions.unavailable,
        NetworkFault::ResponseLost | NetworkFault::NoProjectSettings => reactions.connection_error,
    }
}

async fn each<'s>(
    environment: &TestEnvironment,
    sdks: &'s [Sdk],
    path: &ClientPath,
) -> Vec<(&'s Sdk, Run)> {
    let runs = sdks.iter().map(async |sdk| (sdk, environment.run(&sdk.process, path).await));
    join_all(runs).await
}

/// The SDK counts every call as delivered, and Keen has each event once.
#[track_caller]
pub fn assert_delivered(name: &str, sdk: &Sdk, run: &Run) {
    let report = (run.report.delivered, &run.report.errors);
    assert_eq!(report, (sdk.calls, &vec![]), "{name}: {run:?}");
    expected::assert_events(name, &run.events, &sdk.events);
}

/// The SDK reports the failure and sends the POST only once.
#[track_caller]
fn assert_dropped(name: &str, sdk: &Sdk, run: &Run) {
    assert_reported(name, sdk, run);
    assert_eq!(run.posts, sdk.posts, "{name}: {run:?}");
}

#[track_caller]
fn assert_reported(name: &str, sdk: &Sdk, run: &Run) {
    assert!(
        run.report.delivered < sdk.calls && !run.report.errors.is_empty(),
        "{name}: the SDK reported no error: {run:?}"
    );
    let expected = |event: &(String, _)| sdk.events.iter().any(|(name, _)| *name == event.0);
    assert!(run.events.iter().all(expected), "{name}: {run:?}");
}
