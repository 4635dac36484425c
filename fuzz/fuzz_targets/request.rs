//! A request of any bytes is rejected, or mapped to events that Keen accepts. Its cost is a small
//! multiple of that of an ordinary batch of its size, and the users it identifies stay within their
//! bounds.
//!
//! Run it with `-max_len=524292`: bodies up to `limits.bodyBytes`, and four bytes for the head.
#![no_main]

use keen_edge::config::Config;
use keen_edge::keen::bulk::Event;
use keen_edge::mapping::{Client, EventBuffer, Request, RequestStats, map_request};
use keen_edge::segment::http::{CallerSide, Endpoint, content_encoding, write_key};
use keen_edge::users::UserTransaction;
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const LIMIT: usize = 4 << 20;

fn config() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| {
        let all = r#""projectId": "5181bcd23843312d87000000", "ipAddon": true, "uaAddon": true, "urlAddon": true,
            "referrerAddon": true, "trackAllPages": true"#;
        let text = format!(
            r#"{{"keen": {{"cluster": "keen"}}, "sources": {{
                "writeKey": {{{all}, "rememberUsers": true, "audienceEvents": true}}, "WRITEKEY123": {{{all}, "mode": "device"}},
                "other": {{"projectId": "000000000000000000000000"}}
            }}, "users": {{"max": 5, "maxBytes": 2000}}}}"#
        );
        Config::parse(text.as_bytes()).unwrap()
    })
}

/// The bytes of the head choose one of these. The rest of the input is the body.
const PATHS: [&[u8]; 8] = [
    b"/v1/batch",
    b"/v1/track",
    b"/v1/page",
    b"/v1/screen",
    b"/v1/identify",
    b"/v1/group",
    b"/v1/alias",
    b"/v1/b/b",
];
const KEYS: [&[u8]; 4] = [b"Basic d3JpdGVLZXk6", b"Basic V1JJVEVLRVkxMjM6", b"", b"Bearer x"];
const AGENTS: [&[u8]; 4] =
    [b"Mozilla/5.0 (X11; Linux)", b"analytics-node/6.2.0", b"", b"\xff\xfe\""];
const ADDRESSES: [&[u8]; 4] = [b"203.0.113.7:4711", b"[2001:db8::1]:0", b"", b"\xff"];
const REFERERS: [&[u8]; 4] = [b"https://shop.example/cart?a=1#b", b"", b"\xff", b"\"\\\n"];

fuzz_target!(|data: &[u8]| {
    let Some((head, body)) = data.split_at_checked(4) else { return };
    let pick = |from: &[&'static [u8]], by: u8| from[usize::from(by) % from.len()];
    let encoding: &[u8] = if head[3] % 4 == 3 { b"gzip" } else { b"" };
    let Ok(body) = content_encoding::decode(body, encoding, 524_288) else { return };
    let key = write_key::from_authorization(pick(&KEYS, head[1]));
    let endpoint = Endpoint::parse(b"POST", pick(&PATHS, head[0]), None);
    let Some(Endpoint::Ingest { message_type, side }) = endpoint else { unreachable!() };
    let request = Request {
        message_type,
        side,
        header_write_key: key.as_deref(),
        body: &body,
        received_ms: 1_795_471_392_908,
    };
    let client = Client {
        source_address: pick(&ADDRESSES, head[1] >> 4),
        user_agent: pick(&AGENTS, head[2]),
        referer: pick(&REFERERS, head[2] >> 4),
    };
    if body.len() >= MIN_TIMED_BYTES {
        costs_a_small_multiple(request, client);
    }
    let mut memory = BTreeMap::new();
    for now in [1_795_471_392_908_000, 1_795_471_393_908_000] {
        // In the second round the users are known.
        let mut users = UserTransaction::new(&mut memory, config().users, now);
        let mut buffer = EventBuffer::new(LIMIT);
        let Ok(stats) = map_request(
            config(),
            request,
            |_| client,
            || "made".to_owned(),
            &mut users,
            &mut buffer,
        ) else {
            return;
        };
        keen_takes(&buffer, &stats);
        users.commit();
    }
    // The usage index has a fixed size. All other bytes are users.
    let bytes: usize = memory.values().map(|(value, _): &(Vec<u8>, u32)| value.len()).sum();
    assert!(bytes <= 4_112 + 2_000, "{bytes} bytes of users");
});

/// Mapping a smaller body takes less time than a clock can measure.
const MIN_TIMED_BYTES: usize = 16_384;
/// Maximum cost of a body divided by that of an ordinary batch of its size. tests/abi/tests/cost.rs
/// counts instructions and is stricter; here other work on the machine disturbs the clock.
const MAX_RATIO: u32 = 12;

/// Returns the time of mapping: the minimum of several rounds.
fn least_time(request: Request<'_>, client: Client<'_>, rounds: usize) -> Duration {
    let round = |_| {
        let mut memory = BTreeMap::new();
        let mut users = UserTransaction::new(&mut memory, config().users, 1);
        let mut events = EventBuffer::new(LIMIT);
        let start = Instant::now();
        let _ = map_request(
            config(),
            request,
            |_| client,
            || "made".to_owned(),
            &mut users,
            &mut events,
        );
        start.elapsed()
    };
    (0..rounds).map(round).min().unwrap_or_default()
}

/// Returns the time for 64 KiB of an ordinary batch.
fn ordinary_time(client: Client<'_>) -> Duration {
    static TIME: OnceLock<Duration> = OnceLock::new();
    *TIME.get_or_init(|| {
        let batch = include_str!("../../benches/data/batch.json");
        let end = batch[..65_536.min(batch.len())].rfind("},{\"type\"").unwrap();
        let body = format!("{}}}]}}", &batch[..end]);
        let request = Request {
            message_type: None,
            side: CallerSide::Server,
            header_write_key: Some("writeKey"),
            body: body.as_bytes(),
            received_ms: 1_795_471_392_908,
        };
        least_time(request, client, 20) * 65_536 / u32::try_from(body.len()).unwrap()
    })
}

fn costs_a_small_multiple(request: Request<'_>, client: Client<'_>) {
    let blocks = u32::try_from(request.body.len().div_ceil(65_536)).unwrap();
    let allowed = ordinary_time(client) * blocks * MAX_RATIO;
    if least_time(request, client, 1) > allowed {
        let least = least_time(request, client, 10);
        assert!(
            least <= allowed,
            "{} bytes take {least:?}, {allowed:?} are allowed",
            request.body.len()
        );
    }
}

fn keen_takes(buffer: &EventBuffer, stats: &RequestStats) {
    assert!(
        buffer.is_overflowed()
            || stats.messages.iter().map(|m| m.events).sum::<usize>() == buffer.len()
    );
    for Event { destination, collection, json: event } in buffer.events() {
        assert!(destination < config().destinations.len());
        mock_keen::rules::check_collection_name(collection)
            .unwrap_or_else(|refusal| panic!("{collection:?}: {refusal:?}"));
        let text = String::from_utf8_lossy(event);
        match mock_keen::rules::read_event(event) {
            Ok(read) => {
                if let Err(refusal) = mock_keen::rules::check_event(&read.value) {
                    panic!("Keen refuses {text}: {refusal:?}");
                }
            }
            Err(rejection) => panic!("Keen cannot read {text}: {rejection:?}"),
        }
    }
}
