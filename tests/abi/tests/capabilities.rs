//! What the module wants of its host, and that it lives without any of it.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use abi::{Status, StreamId, Vm};
use std::collections::BTreeSet;

const TRACK: &[u8] = br#"{"event": "Purchased", "userId": "u", "properties": {"price": 19.99}}"#;

fn module() -> wasmi::Module {
    let bytes = std::fs::read(harness::wasm_path().unwrap()).unwrap();
    wasmi::Module::new(&wasmi::Engine::default(), &bytes).unwrap()
}

fn host_calls() -> BTreeSet<String> {
    module().imports().map(|import| import.name().to_owned()).collect()
}

fn callbacks() -> BTreeSet<String> {
    let names = module().exports().map(|export| export.name().to_owned()).collect::<Vec<_>>();
    names.into_iter().filter(|name| name.starts_with("proxy_on_")).collect()
}

/// A callback that `envoy.yaml` does not list never runs; a call that it lists in vain is a right that nobody needs.
#[test]
fn envoy_yaml_allows_what_the_module_uses_and_nothing_else() {
    let mut bootstrap = harness::envoy_yaml();
    let restriction =
        &harness::keen_edge(&mut bootstrap)["vm_config"]["capability_restriction_config"];
    let allowed: BTreeSet<String> =
        restriction["allowed_capabilities"].as_object().unwrap().keys().cloned().collect();
    let used: BTreeSet<String> = host_calls().union(&callbacks()).cloned().collect();
    assert_eq!(allowed, used);
}

#[test]
fn it_imports_only_what_envoy_can_restrict() {
    for import in module().imports() {
        assert_eq!(import.module(), "env", "{}", import.name());
        assert!(import.name().starts_with("proxy_"), "{}", import.name());
    }
}

/// All that happens to a request, in all kinds of requests.
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
            vm.answer(callout.token, 200, b"{\"Purchased\": [{\"success\": true}]}");
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
                Some(status) => vm.answer(callout.token, status, b"no"),
                None => vm.break_off(callout.token),
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

/// Each panics where the module traps.
#[test]
fn no_missing_capability_is_its_end() {
    for name in host_calls().union(&callbacks()) {
        // Refused configurations apart: without a configuration there is nothing to run.
        if let Ok(mut vm) = Vm::builder().without(name).start() {
            exercise(&mut vm);
        }
    }
}

#[test]
fn no_status_of_a_host_call_is_its_end() {
    let statuses = [Status::NotFound, Status::CasMismatch, Status::InternalFailure];
    for name in &host_calls() {
        for status in statuses {
            if let Ok(mut vm) = Vm::builder().fail(name, status).start() {
                exercise(&mut vm);
            }
            let mut vm = Vm::builder().start().unwrap_or_else(|trap| panic!("{trap}"));
            vm.fail(name, status);
            exercise(&mut vm);
            // Whatever failed, it serves again afterwards.
            vm.mend();
            vm.tick(50);
        }
    }
}

/// What is for logs, metrics and add-ons is not needed to deliver.
#[test]
fn the_least_that_delivers() {
    let extras = [
        "proxy_log",
        "proxy_get_property",
        "proxy_define_metric",
        "proxy_increment_metric",
        "proxy_record_metric",
        "proxy_get_shared_data",
        "proxy_set_shared_data",
        "proxy_get_current_time_nanoseconds",
        "proxy_set_tick_period_milliseconds",
        "proxy_done",
        "proxy_on_tick",
        "proxy_on_done",
        "proxy_on_response_headers",
        "proxy_on_response_body",
        "proxy_replace_header_map_value",
        "proxy_set_buffer_bytes",
    ];
    let all = extras.iter().fold(Vm::builder(), |builder, extra| builder.without(extra));
    for builder in extras.iter().map(|extra| Vm::builder().without(extra)).chain([all]) {
        let mut vm = builder.start().unwrap_or_else(|trap| panic!("{trap}"));
        // Two at once, and then one of them alone: there need be no timer for it to go.
        for callers in [2, 1, 1] {
            let streams: Vec<StreamId> =
                (0..callers).map(|_| vm.post("/v1/track", TRACK)).collect();
            vm.turn();
            (0..5).for_each(|_| vm.tick(1));
            assert_eq!(vm.confirm().len(), callers);
            vm.turn();
            for id in streams {
                assert_eq!(vm.response(id).unwrap().status, 200);
                vm.close(id);
            }
            vm.tick(50);
        }
    }
}
