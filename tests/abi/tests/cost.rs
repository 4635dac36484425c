//! What a body may cost: whatever it says, a small multiple of what an ordinary batch of its size costs, and in proportion to
//! its size. Counted in fuel, which no neighbour on the machine disturbs.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use abi::Vm;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Sizes of the sweep.
const SMALL: usize = 8_192;
const LARGE: usize = 2 * SMALL;
/// A body of twice the size costs at most so many times as much, and four ordinary batches more: it may pass a limit, such as
/// that of a string, and cost more from there on.
const MAX_GROWTH: f64 = 2.5;
/// A body costs at most so many times the fuel of an ordinary batch of its size. Fuel weighs brackets and numbers two to three
/// times what V8's clock does: arrays 8,000 deep are 12 times an ordinary batch here, and 4.6 times in V8.
const MAX_RATIO: f64 = 18.0;
/// Without `rememberUsers`: an identify rewrites the shard of its user, whose size other requests decide.
fn config() -> Value {
    let mut config = harness::default_config();
    config["sources"]["writeKey"] = json!({
        "projectId": "5181bcd23843312d87000000", "trackAllPages": true,
        "audienceEvents": true, "ipAddon": true, "uaAddon": true, "urlAddon": true, "referrerAddon": true,
    });
    config
}

/// A module that has paid for what happens once, such as unpacking the tables of transliteration.
fn warm_vm() -> Vm {
    let mut vm = Vm::builder().config(&config()).start().unwrap_or_else(|trap| panic!("{trap}"));
    cost(&mut vm, r#"{"batch": [{"type": "track", "event": "é", "userId": "u"}]}"#.as_bytes());
    vm
}

/// Fuel of one request. Keen then takes its events.
fn cost(vm: &mut Vm, body: &[u8]) -> f64 {
    vm.reset_usage();
    let id = vm.post_with("/v1/batch", body, &[("authorization", b"Basic d3JpdGVLZXk6")]);
    vm.turn();
    let fuel = vm.usage().fuel as f64;
    for _ in 0..1_000 {
        let callouts = vm.callouts();
        if callouts.is_empty() {
            break;
        }
        for callout in callouts {
            // Events may be deeper than a tree of values can be.
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

/// A batch as SDKs send it, of about this size.
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

/// As many of `part`, with commas between them, as `size` holds.
fn repeated(part: &str, size: usize) -> String {
    vec![part; (size / (part.len() + 1)).max(1)].join(",")
}

/// Values of about this size that make readers work.
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
            let text = names(&|index| format!("\"a{index}\""));
            text.chars().map(|c| if c == ':' { ':' } else { c }).collect()
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

/// A body with `value` in a place of it.
type Place = (&'static str, fn(&str, &str) -> String);

/// Places of a batch whose values hold for all its messages; the second argument is the messages.
const BATCH_PLACES: [Place; 13] = [
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
    ("integrations[\"Keen IO\"].traits", |value, batch| {
        format!("{{\"integrations\":{{\"Keen IO\":{{\"traits\":{value}}}}},\"batch\":[{batch}]}}")
    }),
    ("options", |value, batch| {
        format!("{{\"options\":{{\"keen_io\":{{\"traits\":{value}}}}},\"batch\":[{batch}]}}")
    }),
    ("context", |value, batch| format!("{{\"context\":{value},\"batch\":[{batch}]}}")),
];

/// Places of one message.
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

/// Every body of the sweep, of about this size: each shape in each place, with each kind of message in turn.
fn sweep(size: usize) -> Vec<(String, String)> {
    let mut bodies = Vec::new();
    let mut kinds = KINDS.iter().cycle();
    for (shape, value) in shapes(size / 2) {
        for (place, body) in BATCH_PLACES {
            let kind = kinds.next().unwrap();
            let messages = repeated(&format!("{{{kind}}}"), size / 2);
            bodies
                .push((format!("{shape} as the batch's {place}, {kind}"), body(&value, &messages)));
        }
    }
    for (shape, value) in shapes(size) {
        for (place, body) in MESSAGE_PLACES {
            let kind = kinds.next().unwrap();
            bodies.push((format!("{shape} as {place}, {kind}"), body(&value, kind)));
        }
    }
    for part in [
        "null",
        "{}",
        "[]",
        "1e400",
        "{\"type\":\"track\"}",
        "{\"type\":\"identify\",\"userId\":\"u\",\"traits\":{\"a\":1}}",
    ] {
        bodies.push((
            format!("a batch of {part}"),
            format!("{{\"batch\":[{}]}}", repeated(part, size)),
        ));
    }
    for part in [
        "\"context\":{\"ip\":\"1\"}",
        "\"integrations\":{\"Keen IO\":{\"traits\":{}}}",
        "\"batch\":[{}]",
        "\"properties\":{\"a\":1}",
    ] {
        bodies.push((format!("{part} again and again"), format!("{{{}}}", repeated(part, size))));
    }
    bodies
}

/// Runs in as many threads as there are cores.
fn costs(bodies: &[(String, String)]) -> Vec<f64> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let chunk = bodies.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let chunks: Vec<_> = bodies
            .chunks(chunk)
            .map(|chunk| {
                scope.spawn(move || {
                    let mut vm = warm_vm();
                    chunk.iter().map(|(_, body)| cost(&mut vm, body.as_bytes())).collect::<Vec<_>>()
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
    let mut worst = (0.0, String::new());
    for (((name, body), small), large) in large.iter().zip(fuel_small).zip(fuel_large) {
        // Bodies are not all exactly of their size.
        let ratio = large / (ordinary * body.len() as f64 / LARGE as f64).max(ordinary);
        if ratio > worst.0 {
            worst = (ratio, name.clone());
        }
        if ratio > MAX_RATIO {
            wrong.push(format!("{ratio:.1} times an ordinary batch: {name}"));
        }
        if large > MAX_GROWTH * small + 4.0 * ordinary {
            wrong.push(format!("{:.2} times as much at twice the size: {name}", large / small));
        }
    }
    println!(
        "{} bodies, the worst {:.2} times an ordinary batch: {}",
        large.len(),
        worst.0,
        worst.1
    );
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), large.len(), wrong.join("\n"));
}

/// Bodies that once took seconds, as large as bodies may be.
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
