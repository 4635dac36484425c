//! The built filter, callback by callback.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use abi::{Action, StreamId, Vm};
use serde_json::{Value, json};

const TRACK: &[u8] =
    br#"{"event": "Purchased", "userId": "u", "messageId": "m", "properties": {"price": 19.99}}"#;

fn vm() -> Vm {
    Vm::builder().start().unwrap_or_else(|trap| panic!("{trap}"))
}

fn status(vm: &Vm, id: StreamId) -> u32 {
    vm.response(id).unwrap_or_else(|| panic!("stream {id} is not answered")).status
}

#[test]
fn a_track_from_end_to_end() {
    let mut vm = vm();
    let id = vm.post("/v1/track", TRACK);
    assert_eq!(vm.response(id), None, "nothing is acknowledged before Keen has it");
    vm.turn();
    let callouts = vm.callouts();
    assert_eq!(callouts.len(), 1);
    assert_eq!(callouts[0].cluster, "keen");
    assert_eq!(vm.response(id), None);
    let events = vm.confirm();
    vm.turn();
    let response = vm.response(id).unwrap();
    assert_eq!(
        (response.status, response.body.as_slice()),
        (200, b"{\n  \"success\": true\n}".as_slice())
    );
    assert_eq!(response.header("content-type").as_deref(), Some("application/json"));
    assert_eq!(events.len(), 1);
    assert_eq!(
        (events[0].collection.as_str(), &events[0].event["price"]),
        ("Purchased", &json!(19.99))
    );
    assert_eq!(events[0].event["keen"]["uniqueness_token"], "m");
    vm.close(id);
    vm.tick(50);
    assert_eq!(vm.metric("keen_edge_events_delivered"), 1);
    vm.tick(50);
    assert_eq!(vm.tick_period(), 0, "an idle filter is not woken");
}

#[test]
fn a_struct_and_json_configure_alike() {
    let config = harness::default_config();
    for builder in [Vm::builder().config(&config), Vm::builder().raw_config(config.to_string())] {
        let mut vm = builder.start().unwrap();
        let id = vm.post("/v1/t", TRACK);
        vm.turn();
        assert_eq!(vm.confirm().len(), 1);
        assert_eq!(status(&vm, id), 200);
    }
    // As deep as it may be, and one level more: each is an answer, and no trap.
    for levels in [127, 128, 100_000] {
        let deep = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let refused = Vm::builder().raw_config(deep).start().map(drop).unwrap_err();
        assert!(refused.to_string().contains("configuration refused"), "{levels}: {refused}");
    }
    let refused = Vm::builder().config(&json!({"keen": {}})).start().map(drop).unwrap_err();
    assert!(refused.to_string().contains("/keen/cluster"), "{refused}");
}

#[test]
fn callers_share_calls() {
    let mut vm = vm();
    let first = vm.post("/v1/track", TRACK);
    vm.turn();
    let rest: Vec<StreamId> = (0..200).map(|_| vm.post("/v1/track", TRACK)).collect();
    vm.turn();
    assert_eq!(vm.callouts().len(), 1, "what comes while a call is under way gathers");
    vm.confirm();
    vm.turn();
    assert_eq!(status(&vm, first), 200);
    assert_eq!(vm.callouts().len(), 1);
    assert_eq!(vm.confirm().len(), 200);
    vm.turn();
    for id in rest {
        assert_eq!(status(&vm, id), 200);
    }
}

#[test]
fn callers_who_were_answered_leave_together_again() {
    let mut vm = vm();
    let first = [vm.post("/v1/track", TRACK), vm.post("/v1/track", TRACK)];
    vm.turn();
    assert_eq!(vm.confirm().len(), 2);
    vm.turn();
    first.into_iter().for_each(|id| vm.close(id));
    vm.tick(50);
    let first = [vm.post("/v1/track", TRACK), vm.post("/v1/track", TRACK)];
    vm.turn();
    assert_eq!(vm.confirm().len(), 2);
    vm.turn();
    first.into_iter().for_each(|id| vm.close(id));
    // One of the two has sent again, and the other follows.
    vm.post("/v1/track", TRACK);
    vm.turn();
    assert_eq!((vm.callouts().len(), vm.tick_period()), (0, 1));
    vm.post("/v1/track", TRACK);
    vm.turn();
    assert_eq!(vm.confirm().len(), 2);
    vm.turn();
    vm.tick(1);
    assert_eq!(vm.tick_period(), 0, "nothing is there to leave");
    // The other does not: nobody waits for it longer than a moment.
    let last = vm.post("/v1/track", TRACK);
    vm.turn();
    assert_eq!((vm.callouts().len(), vm.tick_period()), (0, 1));
    for _ in 0..4 {
        vm.tick(1);
    }
    assert_eq!(vm.confirm().len(), 1);
    vm.turn();
    assert_eq!(status(&vm, last), 200);
}

