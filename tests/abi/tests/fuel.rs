//! The cost of a request in the module: fuel, which does not depend on other work on the machine,
//! and hostcalls.
//!
//! `fuel.json` has the figures of a module that `make build` makes with wasm-opt. If a change is
//! worth its price, commit the new ones: `COMMIT_FUEL=1 cargo test --package abi --test fuel`

use abi::{StreamId, Usage, Vm};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Maximum ratio to the committed figure: in CI with wasm-opt, and elsewhere, where another
/// compiler may have built the module.
const TOLERANCE: f64 = 1.05;
const OTHER_TOOLS: f64 = 1.5;
/// Number of concurrent clients.
const CALLERS: usize = 64;
/// Maximum hostcalls per request when clients share callouts.
const MAX_HOSTCALLS: f64 = 9.0;

/// Sends concurrent requests as in a busy worker: one callout for the first, one for the rest. Runs
/// twice, so that one-time work is not counted.
fn cost(config: &Value, path: &str, body: &[u8], callers: usize) -> Usage {
    let mut vm = Vm::builder().config(config).start().unwrap_or_else(|trap| panic!("{trap}"));
    let headers: [(&str, &[u8]); 3] = [
        ("authorization", b"Basic d3JpdGVLZXk6"),
        ("user-agent", b"analytics-node/2.2.0"),
        ("accept", b"*/*"),
    ];
    for _ in 0..2 {
        vm.reset_usage();
        let first = vm.post_with(path, body, &headers);
        vm.turn();
        let mut streams: Vec<StreamId> =
            (1..callers).map(|_| vm.post_with(path, body, &headers)).collect();
        streams.insert(0, first);
        vm.confirm();
        vm.turn();
        vm.confirm();
        vm.turn();
        for id in streams {
            assert_eq!(vm.response(id).unwrap().status, 200);
            vm.close(id);
        }
        vm.tick(50);
    }
    vm.usage().clone()
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuel.json")
}

/// A track with many properties.
fn wide(properties: usize) -> Vec<u8> {
    let each = (0..properties).map(|at| (format!("property {at}"), json!("a value as is usual")));
    let properties: serde_json::Map<String, Value> = each.collect();
    json!({"event": "Wide", "userId": "u", "messageId": "m", "properties": properties})
        .to_string()
        .into_bytes()
}

#[test]
fn request_fuel_is_within_its_committed_bound() {
    let data = harness::root().join("benches/data");
    let body = |name: &str| fs::read(data.join(name)).unwrap();
    let mut found = json!({});
    for (name, path, body, callers) in [
        ("track", "/v1/track", body("track.json"), CALLERS),
        ("track of 40 properties", "/v1/track", wide(40), CALLERS),
        ("batch", "/v1/batch", body("batch.json"), 1),
    ] {
        let usage = cost(&harness::default_config(), path, &body, callers);
        let each = |count: u64| count as f64 / callers as f64;
        println!("{name}: {:.0} of fuel a request", each(usage.fuel));
        println!("  by callback: {:?}", usage.fuel_by_callback);
        println!("  entries into the VM {:.1}: {:?}", each(usage.entries()), usage.callbacks);
        println!("  hostcalls {:.1}: {:?}", each(usage.hostcalls()), usage.calls);
        if callers > 1 {
            assert!(
                each(usage.hostcalls()) <= MAX_HOSTCALLS,
                "{:.1} hostcalls a request",
                each(usage.hostcalls())
            );
        }
        found[name] = json!(each(usage.fuel).round());
    }
    if std::env::var_os("COMMIT_FUEL").is_some() {
        fs::write(file(), format!("{found:#}\n")).unwrap();
        return;
    }
    let optimized = Command::new("wasm-opt")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let tolerance = if ci && optimized { TOLERANCE } else { OTHER_TOOLS };
    let committed: Value = serde_json::from_str(&fs::read_to_string(file()).unwrap()).unwrap();
    for (name, found) in found.as_object().unwrap() {
        let (found, committed) = (found.as_f64().unwrap(), committed[name].as_f64().unwrap());
        println!("{name}: {:+.1} % of what is committed", (found / committed - 1.0) * 100.0);
        assert!(
            found <= committed * tolerance,
            "{name} takes {found} of fuel, {committed} are committed: make it cheaper, or commit what it is worth"
        );
    }
}

/// Returns a configuration of sources that each have a project of their own.
fn config_of_projects(projects: usize) -> Value {
    let mut config = harness::default_config();
    for number in 1..projects {
        let mut source = config["sources"]["writeKey"].clone();
        source["projectId"] = json!(format!("{number:024x}"));
        config["sources"][format!("key{number}")] = source;
    }
    config
}

#[test]
fn cost_of_a_configuration_grows_with_its_size() {
    let fuel = |projects| {
        let vm = Vm::builder().config(&config_of_projects(projects)).start();
        vm.unwrap_or_else(|trap| panic!("{trap}")).start_usage().fuel as f64
    };
    let (some, many) = (fuel(500), fuel(1_000));
    println!("1,000 sources: {:.2} times the fuel of 500", many / some);
    assert!(many <= some * 2.5, "500 sources take {some} of fuel, 1,000 take {many}");
}

#[test]
fn projects_without_events_do_not_add_to_the_cost_of_a_request() {
    let fuel = |projects| {
        let config = config_of_projects(projects);
        cost(&config, "/v1/track", br#"{"event":"e","userId":"u"}"#, 1).fuel as f64
    };
    let (one, many) = (fuel(1), fuel(300));
    println!("300 projects: {:+.1} %", (many / one - 1.0) * 100.0);
    assert!(many <= one * 1.2, "{one} of fuel with one project, {many} with 300");
}
