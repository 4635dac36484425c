//! Bounds a request's fuel: a small multiple of an ordinary batch, linear in size. Fuel does not
//! depend on other work on the machine.

use abi::Vm;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Sizes of the bodies, in bytes.
const SMALL: usize = 8_192;
const LARGE: usize = 2 * SMALL;
/// Maximum growth of the cost for a body of twice the size.
const MAX_GROWTH: f64 = 2.5;
/// Additional growth, in ordinary batches of the larger size.
const SLACK: f64 = 0.25;
/// The same for strings. At the larger size they exceed the 10,000 characters that Keen accepts,
/// and are rewritten.
const SLACK_OF_STRINGS: f64 = 4.0;
/// Maximum cost of a body divided by that of an ordinary batch of its size; the second is for deep
/// values. Fuel weighs brackets and numbers two to three times as much as V8's clock: arrays 8,000
/// deep cost 14 times an ordinary batch here, and 4.6 times in V8.
const MAX_RATIO: f64 = 13.0;
const MAX_RATIO_OF_DEEP: f64 = 15.0;
/// Users in the full store of the default configuration.
const USERS: usize = 10_000;

fn config() -> Value {
    let mut config = harness::default_config();
    config["sources"]["writeKey"] = json!({
        "projectId": "5181bcd23843312d87000000", "trackAllPages": true,
        "audienceEvents": true, "rememberUsers": true, "ipAddon": true, "uaAddon": true, "urlAddon": true, "referrerAddon": true,
    });
    config
}

