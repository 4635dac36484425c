//! Runs the examples of docs/mapping.md, and compares its tables with those of the tests.

#[path = "golden/cases.rs"]
mod cases;

use cases::{Case, Received};
use keen_edge::config::Config;
use keen_edge::mapping::{Client, EventBuffer, Request, map_request};
use keen_edge::segment::http::Endpoint;
use keen_edge::users::UserTransaction;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const DOCUMENT: &str = include_str!("../docs/mapping.md");
const RECEIVED: Received<'_> = Received {
    address: "203.0.113.7",
    between: ["2026-11-23T22:03:12.908Z", "2026-11-23T22:03:12.908Z"],
};
const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64)";

/// Returns the block's label and text.
fn blocks() -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in DOCUMENT.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some((_, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, Some(info)) => {
                let what = info
                    .strip_prefix("json ")
                    .unwrap_or_else(|| panic!("a block that no test reads: {line}"));
                open = Some((what.to_owned(), String::new()));
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// Returns each call, with the settings above it and the events below it.
fn examples() -> Vec<Case> {
    let mut settings = Value::Null;
    let mut examples: Vec<Case> = Vec::new();
    for (what, text) in blocks() {
        if what == "settings" {
            settings =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            settings["projectId"] = json!("5181bcd23843312d87000000");
        } else if let Some(path) = what.strip_prefix("POST ") {
            let (path, body) = (path.to_owned(), text.clone());
            let id = format!("POST {path} {}", text.trim());
            let settings = settings.clone();
            examples.push(Case {
                id,
                decision: None,
                settings,
                path,
                headers: vec![],
                body,
                events: vec![],
            });
        } else {
            let collection =
                what.strip_prefix("Keen: ").unwrap_or_else(|| panic!("what is {what:?}?"));
            if collection != "nothing" {
                let event =
                    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                examples
                    .last_mut()
                    .expect("a call before what Keen holds")
                    .events
                    .push((collection.to_owned(), event));
            }
        }
    }
    examples
}

fn mapped(example: &Case) -> Vec<(String, Value)> {
    let config = json!({"keen": {"cluster": "keen"}, "sources": {"k": example.settings}});
    let config =
        Config::parse(config.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error}"));
    let endpoint = Endpoint::parse(b"POST", example.path.as_bytes(), None);
    let Some(Endpoint::Ingest { message_type, side }) = endpoint else {
        panic!("{}", example.path)
    };
    let request = Request {
        message_type,
        side,
        header_write_key: Some("k"),
        body: example.body.as_bytes(),
        received_ms: 1_795_471_392_908,
    };
    let client = Client {
        source_address: b"203.0.113.7:4711",
        user_agent: BROWSER.as_bytes(),
        referer: b"",
    };
    let mut events = EventBuffer::default();
    let mut store = BTreeMap::new();
    let mut users = UserTransaction::new(&mut store, config.users, 0);
    map_request(&config, request, |_| client, || "made".to_owned(), &mut users, &mut events)
        .unwrap();
    events
        .events()
        .map(|keen_edge::keen::bulk::Event { collection: name, json: event, .. }| {
            (name.to_owned(), serde_json::from_slice(event).unwrap())
        })
        .collect()
}

#[test]
fn examples_of_the_document_become_their_events() {
    let examples = examples();
    for example in &examples {
        let outcome = example.judge(&mapped(example), &RECEIVED);
        outcome.unwrap_or_else(|error| panic!("docs/mapping.md: {error}"));
    }
    assert!(examples.len() >= 10, "{} examples", examples.len());
}

/// Returns the first cells of the table under a heading.
fn table(heading: &str) -> BTreeSet<String> {
    let (_, section) =
        DOCUMENT.split_once(&format!("{heading}\n")).unwrap_or_else(|| panic!("no {heading:?}"));
    let rows = section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'));
    rows.skip(2).map(|row| row.split('|').nth(1).unwrap().trim().to_owned()).collect()
}

#[test]
fn decisions_of_the_document_have_golden_cases() {
    let decided: BTreeSet<String> =
        cases::all().into_iter().filter_map(|case| case.decision).collect();
    assert_eq!(decided, table("## What keen-edge decides"));
}
