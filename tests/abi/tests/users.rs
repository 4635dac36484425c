//! The cost of `rememberUsers`: hostcalls per event, and fuel.

use abi::Vm;
use serde_json::{Value, json};

const USERS: usize = 2_000;

fn vm(source: &Value) -> Vm {
    let mut config = harness::default_config();
    config["sources"]["writeKey"]
        .as_object_mut()
        .unwrap()
        .extend(source.as_object().unwrap().clone());
    Vm::builder().config(&config).start().unwrap_or_else(|trap| panic!("{trap}"))
}

/// Sends a request, and lets Keen confirm its events.
fn post(vm: &mut Vm, path: &str, body: &Value) {
    let id = vm.post_with(
        path,
        body.to_string().as_bytes(),
        &[("authorization", b"Basic d3JpdGVLZXk6")],
    );
    vm.turn();
    vm.confirm();
    vm.turn();
    assert_eq!(vm.response(id).unwrap().status, 200);
    vm.close(id);
}

fn identify(user: usize) -> Value {
    let traits = json!({"email": "jane.doe@example.com", "plan": "enterprise", "address": {"city": "Berlin"}});
    json!({"type": "identify", "userId": format!("user-{user}"), "anonymousId": format!("visitor-{user}"), "traits": traits})
}

fn track(user: usize) -> Value {
    json!({"type": "track", "event": "Purchased", "userId": format!("user-{user}"), "properties": {"price": 19.99}})
}

fn batch(messages: impl Iterator<Item = Value>) -> Value {
    json!({"batch": messages.collect::<Vec<_>>()})
}

/// Returns the reads and writes of shared data and the fuel of `act`.
fn cost(vm: &mut Vm, act: impl FnOnce(&mut Vm)) -> (u64, u64, u64) {
    vm.reset_usage();
    act(vm);
    let calls = |name| vm.usage().calls.get(name).copied().unwrap_or(0);
    (calls("proxy_get_shared_data"), calls("proxy_set_shared_data"), vm.usage().fuel)
}

#[test]
fn source_without_users_reads_no_shared_data() {
    let mut vm = vm(&json!({}));
    // The first request activates the configuration.
    post(&mut vm, "/v1/track", &track(0));
    let (reads, writes, _) = cost(&mut vm, |vm| {
        post(vm, "/v1/identify", &identify(1));
        post(vm, "/v1/track", &track(1));
        post(vm, "/v1/batch", &batch((0..100).map(track)));
    });
    assert_eq!((reads, writes), (0, 0));
}

#[test]
fn event_reads_one_shard_and_requests_share_it() {
    let mut vm = vm(&json!({"rememberUsers": true}));
    for from in (0..USERS).step_by(200) {
        post(&mut vm, "/v1/batch", &batch((from..from + 200).map(identify)));
    }
    let one = cost(&mut vm, |vm| post(vm, "/v1/track", &track(7)));
    assert_eq!((one.0, one.1), (1, 0));
    let stranger = cost(&mut vm, |vm| post(vm, "/v1/track", &track(USERS + 1)));
    assert_eq!((stranger.0, stranger.1), (1, 0));
    let visitor = json!({"event": "Purchased", "anonymousId": "visitor-7"});
    let two = cost(&mut vm, |vm| post(vm, "/v1/track", &visitor));
    assert_eq!((two.0, two.1), (2, 0), "a visitor leads to a user");
    let same = cost(&mut vm, |vm| post(vm, "/v1/batch", &batch((0..100).map(|_| track(7)))));
    assert_eq!((same.0, same.1), (1, 0));
    let many = cost(&mut vm, |vm| post(vm, "/v1/batch", &batch((0..100).map(track))));
    assert!(many.0 <= 100 && many.1 == 0, "{many:?}");
    // The time at which a user was last seen is written once a minute.
    vm.advance(61_000);
    let later = cost(&mut vm, |vm| post(vm, "/v1/track", &track(7)));
    assert_eq!((later.0, later.1), (1, 1));
    // For a known user, both shards are read and written, and nothing else if nothing has grown.
    let known = cost(&mut vm, |vm| post(vm, "/v1/identify", &identify(7)));
    assert_eq!((known.0, known.1), (2, 2));
    // A new user is entered in the usage index.
    let new = cost(&mut vm, |vm| post(vm, "/v1/identify", &identify(USERS + 1)));
    assert_eq!((new.0, new.1), (3, 3));

    let mut without = self::vm(&json!({}));
    let (_, _, plain) = cost(&mut without, |vm| post(vm, "/v1/batch", &batch((0..100).map(track))));
    println!(
        "instructions an event of 100: {} without, {} with its user",
        plain / 100,
        many.2 / 100
    );
    assert!(many.2 < plain * 4, "{} instructions without, {} with users", plain, many.2);
}
