//! The delivery state machine, driven by random histories.

#[path = "delivery/bad_events.rs"]
mod bad_events;
#[path = "delivery/middleboxes.rs"]
mod middleboxes;
#[path = "delivery/model.rs"]
mod model;
#[path = "delivery/simulation.rs"]
mod simulation;
#[path = "delivery/tenants.rs"]
mod tenants;

use keen_edge::config;
use keen_edge::delivery::{HandoverOutcome, OverflowPolicy};
use model::{Model, PROJECTS, STATUSES, ScriptedResponse, Step};
use proptest::prelude::*;

fn response() -> impl Strategy<Value = ScriptedResponse> {
    prop_oneof![
        6 => Just(ScriptedResponse::Results(0)),
        2 => any::<u64>().prop_map(ScriptedResponse::Results),
        5 => proptest::sample::select(&STATUSES[..])
            .prop_map(|(status, reply, retry_after)| ScriptedResponse::Status(status, reply, retry_after)),
        1 => Just(ScriptedResponse::DispatchFailed),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let events = proptest::collection::vec((0..PROJECTS, 0..4_u8, 0..200_usize), 0..12);
    prop_oneof![
        4 => (prop::bool::weighted(0.8), events)
            .prop_map(|(waits, events)| Step::Submit { waits, events }),
        5 => (any::<usize>(), response())
            .prop_map(|(which, response)| Step::Settle { which, response }),
        2 => (any::<usize>(), handover_outcome())
            .prop_map(|(which, outcome)| Step::SettleHandover { which, outcome }),
        1 => any::<usize>().prop_map(|which| Step::Disconnect { which }),
        3 => (0..400_u64).prop_map(|ms| Step::Pass { ms }),
        1 => (0..9_000_u64).prop_map(|ms| Step::Pass { ms }),
    ]
}

fn handover_outcome() -> impl Strategy<Value = HandoverOutcome> {
    prop_oneof![
        4 => Just(HandoverOutcome::Stored),
        2 => Just(HandoverOutcome::Failed),
        1 => Just(HandoverOutcome::Refused),
    ]
}

prop_compose! {
    fn overflow()(
        after_ms in 0..6_000_u64,
        max_body_bytes in 100..2_000_usize,
        timeout_ms in 1..5_000_u64,
        reject_misconfigured in any::<bool>(),
    ) -> OverflowPolicy {
        OverflowPolicy { after_ms, max_body_bytes, timeout_ms, reject_misconfigured }
    }
}

prop_compose! {
    fn settings()(
        max_retries in 0..5_u32,
        max_in_flight in 1..4_usize,
        max_batch_events in 1..20_usize,
        max_batch_bytes in 1..2_000_usize,
        max_pending_bytes in 1_000..20_000_usize,
        max_wait_ms in 1..10_000_u64,
    ) -> config::DeliverySettings {
        config::DeliverySettings {
            max_retries, max_in_flight, max_batch_events, max_batch_bytes, max_pending_bytes, max_wait_ms,
            ..config::DeliverySettings::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every waiter gets exactly one ack, in time. It gets `Delivered` only after Keen has given a
    /// final result for all its events. An event does not change between attempts, is never in two
    /// callouts at once, and leaves in the order of its waiter's events. Bounds hold, and a project
    /// can always use its share. Every event is counted in exactly one end. In the end nothing is
    /// pending.
    #[test]
    fn delivery_of_any_history_keeps_its_promises(
        settings in settings(),
        overflow in proptest::option::of(overflow()),
        seed in any::<u64>(),
        steps in proptest::collection::vec(step(), 0..300),
    ) {
        let mut model = Model::new(settings, overflow, seed);
        for step in &steps {
            model.step(step);
        }
        model.recover();
    }

    #[test]
    fn drain_of_any_history_becomes_idle(
        settings in settings(),
        overflow in proptest::option::of(overflow()),
        seed in any::<u64>(),
        steps in proptest::collection::vec(step(), 0..100),
    ) {
        let mut model = Model::new(settings, overflow, seed);
        for step in &steps {
            model.step(step);
        }
        model.drain();
    }
}
