//! SDKs in a real Chromium, on a page that the same Envoy serves.

use super::expected;
use super::sdk::{Reaction, Reactions};
use clients::{
    ClientPath, NetworkFault, Run, SdkProcess, Site, TestEnvironment, install, progress,
};
use mock_keen::Fault;
use serde_json::{Value, json};
use std::process::Command;

/// identify, page, two tracks, screen, group, alias.
pub const CALLS: usize = 7;
const CURRENT: &str = "1.84.3";
/// The last version without preflights and without retries by status. It sends batches by https
/// only.
const OLD: &str = "1.72.0";
/// [`CURRENT`] with its settings on the page.
const CDN_SETTINGS: &str = "cdn-settings";
const HIGHTOUCH: &str = "hightouch";

/// The rows of the table in `docs/clients.md`.
pub fn rows() -> Vec<(&'static str, Reactions)> {
    vec![
        ("`@segment/analytics-next` 1.84.3", Reactions::USUAL),
        ("`@segment/analytics-next` 1.72.0", ONLY_CONNECTION_ERRORS),
        ("`@ht-sdks/events-sdk-js-browser` 1.5.1", ONLY_CONNECTION_ERRORS),
    ]
}

const ONLY_CONNECTION_ERRORS: Reactions =
    Reactions { connection_error: Reaction::Retries, ..Reactions::NEVER_RETRIES };

/// One visit of the page.
#[derive(Clone, Debug)]
struct Visit {
    sdk: &'static str,
    batching: bool,
    cross_origin: bool,
    leaves: bool,
    path: ClientPath,
    /// The POSTs that the page makes.
    posts: usize,
    /// The page drops the message of one POST.
    drops: bool,
    /// The filter answers one POST 503, and the page retries it.
    unconfirmed: bool,
}

impl Visit {
    fn new(sdk: &'static str, batching: bool, cross_origin: bool) -> Self {
        let posts = if batching { 1 } else { CALLS };
        let path = ClientPath::default();
        Self {
            sdk,
            batching,
            cross_origin,
            leaves: false,
            path,
            posts,
            drops: false,
            unconfirmed: false,
        }
    }

    fn tls(mut self) -> Self {
        self.path.tls = true;
        self
    }

    fn leaving(self) -> Self {
        Self { leaves: true, ..self }
    }

    fn keen_fault(mut self, fault: Fault) -> Self {
        self.path.keen_fault = Some(fault);
        self
    }

    /// The page retries after this fault.
    fn retried(mut self, fault: NetworkFault) -> Self {
        self.path.network_fault = Some(fault);
        self.posts += 1;
        self
    }

    /// The page drops the message that meets this fault.
    fn dropped(mut self, fault: NetworkFault) -> Self {
        self.path.network_fault = Some(fault);
        self.drops = true;
        self
    }

    fn name(&self) -> String {
        let choose =
            |condition: bool, yes: &'static str, no: &'static str| if condition { yes } else { no };
        let strategy = choose(self.batching, "batching", "standard");
        let origin = choose(self.cross_origin, "cross origin", "same origin");
        let mut name = format!("browser SDK {} {strategy}, {origin}", self.sdk);
        name.push_str(choose(self.path.tls, ", TLS", ""));
        name.push_str(choose(self.leaves, ", left at once", ""));
        name.push_str(choose(self.unconfirmed, ", after the filter's 503", ""));
        if let Some(fault) = self.path.network_fault {
            name.push_str(&format!(", after {fault:?}"));
        }
        if let Some(fault) = &self.path.keen_fault {
            let kind = serde_json::to_value(&fault.kind).unwrap_or_default();
            name.push_str(&format!(", Keen: {kind}"));
        }
        name
    }

