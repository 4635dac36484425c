//! The SDKs of servers and of the JVM, each in a process of its own.

use super::expected;
use clients::SdkProcess;
use serde_json::Value;
use std::path::Path;

/// An SDK and what it does.
pub struct Sdk {
    pub process: SdkProcess,
    /// Its row in the table of `docs/clients.md`.
    pub row: &'static str,
    /// The expected events in Keen.
    pub events: Vec<(&'static str, Value)>,
    /// The number of calls that it makes.
    pub calls: usize,
    /// The number of POSTs for its calls without a fault.
    pub posts: usize,
    pub reactions: Reactions,
    /// Whether it retries for longer than a queue is full. The others stop within a second.
    pub is_patient: bool,
}

/// What an SDK does when a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    Retries,
    /// It drops the messages, and reports that to its application.
    Drops,
}

use Reaction::{Drops, Retries};

/// The reactions to each kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reactions {
    pub too_many_requests: Reaction,
    pub unavailable: Reaction,
    pub connection_error: Reaction,
    pub bad_request: Reaction,
}

impl Reactions {
    /// The reactions of nearly all SDKs: a 400 is final, everything else is retried.
    pub const USUAL: Self = Self {
        too_many_requests: Retries,
        unavailable: Retries,
        connection_error: Retries,
        bad_request: Drops,
    };
    pub const NEVER_RETRIES: Self = Self {
        too_many_requests: Drops,
        unavailable: Drops,
        connection_error: Drops,
        bad_request: Drops,
    };
    pub const ALWAYS_RETRIES: Self = Self { bad_request: Retries, ..Self::USUAL };
}

