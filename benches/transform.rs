//! Times the mapping alone on this machine: the body of a request in, Keen events out. The baseline
//! is the same mapping with `serde_json::Value`. The filter should take at most a third of its
//! time.
//!
//! `cargo bench --bench transform`

mod serde_baseline;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use keen_edge::config::Config;
use keen_edge::mapping::{Client, EventBuffer, Request, map_request};
use keen_edge::segment::http::CallerSide;
use keen_edge::segment::message::MessageType;
use keen_edge::users::UserTransaction;
use serde_json::json;
use std::collections::BTreeMap;

const TRACK: &[u8] = include_bytes!("data/track.json");
const BATCH: &[u8] = include_bytes!("data/batch.json");
const NOW: i64 = 1_795_471_392_908;

fn main() {
    same_events();
    divan::main();
}

fn config() -> Config {
    let source = json!({
        "projectId": "5181bcd23843312d87000000", "writeKey": "ABCDEF0123456789ABCDEF0123456789",
        "ipAddon": true, "uaAddon": true, "urlAddon": true, "referrerAddon": true,
    });
    Config::parse(
        json!({"keen": {"cluster": "keen"}, "sources": {"writeKey": source}})
            .to_string()
            .as_bytes(),
    )
    .unwrap()
}

fn ours(config: &Config, message_type: Option<MessageType>, body: &[u8], events: &mut EventBuffer) {
    events.clear();
    let side = CallerSide::Server;
    let request =
        Request { message_type, side, header_write_key: Some("writeKey"), body, received_ms: NOW };
    let client = Client {
        source_address: b"203.0.113.7:4711",
        user_agent: b"analytics-node/2.2.0",
        referer: b"",
    };
    let mut store = BTreeMap::new();
    let mut users = UserTransaction::new(&mut store, config.users, 0);
    map_request(config, request, |_| client, || "made".to_owned(), &mut users, events).unwrap();
}

/// Asserts that both mappings write the same events. Otherwise the comparison would mean nothing.
fn same_events() {
    let mut events = EventBuffer::default();
    let config = config();
    for (message_type, body) in [(Some(MessageType::Track), TRACK), (None, BATCH)] {
        ours(&config, message_type, body, &mut events);
        let mine: Vec<(String, serde_json::Value)> = events
            .events()
            .map(|keen_edge::keen::bulk::Event { collection: name, json: event, .. }| {
                (name.to_owned(), serde_json::from_slice(event).unwrap())
            })
            .collect();
        let mut out = Vec::new();
        let trees = serde_baseline::map(body, NOW, &mut out);
        let events = trees
            .iter()
            .map(|(name, at)| (name.clone(), serde_json::from_slice(&out[at.clone()]).unwrap()));
        assert_eq!(mine, events.collect::<Vec<_>>());
    }
}

#[divan::bench]
fn track_keen_edge(bencher: Bencher) {
    let (config, mut events) = (config(), EventBuffer::default());
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        ours(&config, Some(MessageType::Track), black_box(TRACK), &mut events);
    });
}

#[divan::bench]
fn track_tree(bencher: Bencher) {
    let mut out = Vec::new();
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        out.clear();
        serde_baseline::map(black_box(TRACK), NOW, &mut out)
    });
}

#[divan::bench]
fn batch_keen_edge(bencher: Bencher) {
    let (config, mut events) = (config(), EventBuffer::default());
    bencher.counter(ItemsCount::new(100_u32)).bench_local(|| {
        ours(&config, None, black_box(BATCH), &mut events);
    });
}

#[divan::bench]
fn batch_tree(bencher: Bencher) {
    let mut out = Vec::new();
    bencher.counter(ItemsCount::new(100_u32)).bench_local(|| {
        out.clear();
        serde_baseline::map(black_box(BATCH), NOW, &mut out)
    });
}