#[test]
fn a_batch_is_answered_when_its_last_event_is_in_keen() {
    let mut config = harness::default_config();
    config["delivery"]["maxBatchEvents"] = json!(3);
    let mut vm = Vm::builder().config(&config).start().unwrap();
    let messages: Vec<Value> = (0..10)
        .map(|i| json!({"type": "track", "event": format!("e{}", i % 4), "messageId": i}))
        .collect();
    let id = vm.post("/v1/batch", json!({"batch": messages}).to_string().as_bytes());
    let mut recorded = 0;
    while recorded < 10 {
        assert_eq!(vm.response(id), None);
        vm.turn();
        recorded += vm.confirm().len();
    }
    vm.turn();
    assert_eq!(status(&vm, id), 200);
}

/// Bodies come in any pieces, and end with data, with nothing, or with trailers.
#[test]
fn every_way_a_body_comes() {
    for pieces in [1, 2, 7, TRACK.len()] {
        for ending in ["data", "empty", "trailers"] {
            let mut vm = vm();
            let id = vm.open();
            let head: [(&str, &[u8]); 3] = [
                (":method", b"POST"),
                (":path", b"/v1/track"),
                ("authorization", b"Basic d3JpdGVLZXk6"),
            ];
            assert_eq!(vm.headers(id, &head, false), Action::Pause);
            let size = TRACK.len().div_ceil(pieces);
            let count = TRACK.chunks(size).len();
            for (i, piece) in TRACK.chunks(size).enumerate() {
                assert_eq!(vm.body(id, piece, ending == "data" && i + 1 == count), Action::Pause);
            }
            match ending {
                "empty" => assert_eq!(vm.body(id, b"", true), Action::Pause),
                "trailers" => assert_eq!(vm.trailers(id, &[("x", b"y")]), Action::Pause),
                _ => {}
            }
            vm.turn();
            assert_eq!(vm.confirm().len(), 1, "{pieces} {ending}");
            vm.turn();
            assert_eq!(status(&vm, id), 200);
        }
    }
}

#[test]
fn what_is_not_segments_passes() {
    let mut vm = vm();
    let id = vm.open();
    assert_eq!(
        vm.headers(id, &[(":method", b"POST"), (":path", b"/other")], false),
        Action::Continue
    );
    assert_eq!(vm.body(id, b"x", true), Action::Continue);
    vm.turn();
    assert_eq!(vm.response(id), None);
    let passed = vm.local_reply(id, 404, b"Not found\n");
    assert_eq!((passed.status, passed.body.as_slice()), (404, b"Not found\n".as_slice()));
}

