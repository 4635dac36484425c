//! Device mode in a real browser: events that a page sends to Keen itself, and events that the
//! filter maps for a page.

use clients::{install, progress};
use harness::Envoy;
use mock_keen::{MockKeen, Options, Project};
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

const BUNDLED: &str = "5181bcd23843312d87000001";
const SERVED: &str = "5181bcd23843312d87000002";
const LOADS: &str = "5181bcd23843312d87000003";
const TIMEOUT: Duration = Duration::from_secs(20);

struct Fixture {
    envoy: Envoy,
    keen: MockKeen,
}

async fn start() -> Fixture {
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let mut config = harness::default_config();
    let all = json!({
        "writeKey": mock_keen::WRITE_KEY, "mode": "device", "trackAllPages": true,
        "ipAddon": true, "uaAddon": true, "urlAddon": true, "referrerAddon": true,
    });
    config["sources"] = json!({});
    for (key, project, more) in [
        ("bundled", BUNDLED, json!({"bundled": true})),
        ("served", SERVED, json!({})),
        ("loads", LOADS, json!({"initialPageview": true})),
    ] {
        keen.add_project(Project::new(project, mock_keen::WRITE_KEY));
        let mut source = all.clone();
        source["projectId"] = json!(project);
        source.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config["sources"][key] = source;
    }
    let envoy = Envoy::builder()
        .keen(keen.addr())
        .config(config)
        .start()
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    Fixture { envoy, keen }
}

/// Runs the pages of a mode of `device.mjs`. Returns their report.
async fn run_pages(s: &Fixture, mode: &str) -> Value {
    let chromium =
        Command::new(harness::root().join("scripts/chromium.sh")).stderr(Stdio::inherit()).output();
    let chromium = chromium.await.unwrap();
    assert!(chromium.status.success(), "scripts/chromium.sh failed; see its output above");
    let output = Command::new("node")
        .arg(install("device").await.join("device.mjs"))
        .arg(mode)
        .env("EDGE", format!("http://{}", s.envoy.addr()))
        .env("KEEN", format!("http://{}", s.keen.addr()))
        .env("CHROMIUM", String::from_utf8_lossy(&chromium.stdout).trim())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(120), output)
        .await
        .expect("pages in 120 s")
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "device.mjs {mode}:\n{stdout}{log}");
    let report: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!(report["errors"], json!([]), "{log}");
    report
}

/// Removes the differences that `docs/identity.md` lists.
fn comparable(collection: String, mut event: Value) -> (String, Value) {
    let fields = event.as_object_mut().unwrap();
    // The page sends placeholders. Keen replaces them with the client's address and user agent.
    for (field, placeholder) in [("ip_address", "${keen.ip}"), ("user_agent", "${keen.user_agent}")]
    {
        let value = fields[field].as_str().unwrap();
        let real = if field == "ip_address" {
            value == "127.0.0.1"
        } else {
            value.starts_with("Mozilla/5.0")
        };
        assert!(value == placeholder || real, "{collection}: {field} is {value}");
        fields.insert(field.to_owned(), json!("real"));
    }
    // Without a referrer the page sends an empty string and the add-on.
    if fields.get("referrer_url") == Some(&json!("")) {
        fields.remove("referrer_url");
    }
    let keen = fields["keen"].as_object_mut().unwrap();
    keen["addons"].as_array_mut().unwrap().retain(|addon| addon["name"] != "keen:referrer_parser");
    let at = keen["timestamp"].as_str().unwrap();
    assert!(at.len() == 24 && at.ends_with('Z'), "{collection}: {at}");
    keen["timestamp"] = json!("the time of the call");
    // Only the filter sends the token and keeps the caller's location.
    keen.remove("uniqueness_token");
    keen.remove("location");
    // The page's address contains the write key.
    let text = event
        .to_string()
        .replace("key=bundled&", "key=K&")
        .replace("key=served&", "key=K&")
        .replace("&bundled", "");
    (collection, serde_json::from_str(&text).unwrap())
}

fn events(s: &Fixture, project: &str) -> Vec<(String, Value)> {
    let events = s
        .keen
        .events_in(project)
        .into_iter()
        .map(|stored| comparable(stored.collection, stored.event));
    let mut events: Vec<_> = events.collect();
    events.sort_by(|one, other| {
        one.0.cmp(&other.0).then(one.1.to_string().cmp(&other.1.to_string()))
    });
    events
}

#[tokio::test]
async fn device_mode_events_equal_those_that_a_page_sends() {
    let s = start().await;
    let report = run_pages(&s, "compare").await;
    progress(&format!("pages: {report}"));
    let (mut from_page, mut from_filter) = (events(&s, BUNDLED), events(&s, SERVED));
    // Keen rejects a name with a dot, so the page's own event is lost.
    let dotted = |(name, _): &(String, Value)| name == "Downgraded";
    assert!(!from_page.iter().any(dotted), "Keen stored a name with a dot");
    let dotted_events: Vec<Value> =
        from_filter.iter().filter(|event| dotted(event)).map(|(_, event)| event.clone()).collect();
    from_filter.retain(|event| !dotted(event));
    assert_eq!(dotted_events.len(), 1);
    // Analytics.js sends all known traits with each identify.
    let traits = json!({"seen": true, "plan": "free", "address": {"city": "Köln"}, "id": "u-1"});
    assert_eq!(
        (&dotted_events[0]["a_b"], &dotted_events[0]["user"]),
        (&json!(1), &json!({"userId": "u-1", "traits": traits}))
    );
    // Segment's browser library rewrites strings that look like dates.
    for (name, event) in from_page.iter_mut().chain(&mut from_filter) {
        if name == "Dated" {
            for field in ["on", "at"] {
                let text = event[field].as_str().unwrap().to_owned();
                assert!(
                    [
                        "2026-01-02",
                        "2026-01-02T03:04:05+02:00",
                        "2026-01-02T00:00:00.000Z",
                        "2026-01-02T01:04:05.000Z"
                    ]
                    .contains(&text.as_str()),
                    "{text}"
                );
                event[field] = json!("a date");
            }
        }
    }
    assert_eq!((from_page.len(), from_filter.len()), (12, 12), "{from_page:#?}");
    for (from_filter, from_page) in from_filter.iter().zip(&from_page) {
        assert_eq!(from_filter, from_page, "the filter's event and the page's");
    }
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn initial_pageview_when_a_page_loads_twice_is_two_events() {
    let s = start().await;
    run_pages(&s, "loads").await;
    s.keen.wait_for_events(2, TIMEOUT).await.unwrap();
    let events: Vec<_> = s.keen.events_in(LOADS);
    assert_eq!(events.len(), 2, "{events:#?}");
    for stored in events {
        let (event, page) = (&stored.event, stored.event["page_url"].as_str().unwrap());
        assert_eq!(stored.collection, "Loaded a Page");
        assert!(
            page.starts_with("http://127.0.0.1:") && page.contains("/cart?key=loads"),
            "{page}"
        );
        assert_eq!(event["ip_address"], "127.0.0.1");
        assert!(event["user_agent"].as_str().unwrap().contains("Chrome/"), "{event}");
        let addons: Vec<_> =
            event["keen"]["addons"].as_array().unwrap().iter().map(|a| a["name"].clone()).collect();
        assert_eq!(addons, ["keen:ip_to_geo", "keen:ua_parser", "keen:url_parser"]);
    }
    assert!(s.keen.refusals().is_empty());
    s.envoy.no_panic_in_log();
}