    fn process(&self, script: &str, chromium: &str) -> SdkProcess {
        let choose = |condition: bool, yes: &str, no: &str| {
            if condition { yes.to_owned() } else { no.to_owned() }
        };
        // A dropped call may be one without an event.
        let events = if self.drops { 0 } else { expected_events("", "").len() };
        let ok = if self.batching { 1 } else { CALLS } - usize::from(self.drops);
        SdkProcess {
            name: self.name(),
            command: vec![
                "node".to_owned(),
                script.to_owned(),
                self.sdk.to_owned(),
                choose(self.batching, "batching", "standard"),
                choose(self.cross_origin, "cross", "same"),
                choose(self.leaves, "leave", "stay"),
                events.to_string(),
                ok.to_string(),
            ],
            environment: vec![("CHROMIUM".to_owned(), chromium.to_owned())],
        }
    }
}

pub fn chromium() -> String {
    let script = harness::root().join("scripts/chromium.sh");
    let output = Command::new(&script)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test]
async fn browser_sdks_under_faults_deliver_each_event_once() {
    let home = install("node").await;
    let directory = |package: &str| home.join("node_modules").join(package).join("dist/umd");
    let site = Site::open(vec![
        (String::new(), harness::root().join("tests/clients/sdk/browser")),
        (CURRENT.to_owned(), directory("@segment/analytics-next")),
        (OLD.to_owned(), directory("analytics-next-1.72.0")),
        (HIGHTOUCH.to_owned(), directory("@ht-sdks/events-sdk-js-browser")),
    ])
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    let (script, chromium) = (home.join("browser.mjs").display().to_string(), chromium());
    let response = |status, retry_after| NetworkFault::Response { status, retry_after };
    let visits = [
        Visit::new(CURRENT, false, false),
        Visit::new(CURRENT, false, true),
        Visit::new(CURRENT, false, true).tls(),
        Visit::new(CURRENT, true, false),
        Visit::new(CURRENT, true, true),
        Visit::new(CURRENT, true, true).tls(),
        Visit::new(CURRENT, true, false).leaving(),
        Visit::new(CURRENT, true, true).leaving(),
        Visit::new(CDN_SETTINGS, false, true),
        Visit::new(OLD, false, false),
        Visit::new(OLD, false, true),
        Visit::new(OLD, false, true).tls(),
        Visit::new(OLD, true, true).tls(),
        Visit::new(OLD, true, true).tls().leaving(),
        Visit::new(HIGHTOUCH, false, true),
        Visit::new(CURRENT, true, true).keen_fault(Fault::status(503)),
        Visit::new(CURRENT, true, true).keen_fault(Fault::status(429).retry_after("2")),
        Visit::new(CURRENT, false, true).keen_fault(Fault::cut_after()),
        Visit::new(OLD, false, true).keen_fault(Fault::status(503)),
        Visit::new(CURRENT, false, true).retried(response(503, None)),
        Visit::new(CURRENT, false, true).retried(response(429, Some(2))),
        Visit::new(CURRENT, false, true).retried(NetworkFault::ResponseLost),
        Visit::new(CURRENT, true, true).retried(NetworkFault::ResponseLost),
        Visit::new(CURRENT, false, true).dropped(response(400, None)),
        Visit::new(OLD, false, true).retried(NetworkFault::ResponseLost),
        Visit::new(OLD, false, true).dropped(response(503, None)),
        Visit::new(OLD, false, true).dropped(response(429, Some(2))),
        Visit::new(OLD, false, true).dropped(response(400, None)),
        Visit::new(HIGHTOUCH, false, true).retried(NetworkFault::ResponseLost),
        Visit::new(HIGHTOUCH, false, true).dropped(response(503, None)),
        Visit::new(HIGHTOUCH, false, true).dropped(response(429, Some(2))),
        Visit::new(HIGHTOUCH, false, true).dropped(response(400, None)),
    ];
    let environment = TestEnvironment::start_with_site(|_| {}, &site).await;
    visit_all(&environment, &visits, &script, &chromium).await;
    // The page may read the filter's own 503 and its Retry-After.
    let environment = TestEnvironment::start_with_site(
        |config| config["delivery"] = json!({"holdMs": 1000, "retries": 0}),
        &site,
    )
    .await;
    // One batch: separate calls could share the callout that fails.
    let visit = Visit::new(CURRENT, true, true).keen_fault(Fault::status(503));
    let visits = [Visit { unconfirmed: true, ..visit }];
    visit_all(&environment, &visits, &script, &chromium).await;
}