#[test]
fn headers_may_be_any_bytes() {
    let mut vm = vm();
    let bytes: Vec<u8> = (1..=255).collect();
    let headers: [(&str, &[u8]); 3] =
        [("user-agent", &bytes), ("referer", &bytes), ("origin", b"\xff\xfe")];
    let id = vm.post_with("/v1/track", br#"{"event":"e","writeKey":"writeKey"}"#, &headers);
    vm.turn();
    assert_eq!(vm.confirm().len(), 1);
    vm.turn();
    assert_eq!(status(&vm, id), 200);
    let id = vm.open();
    assert_eq!(
        vm.headers(id, &[(":method", b"POST"), (":path", b"/v1/\xfftrack")], true),
        Action::Continue
    );
    assert_eq!(vm.headers(id, &[], true), Action::Continue);
}

#[test]
fn envoys_own_413_becomes_segments_400() {
    let mut vm = vm();
    let id = vm.open();
    let head: [(&str, &[u8]); 3] =
        [(":method", b"POST"), (":path", b"/v1/track"), ("origin", b"https://shop.example")];
    vm.headers(id, &head, false);
    vm.body(id, b"{", false);
    let reply = vm.local_reply(id, 413, b"Payload Too Large");
    assert_eq!(reply.status, 400);
    assert_eq!(
        reply.header("access-control-allow-origin").as_deref(),
        Some("https://shop.example")
    );
    assert!(String::from_utf8_lossy(&reply.body).contains("Exceed payload limit"), "{reply:?}");
    vm.close(id);
}

#[test]
fn events_of_callers_who_left_still_go() {
    let mut vm = vm();
    let (left, stays) = (vm.post("/v1/track", TRACK), vm.post("/v1/track", TRACK));
    vm.close(left);
    vm.turn();
    assert_eq!(vm.confirm().len(), 2);
    vm.turn();
    assert_eq!(status(&vm, stays), 200);
    // While the call is under way, too.
    let left = vm.post("/v1/track", TRACK);
    vm.turn();
    vm.close(left);
    assert_eq!(vm.confirm().len(), 1);
    vm.turn();
    vm.close(stays);
    vm.tick(50);
    vm.tick(50);
    assert_eq!(vm.tick_period(), 0, "nothing is left behind");
}

#[test]
fn callers_who_come_together_keep_their_own_addresses() {
    const BROWSER: &[(&str, &[u8])] =
        &[("authorization", b"Basic d3JpdGVLZXk6"), ("user-agent", b"Mozilla/5.0")];
    let mut vm = vm();
    let mut events = Vec::new();
    // One of them leaves before the root context has had a turn: its address goes with it.
    for leaves in [None, Some(1)] {
        let streams: Vec<StreamId> = (1..=3)
            .map(|caller| {
                let id = vm.post_with(
                    "/v1/track",
                    format!(r#"{{"event":"e{caller}"}}"#).as_bytes(),
                    BROWSER,
                );
                vm.set_address(id, &format!("198.51.100.{caller}:4711"));
                id
            })
            .collect();
        if let Some(at) = leaves {
            vm.close(streams[at]);
        }
        vm.turn();
        events.extend(vm.confirm());
        vm.turn();
        for (at, id) in streams.into_iter().enumerate().filter(|(at, _)| Some(*at) != leaves) {
            assert_eq!(status(&vm, id), 200, "caller {at}");
            vm.close(id);
        }
    }
    assert_eq!(events.len(), 6);
    for event in events {
        let caller = event.collection.trim_start_matches('e');
        assert_eq!(event.event["ip_address"], format!("198.51.100.{caller}"));
    }
}

#[test]
fn many_callers_and_large_bodies_wait_for_no_turn() {
    let mut vm = vm();
    let refused = vm.post("/v1/track", b"{");
    let streams: Vec<StreamId> = (0..200).map(|_| vm.post("/v1/track", TRACK)).collect();
    let events =
        vec![String::from_utf8(TRACK.to_vec()).unwrap().replace('{', r#"{"type":"track","#); 3_000];
    let large = vm.post("/v1/batch", format!(r#"{{"batch":[{}]}}"#, events.join(",")).as_bytes());
    let mut sent = 0;
    while vm.response(large).is_none() {
        vm.turn();
        sent += vm.confirm().len();
    }
    vm.turn();
    assert_eq!(sent, 3_200);
    assert_eq!(status(&vm, refused), 400);
    assert!(streams.iter().all(|id| status(&vm, *id) == 200));
}

#[test]
fn an_image_is_its_own_callers_whoever_is_answered_with_it() {
    let mut vm = vm();
    // One more, and none waits any longer.
    let refused: Vec<StreamId> = (0..63).map(|_| vm.post("/v1/track", b"{")).collect();
    let image = vm.open();
    let path = b"/v1/pixel/track?data=eyJldmVudCI6ImUiLCJ3cml0ZUtleSI6IndyaXRlS2V5In0";
    vm.headers(image, &[(":path", path), (":method", b"GET")], true);
    assert_eq!(vm.response(image).unwrap().header("content-type").as_deref(), Some("image/gif"));
    assert!(refused.iter().all(|id| status(&vm, *id) == 400));
    vm.turn();
    assert_eq!(vm.confirm()[0].collection, "e");
}

#[test]
fn a_body_that_comes_long_after_its_headers_waits_no_longer_than_others() {
    let mut vm = vm();
    let id = vm.open();
    let head: [(&str, &[u8]); 3] =
        [(":path", b"/v1/track"), (":method", b"POST"), ("authorization", b"Basic d3JpdGVLZXk6")];
    assert_eq!(vm.headers(id, &head, false), Action::Pause);
    vm.tick(50);
    vm.tick(50);
    assert_eq!(vm.tick_period(), 0, "there is nothing to wait for yet");
    vm.body(id, TRACK, true);
    vm.turn();
    for _ in 0..140 {
        vm.tick(50);
        vm.turn();
    }
    assert_eq!(status(&vm, id), 503);
}

#[test]
fn calls_that_fail_are_made_again_with_the_same_tokens() {
    let mut vm = vm();
    let id = vm.post("/v1/track", br#"{"event":"e"}"#);
    vm.turn();
    let first = vm.callouts().remove(0);
    for end in [Some(503), Some(429), None] {
        let token = vm.callouts()[0].token;
        match end {
            Some(status) => vm.answer(token, status, b"no"),
            None => vm.break_off(token),
        }
        vm.turn();
        assert_eq!(vm.response(id), None);
        while vm.callouts().is_empty() {
            vm.tick(50);
        }
        assert_eq!(vm.callouts()[0].body, first.body);
    }
    vm.confirm();
    vm.turn();
    assert_eq!(status(&vm, id), 200);
}

#[test]
fn nobody_waits_longer_than_hold_ms() {
    let mut vm = vm();
    let id = vm.post("/v1/track", TRACK);
    vm.turn();
    let mut waited = 0;
    while vm.response(id).is_none() {
        vm.tick(50);
        vm.turn();
        waited += 50;
        assert!(waited <= 7000, "still waiting after {waited} ms");
    }
    assert_eq!(status(&vm, id), 503);
    assert!(vm.response(id).unwrap().header("retry-after").is_some());
    // Keen's answer comes too late, and hurts nobody.
    vm.close(id);
    vm.confirm();
    vm.turn();
}

#[test]
fn a_root_context_ends_when_its_events_are_in_keen() {
    let mut vm = vm();
    let id = vm.post("/v1/track", TRACK);
    vm.turn();
    assert!(!vm.end());
    vm.confirm();
    vm.turn();
    vm.tick(50);
    assert!(vm.ended());
    assert_eq!(status(&vm, id), 200);
    assert!(self::vm().end(), "an idle one ends at once");
}

/// What a module of ours may be given, in an order that no host promises.
#[test]
fn a_root_context_ends_though_its_last_act_is_an_answer() {
    let mut vm = vm();
    let id = vm.post("/v1/track", b"{");
    assert!(!vm.end(), "it owes an answer");
    vm.tick(50);
    assert_eq!(status(&vm, id), 400);
    assert!(vm.ended());
}

#[test]
fn callbacks_in_any_order_do_not_trap() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut vm = vm();
    let mut streams: Vec<StreamId> = Vec::new();
    let head: [(&str, &[u8]); 3] =
        [(":method", b"POST"), (":path", b"/v1/track"), ("authorization", b"Basic d3JpdGVLZXk6")];
    for _ in 0..3000 {
        let any = streams.get(usize::try_from(random(8)).unwrap()).copied();
        match (random(12), any) {
            (0 | 1, _) if streams.len() < 8 => streams.push(vm.open()),
            (2 | 3, Some(id)) => drop(vm.headers(id, &head, random(4) == 0)),
            (4, Some(id)) => drop(vm.body(id, TRACK, random(2) == 0)),
            (5, Some(id)) => drop(vm.trailers(id, &[])),
            (6, Some(id)) => drop(vm.local_reply(id, 408, b"request timeout")),
            (7, _) => vm.tick(random(100)),
            (8, _) => vm.turn(),
            (9, _) => drop(vm.confirm()),
            (10, _) => {
                if let Some(callout) = vm.callouts().first() {
                    match random(3) {
                        0 => vm.break_off(callout.token),
                        1 => vm.answer(
                            callout.token,
                            400,
                            b"{\"error_code\": \"InvalidBatchError\"}",
                        ),
                        _ => vm.answer(callout.token, 503, b""),
                    }
                }
            }
            (11, Some(id)) => {
                vm.close(id);
                streams.retain(|stream| *stream != id);
            }
            _ => {}
        }
    }
}

/// Ten thousand callers with headers as large as Envoy lets through.
#[test]
fn large_headers_of_many_streams_take_little_memory() {
    let mut vm = vm();
    let large = vec![b'x'; 54_000];
    let before = vm.memory();
    for header in ["origin", "referer", "authorization", "cookie", "content-encoding"] {
        let streams: Vec<StreamId> = (0..2_000)
            .map(|_| {
                let id = vm.open();
                let head: [(&str, &[u8]); 3] =
                    [(":method", b"POST"), (":path", b"/v1/track"), (header, &large)];
                vm.headers(id, &head, false);
                id
            })
            .collect();
        for id in streams {
            vm.body(id, TRACK, true);
        }
    }
    let growth = vm.memory() - before;
    assert!(growth < 64 * 1024 * 1024, "{growth} bytes for 10,000 streams");
}

/// Over the bound a new request is answered at once, and those that are held go on.
#[test]
fn requests_over_the_bound_of_held_bytes_get_429() {
    let mut vm = vm();
    let part = vec![b' '; 1_000_000];
    let open = |vm: &mut Vm| {
        let id = vm.open();
        let head: [(&str, &[u8]); 3] = [
            (":method", b"POST"),
            (":path", b"/v1/track"),
            ("authorization", b"Basic d3JpdGVLZXk6"),
        ];
        vm.headers(id, &head, false);
        id
    };
    let mut held = Vec::new();
    let rejected = loop {
        let id = open(&mut vm);
        if vm.response(id).is_some() {
            break id;
        }
        vm.body(id, &part, false);
        held.push(id);
        assert!(held.len() < 300, "no bound");
    };
    assert!(held.len() > 200, "{} requests", held.len());
    assert_eq!(status(&vm, rejected), 429);
    vm.close(rejected);
    for id in held {
        vm.body(id, b"{}", true);
        vm.turn();
        vm.close(id);
    }
    let id = open(&mut vm);
    assert_eq!(vm.response(id), None, "there is room again");
    vm.tick(50);
    assert_eq!(vm.metric("keen_edge_requests_rejected.reason.overloaded"), 1);
}
