//! @segment/analytics-next in a real Chromium, on a page that the same Envoy serves.

use super::expected;
use clients::{Program, Run, Site, TestEnvironment, Trouble, Way, home, progress};
use mock_keen::Fault;
use serde_json::{Value, json};
use std::process::Command;

/// identify, page, two tracks, screen, group, alias.
const CALLS: usize = 7;
const CURRENT: &str = "1.84.3";
/// Until here no preflight and no retry of a status; batches by https only.
const OLD: &str = "1.72.0";
/// The current one as Segment's snippet loads it.
const SNIPPET: &str = "snippet";

/// One visit of the page.
#[derive(Clone, Debug)]
struct Visit {
    sdk: &'static str,
    batching: bool,
    cross: bool,
    leave: bool,
    way: Way,
    /// POSTs that the page makes.
    posts: usize,
    /// The filter gives one of them a 503, and the page sends it again.
    sent_again: bool,
}

impl Visit {
    fn to(sdk: &'static str, batching: bool, cross: bool) -> Self {
        let posts = if batching { 1 } else { CALLS };
        Self { sdk, batching, cross, leave: false, way: Way::default(), posts, sent_again: false }
    }

    fn by_tls(mut self) -> Self {
        self.way.tls = true;
        self
    }

    fn leaving(self) -> Self {
        Self { leave: true, ..self }
    }

    fn with_fault(mut self, fault: Fault) -> Self {
        self.way.fault = Some(fault);
        self
    }

    /// The page sends once more.
    fn after(mut self, trouble: Trouble) -> Self {
        self.way.trouble = Some(trouble);
        self.posts += 1;
        self
    }

    fn name(&self) -> String {
        let word =
            |yes: bool, one: &'static str, other: &'static str| if yes { one } else { other };
        let strategy = word(self.batching, "batching", "standard");
        let origin = word(self.cross, "cross origin", "same origin");
        let mut name = format!("analytics-next {} {strategy}, {origin}", self.sdk);
        name.push_str(word(self.way.tls, ", TLS", ""));
        name.push_str(word(self.leave, ", left at once", ""));
        name.push_str(word(self.sent_again, ", after the filter's 503", ""));
        if let Some(trouble) = self.way.trouble {
            name.push_str(&format!(", after {trouble:?}"));
        }
        if let Some(fault) = &self.way.fault {
            let kind = serde_json::to_value(&fault.kind).unwrap_or_default();
            name.push_str(&format!(", Keen: {kind}"));
        }
        name
    }

    fn sdk_process(&self, script: &str, chromium: &str) -> Program {
        let word =
            |yes: bool, one: &str, other: &str| if yes { one.to_owned() } else { other.to_owned() };
        Program {
            name: self.name(),
            command: vec![
                "node".to_owned(),
                script.to_owned(),
                self.sdk.to_owned(),
                word(self.batching, "batching", "standard"),
                word(self.cross, "cross", "same"),
                word(self.leave, "leave", "stay"),
                expected_events("").len().to_string(),
                if self.batching { 1 } else { CALLS }.to_string(),
            ],
            environment: vec![("CHROMIUM".to_owned(), chromium.to_owned())],
        }
    }
}

fn chromium() -> String {
    let script = harness::root().join("scripts/chromium.sh");
    let output = Command::new(&script)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test]
