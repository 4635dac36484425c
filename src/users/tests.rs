#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use super::*;
use crate::config::{self, Mode, Source};
use crate::mapping::identity::PageTraits;
use crate::segment::message::MessageType;
use crate::segment::message::{Body, Message};
use proptest::prelude::*;

type Memory = BTreeMap<String, (Vec<u8>, u32)>;

const SEED: u64 = 0x5eed;

const PLENTY: config::UsersSettings =
    config::UsersSettings { max_users: 10_000, max_bytes: 8_388_608, ttl_ms: 1_000_000 };

fn source(scope: u64, mode: Mode) -> Source {
    Source { key_hash: scope, mode, remember_users: true, ..Source::default() }
}

fn message(kind: MessageType, body: &str) -> Message<'_> {
    Body::parse(Some(kind), body, 1).unwrap().messages[0]
}

/// Identifies at `now` (milliseconds), in a request of its own.
fn identify(
    memory: &mut Memory,
    settings: config::UsersSettings,
    now: u64,
    of: &Source,
    body: &str,
) -> CommitReport {
    let mut users = UserTransaction::new(memory, settings, now * 1000);
    users.identify(of, &message(MessageType::Identify, body), None);
    users.commit()
}

/// Returns the user in an event at `now`, in a request of its own.
fn shown(
    memory: &mut Memory,
    settings: config::UsersSettings,
    now: u64,
    of: &Source,
    body: &str,
) -> Option<String> {
    let mut users = UserTransaction::new(memory, settings, now * 1000);
    let user = users.user_for_event(of, &message(MessageType::Track, body), None);
    users.commit();
    user.map(|user| user.to_json())
}

/// Returns users and bytes of all shards, and the same according to the usage index.
fn held(memory: &Memory) -> ((i64, i64), (i64, i64)) {
    let (mut held, mut booked) = (shard::Usage::default(), shard::Usage::default());
    for (key, (value, _)) in memory {
        match key.matches('.').count() {
            3 => {
                booked = booked.saturating_add(usage_index::PartitionUsage::from_bytes(value).used)
            }
            4 => held = held.saturating_add(shard::Shard::from_bytes(value.clone()).usage()),
            _ => {}
        }
    }
    ((held.users, held.bytes), (booked.users, booked.bytes))
}