async fn visit_all(environment: &TestEnvironment, visits: &[Visit], script: &str, chromium: &str) {
    // Each browser uses one processor.
    for pair in visits.chunks(2) {
        let runs = pair.iter().map(async |visit| {
            (visit, environment.run(&visit.process(script, chromium), &visit.path).await)
        });
        for (visit, run) in futures_util::future::join_all(runs).await {
            assert_visit(visit, &run);
            progress(&visit.name());
        }
    }
    environment.assert_nothing_rejected();
}

#[track_caller]
fn assert_visit(visit: &Visit, run: &Run) {
    let name = visit.name();
    if visit.path.network_fault.is_some() {
        assert_eq!(run.posts, visit.posts, "{name}: {run:?}");
    } else {
        let mut statuses = run.statuses();
        statuses.sort_unstable();
        let unconfirmed = visit.unconfirmed.then_some(503);
        let expected: Vec<u16> = std::iter::repeat_n(200, visit.posts).chain(unconfirmed).collect();
        assert_eq!(statuses, expected, "{name}: {run:?}");
    }
    let settings_requests =
        run.paths("GET").iter().filter(|path| path.ends_with("/settings")).count();
    let expected_requests = usize::from(![CDN_SETTINGS, HIGHTOUCH].contains(&visit.sdk));
    assert_eq!(settings_requests, expected_requests, "{name}: {run:?}");
    if visit.drops {
        assert!(run.events.len() <= expected_events("", "").len(), "{name}: {run:?}");
        return;
    }
    assert_eq!(run.report.errors, Vec::<String>::new(), "{name}: {run:?}");
    assert_eq!(run.report.delivered, CALLS, "{name}: {run:?}");
    let page = assert_page_events(&name, run, "");
    assert!(page.ends_with("/site/page.html"), "{name}: {page}");
}

/// Asserts the events of the page's calls. Returns the address of the page, without the query.
#[track_caller]
pub fn assert_page_events(name: &str, run: &Run, query: &str) -> String {
    let mut events = run.events.clone();
    for (collection, event) in &mut events {
        let agent =
            event.as_object_mut().and_then(|event| event.remove("user_agent")).unwrap_or_default();
        assert!(
            agent.as_str().is_some_and(|agent| agent.contains("Chrome/")),
            "{name}: {collection}: {agent}"
        );
    }
    let page = events.first().map(|(_, event)| event["page_url"].clone()).unwrap_or_default();
    let page = page.as_str().unwrap_or_default();
    let page = page.strip_suffix(query).unwrap_or(page).to_owned();
    expected::assert_events(name, &events, &expected_events(&page, query));
    page
}

/// The events of the page's calls, without the browser's user agent.
fn expected_events(page: &str, query: &str) -> Vec<(&'static str, Value)> {
    let url = format!("{page}{query}");
    let path =
        page.split("://").nth(1).and_then(|rest| rest.find('/').and_then(|at| rest.get(at..)));
    let viewed = json!({
        "category": "Docs", "name": "Index", "title": "Shop", "path": path, "search": query, "referrer": "",
        "url": url, "page_url": url, "referrer_url": "", "userId": "u-1",
    });
    vec![
        (
            "Order Completed",
            json!({
                "item": "T-Shirt", "revenue": 19.99, "sizes": [1, 2], "buyer": {"name": "é😀"},
                "page_url": url, "referrer_url": "", "userId": "u-1",
            }),
        ),
        ("Viewed Docs Index Page", viewed.clone()),
        ("Viewed Docs Page", viewed),
        (
            "Viewed Main Screen",
            json!({"name": "Main", "page_url": url, "referrer_url": "", "userId": "u-1"}),
        ),
    ]
}
