//! What every SDK for servers goes through.

use super::expected;
use super::sdk::{Again, Sdk};
use clients::{Run, TestEnvironment, Trouble, Way, progress};
use futures_util::future::join_all;
use mock_keen::Fault;
use serde_json::json;

pub async fn all(sdks: &[Sdk]) {
    untroubled_and_with_a_troubled_keen(sdks).await;
    with_a_filter_that_gives_up(sdks).await;
    with_a_filter_that_is_full(sdks).await;
}

async fn untroubled_and_with_a_troubled_keen(sdks: &[Sdk]) {
    let environment = TestEnvironment::start(|_| {}).await;
    // What Keen does wrong is the filter's affair: an SDK sees nothing of it.
    for (what, way) in [
        ("by HTTP", Way::default()),
        ("by TLS", Way { tls: true, ..Way::default() }),
        ("with Keen's 503", Way { fault: Some(Fault::status(503)), ..Way::default() }),
        (
            "with Keen's 429",
            Way { fault: Some(Fault::status(429).retry_after("2")), ..Way::default() },
        ),
        ("with Keen's reply lost", Way { fault: Some(Fault::cut_after()), ..Way::default() }),
    ] {
        for (sdk, run) in each(&environment, sdks, &way).await {
            let name = format!("{} {what}", sdk.sdk_process.name);
            assert_content(&name, sdk, &run);
            assert_eq!(run.log, "", "{name}: it logged");
            assert_eq!(run.statuses, vec![200; sdk.posts], "{name}");
            progress(&name);
        }
    }
    let answer = |status, retry_after| Some(Trouble::Response { status, retry_after });
    for (what, trouble) in [
        ("after a 503", answer(503, None)),
        ("after a 429 with Retry-After", answer(429, Some(2))),
        ("after a lost reply", Some(Trouble::LostReply)),
    ] {
        for (sdk, run) in each(&environment, sdks, &Way { trouble, ..Way::default() }).await {
            let name = format!("{} {what}", sdk.sdk_process.name);
            if sdk.again == Again::Never {
                assert_told(&name, sdk, &run);
            } else {
                assert_content(&name, sdk, &run);
                assert_eq!(run.posts, sdk.posts + 1, "{name}");
            }
            progress(&name);
        }
    }
    environment.nothing_refused();
}

/// The filter's own 503, once.
async fn with_a_filter_that_gives_up(sdks: &[Sdk]) {
    let environment =
        TestEnvironment::start(|config| config["delivery"] = json!({"holdMs": 1000, "retries": 0}))
            .await;
    let way = Way { fault: Some(Fault::status(503)), ..Way::default() };
    for (sdk, run) in each(&environment, sdks, &way).await {
        let name = format!("{} after the filter's 503", sdk.sdk_process.name);
        if sdk.again == Again::Never {
            assert_told(&name, sdk, &run);
        } else {
            assert_content(&name, sdk, &run);
            assert_eq!(
                run.statuses.iter().filter(|status| **status == 503).count(),
                1,
                "{name}: {run:?}"
            );
            assert_eq!(run.statuses.len(), sdk.posts + 1, "{name}: {run:?}");
        }
        progress(&name);
    }
    environment.nothing_refused();
}

/// The filter's own 429, until its queue has room again.
async fn with_a_filter_that_is_full(sdks: &[Sdk]) {
    let environment = TestEnvironment::start(|config| {
        config["delivery"] = json!({"holdMs": 60_000, "maxPendingBytes": 100_000});
        config["keen"]["timeoutMs"] = json!(60_000);
    })
    .await;
    for sdk in sdks.iter().filter(|sdk| sdk.again == Again::Patiently) {
        let name = format!("{} after the filter's 429", sdk.sdk_process.name);
        let run = environment.run_while_full(&sdk.sdk_process, 99_000).await;
        assert_content(&name, sdk, &run);
        assert!(run.statuses.contains(&429), "{name}: {run:?}");
        assert_eq!(
            run.statuses.iter().filter(|status| **status == 200).count(),
            sdk.posts,
            "{name}: {run:?}"
        );
        progress(&name);
    }
    environment.nothing_refused();
}

async fn each<'s>(
    environment: &TestEnvironment,
    sdks: &'s [Sdk],
    way: &Way,
) -> Vec<(&'s Sdk, Run)> {
    join_all(sdks.iter().map(async |sdk| (sdk, environment.run(&sdk.sdk_process, way).await))).await
}

/// Every call is delivered in the SDK's own view, and each event stands in Keen once.
#[track_caller]
fn assert_content(name: &str, sdk: &Sdk, run: &Run) {
    assert_eq!(
        (run.report.delivered, &run.report.errors),
        (expected::CALLS, &vec![]),
        "{name}: {run:?}"
    );
    expected::assert_events(name, &run.events, &sdk.events);
}

/// One that sends nothing again tells of the one call that failed; it gives no event.
#[track_caller]
fn assert_told(name: &str, sdk: &Sdk, run: &Run) {
    assert_eq!(
        (run.report.delivered, run.report.errors.len()),
        (expected::CALLS - 1, 1),
        "{name}: {run:?}"
    );
    assert!(run.events.len() + 1 >= sdk.events.len(), "{name}: {run:?}");
}