/// Starts a module and does what happens once, such as unpacking the tables of transliteration. Its
/// user store is full, so each new user evicts another.
fn warm_vm() -> Vm {
    let mut vm = Vm::builder().config(&config()).start().unwrap_or_else(|trap| panic!("{trap}"));
    cost(&mut vm, r#"{"batch": [{"type": "track", "event": "é", "userId": "u"}]}"#.as_bytes());
    let about = "x".repeat(250);
    for first in (0..USERS).step_by(1_000) {
        let users = identifies(first..first + 1_000, &format!(r#"{{"about":"{about}"}}"#));
        cost(&mut vm, format!("{{\"batch\":[{users}]}}").as_bytes());
    }
    vm
}

fn identifies(users: std::ops::Range<usize>, traits: &str) -> String {
    let message =
        |user| format!(r#"{{"type":"identify","userId":"known-{user}","traits":{traits}}}"#);
    users.map(message).collect::<Vec<_>>().join(",")
}

/// Returns the fuel of one request. Keen then confirms its events.
fn cost(vm: &mut Vm, body: &[u8]) -> f64 {
    let encoding: &[u8] = if body.starts_with(b"\x1f\x8b") { b"gzip" } else { b"identity" };
    let headers = [("authorization", &b"Basic d3JpdGVLZXk6"[..]), ("content-encoding", encoding)];
    vm.reset_usage();
    let id = vm.post_with("/v1/batch", body, &headers);
    vm.turn();
    let fuel = vm.usage().fuel as f64;
    for _ in 0..1_000 {
        let callouts = vm.callouts();
        if callouts.is_empty() {
            break;
        }
        for callout in callouts {
            // Events may nest deeper than `serde_json::Value` can.
            let sent: BTreeMap<String, Vec<&RawValue>> =
                serde_json::from_slice(&callout.body).unwrap();
            let results = sent
                .into_iter()
                .map(|(name, events)| (name, vec![json!({"success": true}); events.len()].into()));
            let reply = Value::Object(results.collect());
            vm.reply(callout.token, 200, reply.to_string().as_bytes());
        }
        vm.turn();
    }
    vm.close(id);
    fuel
}

/// Returns an ordinary batch of an SDK, of about this size.
fn ordinary(size: usize) -> Vec<u8> {
    let file = std::fs::read(harness::root().join("benches/data/batch.json")).unwrap();
    let batch: Value = serde_json::from_slice(&file).unwrap();
    let messages: Vec<String> =
        batch["batch"].as_array().unwrap().iter().map(Value::to_string).collect();
    let mut body = String::from("{\"batch\":[");
    for message in messages.iter().cycle() {
        if body.len() + message.len() > size {
            break;
        }
        body.push_str(message);
        body.push(',');
    }
    body.pop();
    body.push_str("]}");
    body.into_bytes()
}

/// Returns as many copies of `part`, separated by commas, as `size` holds.
fn repeated(part: &str, size: usize) -> String {
    vec![part; (size / (part.len() + 1)).max(1)].join(",")
}

/// Returns values of about this size that are expensive to read.
fn shapes(size: usize) -> Vec<(&'static str, String)> {
    let names = |name: &dyn Fn(usize) -> String| {
        let mut text = String::from("{");
        for index in 0.. {
            if text.len() >= size {
                break;
            }
            text.push_str(&format!("{}:{},", name(index), index % 10));
        }
        text.pop();
        text + "}"
    };
    vec![
        ("a long string", format!("\"{}\"", "x".repeat(size))),
        ("an escaped string", format!("\"{}\"", "\\n".repeat(size / 2))),
        ("a string of surrogates", format!("\"{}\"", "\\ud800".repeat(size / 6))),
        ("many digits", "7".repeat(size)),
        ("a wide object", names(&|index| format!("\"n{index}\""))),
        ("names with dots", names(&|index| format!("\"n.{index}\""))),
        ("equal names", format!("{{{}}}", repeated("\"kk\":0", size))),
        ("equal escaped names", format!("{{{}}}", repeated("\"\\u0075rl\":0", size))),
        (
            "a long prefix",
            format!(
                "{{\"\\u0075{}rl\":0,{}}}",
                "_".repeat(size / 2),
                repeated("\"\\u0075rl\":0", size / 2)
            ),
        ),
        ("names that share a start", names(&|index| format!("\"{}{index}\"", "a".repeat(200)))),
        ("booleans", format!("{{{}}}", repeated("\"a b\":true", size))),
        ("distinct booleans", {
            let members = (0..size / 12).map(|index| format!("\"a{index:04}\":true"));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }),
        ("an array of objects", format!("[{}]", repeated("{\"a\":{}}", size))),
        ("numbers that Keen cannot hold", format!("[{}]", repeated("1e400", size))),
        ("deep arrays", format!("{}{}", "[".repeat(size / 2), "]".repeat(size / 2))),
        ("deep objects", format!("{}0{}", "{\"a\":".repeat(size / 6), "}".repeat(size / 6))),
        (
            "deep objects with dots",
            format!("{}0{}", "{\"a.b\":".repeat(size / 8), "}".repeat(size / 8)),
        ),
        (
            "much behind 500 levels",
            format!("{}{{{}}}{}", "[".repeat(500), repeated("\"a.b\":[0]", size), "]".repeat(500)),
        ),
    ]
}

/// A part of a body and a function that puts a value there.
type Place = (&'static str, fn(&str, &str) -> String);

/// Parts of a batch whose value applies to all its messages. The second argument is the messages.
const BATCH_PLACES: [Place; 14] = [
    ("writeKey", |value, batch| format!("{{\"writeKey\":{value},\"batch\":[{batch}]}}")),
    ("sentAt", |value, batch| format!("{{\"sentAt\":{value},\"batch\":[{batch}]}}")),
    ("context.ip", |value, batch| {
        format!("{{\"context\":{{\"ip\":{value}}},\"batch\":[{batch}]}}")
    }),
    ("context.library", |value, batch| {
        format!("{{\"context\":{{\"library\":{{\"name\":{value}}}}},\"batch\":[{batch}]}}")
    }),
    ("context.userAgent", |value, batch| {
        format!("{{\"context\":{{\"userAgent\":{value}}},\"batch\":[{batch}]}}")
    }),
    ("context.page.url", |value, batch| {
        format!("{{\"context\":{{\"page\":{{\"url\":{value}}}}},\"batch\":[{batch}]}}")
    }),
    ("context.traits", |value, batch| {
        format!("{{\"context\":{{\"traits\":{value}}},\"batch\":[{batch}]}}")
    }),
    ("context.personas", |value, batch| {
        format!(
            "{{\"context\":{{\"personas\":{{\"computation_key\":{value}}}}},\"batch\":[{batch}]}}"
        )
    }),
    ("context.direct", |value, batch| {
        format!("{{\"context\":{{\"direct\":{value}}},\"batch\":[{batch}]}}")
    }),
    ("integrations", |value, batch| format!("{{\"integrations\":{value},\"batch\":[{batch}]}}")),
    ("integrations[\"Keen IO\"]", |value, batch| {
        format!("{{\"integrations\":{{\"Keen IO\":{value}}},\"batch\":[{batch}]}}")
    }),
    ("integrations[\"Keen IO\"].traits", |value, batch| {
        format!("{{\"integrations\":{{\"Keen IO\":{{\"traits\":{value}}}}},\"batch\":[{batch}]}}")
    }),
    ("options", |value, batch| {
        format!("{{\"options\":{{\"keen_io\":{{\"traits\":{value}}}}},\"batch\":[{batch}]}}")
    }),
    ("context", |value, batch| format!("{{\"context\":{value},\"batch\":[{batch}]}}")),
];

/// Parts of one message.
const MESSAGE_PLACES: [Place; 14] = [
    ("properties", |value, kind| format!("{{\"batch\":[{{{kind},\"properties\":{value}}}]}}")),
    ("a property", |value, kind| {
        format!("{{\"batch\":[{{{kind},\"properties\":{{\"a\":{value}}}}}]}}")
    }),
    ("properties.url", |value, kind| {
        format!("{{\"batch\":[{{{kind},\"properties\":{{\"url\":{value}}}}}]}}")
    }),
    ("properties.keen", |value, kind| {
        format!("{{\"batch\":[{{{kind},\"properties\":{{\"keen\":{value}}}}}]}}")
    }),
    ("keen.location", |value, kind| {
        format!(
            "{{\"batch\":[{{{kind},\"properties\":{{\"keen\":{{\"location\":{{\"coordinates\":[1,2],\"a\":{value}}}}}}}}}]}}"
        )
    }),
    ("event", |value, kind| format!("{{\"batch\":[{{{kind},\"event\":{value}}}]}}")),
    ("name", |value, kind| format!("{{\"batch\":[{{{kind},\"name\":{value}}}]}}")),
    ("userId", |value, kind| format!("{{\"batch\":[{{{kind},\"userId\":{value}}}]}}")),
    ("messageId", |value, kind| format!("{{\"batch\":[{{{kind},\"messageId\":{value}}}]}}")),
    ("timestamp", |value, kind| format!("{{\"batch\":[{{{kind},\"timestamp\":{value}}}]}}")),
    ("traits", |value, kind| {
        format!("{{\"batch\":[{{{kind},\"context\":{{\"personas\":{{}}}},\"traits\":{value}}}]}}")
    }),
    ("_metadata", |value, kind| {
        format!("{{\"batch\":[{{{kind},\"_metadata\":{{\"bundled\":{value}}}}}]}}")
    }),
    ("type", |value, _| format!("{{\"batch\":[{{\"type\":{value}}}]}}")),
    ("an unknown member", |value, kind| {
        format!("{{\"batch\":[{{{kind},\"x\":{value}}}],\"x\":{value}}}")
    }),
];

const KINDS: [&str; 3] = [
    r#""type":"track","event":"e","userId":"u""#,
    r#""type":"page","name":"n","category":"c","anonymousId":"a""#,
    r#""type":"identify","userId":"u","anonymousId":"a","traits":{"a":true}"#,
];

/// A body and its name.
type Body = (String, Vec<u8>);

/// Returns every body of about this size: each shape in each place, with each kind of message.
fn sweep(size: usize) -> Vec<Body> {
    let mut bodies = Vec::new();
    let mut add = |name: String, body: String| bodies.push((name, body.into_bytes()));
    for kind in KINDS {
        let messages = repeated(&format!("{{{kind}}}"), size / 2);
        for (shape, value) in shapes(size / 2) {
            for (place, body) in BATCH_PLACES {
                add(format!("{shape} as the batch's {place}, {kind}"), body(&value, &messages));
            }
        }
        for (shape, value) in shapes(size) {
            for (place, body) in MESSAGE_PLACES {
                add(format!("{shape} as {place}, {kind}"), body(&value, kind));
            }
        }
    }
    for (shape, value) in shapes(size) {
        let engage = r#""type":"identify","userId":"u","context":{"personas":{}}"#;
        let body = format!("{{\"batch\":[{{{engage},\"traits\":{value}}}]}}");
        add(format!("{shape} as traits of Engage"), body);
    }
    for part in [
        "null",
        "{}",
        "[]",
        "1e400",
        "{\"type\":\"track\"}",
        "{\"type\":\"track\",\"event\":\"e\"}",
        "{\"type\":\"page\",\"name\":\"n\",\"category\":\"c\"}",
        "{\"type\":\"identify\",\"userId\":\"u\",\"traits\":{\"a\":1}}",
    ] {
        add(format!("a batch of {part}"), format!("{{\"batch\":[{}]}}", repeated(part, size)));
    }
    for (name, message) in USER_MESSAGES {
        let mut messages = Vec::new();
        let mut bytes = 0;
        while bytes < size {
            messages.push(message(size, messages.len()));
            bytes += messages.last().unwrap().len() + 1;
        }
        add(format!("a batch of {name}"), format!("{{\"batch\":[{}]}}", messages.join(",")));
    }
    for part in [
        "\"context\":{\"ip\":\"1\"}",
        "\"integrations\":{\"Keen IO\":{\"traits\":{}}}",
        "\"batch\":[{}]",
        "\"properties\":{\"a\":1}",
    ] {
        add(format!("{part} again and again"), format!("{{{}}}", repeated(part, size)));
    }
    bodies.push(("empty members of gzip".to_owned(), empty_gzip_members(size)));
    bodies.push(("empty blocks of gzip".to_owned(), empty_gzip_blocks(size)));
    bodies
}

/// A message about a stored user. The function gets the size of the body and the index of the
/// message.
type UserMessage = (&'static str, fn(usize, usize) -> String);

const USER_MESSAGES: [UserMessage; 6] = [
    ("tracks of known users", |_, index| {
        format!(r#"{{"type":"track","event":"e","userId":"known-{}"}}"#, index * 7 % USERS)
    }),
    ("identifies of known users", |_, index| {
        format!(
            r#"{{"type":"identify","userId":"known-{}","traits":{{"a":1}}}}"#,
            index * 11 % USERS
        )
    }),
    ("identifies of new users", |size, index| {
        format!(r#"{{"type":"identify","userId":"{size}-{index}","traits":{{"a":1}}}}"#)
    }),
    ("identifies of one user with many visitors", |size, index| {
        format!(r#"{{"type":"identify","userId":"w","anonymousId":"{size}-{index}"}}"#)
    }),
    ("audiences of one user", |size, index| {
        format!(
            r#"{{"type":"identify","userId":"{size}","context":{{"personas":{{}}}},"traits":{{"a{index}":true}}}}"#
        )
    }),
    ("a user's tracks between identifies", |_, index| match index % 2 {
        0 => format!(r#"{{"type":"identify","userId":"v","traits":{{"n":{index}}}}}"#),
        _ => r#"{"type":"track","event":"e","userId":"v"}"#.to_owned(),
    }),
];

const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

fn empty_gzip_members(size: usize) -> Vec<u8> {
    let member = [&GZIP_HEADER[..], &[3, 0], &[0; 8]].concat();
    member.repeat(size / member.len())
}

/// Returns a gzip member of empty stored blocks.
fn empty_gzip_blocks(size: usize) -> Vec<u8> {
    let blocks = [0, 0, 0, 0xff, 0xff].repeat(size / 5);
    [&GZIP_HEADER[..], &blocks, &[1, 0, 0, 0xff, 0xff], &[0; 8]].concat()
}

/// Returns the fuel of each body. Uses as many threads as there are cores.
fn costs(bodies: &[Body]) -> Vec<f64> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let chunk = bodies.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let chunks: Vec<_> = bodies
            .chunks(chunk)
            .map(|chunk| {
                scope.spawn(move || {
                    let mut vm = warm_vm();
                    chunk.iter().map(|(_, body)| cost(&mut vm, body)).collect::<Vec<_>>()
                })
            })
            .collect();
        chunks.into_iter().flat_map(|chunk| chunk.join().unwrap()).collect()
    })
}

#[test]
fn cost_of_any_body_is_a_small_multiple_of_an_ordinary_batchs_and_grows_with_its_size() {
    let (small, large) = (sweep(SMALL), sweep(LARGE));
    let (fuel_small, fuel_large) = (costs(&small), costs(&large));
    let ordinary = cost(&mut warm_vm(), &ordinary(LARGE));
    let mut wrong = Vec::new();
    let mut ratios = Vec::new();
    for (((name, body), small), large) in large.iter().zip(fuel_small).zip(fuel_large) {
        // Bodies only have approximately their size.
        let ratio = large / (ordinary * body.len() as f64 / LARGE as f64).max(ordinary);
        ratios.push((ratio, name));
        let is_deep = name.starts_with("deep") || name.contains("500 levels");
        if ratio > if is_deep { MAX_RATIO_OF_DEEP } else { MAX_RATIO } {
            wrong.push(format!("{ratio:.1} times an ordinary batch: {name}"));
        }
        let slack = if name.contains("string") { SLACK_OF_STRINGS } else { SLACK };
        if large > MAX_GROWTH * small + slack * ordinary {
            wrong.push(format!("{:.2} times as much at twice the size: {name}", large / small));
        }
    }
    ratios.sort_by(|a, b| b.0.total_cmp(&a.0));
    println!("{} bodies; times an ordinary batch, the worst:", large.len());
    for (ratio, name) in ratios.iter().take(20) {
        println!("{ratio:6.2} {name}");
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), large.len(), wrong.join("\n"));
}

/// These bodies took seconds in the past. They are as large as bodies may be.
#[test]
fn cost_of_the_largest_bodies_is_a_small_multiple_of_an_ordinary_batchs() {
    let tiny = |count: usize, message: &str| vec![message; count].join(",");
    let bodies = [
        (
            "an escaped write key, and messages without number",
            format!(
                "{{\"writeKey\":\"{}\",\"batch\":[{}]}}",
                "\\n".repeat(131_000),
                tiny(87_000, "{}")
            ),
        ),
        (
            "a long prefix, and equal names",
            format!(
                "{{\"batch\":[{{\"type\":\"track\",\"event\":\"e\",\"properties\":{{\"\\u0075{}rl\":0,{}}}}}]}}",
                "_".repeat(262_000),
                tiny(20_000, "\"\\u0075rl\":0")
            ),
        ),
        (
            "a container as user agent",
            format!(
                "{{\"context\":{{\"userAgent\":{{{}}}}},\"batch\":[{}]}}",
                tiny(37_000, "\"kk\":0"),
                tiny(2_400, "{\"type\":\"page\",\"name\":\"n\",\"category\":\"c\"}")
            ),
        ),
        (
            "an identify of audiences",
            format!(
                "{{\"batch\":[{{\"type\":\"identify\",\"userId\":\"u\",\"context\":{{\"personas\":{{}}}},\"traits\":{{{}}}}}]}}",
                (0..36_000).map(|i| format!("\"a{i}\":true")).collect::<Vec<_>>().join(",")
            ),
        ),
    ];
    let mut vm = warm_vm();
    let ordinary = cost(&mut vm, &ordinary(500_000));
    for (name, body) in bodies {
        assert!(body.len() <= 524_288, "{name}: {} bytes", body.len());
        let ratio = cost(&mut vm, body.as_bytes()) / ordinary;
        println!("{ratio:.2} times an ordinary batch: {name}");
        assert!(ratio <= MAX_RATIO, "{name}: {ratio:.1} times an ordinary batch");
    }
}
