//! Segment's snippet in a real Chromium, with the routes of `deploy/envoy-snippet.yaml`.

use super::browser::{CALLS, assert_page_events, chromium};
use clients::{ClientPath, Run, SdkProcess, TestEnvironment, install, progress};
use std::path::{Path, PathBuf};

const QUERY: &str = "?ajs_aid=a-7";
const EDGE: &str = "edge.example.com";
const SEGMENT: [&str; 2] = ["cdn.segment.com", "api.segment.io"];

fn variant() -> PathBuf {
    harness::root().join("deploy/envoy-snippet.yaml")
}

async fn visit(environment: &TestEnvironment, home: &Path, arguments: &[&str]) -> Run {
    let script = home.join("snippet.mjs").display().to_string();
    let arguments = arguments.iter().map(|&argument| argument.to_owned());
    let process = SdkProcess {
        name: "snippet 5.2.1".to_owned(),
        command: ["node".to_owned(), script].into_iter().chain(arguments).collect(),
        environment: vec![("CHROMIUM".to_owned(), chromium())],
    };
    environment.run(&process, &ClientPath { tls: true, ..ClientPath::default() }).await
}

#[track_caller]
fn assert_delivered(name: &str, run: &Run) {
    let report = (run.report.delivered, &run.report.errors);
    assert_eq!(report, (CALLS, &vec![]), "{name}: {run:?}");
    assert_eq!(run.statuses(), vec![200; CALLS], "{name}: {run:?}");
    assert_eq!(assert_page_events(name, run, QUERY), "https://shop.example.com/docs");
    let bundles = run.paths("GET").iter().filter(|path| path.contains(".bundle.")).count();
    assert!(bundles > 0, "{name}: no bundle was loaded: {run:?}");
    progress(name);
}

#[tokio::test]
async fn snippet_with_edge_as_host_delivers_only_with_sdk_api_host() {
    let home = install("node").await;
    let scripts = home.join("node_modules/@segment/analytics-next/dist/umd");

    let environment = TestEnvironment::start_variant(&variant(), &scripts, true).await;
    let run = visit(&environment, &home, &[EDGE, EDGE, "4"]).await;
    assert_delivered("snippet with settings.apiHost", &run);
    assert_each_bundle_has_a_route(&environment, &scripts).await;

    let environment = TestEnvironment::start_variant(&variant(), &scripts, false).await;
    let run = visit(&environment, &home, &[EDGE, EDGE, "elsewhere"]).await;
    let name = "snippet without settings.apiHost: every call goes to api.segment.io";
    let report = (run.report.delivered, &run.report.errors);
    assert_eq!(report, (CALLS, &vec![]), "{name}: {run:?}");
    assert!(run.events.is_empty() && run.paths("POST").is_empty(), "{name}: {run:?}");
    progress(name);

    let [cdn, api] = SEGMENT;
    let run = visit(&environment, &home, &[cdn, cdn, api, "4"]).await;
    assert_delivered("unchanged snippet, DNS of Segment's hosts points at Envoy", &run);
}

async fn assert_each_bundle_has_a_route(environment: &TestEnvironment, scripts: &Path) {
    let entries = std::fs::read_dir(scripts).unwrap_or_else(|error| panic!("{error}"));
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let is_bundle = |name: &String| name.contains(".bundle.") && name.ends_with(".js");
    let bundles: Vec<String> = names.filter(is_bundle).collect();
    assert!(bundles.len() > 5, "{bundles:?}");
    for name in bundles {
        let (status, body) = environment.fetch(&format!("/analytics-next/bundles/{name}")).await;
        let expected = std::fs::read(scripts.join(&name)).unwrap_or_default();
        assert!(status == 200 && body == expected, "{name}: {status}");
    }
}

/// The variant differs from `envoy.yaml` only by these insertions. `UPDATE_DEPLOY=1` rewrites it.
#[test]
fn snippet_variant_is_envoy_yaml_with_routes_added() {
    let read = |path: &Path| {
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let insertions = harness::root().join("deploy/envoy-snippet.insertions.yaml");
    let expected =
        harness::with_insertions(&read(&harness::root().join("envoy.yaml")), &read(&insertions));
    if std::env::var_os("UPDATE_DEPLOY").is_some() {
        std::fs::write(variant(), &expected).unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(
        read(&variant()) == expected,
        "deploy/envoy-snippet.yaml is out of date; run this test with UPDATE_DEPLOY=1"
    );
}
