//! The hostcalls and callbacks of the module, and what happens when Envoy withholds one.

use abi::{Status, Vm};
use std::collections::{BTreeMap, BTreeSet};

const TRACK: &[u8] = br#"{"event": "Purchased", "userId": "u", "properties": {"price": 19.99}}"#;

fn module() -> wasmi::Module {
    let bytes = std::fs::read(harness::wasm_path().unwrap()).unwrap();
    wasmi::Module::new(&wasmi::Engine::default(), &bytes).unwrap()
}

fn imports() -> BTreeSet<String> {
    module().imports().map(|import| import.name().to_owned()).collect()
}

fn callbacks() -> BTreeSet<String> {
    let names = module().exports().map(|export| export.name().to_owned()).collect::<Vec<_>>();
    names.into_iter().filter(|name| name.starts_with("proxy_on_")).collect()
}

fn allowed() -> BTreeSet<String> {
    let mut bootstrap = harness::envoy_yaml();
    let restriction =
        &harness::keen_edge(&mut bootstrap)["vm_config"]["capability_restriction_config"];
    restriction["allowed_capabilities"].as_object().unwrap().keys().cloned().collect()
}

/// Hostcalls that the module makes, all from filter/host.rs. The SDK imports more, for default
/// methods of its traits that nothing calls.
const HOSTCALLS: [&str; 20] = [
    "proxy_define_metric",
    "proxy_dequeue_shared_queue",
    "proxy_done",
    "proxy_enqueue_shared_queue",
    "proxy_get_buffer_bytes",
    "proxy_get_current_time_nanoseconds",
    "proxy_get_header_map_pairs",
    "proxy_get_log_level",
    "proxy_get_property",
    "proxy_get_shared_data",
    "proxy_http_call",
    "proxy_increment_metric",
    "proxy_log",
    "proxy_record_metric",
    "proxy_register_shared_queue",
    "proxy_send_local_response",
    "proxy_set_effective_context",
    "proxy_set_header_map_pairs",
    "proxy_set_shared_data",
    "proxy_set_tick_period_milliseconds",
];

/// Hostcalls that cannot be tried when the filter is configured. Without the first the VM fails
/// when a replaced configuration finishes; without the second at its first response.
const UNTRIED: [&str; 2] = ["proxy_done", "proxy_set_header_map_pairs"];

/// Functions of the SDK whose hostcall has another name.
const SDK_NAMES: [(&str, &str); 7] = [
    ("dispatch_http_call", "proxy_http_call"),
    ("get_buffer", "proxy_get_buffer_bytes"),
    ("get_current_time", "proxy_get_current_time_nanoseconds"),
    ("get_map_bytes", "proxy_get_header_map_pairs"),
    ("send_http_response", "proxy_send_local_response"),
    ("set_map_bytes", "proxy_set_header_map_pairs"),
    ("set_tick_period", "proxy_set_tick_period_milliseconds"),
];

#[test]
fn envoy_yaml_allows_the_callbacks_and_hostcalls_of_the_module_and_no_others() {
    let mut used = callbacks();
    used.extend(HOSTCALLS.map(str::to_owned));
    assert_eq!(allowed(), used);
    let imported = imports();
    for call in HOSTCALLS {
        assert!(imported.contains(call), "{call} is not imported");
    }
}

/// Compares the list above with the source.
#[test]
fn host_rs_makes_the_listed_hostcalls() {
    let source = std::fs::read_to_string(harness::root().join("src/filter/host.rs")).unwrap();
    let called: BTreeSet<String> = source
        .split("hostcalls::")
        .skip(1)
        .filter_map(|rest| rest.split_once('('))
        .filter(|(name, _)| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .map(|(name, _)| {
            let other = SDK_NAMES.iter().find(|(sdk, _)| *sdk == name);
            other.map_or(format!("proxy_{name}"), |(_, call)| (*call).to_owned())
        })
        .collect();
    assert_eq!(called, HOSTCALLS.map(str::to_owned).into());
}

/// Returns the capabilities that docs/operating.md lists, each with what happens without it.
fn documented() -> BTreeMap<String, String> {
    let page = std::fs::read_to_string(harness::root().join("docs/operating.md")).unwrap();
    let (_, table) = page.split_once("<!-- capabilities:start -->").unwrap();
    let (table, _) = table.split_once("<!-- capabilities:end -->").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{row}");
        (cells[0].trim_matches('`').to_owned(), cells[2].to_owned())
    })
    .collect()
}

#[test]
fn operating_md_lists_the_capabilities_of_envoy_yaml() {
    let documented = documented();
    assert_eq!(documented.keys().cloned().collect::<BTreeSet<_>>(), allowed());
    for (name, effect) in documented {
        let is_refused = HOSTCALLS.contains(&name.as_str()) && !UNTRIED.contains(&name.as_str());
        assert_eq!(effect == "refused", is_refused, "{name}: {effect}");
    }
}

