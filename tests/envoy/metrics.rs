//! The metrics that `docs/operating.md` lists, as Envoy shows them.

use super::fixture::{TestEnv, ok, track};
use harness::Dynamic;
use mock_keen::Fault;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const PROJECT: &str = "5181bcd23843312d87000000";

/// Returns the labels of each metric in the document's table.
fn documented() -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(harness::root().join("docs/operating.md")).unwrap();
    let (_, table) = text.split_once("<!-- metrics:start -->").unwrap();
    let (table, _) = table.split_once("<!-- metrics:end -->").unwrap();
    let rows =
        table.lines().filter_map(|line| line.strip_prefix("| `keen_edge_")?.split('`').next());
    rows.map(|row| {
        let (name, labels) = row.split_once('{').unwrap_or((row, ""));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        (name.to_owned(), labels.map(str::to_owned).collect())
    })
    .collect()
}

/// Returns the labels of each metric that Envoy shows.
async fn shown(s: &TestEnv) -> BTreeMap<String, BTreeSet<Vec<String>>> {
    let mut found: BTreeMap<String, BTreeSet<Vec<String>>> = BTreeMap::new();
    for line in s.envoy.admin("/stats").await.lines() {
        let Some((stat, _)) = line.split_once(": ") else { continue };
        let Some(stat) = stat.strip_prefix("wasmcustom.keen_edge_") else { continue };
        // A version has dots. It is the last label.
        let stat = stat.split_once(".version.").map_or_else(
            || stat.to_owned(),
            |(name, version)| format!("{name}.version.{}", version.replace('.', "_")),
        );
        let mut parts = stat.split('.');
        let name = parts.next().unwrap().to_owned();
        found.entry(name).or_default().insert(parts.step_by(2).map(str::to_owned).collect());
    }
    found
}

