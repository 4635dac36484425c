//! Pages in a real browser: what Keen gets of a page that sends to Keen itself, and of one that does not.

use clients::{home, progress};
use harness::Envoy;
use mock_keen::{MockKeen, Options, Project};
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

const BUNDLED: &str = "5181bcd23843312d87000001";
const SERVED: &str = "5181bcd23843312d87000002";
const LOADS: &str = "5181bcd23843312d87000003";
const PATIENCE: Duration = Duration::from_secs(20);

struct Setting {
    envoy: Envoy,
    keen: MockKeen,
}

async fn setting() -> Setting {
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
    Setting { envoy, keen }
}

/// Lets the pages run; what they did.
async fn pages(s: &Setting, mode: &str) -> Value {
    let chromium =
        Command::new(harness::root().join("scripts/chromium.sh")).stderr(Stdio::inherit()).output();
    let chromium = chromium.await.unwrap();
    assert!(chromium.status.success(), "scripts/chromium.sh failed; what it said stands above");
    let output = Command::new("node")
        .arg(home("device").await.join("device.mjs"))
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
    let said = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "device.mjs {mode}:\n{said}{log}");
    let report: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(report["errors"], json!([]), "{log}");
    report
}

/// An event as both ways must have it, the differences of `docs/identity.md` aside.
fn comparable(collection: String, mut event: Value) -> (String, Value) {
    let fields = event.as_object_mut().unwrap();
    // The page leaves it to Keen to find these out, of whoever calls.
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
    // Without a referrer the page sends an empty one, and has Keen read it.
    if fields.get("referrer_url") == Some(&json!("")) {
        fields.remove("referrer_url");
    }
    let keen = fields["keen"].as_object_mut().unwrap();
    keen["addons"].as_array_mut().unwrap().retain(|addon| addon["name"] != "keen:referrer_parser");
    let at = keen["timestamp"].as_str().unwrap();
    assert!(at.len() == 24 && at.ends_with('Z'), "{collection}: {at}");
    keen["timestamp"] = json!("the time of the call");
    // Only here: Keen tells an event that comes twice by it, and the caller's place stays.
    keen.remove("uniqueness_token");
    keen.remove("location");
    // The page's own address holds the run's key.
    let text = event
        .to_string()
        .replace("key=bundled&", "key=K&")
        .replace("key=served&", "key=K&")
        .replace("&bundled", "");
    (collection, serde_json::from_str(&text).unwrap())
}

fn events(s: &Setting, project: &str) -> Vec<(String, Value)> {
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
async fn device_mode_is_what_a_page_sends_itself() {
    let s = setting().await;
    let report = pages(&s, "compare").await;
    progress(&format!("pages: {report}"));
    let (mut page, mut here) = (events(&s, BUNDLED), events(&s, SERVED));
    // Keen refuses a name with a dot, and the page's event is lost.
    let dotted = |(name, _): &(String, Value)| name == "Downgraded";
    assert!(!page.iter().any(dotted), "Keen took a name with a dot");
    let kept: Vec<Value> =
        here.iter().filter(|event| dotted(event)).map(|(_, event)| event.clone()).collect();
    here.retain(|event| !dotted(event));
    assert_eq!(kept.len(), 1);
    // Analytics.js says with each identify all it has heard so far.
    let traits = json!({"seen": true, "plan": "free", "address": {"city": "Köln"}, "id": "u-1"});
    assert_eq!(
        (&kept[0]["a_b"], &kept[0]["user"]),
        (&json!(1), &json!({"userId": "u-1", "traits": traits}))
    );
    // Segment's browser library rewrites texts that look like dates.
    for (name, event) in page.iter_mut().chain(&mut here) {
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
    assert_eq!((page.len(), here.len()), (12, 12), "{page:#?}");
    for (here, page) in here.iter().zip(&page) {
        assert_eq!(here, page, "what was sent here, and what the page sent");
    }
    s.envoy.no_panic_in_log();
}

#[tokio::test]
async fn a_page_that_loads_twice_is_two_events() {
    let s = setting().await;
    pages(&s, "loads").await;
    s.keen.wait_for_events(2, PATIENCE).await.unwrap();
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