#[test]
fn module_size_is_within_its_budget() {
    let size = std::fs::metadata(harness::wasm_path().unwrap()).unwrap().len();
    assert!(size <= 520_000, "{size} bytes");
}

#[test]
fn imports_are_capabilities_of_envoy() {
    for import in module().imports() {
        assert_eq!(import.module(), "env", "{}", import.name());
        assert!(import.name().starts_with("proxy_"), "{}", import.name());
    }
}

/// Sends requests of all kinds, in all stages of their life.
fn exercise(vm: &mut Vm) {
    for path in ["/v1/track", "/v1/batch", "/elsewhere"] {
        let id = vm.post_with(
            path,
            TRACK,
            &[("authorization", b"Basic d3JpdGVLZXk6"), ("origin", b"https://a.example")],
        );
        vm.turn();
        vm.tick(50);
        for callout in vm.callouts() {
            vm.reply(callout.token, 200, b"{\"Purchased\": [{\"success\": true}]}");
        }
        vm.turn();
        vm.close(id);
    }
    let id = vm.open();
    vm.headers(
        id,
        &[(":method", b"POST"), (":path", b"/v1/t"), ("origin", b"https://a.example")],
        false,
    );
    vm.local_reply(id, 413, b"Payload Too Large");
    vm.close(id);
    for status in [Some(401), Some(503), None] {
        let id = vm.post("/v1/track", TRACK);
        vm.turn();
        for callout in vm.callouts() {
            match status {
                Some(status) => vm.reply(callout.token, status, b"no"),
                None => vm.reset_callout(callout.token),
            }
        }
        vm.turn();
        vm.close(id);
    }
    for _ in 0..200 {
        vm.tick(50);
        vm.turn();
    }
    vm.end();
}

/// The configuration is refused, and Envoy's log names the capability. The VM never traps later.
#[test]
fn capability_withheld_refuses_the_configuration() {
    for name in HOSTCALLS {
        if UNTRIED.contains(&name) {
            continue;
        }
        let refused = Vm::builder().without(name).start().map(drop);
        assert!(refused.is_err(), "{name}");
    }
}

/// The VM traps at its very first response, whatever the request contains.
#[test]
fn capability_of_responses_withheld_traps_at_the_first_response() {
    let trapped = std::panic::catch_unwind(|| {
        let mut vm = Vm::builder().without("proxy_set_header_map_pairs").start().unwrap();
        vm.post("/v1/track", b"{");
        vm.turn();
    });
    assert!(trapped.is_err());
}

#[test]
fn callback_withheld_does_not_trap() {
    for name in callbacks() {
        // Without its creation there is no context for the other callbacks.
        if name == "proxy_on_context_create" {
            assert!(Vm::builder().without(&name).start().is_err());
            continue;
        }
        let mut vm =
            Vm::builder().without(&name).start().unwrap_or_else(|trap| panic!("{name}: {trap}"));
        exercise(&mut vm);
    }
}

/// Statuses that Envoy 1.40 returns in operation, with the hostcalls that return them.
const STATUSES: [(&str, Status); 8] = [
    ("proxy_dequeue_shared_queue", Status::Empty),
    ("proxy_dequeue_shared_queue", Status::NotFound),
    ("proxy_enqueue_shared_queue", Status::NotFound),
    ("proxy_get_buffer_bytes", Status::NotFound),
    ("proxy_get_property", Status::NotFound),
    ("proxy_get_property", Status::SerializationFailure),
    ("proxy_http_call", Status::BadArgument),
    ("proxy_http_call", Status::InternalFailure),
];

#[test]
fn hostcall_failing_in_operation_does_not_trap() {
    for (name, status) in STATUSES {
        let mut vm = Vm::builder().start().unwrap_or_else(|trap| panic!("{trap}"));
        vm.fail(name, status);
        exercise(&mut vm);
    }
    let mut vm = Vm::builder().start().unwrap_or_else(|trap| panic!("{trap}"));
    vm.fail("proxy_set_shared_data", Status::CasMismatch);
    exercise(&mut vm);
}

/// Requests after the failure are served as before it.
#[test]
fn hostcall_failing_for_a_while_serves_again_afterwards() {
    for (name, status) in STATUSES {
        let mut vm = Vm::builder().start().unwrap_or_else(|trap| panic!("{trap}"));
        vm.fail(name, status);
        let id = vm.post("/v1/track", TRACK);
        vm.turn();
        vm.confirm();
        for _ in 0..200 {
            vm.tick(50);
            vm.turn();
        }
        vm.close(id);
        vm.succeed();
        let id = vm.post("/v1/track", TRACK);
        for _ in 0..3 {
            vm.tick(50);
            vm.turn();
            vm.confirm();
        }
        vm.turn();
        assert_eq!(vm.response(id).unwrap_or_else(|| panic!("{name} {status:?}")).status, 200);
    }
}
