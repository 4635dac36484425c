//! The built filter, callback by callback.

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
fn track_delivered_is_answered_200() {
    let mut vm = vm();
    let id = vm.post("/v1/track", TRACK);
    assert_eq!(vm.response(id), None, "no response before Keen has confirmed");
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
    assert_eq!(vm.tick_period(), 0, "the timer of an idle filter stops");
}

#[test]
fn configuration_as_struct_or_json_is_equal() {
    let config = harness::default_config();
    for builder in [Vm::builder().config(&config), Vm::builder().raw_config(config.to_string())] {
        let mut vm = builder.start().unwrap();
        let id = vm.post("/v1/t", TRACK);
        vm.turn();
        assert_eq!(vm.confirm().len(), 1);
        assert_eq!(status(&vm, id), 200);
    }
    // At serde_json's depth limit and above: rejected without a trap.
    for levels in [127, 128, 100_000] {
        let deep = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let refused = Vm::builder().raw_config(deep).start().map(drop).unwrap_err();
        assert!(refused.to_string().contains("configuration refused"), "{levels}: {refused}");
    }
    let refused = Vm::builder().config(&json!({"keen": {}})).start().map(drop).unwrap_err();
    assert!(refused.to_string().contains("/keen/cluster"), "{refused}");
}

#[test]
fn requests_during_a_callout_share_the_next() {
    let mut vm = vm();
    let first = vm.post("/v1/track", TRACK);
    vm.turn();
    let rest: Vec<StreamId> = (0..200).map(|_| vm.post("/v1/track", TRACK)).collect();
    vm.turn();
    assert_eq!(vm.callouts().len(), 1, "events gather while a callout is in flight");
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
fn requests_after_acks_linger_for_siblings() {
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
    // Both clients send again, one after the other.
    vm.post("/v1/track", TRACK);
    vm.turn();
    assert_eq!((vm.callouts().len(), vm.tick_period()), (0, 1));
    vm.post("/v1/track", TRACK);
    vm.turn();
    assert_eq!(vm.confirm().len(), 2);
    vm.turn();
    vm.tick(1);
    assert_eq!(vm.tick_period(), 0, "there is no batch to send");
    // Now only one client sends again. The batch lingers 4 ms at most.
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
fn batch_is_answered_after_its_last_event() {
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

/// Bodies arrive in parts, and end with data, without data, or with trailers.
#[test]
fn body_in_any_pieces_is_read() {
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
fn other_path_passes_through() {
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
fn header_values_of_any_bytes_do_not_trap() {
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
fn local_reply_413_is_replaced_by_400() {
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
fn disconnected_clients_events_are_delivered() {
    let mut vm = vm();
    let (left, stays) = (vm.post("/v1/track", TRACK), vm.post("/v1/track", TRACK));
    vm.close(left);
    vm.turn();
    assert_eq!(vm.confirm().len(), 2);
    vm.turn();
    assert_eq!(status(&vm, stays), 200);
    // A client can also disconnect while a callout is in flight.
    let left = vm.post("/v1/track", TRACK);
    vm.turn();
    vm.close(left);
    assert_eq!(vm.confirm().len(), 1);
    vm.turn();
    vm.close(stays);
    vm.tick(50);
    vm.tick(50);
    assert_eq!(vm.tick_period(), 0, "no state is left");
}

#[test]
fn source_address_is_that_of_each_request() {
    const BROWSER: &[(&str, &[u8])] =
        &[("authorization", b"Basic d3JpdGVLZXk6"), ("user-agent", b"Mozilla/5.0")];
    let mut vm = vm();
    let mut events = Vec::new();
    // One client disconnects before the root context wakes. Envoy then drops its address with the
    // stream.
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
fn full_queue_is_processed_at_once() {
    let mut vm = vm();
    let refused = vm.post("/v1/track", b"{");
    let streams: Vec<StreamId> = (0..200).map(|_| vm.post("/v1/track", TRACK)).collect();
    let events =
        vec![String::from_utf8(TRACK.to_vec()).unwrap().replace('{', r#"{"type":"track","#); 2_400];
    let large = vm.post("/v1/batch", format!(r#"{{"batch":[{}]}}"#, events.join(",")).as_bytes());
    let mut sent = 0;
    while vm.response(large).is_none() {
        vm.turn();
        sent += vm.confirm().len();
    }
    vm.turn();
    assert_eq!(sent, 2_600);
    assert_eq!(status(&vm, refused), 400);
    assert!(streams.iter().all(|id| status(&vm, *id) == 200));
}

#[test]
fn pixel_response_goes_to_its_own_stream() {
    let mut vm = vm();
    // The next request fills the queue.
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
fn late_body_expires_after_max_wait() {
    let mut vm = vm();
    let id = vm.open();
    let head: [(&str, &[u8]); 3] =
        [(":path", b"/v1/track"), (":method", b"POST"), ("authorization", b"Basic d3JpdGVLZXk6")];
    assert_eq!(vm.headers(id, &head, false), Action::Pause);
    vm.tick(50);
    vm.tick(50);
    assert_eq!(vm.tick_period(), 0, "there is no deadline yet");
    vm.body(id, TRACK, true);
    vm.turn();
    for _ in 0..140 {
        vm.tick(50);
        vm.turn();
    }
    assert_eq!(status(&vm, id), 503);
}

#[test]
fn failed_callout_is_retried_with_equal_tokens() {
    let mut vm = vm();
    let id = vm.post("/v1/track", br#"{"event":"e"}"#);
    vm.turn();
    let first = vm.callouts().remove(0);
    for end in [Some(503), Some(429), None] {
        let token = vm.callouts()[0].token;
        match end {
            Some(status) => vm.reply(token, status, b"no"),
            None => vm.reset_callout(token),
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
fn hanging_callout_is_answered_503_in_time() {
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
    // Keen's reply arrives after the response.
    vm.close(id);
    vm.confirm();
    vm.turn();
}

#[test]
fn root_context_ends_after_its_events_are_delivered() {
    let mut vm = vm();
    let id = vm.post("/v1/track", TRACK);
    vm.turn();
    assert!(!vm.end());
    vm.confirm();
    vm.turn();
    vm.tick(50);
    assert!(vm.ended());
    assert_eq!(status(&vm, id), 200);
    assert!(self::vm().end(), "an idle root context ends at once");
}

#[test]
fn root_context_ends_after_its_last_response() {
    let mut vm = vm();
    let id = vm.post("/v1/track", b"{");
    assert!(!vm.end(), "a response is pending");
    vm.tick(50);
    assert_eq!(status(&vm, id), 400);
    assert!(vm.ended());
}

/// Callbacks arrive in orders that no host uses.
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
                        0 => vm.reset_callout(callout.token),
                        1 => {
                            vm.reply(callout.token, 400, b"{\"error_code\": \"InvalidBatchError\"}")
                        }
                        _ => vm.reply(callout.token, 503, b""),
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

/// Opens 10,000 streams with headers as large as Envoy accepts.
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

/// Above the bound a new request is answered at once. Requests that are held continue.
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
    let body = String::from_utf8_lossy(&vm.response(rejected).unwrap().body).into_owned();
    assert!(body.contains("too many bytes are being read"), "{body}");
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

/// No client retries images and page loads. Above the bound they are served, and their event is
/// dropped.
#[test]
fn images_and_page_loads_over_the_bound_of_held_bytes_are_served_without_event() {
    let mut config = harness::default_config();
    config["sources"]["writeKey"]["initialPageview"] = json!(true);
    config["sources"]["writeKey"]["trackAllPages"] = json!(true);
    let mut vm = Vm::builder().config(&config).start().unwrap_or_else(|trap| panic!("{trap}"));
    let ask = |vm: &mut Vm| {
        let paths: [&[u8]; 2] = [
            b"/v1/pixel/track?data=eyJldmVudCI6ImUiLCJ3cml0ZUtleSI6IndyaXRlS2V5In0",
            b"/v1/projects/writeKey/settings",
        ];
        paths.map(|path| {
            let id = vm.open();
            let head: [(&str, &[u8]); 3] =
                [(":method", b"GET"), (":path", path), ("referer", b"https://shop.example/")];
            vm.headers(id, &head, true);
            vm.turn();
            let answered = status(vm, id);
            vm.close(id);
            answered
        })
    };
    let confirmed = |vm: &mut Vm| {
        let first = vm.confirm().len();
        vm.turn();
        first + vm.confirm().len()
    };
    assert_eq!(ask(&mut vm), [200, 200]);
    assert_eq!(confirmed(&mut vm), 2);
    vm.turn();
    let part = vec![b' '; 1_000_000];
    let mut held = Vec::new();
    let head: [(&str, &[u8]); 3] =
        [(":method", b"POST"), (":path", b"/v1/track"), ("authorization", b"Basic d3JpdGVLZXk6")];
    loop {
        let id = vm.open();
        vm.headers(id, &head, false);
        if vm.response(id).is_some() {
            break;
        }
        vm.body(id, &part, false);
        held.push(id);
        assert!(held.len() < 300, "no bound");
    }
    let before = vm.memory();
    for _ in 0..2_000 {
        assert_eq!(ask(&mut vm), [200, 200]);
    }
    assert!(vm.callouts().is_empty(), "their events are dropped");
    assert!(vm.memory() - before < 1 << 20, "{} bytes", vm.memory() - before);
    vm.tick(50);
    assert_eq!(vm.metric("keen_edge_requests_mirror_dropped"), 4_000);
    for id in held {
        vm.close(id);
    }
    assert_eq!(ask(&mut vm), [200, 200]);
    assert_eq!(confirmed(&mut vm), 2, "there is room again");
}
