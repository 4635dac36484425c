//! The SDKs that servers use, each in a sdk_process of its own.

use super::expected;
use clients::{Program, home};
use serde_json::Value;
use std::path::Path;

/// An SDK, and what it does.
pub struct Sdk {
    pub sdk_process: Program,
    /// Its calls as they must stand in Keen.
    pub events: Vec<(&'static str, Value)>,
    /// POSTs for its calls, where nothing goes wrong.
    pub posts: usize,
    /// What it does about a failure.
    pub again: Again,
}

/// How an SDK sends again what failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It tells its caller.
    Never,
    /// A few times in less than a second.
    Briefly,
    /// For as long as a full queue may last.
    Patiently,
}

impl Sdk {
    fn new(name: &str, command: &[&str], again: Again) -> Self {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        let sdk_process = Program { name: name.to_owned(), command, environment: Vec::new() };
        Self { sdk_process, events: expected::events(), posts: 1, again }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

pub async fn node() -> Vec<Sdk> {
    let home = home("node").await;
    let sdk = |package: &str, script: &str, again| {
        Sdk::new(package, &["node", &text(&home.join(script)), package], again)
    };
    // These two send the first call alone, at once.
    let legacy = sdk("analytics-node-legacy-6.2.0", "analytics-node-legacy.mjs", Again::Briefly);
    let rudder = sdk("@rudderstack/rudder-sdk-node", "rudder-sdk-node.mjs", Again::Briefly);
    vec![
        sdk("analytics-node-3.1.0", "analytics-node.mjs", Again::Patiently),
        sdk("analytics-node-2.1.3", "analytics-node.mjs", Again::Briefly),
        sdk("analytics-node-1.0.0", "analytics-node.mjs", Again::Briefly),
        Sdk { posts: 2, ..legacy },
        Sdk { posts: 2, ..rudder },
    ]
}

pub async fn python() -> Vec<Sdk> {
    let home = home("python").await;
    let python = text(&home.join("venv/bin/python"));
    let script = text(&harness::root().join("tests/clients/sdk/python/analytics_python.py"));
    let sdk = |requirement: &str, module: &str, settings: &[&str]| {
        let name = [&[requirement], settings].concat().join(" ");
        let mut sdk =
            Sdk::new(&name, &[&[&python, &script, module], settings].concat(), Again::Patiently);
        sdk.sdk_process.environment.push(("PYTHONPATH".to_owned(), text(&home.join(requirement))));
        sdk
    };
    vec![
        sdk("segment-analytics-python==2.4.0", "segment.analytics", &[]),
        sdk("segment-analytics-python==2.4.0", "segment.analytics", &["gzip=true"]),
        sdk("segment-analytics-python==2.3.6", "segment.analytics", &[]),
        sdk("segment-analytics-python==2.2.3", "segment.analytics", &[]),
        sdk("analytics-python==1.4.post1", "analytics", &[]),
    ]
}

pub async fn go() -> Vec<Sdk> {
    let sdk = Sdk::new(
        "analytics-go v3.3.0",
        &[&text(&home("go").await.join("clients"))],
        Again::Patiently,
    );
    // Its pages have no category.
    vec![Sdk { events: expected::without_category(), ..sdk }]
}

pub async fn java() -> Vec<Sdk> {
    let home = home("java").await;
    let path = format!("{}:{}/*", text(&home.join("classes")), text(&home.join("jars")));
    vec![Sdk::new("analytics-java 3.5.4", &["java", "-cp", &path, "Clients"], Again::Patiently)]
}

pub async fn rust() -> Vec<Sdk> {
    let sdk = Sdk::new(
        "crate segment 0.2.6",
        &[&text(&home("rust").await.join("segment-client"))],
        Again::Never,
    );
    vec![Sdk { posts: expected::CALLS, ..sdk }]
}