#[test]
fn user_is_found_by_both_ids_in_its_source_only() {
    let mut memory = Memory::new();
    let shop = source(1, Mode::Cloud);
    identify(
        &mut memory,
        PLENTY,
        1,
        &shop,
        r#"{"userId":"u","anonymousId":"a","traits":{"plan":"pro"}}"#,
    );
    identify(&mut memory, PLENTY, 1, &shop, r#"{"anonymousId":"b","traits":{"seen":1}}"#);
    let mut of = |source: &Source, body: &str| shown(&mut memory, PLENTY, 2, source, body);
    let known = Some(r#"{"userId":"u","traits":{"plan":"pro"}}"#.to_owned());
    assert_eq!(of(&shop, r#"{"userId":"u"}"#), known);
    assert_eq!(of(&shop, r#"{"userId":"u","anonymousId":"b"}"#), known);
    assert_eq!(of(&shop, r#"{"anonymousId":"a"}"#), known);
    assert_eq!(of(&shop, r#"{"anonymousId":"b"}"#).as_deref(), Some(r#"{"traits":{"seen":1}}"#));
    for stranger in
        [r#"{"userId":"v","anonymousId":"a"}"#, r#"{"anonymousId":"u"}"#, r#"{"userId":"b"}"#, "{}"]
    {
        assert_eq!(of(&shop, stranger), None, "{stranger}");
    }
    assert_eq!(of(&source(2, Mode::Cloud), r#"{"userId":"u","anonymousId":"a"}"#), None);
    // Another user of the same device.
    identify(&mut memory, PLENTY, 3, &shop, r#"{"userId":"w","anonymousId":"a"}"#);
    assert_eq!(
        shown(&mut memory, PLENTY, 4, &shop, r#"{"anonymousId":"a"}"#).as_deref(),
        Some(r#"{"userId":"w"}"#)
    );
}

#[test]
fn later_identify_replaces_traits_and_number_ids_stay_numbers() {
    let mut memory = Memory::new();
    let page = source(1, Mode::Device);
    identify(&mut memory, PLENTY, 1, &page, r#"{"userId":7,"traits":{"a.b":1,"old":true}}"#);
    assert_eq!(
        shown(&mut memory, PLENTY, 2, &page, r#"{"userId":7}"#).as_deref(),
        Some(r#"{"userId":7,"traits":{"a_b":1,"old":true,"id":7}}"#)
    );
    identify(&mut memory, PLENTY, 3, &page, r#"{"userId":7,"traits":{"id":"mine","new":[1]}}"#);
    assert_eq!(
        shown(&mut memory, PLENTY, 4, &page, r#"{"userId":7}"#).as_deref(),
        Some(r#"{"userId":7,"traits":{"new":[1],"id":7}}"#)
    );
}

#[test]
fn computed_traits_outlast_next_identify() {
    let mut memory = Memory::new();
    let shop = source(1, Mode::Cloud);
    let audience = |value: bool| {
        format!(
            r#"{{"userId":"u","context":{{"personas":{{"computation_key":"big_spender"}}}},"traits":{{"Big Spender":{value}}}}}"#
        )
    };
    identify(
        &mut memory,
        PLENTY,
        1,
        &shop,
        r#"{"userId":"u","anonymousId":"a","traits":{"plan":"pro"}}"#,
    );
    identify(&mut memory, PLENTY, 2, &shop, &audience(true));
    let of = |memory: &mut Memory, body: &str| shown(memory, PLENTY, 3, &shop, body).unwrap();
    assert_eq!(
        of(&mut memory, r#"{"userId":"u"}"#),
        r#"{"userId":"u","traits":{"plan":"pro","big_spender":true}}"#
    );
    // The same with the linked anonymousId.
    let by_visitor = audience(false).replace("userId", "anonymousId").replace("\"u\"", "\"a\"");
    identify(&mut memory, PLENTY, 3, &shop, &by_visitor);
    identify(&mut memory, PLENTY, 4, &shop, r#"{"userId":"u","traits":{"plan":"free"}}"#);
    assert_eq!(
        of(&mut memory, r#"{"anonymousId":"a"}"#),
        r#"{"userId":"u","traits":{"plan":"free","big_spender":false}}"#
    );
}

#[test]
fn computed_traits_that_are_missing_change_nothing() {
    let mut memory = Memory::new();
    let page = source(1, Mode::Device);
    let body = r#"{"userId":"u","context":{"personas":{}}}"#;
    assert_eq!(identify(&mut memory, PLENTY, 1, &page, body), CommitReport::default());
    assert_eq!(shown(&mut memory, PLENTY, 2, &page, r#"{"userId":"u"}"#), None);
}

#[test]
fn context_traits_are_used_when_user_is_unknown() {
    let mut memory = Memory::new();
    let phone = source(1, Mode::Cloud);
    let event = r#"{"userId":"u","anonymousId":"a","context":{"traits":{"plan":"pro"}}}"#;
    assert_eq!(
        shown(&mut memory, PLENTY, 1, &phone, event).as_deref(),
        Some(r#"{"userId":"u","traits":{"plan":"pro"}}"#)
    );
    assert_eq!(shown(&mut memory, PLENTY, 1, &phone, r#"{"userId":"u"}"#), None);
    assert_eq!(
        shown(&mut memory, PLENTY, 1, &phone, r#"{"userId":"u","context":{"traits":{}}}"#),
        None
    );
    identify(&mut memory, PLENTY, 2, &phone, r#"{"userId":"u","traits":{"plan":"free"}}"#);
    assert_eq!(
        shown(&mut memory, PLENTY, 3, &phone, event).as_deref(),
        Some(r#"{"userId":"u","traits":{"plan":"free"}}"#)
    );
}

#[test]
fn page_traits_hold_until_user_id_is_identified() {
    let mut memory = Memory::new();
    let shop = source(1, Mode::Device);
    let mut users = UserTransaction::new(&mut memory, PLENTY, 1);
    let mut page = PageTraits::default();
    let track = message(MessageType::Track, r#"{"anonymousId":"b"}"#);
    assert_eq!(users.user_for_event(&shop, &track, Some(&page)), None);
    users.identify(
        &shop,
        &message(MessageType::Identify, r#"{"anonymousId":"a","traits":{"x":1}}"#),
        Some(&mut page),
    );
    let shown = users.user_for_event(&shop, &track, Some(&page)).unwrap();
    assert_eq!((shown.id, shown.traits.as_str()), (None, r#"{"x":1}"#));
    assert_eq!(users.user_for_event(&source(2, Mode::Device), &track, Some(&page)), None);
    assert_eq!(
        users.user_for_event(&shop, &message(MessageType::Track, r#"{"userId":"u"}"#), Some(&page)),
        None
    );
    // An identify with a userId ends it.
    users.identify(
        &shop,
        &message(MessageType::Identify, r#"{"userId":"u","anonymousId":"a"}"#),
        Some(&mut page),
    );
    assert_eq!(users.user_for_event(&shop, &track, Some(&page)), None);
}

#[test]
fn transaction_sees_its_own_earlier_updates() {
    let mut memory = Memory::new();
    let shop = source(1, Mode::Cloud);
    let track = message(MessageType::Track, r#"{"userId":"u"}"#);
    let mut users = UserTransaction::new(&mut memory, PLENTY, 1);
    assert_eq!(users.user_for_event(&shop, &track, None), None);
    users.identify(
        &shop,
        &message(MessageType::Identify, r#"{"userId":"u","traits":{"n":1}}"#),
        None,
    );
    assert_eq!(users.user_for_event(&shop, &track, None).unwrap().traits, r#"{"n":1}"#);
    users.identify(
        &shop,
        &message(MessageType::Identify, r#"{"userId":"u","traits":{"n":2}}"#),
        None,
    );
    assert_eq!(users.user_for_event(&shop, &track, None).unwrap().traits, r#"{"n":2}"#);
    assert_eq!(users.commit(), CommitReport { written: 2, ..CommitReport::default() });
}

#[test]
fn eviction_takes_least_recently_used_of_all_shards() {
    let mut memory = Memory::new();
    let shop = source(1, Mode::Cloud);
    let three = config::UsersSettings { max_users: 3, ..PLENTY };
    let body = |id: u64| format!(r#"{{"userId":"u{id}","traits":{{"n":{id}}}}}"#);
    for id in 1..=3 {
        assert_eq!(identify(&mut memory, three, id, &shop, &body(id)).evicted, 0);
    }
    assert!(shown(&mut memory, three, 10, &shop, r#"{"userId":"u1"}"#).is_some());
    assert_eq!(identify(&mut memory, three, 11, &shop, &body(4)).evicted, 1);
    let left: Vec<u64> = (1..=4)
        .filter(|id| {
            shown(&mut memory, three, 12, &shop, &format!(r#"{{"userId":"u{id}"}}"#)).is_some()
        })
        .collect();
    assert_eq!(left, [1, 3, 4]);
    // More users than the bound in one request: the last ones stay.
    let mut users = UserTransaction::new(&mut memory, three, 20_000);
    for id in 100..150 {
        users.identify(&shop, &message(MessageType::Identify, &body(id)), None);
    }
    users.commit();
    let left: Vec<u64> = (1..150)
        .filter(|id| {
            shown(&mut memory, three, 21, &shop, &format!(r#"{{"userId":"u{id}"}}"#)).is_some()
        })
        .collect();
    assert_eq!(left, [147, 148, 149]);
    assert_eq!(held(&memory).0.0, 3);
}

#[test]
fn store_holds_as_many_users_as_max_users() {
    let mut memory = Memory::new();
    let shop = source(1, Mode::Cloud);
    UserTransaction::initialize(&mut memory, PLENTY, SEED);
    for request in 0..100 {
        let mut users = UserTransaction::new(&mut memory, PLENTY, (1 + request) * 1000);
        for n in 0..100 {
            let id = request * 100 + n;
            let body = format!(
                r#"{{"userId":"user-{id}","context":{{"personas":{{"computation_key":"vip"}}}},"traits":{{"vip":true}}}}"#
            );
            users.identify(&shop, &message(MessageType::Identify, &body), None);
        }
        assert_eq!(users.commit(), CommitReport { written: 100, ..CommitReport::default() });
    }
    let (held, booked) = held(&memory);
    assert_eq!((held.0, held), (10_000, booked));
    for id in [0, 1, 4_999, 9_999] {
        let event = format!(r#"{{"userId":"user-{id}"}}"#);
        let user = shown(&mut memory, PLENTY, 1_000, &shop, &event).unwrap();
        assert_eq!(user, format!(r#"{{"userId":"user-{id}","traits":{{"vip":true}}}}"#));
    }
    assert!(memory.len() < 600, "{} keys", memory.len());
}

#[test]
fn user_not_seen_for_ttl_is_removed() {
    let mut memory = Memory::new();
    let shop = source(1, Mode::Cloud);
    identify(&mut memory, PLENTY, 1, &shop, r#"{"userId":"u","traits":{"n":1}}"#);
    // Each event updates `last_seen`, exact to the minute.
    assert!(shown(&mut memory, PLENTY, 900_000, &shop, r#"{"userId":"u"}"#).is_some());
    assert!(shown(&mut memory, PLENTY, 1_800_000, &shop, r#"{"userId":"u"}"#).is_some());
    assert!(shown(&mut memory, PLENTY, 2_900_000, &shop, r#"{"userId":"u"}"#).is_none());
}

#[test]
fn user_seen_within_a_short_ttl_stays() {
    let mut memory = Memory::new();
    let shop = source(1, Mode::Cloud);
    // Shorter than the minute to which `last_seen` is exact with a longer bound.
    let short = config::UsersSettings { ttl_ms: 80_000, ..PLENTY };
    identify(&mut memory, short, 1, &shop, r#"{"userId":"u","traits":{"n":1}}"#);
    for now in [30_000, 100_000] {
        assert!(shown(&mut memory, short, now, &shop, r#"{"userId":"u"}"#).is_some(), "{now}");
    }
    assert!(shown(&mut memory, short, 181_000, &shop, r#"{"userId":"u"}"#).is_none());
}

#[test]
fn last_seen_is_written_once_per_interval() {
    let shop = source(1, Mode::Cloud);
    for (max_users, ttl_ms, interval_ms) in [
        (1_001, 1_000_000, 60_000),
        // An eighth of a short TTL.
        (1_001, 80_000, 10_000),
        // Each event, with few users.
        (1_000, 1_000_000, 1),
    ] {
        let settings = config::UsersSettings { max_users, ttl_ms, ..PLENTY };
        let mut memory = Memory::new();
        let event = r#"{"userId":"u"}"#;
        identify(&mut memory, settings, 1, &shop, r#"{"userId":"u","traits":{"n":1}}"#);
        let before = memory.clone();
        shown(&mut memory, settings, interval_ms, &shop, event);
        assert_eq!(memory, before, "{interval_ms}");
        shown(&mut memory, settings, 1 + interval_ms, &shop, event);
        assert_ne!(memory, before, "{interval_ms}");
    }
}

#[test]
fn anonymous_visitor_not_seen_for_ttl_is_removed() {
    let mut memory = Memory::new();
    let shop = source(1, Mode::Cloud);
    let visitor = r#"{"anonymousId":"a"}"#;
    identify(&mut memory, PLENTY, 1, &shop, r#"{"anonymousId":"a","traits":{"n":1}}"#);
    assert!(shown(&mut memory, PLENTY, 900_000, &shop, visitor).is_some());
    assert!(shown(&mut memory, PLENTY, 1_890_000, &shop, visitor).is_some());
    assert_eq!(shown(&mut memory, PLENTY, 2_900_000, &shop, visitor), None);
    // The record itself is removed with the next write to its shard.
    identify(&mut memory, PLENTY, 2_900_000, &shop, r#"{"anonymousId":"a","traits":{}}"#);
    assert_eq!(held(&memory).0.0, 1);
    assert_eq!(shown(&mut memory, PLENTY, 2_900_001, &shop, visitor).as_deref(), Some("{}"));
}

#[test]
fn link_not_seen_for_ttl_is_removed() {
    let mut memory = Memory::new();
    let shop = source(1, Mode::Cloud);
    let both = r#"{"userId":"u","anonymousId":"a","traits":{"n":1}}"#;
    identify(&mut memory, PLENTY, 1, &shop, both);
    let event = r#"{"anonymousId":"a"}"#;
    // An event of the visitor also counts as an event of the user.
    assert!(shown(&mut memory, PLENTY, 900_000, &shop, event).is_some());
    assert!(shown(&mut memory, PLENTY, 1_800_000, &shop, r#"{"userId":"u"}"#).is_some());
    // The user is still stored, but no longer linked to the visitor's id.
    assert_eq!(shown(&mut memory, PLENTY, 2_000_000, &shop, event), None);
    assert!(shown(&mut memory, PLENTY, 2_000_000, &shop, r#"{"userId":"u"}"#).is_some());
}

#[test]
fn initialize_by_second_worker_keeps_seed_and_users() {
    let mut memory = Memory::new();
    let shop = source(1, Mode::Cloud);
    UserTransaction::initialize(&mut memory, PLENTY, SEED);
    identify(&mut memory, PLENTY, 1, &shop, r#"{"userId":"u","traits":{"n":1}}"#);
    assert_eq!(UserTransaction::initialize(&mut memory, PLENTY, SEED + 1), SEED);
    assert!(shown(&mut memory, PLENTY, 2, &shop, r#"{"userId":"u"}"#).is_some());
    // A store of another size is emptied, but the seed of the process stays.
    let large = config::UsersSettings { max_users: 40_000, ..PLENTY };
    assert_eq!(UserTransaction::initialize(&mut memory, large, SEED + 2), SEED);
    // A key that was only created is not a store yet.
    let mut memory = Memory::new();
    SharedData::set(&mut memory, sharding::LAYOUT_KEY, b"", None);
    assert_eq!(UserTransaction::initialize(&mut memory, PLENTY, SEED), SEED);
}

#[test]
fn users_with_ids_chosen_for_one_shard_are_not_evicted() {
    let shop = source(1, Mode::Cloud);
    let body =
        |id: &str| format!(r#"{{"userId":"{id}","traits":{{"t":"{}"}}}}"#, "x".repeat(2_000));
    let crowded = |seed: u64| {
        let shard = |id: &String| sharding::ShardId::new(UserKey::user_id(1, id), PLENTY, seed);
        let first = shard(&"u0".to_owned());
        (0..200_000).map(|n| format!("u{n}")).filter(|id| shard(id) == first).take(50).collect()
    };
    // The attacker knows the seed in one case, and guesses in the other.
    for (guess, all_stay) in [(SEED, false), (SEED + 1, true)] {
        let mut memory = Memory::new();
        UserTransaction::initialize(&mut memory, PLENTY, SEED);
        let ids: Vec<String> = crowded(guess);
        for id in &ids {
            identify(&mut memory, PLENTY, 1, &shop, &body(id));
        }
        assert_eq!(held(&memory).0.0 == 50, all_stay);
    }
}

#[test]
fn oversized_traits_replace_earlier_ones_by_none() {
    let mut memory = Memory::new();
    let shop = source(1, Mode::Cloud);
    let large = format!(
        r#"{{"userId":"u","traits":{{"a":"{}","b":"{}"}}}}"#,
        "x".repeat(9_000),
        "y".repeat(9_000)
    );
    identify(&mut memory, PLENTY, 1, &shop, r#"{"userId":"u","traits":{"n":1}}"#);
    assert_eq!(identify(&mut memory, PLENTY, 2, &shop, &large).rejected, 1);
    assert_eq!(
        shown(&mut memory, PLENTY, 3, &shop, r#"{"userId":"u"}"#).as_deref(),
        Some(r#"{"userId":"u"}"#)
    );
    let id = "i".repeat(600);
    let report = identify(
        &mut memory,
        PLENTY,
        4,
        &shop,
        &format!(r#"{{"userId":"{id}","traits":{{"n":1}}}}"#),
    );
    assert_eq!((report.rejected, report.written), (1, 0));
    assert_eq!(shown(&mut memory, PLENTY, 5, &shop, &format!(r#"{{"userId":"{id}"}}"#)), None);
    // A bound that is too small for one record.
    let none = config::UsersSettings { max_bytes: 10, ..PLENTY };
    let mut memory = Memory::new();
    identify(&mut memory, none, 1, &shop, r#"{"userId":"u","traits":{"n":1}}"#);
    assert_eq!(held(&memory), ((0, 0), (0, 0)));
}

#[test]
fn trait_bytes_of_one_request_are_bounded() {
    let mut memory = Memory::new();
    let shop = source(1, Mode::Cloud);
    identify(
        &mut memory,
        PLENTY,
        1,
        &shop,
        &format!(r#"{{"userId":"u","traits":{{"a":"{}"}}}}"#, "x".repeat(9_000)),
    );
    let mut users = UserTransaction::new(&mut memory, PLENTY, 2_000);
    let track = message(MessageType::Track, r#"{"userId":"u"}"#);
    let bytes: usize =
        (0..5_000).map(|_| users.user_for_event(&shop, &track, None).unwrap().traits.len()).sum();
    assert!((4_000_000..=4_194_304).contains(&bytes), "{bytes}");
    assert!(users.commit().traits_omitted > 4_000);
}

#[test]
fn traits_and_merges_of_one_request_are_bounded_by_its_body() {
    const BODY_BYTES: usize = 1_000;
    let mut memory = Memory::new();
    let shop = source(1, Mode::Cloud);
    let traits = format!(r#"{{"a":"{}"}}"#, "x".repeat(7_000));
    for user in 0..30 {
        let body = format!(r#"{{"userId":"u{user}","traits":{traits}}}"#);
        identify(&mut memory, PLENTY, 1, &shop, &body);
    }
    let mut users = UserTransaction::new(&mut memory, PLENTY, 2_000);
    users.limit_by_body(BODY_BYTES);
    let has_traits = |user: &usize| {
        let body = format!(r#"{{"userId":"u{user}"}}"#);
        let user = users.user_for_event(&shop, &message(MessageType::Track, &body), None);
        !user.unwrap().traits.is_empty()
    };
    let shown = (0..30).filter(has_traits).count();
    assert_eq!(shown, (65_536 + 3 * BODY_BYTES) / traits.len());
    assert_eq!(users.commit().traits_omitted, 30 - shown as u64);
    let mut users = UserTransaction::new(&mut memory, PLENTY, 3_000);
    users.limit_by_body(BODY_BYTES);
    for user in 0..30 {
        let body = format!(
            r#"{{"userId":"u{user}","context":{{"personas":{{}}}},"traits":{{"vip":true}}}}"#
        );
        users.identify(&shop, &message(MessageType::Identify, &body), None);
    }
    let merged = (65_536 + BODY_BYTES) / traits.len();
    assert_eq!(users.commit().rejected, 30 - merged as u64);
}

#[test]
fn bytes_read_for_events_of_one_request_are_bounded_by_its_body() {
    const USERS: usize = 2_000;
    let mut memory = Memory::new();
    let shop = source(1, Mode::Cloud);
    let traits = format!(r#"{{"a":"{}"}}"#, "x".repeat(1_000));
    for user in 0..USERS {
        let body = format!(r#"{{"userId":"u{user}","traits":{traits}}}"#);
        identify(&mut memory, PLENTY, 1, &shop, &body);
    }
    for (body_bytes, shards) in [(0, 200..320), (1_000_000, 500..513)] {
        let mut users = UserTransaction::new(&mut memory, PLENTY, 2_000);
        users.limit_by_body(body_bytes);
        for user in 0..USERS {
            let body = format!(r#"{{"userId":"u{user}"}}"#);
            users.user_for_event(&shop, &message(MessageType::Track, &body), None);
        }
        assert!(shards.contains(&users.loaded.len()), "{}", users.loaded.len());
        // What was read already is looked up.
        assert!(users.profile_for_user_id(shop.key_hash, "u0").is_some());
    }
}

#[test]
fn bytes_read_for_updates_of_one_request_are_bounded_by_its_body() {
    const USERS: usize = 8_000;
    let mut memory = Memory::new();
    let shop = source(1, Mode::Cloud);
    let large = config::UsersSettings { max_users: 80_000, max_bytes: 80_000_000, ..PLENTY };
    let traits = format!(r#"{{"a":"{}"}}"#, "x".repeat(1_000));
    let mut identify_all = |body_bytes: Option<usize>| {
        let mut users = UserTransaction::new(&mut memory, large, 1_000);
        if let Some(body_bytes) = body_bytes {
            users.limit_by_body(body_bytes);
        }
        for user in 0..USERS {
            let body = format!(r#"{{"userId":"u{user}","traits":{traits}}}"#);
            users.identify(&shop, &message(MessageType::Identify, &body), None);
        }
        (users.read_bytes, users.commit())
    };
    assert_eq!(identify_all(None).1.rejected, 0);
    for body_bytes in [0, 100_000] {
        let (read_bytes, report) = identify_all(Some(body_bytes));
        let limit = 1_048_576 + 40 * body_bytes;
        assert!((limit..limit + 65_536).contains(&read_bytes), "{body_bytes}: {read_bytes}");
        assert_eq!(report.written + report.rejected, USERS as u64);
        assert!(report.written > 0 && report.rejected > 0, "{body_bytes}: {report:?}");
    }
    assert_eq!(identify_all(Some(USERS * 1_000)).1.rejected, 0);
}

#[test]
fn updates_of_one_request_are_bounded() {
    let mut memory = Memory::new();
    let shop = source(1, Mode::Cloud);
    let mut users = UserTransaction::new(&mut memory, PLENTY, 1_000);
    for n in 0..10_000 {
        let body = format!(r#"{{"userId":"u","traits":{{"n":{n}}}}}"#);
        users.identify(&shop, &message(MessageType::Identify, &body), None);
    }
    let report = users.commit();
    assert_eq!((report.written, report.rejected), (8_191, 1_809));
    assert!(shown(&mut memory, PLENTY, 2, &shop, r#"{"userId":"u"}"#).unwrap().contains("8190"));
}

#[test]
fn initialize_with_other_size_empties_store() {
    let mut memory = Memory::new();
    let shop = source(1, Mode::Cloud);
    let large = config::UsersSettings { max_users: 40_000, max_bytes: 40_000_000, ..PLENTY };
    UserTransaction::initialize(&mut memory, large, SEED);
    for id in 0..2_000 {
        identify(
            &mut memory,
            large,
            1,
            &shop,
            &format!(r#"{{"userId":"u{id}","traits":{{"n":{id}}}}}"#),
        );
    }
    assert!(shown(&mut memory, large, 2, &shop, r#"{"userId":"u1500"}"#).is_some());
    assert_eq!(held(&memory).0, held(&memory).1);
    // The same size: nothing is lost.
    UserTransaction::initialize(&mut memory, large, SEED);
    assert_eq!(held(&memory).0.0, 2_000);
    UserTransaction::initialize(&mut memory, PLENTY, SEED);
    assert_eq!(held(&memory), ((0, 0), (0, 0)));
    identify(&mut memory, PLENTY, 3, &shop, r#"{"userId":"u","traits":{"n":1}}"#);
    // A smaller bound takes effect with the next identify.
    for id in 0..200 {
        identify(
            &mut memory,
            PLENTY,
            4,
            &shop,
            &format!(r#"{{"userId":"u{id}","traits":{{"n":{id}}}}}"#),
        );
    }
    identify(
        &mut memory,
        config::UsersSettings { max_users: 5, ..PLENTY },
        5,
        &shop,
        r#"{"userId":"last","traits":{"n":1}}"#,
    );
    assert_eq!(held(&memory).0.0, 5);
}

#[test]
fn user_id_up_to_the_limit_is_remembered() {
    let shop = source(1, Mode::Cloud);
    for (bytes, is_remembered) in [(512, true), (513, false)] {
        let mut memory = Memory::new();
        let body = format!(r#"{{"userId":"{}","traits":{{"n":1}}}}"#, "i".repeat(bytes));
        let report = identify(&mut memory, PLENTY, 1, &shop, &body);
        assert_eq!((report.written, report.rejected), if is_remembered { (1, 0) } else { (0, 1) });
        let event = body.replace(r#","traits":{"n":1}"#, "");
        assert_eq!(shown(&mut memory, PLENTY, 2, &shop, &event).is_some(), is_remembered);
    }
}

#[test]
fn store_is_filled_up_to_its_bytes() {
    let shop = source(1, Mode::Cloud);
    let body = r#"{"userId":"u","traits":{"n":1}}"#;
    let mut memory = Memory::new();
    identify(&mut memory, PLENTY, 1, &shop, body);
    let bytes = u64::try_from(held(&memory).0.1).unwrap();
    for (max_bytes, users) in [(bytes, 1), (bytes - 1, 0)] {
        let mut memory = Memory::new();
        let settings = config::UsersSettings { max_bytes, ..PLENTY };
        identify(&mut memory, settings, 1, &shop, body);
        assert_eq!(held(&memory).0.0, users, "{max_bytes}");
    }
}

/// Shared data that another worker writes to between our reads and writes.
struct Busy<'m> {
    memory: &'m mut Memory,
    others: Vec<(u64, String)>,
}

impl SharedData for Busy<'_> {
    fn get(&mut self, key: &str) -> (Vec<u8>, Option<u32>) {
        SharedData::get(self.memory, key)
    }

    fn set(&mut self, key: &str, value: &[u8], version: Option<u32>) -> bool {
        if let Some((now, body)) = self.others.pop() {
            identify(self.memory, TIGHT, now, &source(1, Mode::Cloud), &body);
        }
        let held = held(self.memory);
        let set = SharedData::set(self.memory, key, value, version);
        let after = self::held(self.memory);
        assert!(after.0.0 <= 20 && after.0.1 <= 4_000, "{held:?} {after:?}");
        set
    }
}

#[test]
fn concurrent_updates_are_not_lost() {
    let mut memory = Memory::new();
    let shop = source(1, Mode::Cloud);
    UserTransaction::initialize(&mut memory, TIGHT, SEED);
    let audience =
        r#"{"userId":"u","context":{"personas":{"computation_key":"vip"}},"traits":{"vip":true}}"#;
    // Between our read and our first write, to the usage; and between that and our write to the
    // shard.
    for turn in 1..=2 {
        let mut others = vec![(turn, audience.replace("vip", &format!("vip_{turn}")))];
        others.resize(
            usize::try_from(turn).unwrap(),
            (turn, r#"{"userId":"other","traits":{"n":1}}"#.to_owned()),
        );
        others.reverse();
        let mut busy = Busy { memory: &mut memory, others };
        let mut users = UserTransaction::new(&mut busy, TIGHT, turn * 1000);
        users.identify(
            &shop,
            &message(
                MessageType::Identify,
                &format!(r#"{{"userId":"u","traits":{{"said":{turn}}}}}"#),
            ),
            None,
        );
        assert_eq!(users.commit().rejected, 0);
    }
    let shown = shown(&mut memory, TIGHT, 3, &shop, r#"{"userId":"u"}"#).unwrap();
    assert_eq!(shown, r#"{"userId":"u","traits":{"said":2,"vip_1":true,"vip_2":true}}"#);
}

const TIGHT: config::UsersSettings =
    config::UsersSettings { max_users: 20, max_bytes: 4_000, ttl_ms: 500 };

fn any_update() -> impl Strategy<Value = (u8, u8, Option<bool>, usize)> {
    (0_u8..40, 0_u8..10, proptest::option::of(any::<bool>()), 0_usize..60)
}

/// Returns a message of user `user`, with the `anonymousId` of `device` if it has one, and a trait
/// that names the user.
fn body(user: u8, device: u8, computed: Option<bool>, padding: usize) -> String {
    let ids = match (user, device) {
        (30.., _) => format!(r#""anonymousId":"a{user}""#),
        (_, 0..4) => format!(r#""userId":"u{user}","anonymousId":"d{device}""#),
        _ => format!(r#""userId":"u{user}""#),
    };
    match computed {
        Some(value) => format!(
            r#"{{{ids},"context":{{"personas":{{"computation_key":"vip {user}"}}}},"traits":{{"vip {user}":{value}}}}}"#
        ),
        None => format!(r#"{{{ids},"traits":{{"is":{user},"p":"{}"}}}}"#, "x".repeat(padding)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// For any updates in any order, with other workers in between, the bounds hold after every
    /// write, the usage index is correct after all commits, and no user has another user's traits.
    #[test]
    fn bounds_hold_and_traits_stay_with_their_user(
        requests in proptest::collection::vec(
            (proptest::collection::vec(any_update(), 1..12), proptest::collection::vec(any_update(), 0..4), 1_u64..40),
            1..24,
        ),
    ) {
        let mut memory = Memory::new();
        let shop = source(1, Mode::Cloud);
        UserTransaction::initialize(&mut memory, TIGHT, SEED);
        let mut now = 1_000;
        for (updates, others, later) in requests {
            now += later;
            let others = others.into_iter().map(|(u, d, c, p)| (now, body(u, d, c, p))).collect();
            let mut busy = Busy { memory: &mut memory, others };
            let mut users = UserTransaction::new(&mut busy, TIGHT, now * 1000);
            for (user, device, computed, padding) in updates {
                users.identify(&shop, &message(MessageType::Identify, &body(user, device, computed, padding)), None);
            }
            users.commit();
            let (held, booked) = held(&memory);
            prop_assert_eq!(held, booked);
            for user in 0_u8..40 {
                let id = if user < 30 { format!(r#"{{"userId":"u{user}"}}"#) } else { format!(r#"{{"anonymousId":"a{user}"}}"#) };
                let Some(shown) = shown(&mut memory, TIGHT, now, &shop, &id) else { continue };
                let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
                let Some(traits) = shown["traits"].as_object() else { continue };
                for (name, value) in traits {
                    let own = match name.as_str() {
                        "p" => true,
                        "is" => *value == user,
                        vip => *vip == format!("vip_{user}"),
                    };
                    prop_assert!(own, "{} shows {}", id, shown);
                }
            }
        }
    }
}