#[tokio::test]
async fn shown_metrics_equal_the_document() {
    let s = TestEnv::new().await;
    s.keen.fault(Fault::refuse_collection("bad", "InvalidEventError").times(1));
    assert_eq!(s.post("/v1/track", track("bad")).await, ok());
    let batch = json!({"batch": [
        {"type": "track", "event": "good"}, {"type": "track"}, {"type": "identify", "userId": "u"},
        {"type": "track", "event": "good", "properties": {"a.b": 1}},
    ]});
    assert_eq!(s.post("/v1/batch", batch.to_string()).await, ok());
    assert_eq!(s.post("/v1/track", "{").await.0, 400);
    let other = s.client.post(s.envoy.url("/v1/track")).basic_auth("another", Some(""));
    assert_eq!(other.body(track("x")).send().await.unwrap().status(), 200);
    s.keen.fault(Fault::status(403).times(1));
    assert_eq!(s.post("/v1/track", track("down")).await.0, 503);
    s.until("all is counted", async || s.envoy.total("events_unconfirmed").await == 1).await;

    let documented = documented();
    for (name, shown) in shown(&s).await {
        let labels = documented
            .get(&name)
            .unwrap_or_else(|| panic!("keen_edge_{name} is not in the document"));
        assert_eq!(shown, [labels.clone()].into(), "labels of keen_edge_{name}");
    }
    let prometheus = s.envoy.admin("/stats/prometheus").await;
    for line in [
        "keen_edge_requests{} 5",
        "keen_edge_responses{code=\"200\"} 3",
        "keen_edge_responses{code=\"400\"} 1",
        "keen_edge_responses{code=\"503\"} 1",
        "keen_edge_requests_rejected{reason=\"malformed_json\"} 1",
        "keen_edge_requests_rejected{reason=\"destination_rejected\"} 1",
        "keen_edge_messages{source=\"example\"} 6",
        "keen_edge_messages{source=\"unknown\"} 1",
        "keen_edge_messages_skipped{source=\"example\",reason=\"no_event_name\"} 1",
        "keen_edge_messages_skipped{source=\"example\",reason=\"no_effect\"} 1",
        "keen_edge_messages_skipped{source=\"unknown\",reason=\"unknown_write_key\"} 1",
        "keen_edge_events{source=\"example\"} 4",
        "keen_edge_events_delivered{project=\"5181bcd23843312d87000000\"} 2",
        "keen_edge_events_rejected{project=\"5181bcd23843312d87000000\",error=\"InvalidEventError\"} 1",
        "keen_edge_events_unconfirmed{project=\"5181bcd23843312d87000000\"} 1",
        "keen_edge_values_sanitized{} 1",
        "keen_edge_destination_up{project=\"5181bcd23843312d87000000\"} 0",
        "keen_edge_callouts{project=\"5181bcd23843312d87000000\"} 3",
        concat!("keen_edge_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "keen_edge_pending_bytes_limit{} 16777216",
    ] {
        let (name, labels) = line.split_once('{').unwrap();
        let (labels, value) = labels.split_once('}').unwrap();
        let labels: BTreeSet<&str> = labels.split(',').filter(|label| !label.is_empty()).collect();
        let is_found = prometheus.lines().any(|found| {
            let Some((found_name, rest)) = found.split_once('{') else { return false };
            let Some((found_labels, found_value)) = rest.split_once('}') else { return false };
            let found_labels: BTreeSet<&str> =
                found_labels.split(',').filter(|l| !l.is_empty()).collect();
            (found_name, found_labels, found_value) == (name, labels.clone(), value)
        });
        let ours = prometheus.lines().filter(|l| l.starts_with("keen_edge")).collect::<Vec<_>>();
        assert!(is_found, "no {line} in\n{}", ours.join("\n"));
    }
}

/// Returns the count and the sum, in milliseconds, of the histogram of delivery times.
async fn delivery_ms(s: &TestEnv) -> (u64, f64) {
    let prometheus = s.envoy.admin("/stats/prometheus").await;
    let value = |name: &str| {
        let line = prometheus.lines().find(|line| line.starts_with(&format!("{name}{{")));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    };
    (value("keen_edge_delivery_ms_count") as u64, value("keen_edge_delivery_ms_sum"))
}

/// Envoy merges histograms every 5 s.
#[tokio::test]
async fn delivery_ms_includes_retries_and_counts_confirmed_callouts() {
    let s = TestEnv::new().await;
    s.keen.fault(Fault::status(403).times(1));
    assert_eq!(s.post("/v1/track", track("not confirmed")).await.0, 503);
    s.keen.fault(Fault::delay(150).times(1));
    assert_eq!(s.post("/v1/track", track("slow")).await, ok());
    s.keen.fault(Fault::status(503).retry_after("1").times(1));
    assert_eq!(s.post("/v1/track", track("retried")).await, ok());
    s.until("both are in the histogram", async || delivery_ms(&s).await.0 > 1).await;
    let (count, sum) = delivery_ms(&s).await;
    assert_eq!(count, 2);
    // Envoy's histograms are exact to two digits.
    assert!((1_100.0..15_000.0).contains(&sum), "{sum} ms");
}

/// The gauge of a version is removed with the last VM of that version.
#[tokio::test]
async fn build_info_of_a_replaced_filter_disappears() {
    let keen = mock_keen::MockKeen::start(mock_keen::Options::default()).await.unwrap();
    let builder = harness::Envoy::builder().keen(keen.addr()).from_file(Dynamic::Filter);
    let envoy = builder.start().await.unwrap_or_else(|e| panic!("{e:?}"));
    let s = TestEnv { envoy, keen, client: reqwest::Client::new() };
    assert_eq!(s.post("/v1/track", track("before")).await, ok());
    let versions = async || {
        let prometheus = s.envoy.admin("/stats/prometheus").await;
        let lines = prometheus.lines().filter(|line| line.starts_with("keen_edge_build_info{"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let gauge = |version: &str| vec![format!("keen_edge_build_info{{version=\"{version}\"}} 1")];
    assert_eq!(versions().await, gauge(env!("CARGO_PKG_VERSION")));

    let mut module = std::fs::read(harness::wasm_path().unwrap()).unwrap();
    let places = |module: &[u8], text: &str| {
        let windows = module.windows(text.len()).enumerate();
        windows.filter(|(_, w)| *w == text.as_bytes()).map(|(at, _)| at).collect::<Vec<_>>()
    };
    let (old, new) = (env!("CARGO_PKG_VERSION"), "9.9.9");
    assert_eq!(old.len(), new.len());
    for at in places(&module, old) {
        module[at..at + new.len()].copy_from_slice(new.as_bytes());
    }
    let path = harness::root().join(format!("target/tmp/version-{}.wasm", std::process::id()));
    std::fs::write(&path, module).unwrap();
    let replaced = path.clone();
    s.envoy
        .update_patched(&harness::default_config(), move |filter| {
            let code = "/typed_config/config/vm_config/code";
            *filter.pointer_mut(code).unwrap() = json!({"local": {"filename": replaced}});
        })
        .unwrap();
    s.until("only the new version is left", async || {
        // A connection keeps the filter that it started with.
        let call = reqwest::Client::new().post(s.envoy.url("/v1/track"));
        call.basic_auth("writeKey", Some("")).body(track("after")).send().await.unwrap();
        versions().await == gauge(new)
    })
    .await;
    std::fs::remove_file(path).unwrap();
}

/// A source name with Envoy's separators, or equal to the name of a label, is the value of one
/// label.
#[tokio::test]
async fn source_name_of_any_form_is_one_label_value() {
    let mut config = harness::default_config();
    config["sources"]["writeKey"]["name"] = json!("shop.project.x/1");
    config["sources"]["writeKey2"] = config["sources"]["writeKey"].clone();
    config["sources"]["writeKey2"]["name"] = json!("project");
    let s = TestEnv::with(config).await;
    assert_eq!(s.post("/v1/track", r#"{"userId": "u"}"#).await, ok());
    let second = s.client.post(s.envoy.url("/v1/track")).basic_auth("writeKey2", Some(""));
    second.body(r#"{"userId": "u"}"#).send().await.unwrap();
    s.until("both are counted", async || s.envoy.total("messages_skipped").await == 2).await;
    let prometheus = s.envoy.admin("/stats/prometheus").await;
    for labels in [
        ["source=\"shop_project_x_1\"", "reason=\"no_event_name\""],
        ["source=\"project\"", "reason=\"no_event_name\""],
    ] {
        let mut lines = prometheus.lines().filter(|l| l.starts_with("keen_edge_messages_skipped{"));
        assert!(
            lines.any(|l| labels.iter().all(|label| l.contains(label))),
            "{labels:?}\n{prometheus}"
        );
    }
}

/// Each event is counted in exactly one end.
#[tokio::test]
async fn events_end_in_exactly_one_counter() {
    let s = TestEnv::new().await;
    s.keen.fault(Fault::chaos(11, 0.4));
    for i in 0..60 {
        s.post("/v1/track", track(&i.to_string())).await;
    }
    s.keen.clear_faults();
    s.until("nothing is pending", async || s.envoy.total("pending_bytes").await == 0).await;
    s.until("all are counted", async || {
        let mut ends = 0;
        for end in ["delivered", "rejected", "unconfirmed", "dropped", "overflowed"] {
            ends += s.envoy.total(&format!("events_{end}")).await;
        }
        let events = s.envoy.total("events").await;
        assert!(ends <= events, "{ends} ends of {events} events");
        ends == events && events == 60
    })
    .await;
}

#[tokio::test]
async fn destination_up_follows_keens_replies() {
    let s = TestEnv::new().await;
    let up = format!("project.{PROJECT}");
    s.until("the gauge is 1 without a request", async || {
        s.envoy.metric("destination_up", &[&up]).await == 1
    })
    .await;
    s.keen.fault(Fault::status(403));
    assert_eq!(s.post("/v1/track", track("down")).await.0, 503);
    s.until("the gauge is 0", async || s.envoy.metric("destination_up", &[&up]).await == 0).await;
    assert_eq!(s.post("/v1/track", track("up")).await, ok());
    s.until("the gauge is 1", async || s.envoy.metric("destination_up", &[&up]).await == 1).await;
    s.until("nothing is pending", async || s.envoy.total("pending_bytes").await == 0).await;
}

/// The log line says why a message became no event.
#[tokio::test]
async fn debug_log_has_one_line_per_message() {
    let keen = mock_keen::MockKeen::start(mock_keen::Options::default()).await.unwrap();
    let builder = harness::Envoy::builder().keen(keen.addr()).component_log_level("wasm:debug");
    let envoy = builder.start().await.unwrap_or_else(|e| panic!("{e:?}"));
    let s = TestEnv { envoy, keen, client: reqwest::Client::new() };
    let batch = json!({"batch": [
        {"type": "track", "event": "Purchased"}, {"type": "page"},
        {"type": "page", "category": "Docs", "name": "Index"}, {"type": "other"},
    ]});
    assert_eq!(s.post("/v1/batch", batch.to_string()).await, ok());
    let want = [
        "message source=example type=track events=Purchased",
        "message source=example type=page skipped=no_page_setting",
        "message source=example type=page events=Viewed Docs Page|Viewed Docs Index Page",
        "message source=example type=- skipped=unknown_type",
    ];
    s.until("all lines are there", async || {
        let log = s.envoy.log();
        want.iter().all(|line| log.lines().any(|found| found.ends_with(line)))
    })
    .await;
    let quiet = TestEnv::new().await;
    assert_eq!(quiet.post("/v1/track", track("x")).await, ok());
    assert!(!quiet.envoy.log().contains("message source="));
}