async fn pages_in_chromium() {
    let home = home("node").await;
    let folder = |package: &str| home.join("node_modules").join(package).join("dist/umd");
    let site = Site::open(vec![
        (String::new(), harness::root().join("tests/clients/sdk/browser")),
        (CURRENT.to_owned(), folder("@segment/analytics-next")),
        (SNIPPET.to_owned(), folder("@segment/analytics-next")),
        (OLD.to_owned(), folder("analytics-next-1.72.0")),
    ])
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    let (script, chromium) = (home.join("browser.mjs").display().to_string(), chromium());
    let answer = |status, retry_after| Trouble::Response { status, retry_after };
    let visits = [
        Visit::to(CURRENT, false, false),
        Visit::to(CURRENT, false, true),
        Visit::to(CURRENT, false, true).by_tls(),
        Visit::to(CURRENT, true, false),
        Visit::to(CURRENT, true, true),
        Visit::to(CURRENT, true, true).by_tls(),
        Visit::to(CURRENT, true, false).leaving(),
        Visit::to(CURRENT, true, true).leaving(),
        Visit::to(SNIPPET, false, false),
        Visit::to(SNIPPET, false, true).by_tls(),
        Visit::to(OLD, false, false),
        Visit::to(OLD, false, true),
        Visit::to(OLD, false, true).by_tls(),
        Visit::to(OLD, true, true).by_tls(),
        Visit::to(OLD, true, true).by_tls().leaving(),
        Visit::to(CURRENT, true, true).with_fault(Fault::status(503)),
        Visit::to(CURRENT, true, true).with_fault(Fault::status(429).retry_after("2")),
        Visit::to(CURRENT, false, true).with_fault(Fault::cut_after()),
        Visit::to(OLD, false, true).with_fault(Fault::status(503)),
        Visit::to(CURRENT, false, true).after(answer(503, None)),
        Visit::to(CURRENT, false, true).after(answer(429, Some(2))),
        Visit::to(CURRENT, false, true).after(Trouble::LostReply),
        Visit::to(CURRENT, true, true).after(Trouble::LostReply),
        Visit::to(OLD, false, true).after(Trouble::LostReply),
    ];
    let environment = TestEnvironment::start_with_site(|_| {}, &site).await;
    visit_all(&environment, &visits, &script, &chromium).await;
    // The filter's own 503: a page reads it, Retry-After and all, and sends again.
    let environment = TestEnvironment::start_with_site(
        |config| config["delivery"] = json!({"holdMs": 1000, "retries": 0}),
        &site,
    )
    .await;
    // As one batch: calls of their own would share a call to Keen, and its fate.
    let given_up = Visit::to(CURRENT, true, true).with_fault(Fault::status(503));
    let given_up = [Visit { sent_again: true, ..given_up }];
    visit_all(&environment, &given_up, &script, &chromium).await;
}

async fn visit_all(environment: &TestEnvironment, visits: &[Visit], script: &str, chromium: &str) {
    // Each browser keeps a processor busy.
    for pair in visits.chunks(2) {
        let runs = pair.iter().map(async |visit| {
            (visit, environment.run(&visit.sdk_process(script, chromium), &visit.way).await)
        });
        for (visit, run) in futures_util::future::join_all(runs).await {
            assert_visit(visit, &run);
            progress(&visit.name());
        }
    }
    environment.nothing_refused();
}

#[track_caller]
fn assert_visit(visit: &Visit, run: &Run) {
    let name = visit.name();
    assert_eq!(run.report.errors, Vec::<String>::new(), "{name}: {run:?}");
    assert_eq!(run.report.delivered, CALLS, "{name}: {run:?}");
    if visit.way.trouble.is_some() {
        assert_eq!(run.posts, visit.posts, "{name}: {run:?}");
    } else {
        let mut statuses = run.statuses.clone();
        statuses.sort_unstable();
        let failed = visit.sent_again.then_some(503);
        let want: Vec<u16> = std::iter::repeat_n(200, visit.posts).chain(failed).collect();
        assert_eq!(statuses, want, "{name}: {run:?}");
    }
    let mut events = run.events.clone();
    for (collection, event) in &mut events {
        let agent =
            event.as_object_mut().and_then(|event| event.remove("user_agent")).unwrap_or_default();
        assert!(
            agent.as_str().is_some_and(|agent| agent.contains("Chrome/")),
            "{name}: {collection}: {agent}"
        );
    }
    let page =
        events.first().map(|(_, event)| event["page_url"].as_str().unwrap_or_default().to_owned());
    let page = page.unwrap_or_default();
    assert!(page.ends_with("/site/page.html"), "{name}: {page}");
    expected::assert_events(&name, &events, &expected_events(&page));
}

/// The events of the page's calls, where the page is at that address; without the browser's user agent.
fn expected_events(page: &str) -> Vec<(&'static str, Value)> {
    let viewed = json!({
        "category": "Docs", "name": "Index", "title": "Shop", "path": "/site/page.html", "search": "", "referrer": "",
        "url": page, "page_url": page, "referrer_url": "", "userId": "u-1",
    });
    vec![
        (
            "Order Completed",
            json!({
                "item": "T-Shirt", "revenue": 19.99, "sizes": [1, 2], "buyer": {"name": "é😀"},
                "page_url": page, "referrer_url": "", "userId": "u-1",
            }),
        ),
        ("Viewed Docs Index Page", viewed.clone()),
        ("Viewed Docs Page", viewed),
        (
            "Viewed Main Screen",
            json!({"name": "Main", "page_url": page, "referrer_url": "", "userId": "u-1"}),
        ),
    ]
}
