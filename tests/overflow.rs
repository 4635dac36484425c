//! The overflow state machine together with delivery: a queue, a Keen and several workers, in
//! simulated time.

#[path = "overflow/model.rs"]
mod model;
#[path = "overflow/outages.rs"]
mod outages;

use keen_edge::config::{DeliverySettings, OverflowSettings};
use keen_edge::overflow::{message, sqs};
use model::{KeenReply, Model, PROJECTS, QueueReply, Step, WORKERS};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn step() -> impl Strategy<Value = Step> {
    let events = proptest::collection::vec((0..PROJECTS, 0..3_u8, 0..150_usize), 0..8);
    let keen = prop_oneof![
        5 => Just(KeenReply::Accepts),
        2 => any::<u64>().prop_map(KeenReply::Results),
        4 => proptest::sample::select(vec![None, Some(500), Some(503), Some(402), Some(413), Some(400)])
            .prop_map(KeenReply::Fails),
    ];
    let queue = prop_oneof![
        6 => Just(QueueReply::Succeeds),
        1 => Just(QueueReply::WithoutId),
        1 => Just(QueueReply::Throttles),
        1 => Just(QueueReply::Refuses),
        1 => Just(QueueReply::IsAway),
        1 => Just(QueueReply::LosesResponse),
    ];
    prop_oneof![
        4 => (0..WORKERS, prop::bool::weighted(0.7), events)
            .prop_map(|(worker, waits, events)| Step::Submit { worker, waits, events }),
        5 => (0..WORKERS, any::<usize>(), keen)
            .prop_map(|(worker, which, reply)| Step::Keen { worker, which, reply }),
        5 => (0..WORKERS, any::<usize>(), queue)
            .prop_map(|(worker, which, reply)| Step::Queue { worker, which, reply }),
        3 => (0..500_u64).prop_map(|ms| Step::Pass { ms }),
        1 => (0..40_000_u64).prop_map(|ms| Step::Pass { ms }),
    ]
}

prop_compose! {
    fn settings()(
        max_retries in 0..4_u32,
        max_in_flight in 1..4_usize,
        max_batch_events in 1..20_usize,
        max_batch_bytes in 100..2_000_usize,
        max_pending_bytes in 2_000..20_000_usize,
        max_wait_ms in 1_000..10_000_u64,
    ) -> DeliverySettings {
        DeliverySettings {
            max_retries, max_in_flight, max_batch_events, max_batch_bytes, max_pending_bytes, max_wait_ms,
            ..DeliverySettings::default()
        }
    }
}

prop_compose! {
    fn overflow()(
        after_ms in 0..5_000_u64,
        max_message_bytes in 400..3_000_usize,
        reject_misconfigured in any::<bool>(),
    ) -> OverflowSettings {
        OverflowSettings {
            cluster: "sqs".to_owned(),
            authority: "sqs.example".to_owned(),
            queue_url: "https://sqs.example/1/keen".to_owned(),
            after_ms,
            max_message_bytes,
            drain: true,
            reject_misconfigured,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// No event is acknowledged before Keen or the queue has confirmed it. No message is deleted
    /// before Keen has given a final result for each of its events. Every waiter gets one ack.
    /// Bounds hold. Once all faults end, the queue becomes empty, and every acknowledged event is
    /// in Keen.
    #[test]
    fn overflow_of_any_history_keeps_its_promises(
        settings in settings(),
        overflow in overflow(),
        steps in proptest::collection::vec(step(), 0..300),
    ) {
        let mut model = Model::new(settings, &overflow);
        for step in &steps {
            model.step(step);
        }
        model.recover();
    }
}

/// JSON values with any characters.
fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<String>().prop_map(serde_json::Value::from),
        proptest::collection::vec(any::<char>(), 0..4)
            .prop_map(|chars| chars.into_iter().collect::<String>().into()),
        Just(serde_json::Value::from("\u{fffe}\u{ffff}\u{1}\u{7f}\u{0}\"\\")),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            proptest::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

/// Whether SQS accepts all characters of a text (Amazon SQS API Reference, `SendMessage`).
fn is_legal(text: &str) -> bool {
    text.chars().all(|char| {
        matches!(char, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A message contains only characters that SQS accepts, and its events are unchanged.
    #[test]
    fn message_of_any_events_is_legal_and_read_as_written(
        collections in proptest::collection::btree_map(
            any::<String>(),
            proptest::collection::vec(json_value().prop_map(|value| serde_json::json!({"p": value})), 1..4),
            1..4,
        ),
    ) {
        let body = serde_json::to_string(&collections).unwrap();
        let text = message::encode("9181bcd23843312d87000000", body.as_bytes()).unwrap();
        prop_assert!(is_legal(&text));
        let mut read: BTreeMap<String, Vec<serde_json::Value>> = BTreeMap::new();
        let project = message::parse(&text, &mut |collection, event| {
            read.entry(collection.to_owned()).or_default().push(serde_json::from_str(event).unwrap());
        });
        prop_assert_eq!(project.as_deref(), Some("9181bcd23843312d87000000"));
        prop_assert_eq!(read, collections);
    }

    /// No reply and no message causes a panic. Only 200 with a `MessageId` is a success.
    #[test]
    fn reply_of_any_bytes_is_read(
        status in prop_oneof![Just(None), Just(Some(200)), (100..600_u16).prop_map(Some)],
        reply in prop_oneof![
            any::<Vec<u8>>(),
            json_value().prop_map(|value| value.to_string().into_bytes()),
            json_value().prop_map(|value| serde_json::json!({"MessageId": value, "Messages": value}).to_string().into_bytes()),
        ],
    ) {
        let stored = sqs::parse_send_reply(status, &reply).is_ok();
        let parsed: Option<serde_json::Value> = serde_json::from_slice(&reply).ok();
        let id = parsed.as_ref().and_then(|reply| reply.get("MessageId")?.as_str());
        prop_assert_eq!(stored, status == Some(200) && id.is_some_and(|id| !id.is_empty()));
        let _ = sqs::parse_receive_reply(status, &reply);
        prop_assert_eq!(sqs::parse_delete_reply(status, &reply).is_ok(), status == Some(200));
        let text = String::from_utf8_lossy(&reply);
        prop_assert_eq!(message::parse(&text, &mut |_, _| {}), None);
    }
}
