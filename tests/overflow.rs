//! The overflow state machine beside delivery: with a queue, a Keen and several workers, in simulated time.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

#[path = "overflow/model.rs"]
mod model;
#[path = "overflow/outages.rs"]
mod outages;

use keen_edge::config::{DeliverySettings, OverflowSettings};
use model::{KeenReply, Model, PROJECTS, QueueReply, Step, WORKERS};
use proptest::prelude::*;

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

    /// No event is acknowledged before Keen or the queue has confirmed it. No message is deleted before Keen has given a
    /// final result for each of its events. Every waiter gets one ack. Bounds hold. When all goes well again the queue
    /// becomes empty, and every event that was acknowledged is at Keen.
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
