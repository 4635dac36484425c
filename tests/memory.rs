//! The memory that a body needs while it is processed. The maximum of `limits.bodyBytes` is derived
//! from this bound (`src/config/schema.rs`).

use keen_edge::config::Config;
use keen_edge::mapping::{Client, EventBuffer, Request, map_request};
use keen_edge::segment::http::CallerSide;
use keen_edge::segment::message::MessageType;
use keen_edge::users::UserTransaction;
use peak_alloc::PeakAlloc;
use serde_json::json;
use std::collections::BTreeMap;

/// Bytes of memory per byte of a body, and per message. The values are those of
/// `src/config/schema.rs`.
const MEMORY_PER_BODY_BYTE: usize = 32;
const MEMORY_PER_MESSAGE: usize = 2048;
/// The part of `MEMORY_PER_BODY_BYTE` for the body's buffers.
const OF_THE_BODY: usize = 6;
const MAX_MESSAGES: usize = 25_000;
const BODY_BYTES: usize = 1 << 18;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Returns a body: `before`, then `unit` repeated up to the size of a body, then `after`.
fn filled(before: &str, unit: &str, after: &str) -> Vec<u8> {
    let count = (BODY_BYTES - before.len() - after.len()) / unit.len();
    let body = [before, &unit.repeat(count), after].concat().replace(",]", "]").replace(",}", "}");
    body.into_bytes()
}

#[test]
fn memory_of_every_shape_of_body_stays_within_its_bound() {
    let source = json!({
        "projectId": "9181bcd23843312d87000000", "mode": "device", "rememberUsers": true, "audienceEvents": true,
        "ipAddon": true, "uaAddon": true, "urlAddon": true, "referrerAddon": true, "trackAllPages": true,
    });
    let config = json!({
        "keen": {"cluster": "keen"}, "sources": {"k": source},
        "limits": {"bodyBytes": BODY_BYTES, "messages": MAX_MESSAGES},
    });
    let config = Config::parse(config.to_string().as_bytes()).unwrap();
    let track = r#"{"event":"e","userId":"u","properties":{"#;
    let mut not_utf8 = filled(&format!("{track}\"a\":\""), "x", "\"}}");
    for byte in not_utf8.iter_mut().skip(100).take(BODY_BYTES - 200) {
        *byte = 0xff;
    }
    let bodies = [
        ("empty messages", None, filled("{\"batch\":[", "{},", "]}")),
        (
            "small messages",
            None,
            filled("{\"batch\":[", "{\"type\":\"track\",\"event\":\"e\",\"userId\":\"u\"},", "]}"),
        ),
        ("no messages", None, filled("{\"batch\":[", "0,", "]}")),
        ("empty names", Some(MessageType::Track), filled(track, "\"\":0,", "}}")),
        ("short names", Some(MessageType::Track), filled(track, "\"a\":0,\"b\":1,\"\":2,", "}}")),
        ("dots", Some(MessageType::Track), filled(track, "\".\":0,", "}}")),
        (
            "escapes",
            Some(MessageType::Track),
            filled(&format!("{track}\"a\":\""), "\\u0001", "\"}}"),
        ),
        ("numbers", Some(MessageType::Track), filled(&format!("{track}\"a\":["), "9,", "]}}")),
        (
            "large numbers",
            Some(MessageType::Track),
            filled(&format!("{track}\"a\":["), "1e99,", "]}}"),
        ),
        ("objects", Some(MessageType::Track), filled(&format!("{track}\"a\":["), "{},", "]}}")),
        ("nesting", Some(MessageType::Track), {
            let half = BODY_BYTES / 2 - 100;
            format!("{track}\"a\":{}{}}}}}", "[".repeat(half), "]".repeat(half)).into_bytes()
        }),
        ("not UTF-8", Some(MessageType::Track), not_utf8),
        (
            "traits",
            Some(MessageType::Identify),
            filled("{\"userId\":\"u\",\"traits\":{", "\"\":0,", "}}"),
        ),
        (
            "batch properties",
            None,
            filled(
                "{\"batch\":[{\"type\":\"track\",\"event\":\"e\",\"properties\":{",
                "\"\":0,",
                "}}]}",
            ),
        ),
        (
            "context",
            None,
            filled(
                "{\"batch\":[{\"type\":\"track\",\"event\":\"e\"}],\"context\":{",
                "\"\":0,",
                "}}",
            ),
        ),
    ];
    for (name, message_type, body) in &bodies {
        assert!(
            body.len() <= BODY_BYTES && body.len() > BODY_BYTES - 200,
            "{name}: {}",
            body.len()
        );
        let mut store = BTreeMap::new();
        UserTransaction::initialize(&mut store, config.users, 0);
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        let mut users = UserTransaction::new(&mut store, config.users, 1);
        let mut events = EventBuffer::new(config.delivery.max_pending_bytes);
        let request = Request {
            message_type: *message_type,
            side: CallerSide::Client,
            header_write_key: Some("k"),
            body,
            received_ms: 1_795_471_392_908,
        };
        let token = || "token".to_owned();
        let client = |_| Client::default();
        let stats = map_request(&config, request, client, token, &mut users, &mut events);
        drop(stats);
        users.commit();
        let used = ALLOCATOR.peak_usage() - before;
        println!("{name}: {:.1} bytes for each byte", used as f64 / body.len() as f64);
        let messages = if message_type.is_some() { 1 } else { MAX_MESSAGES };
        let bound =
            (MEMORY_PER_BODY_BYTE - OF_THE_BODY) * body.len() + MEMORY_PER_MESSAGE * messages;
        assert!(used <= bound, "{name}: {used} bytes, the bound is {bound}");
    }
}
