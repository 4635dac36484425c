//! The delivery machine, driven by histories made at random.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

#[path = "delivery/model.rs"]
mod model;

use keen_edge::config;
use model::{Fate, PROJECTS, STATUSES, Step, World};
use proptest::prelude::*;

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Verdicts(0)),
        2 => any::<u64>().prop_map(Fate::Verdicts),
        5 => proptest::sample::select(&STATUSES[..]).prop_map(|(s, r, a)| Fate::Status(s, r, a)),
        1 => Just(Fate::NotMade),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let events = proptest::collection::vec((0..PROJECTS, 0..4_u8, 0..200_usize), 0..12);
    prop_oneof![
        4 => (prop::bool::weighted(0.8), events).prop_map(|(waits, events)| Step::Offer { waits, events }),
        5 => (any::<usize>(), fate()).prop_map(|(which, fate)| Step::Settle { which, fate }),
        1 => any::<usize>().prop_map(|which| Step::HangUp { which }),
        3 => (0..400_u64).prop_map(|ms| Step::Pass { ms }),
        1 => (0..9_000_u64).prop_map(|ms| Step::Pass { ms }),
    ]
}

prop_compose! {
    fn settings()(
        max_retries in 0..5_u32, max_in_flight in 1..4_usize, max_batch_events in 1..20_usize,
        max_batch_bytes in 1..2_000_usize, max_pending_bytes in 1_000..20_000_usize, max_wait_ms in 1..10_000_u64,
    ) -> config::DeliverySettings {
        config::DeliverySettings { ack_on_receipt: false, max_wait_ms, max_retries, max_in_flight, max_batch_events, max_batch_bytes, max_pending_bytes }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every caller is answered exactly once and in time, with 200 only after Keen has spoken on all its events; no
    /// event changes between attempts, is under way twice, or leaves out of its caller's order; bounds hold; and all
    /// comes to rest.
    #[test]
    fn whatever_happens_the_promises_hold(
        settings in settings(),
        seed in any::<u64>(),
        steps in proptest::collection::vec(step(), 0..300),
    ) {
        let mut model = World::new(settings, seed);
        for step in &steps {
            model.step(step);
        }
        model.drain();
    }

    #[test]
    fn closed_it_comes_to_its_end(
        settings in settings(),
        seed in any::<u64>(),
        steps in proptest::collection::vec(step(), 0..100),
    ) {
        let mut model = World::new(settings, seed);
        for step in &steps {
            model.step(step);
        }
        model.close();
    }
}