impl Sdk {
    fn new(name: &str, row: &'static str, command: &[&str]) -> Self {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        Self {
            process: SdkProcess { name: name.to_owned(), command, environment: Vec::new() },
            row,
            events: expected::events(),
            calls: expected::CALLS,
            posts: 1,
            reactions: Reactions::USUAL,
            is_patient: true,
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

pub fn node(home: &Path) -> Vec<Sdk> {
    let sdk = |package: &str, row, script: &str| {
        let script = text(&home.join(script));
        Sdk { is_patient: false, ..Sdk::new(package, row, &["node", &script, package]) }
    };
    let current =
        sdk("analytics-node-3.1.0", "`@segment/analytics-node` 3.1.0", "analytics-node.mjs");
    let legacy =
        sdk("analytics-node-legacy-6.2.0", "`analytics-node` 6.2.0", "analytics-node-legacy.mjs");
    let oldest =
        sdk("analytics-node-legacy-2.4.1", "`analytics-node` 2.4.1", "analytics-node-legacy.mjs");
    let rudder = sdk(
        "@rudderstack/rudder-sdk-node",
        "`@rudderstack/rudder-sdk-node` 3.0.13",
        "rudder-sdk-node.mjs",
    );
    let too_many_requests = Drops;
    vec![
        Sdk { is_patient: true, ..current },
        sdk("analytics-node-2.1.3", "`@segment/analytics-node` 2.1.3", "analytics-node.mjs"),
        sdk("analytics-node-1.0.0", "`@segment/analytics-node` 1.0.0", "analytics-node.mjs"),
        // These two send the first call alone and at once.
        Sdk { posts: 2, ..legacy },
        Sdk { posts: 2, ..rudder },
        Sdk { reactions: Reactions { too_many_requests, ..Reactions::USUAL }, ..oldest },
        sdk(
            "@customerio/cdp-analytics-node",
            "`@customerio/cdp-analytics-node` 0.5.9",
            "customerio-node.mjs",
        ),
    ]
}

pub fn python(home: &Path) -> Vec<Sdk> {
    let python = text(&home.join("venv/bin/python"));
    let sdk = |requirement: &str, row, script: &str, module: &str, settings: &[&str]| {
        let name = [&[requirement], settings].concat().join(" ");
        let script = text(&harness::root().join("tests/clients/sdk/python").join(script));
        let command = [&[&*python, &*script, module], settings].concat();
        let mut sdk = Sdk::new(&name, row, &command);
        sdk.process.environment.push(("PYTHONPATH".to_owned(), text(&home.join(requirement))));
        sdk
    };
    let segment = |requirement: &str, row, module, settings: &[&str]| {
        sdk(requirement, row, "analytics_python.py", module, settings)
    };
    let current = "`segment-analytics-python` 2.4.0";
    vec![
        segment("segment-analytics-python==2.4.0", current, "segment.analytics", &[]),
        segment("segment-analytics-python==2.4.0", current, "segment.analytics", &["gzip=true"]),
        segment(
            "segment-analytics-python==2.3.6",
            "`segment-analytics-python` 2.3.6",
            "segment.analytics",
            &[],
        ),
        segment(
            "segment-analytics-python==2.2.3",
            "`segment-analytics-python` 2.2.3",
            "segment.analytics",
            &[],
        ),
        segment("analytics-python==1.4.post1", "`analytics-python` 1.4.post1", "analytics", &[]),
        sdk(
            "rudder-sdk-python==2.1.9",
            "`rudder-sdk-python` 2.1.9",
            "rudder_python.py",
            "rudderstack.analytics",
            &[],
        ),
        segment(
            "customerio-cdp-analytics==1.1.0",
            "`customerio-cdp-analytics` 1.1.0",
            "customerio.analytics",
            &[],
        ),
    ]
}

pub fn go(home: &Path) -> Vec<Sdk> {
    let sdk = |name: &str, row, program: &str| {
        let program = text(&home.join(program));
        let sdk = Sdk::new(name, row, &[&program]);
        // Its page calls have no category.
        let events = expected::without_category();
        Sdk { events, reactions: Reactions::ALWAYS_RETRIES, ..sdk }
    };
    vec![
        sdk("analytics-go v3.3.0", "`analytics-go/v3` 3.3.0", "clients"),
        sdk("RudderStack's Go SDK 4.2.1", "RudderStack for Go 4.2.1", "rudder"),
    ]
}

pub fn java(home: &Path) -> Vec<Sdk> {
    let sdk = |name: &str, row, directory: &str, class: &str| {
        let home = home.join(directory);
        let path = format!("{}:{}/*", text(&home.join("classes")), text(&home.join("jars")));
        Sdk::new(name, row, &["java", "-cp", &path, class])
    };
    vec![
        sdk("analytics-java 3.5.4", "`analytics-java` 3.5.4", "segment", "SegmentClient"),
        sdk("RudderStack's Java SDK 3.1.2", "RudderStack for Java 3.1.2", "rudder", "RudderClient"),
    ]
}

/// Returns the Kotlin SDK, run with these arguments of the program.
pub fn kotlin_with(home: &Path, name: &str, arguments: &[&str]) -> Sdk {
    let path = format!("{}:{}/*", text(&home.join("clients.jar")), text(&home.join("jars")));
    let command = [&["java", "-cp", &path, "KotlinClientKt"], arguments].concat();
    let mut sdk = Sdk::new(name, "`analytics-kotlin` 1.27.0", &command);
    // It has no page call.
    sdk.events.retain(|(collection, _)| !collection.ends_with("Page"));
    sdk.calls -= 1;
    sdk
}

pub fn kotlin(home: &Path) -> Vec<Sdk> {
    vec![
        kotlin_with(home, "analytics-kotlin 1.27.0", &["/v1"]),
        kotlin_with(home, "analytics-kotlin 1.27.0 without /v1", &[""]),
    ]
}

pub fn rust(home: &Path) -> Vec<Sdk> {
    let program = text(&home.join("segment-client"));
    let sdk = Sdk::new("crate segment 0.2.6", "`segment` (Rust) 0.2.6", &[&program]);
    vec![Sdk { posts: expected::CALLS, reactions: Reactions::NEVER_RETRIES, ..sdk }]
}

/// Returns all SDKs of [`super::suite`], without an installation.
pub fn all() -> Vec<Sdk> {
    let home = Path::new("");
    [node(home), python(home), go(home), java(home), kotlin(home), rust(home)]
        .into_iter()
        .flatten()
        .collect()
}
