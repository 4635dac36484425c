//! One bad event does not hold back its neighbours, and does not multiply callouts.

use super::simulation::{Request, Simulation, Upstream};
use keen_edge::config::DeliverySettings;
use proptest::prelude::*;

/// Sends `total` events after an outage. `bad` of them make Keen fail. Returns the callouts after
/// the outage.
fn isolate(
    settings: DeliverySettings,
    upstream: Upstream,
    outage: Option<Upstream>,
    total: u64,
    bad: &[u64],
    waits: bool,
    per_request: u64,
) -> u64 {
    let mut simulation = Simulation::new(settings, 1);
    simulation.bad_events.extend(bad);
    let mut id = 0;
    let start = outage.map_or(0, |_| 60_000);
    simulation.set_upstream(0, outage.unwrap_or(upstream));
    while id < total {
        let events = id..(id + per_request).min(total);
        simulation.send(Request { destination: 0, events, waits, bytes: 50 });
        id += per_request;
        // Events arrive during the whole outage.
        simulation.run_until(start * id.min(total) / total.max(1));
    }
    simulation.run_until(start);
    simulation.set_upstream(0, upstream);
    let before = simulation.projects[0].callouts;
    simulation.run_until(start + 60_000);
    simulation.assert_accounted();
    let missing: Vec<u64> = (0..total)
        .filter(|id| !bad.contains(id) && !simulation.projects[0].delivered.contains(id))
        .collect();
    assert_eq!(missing, Vec::<u64>::new(), "not delivered within 60 s");
    simulation.projects[0].callouts - before
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn neighbours_of_bad_events_are_delivered_within_60_s(
        (total, bad) in prop_oneof![
            (Just(100_u64), proptest::collection::vec(0..100_u64, 1)),
            (Just(2_000_u64), proptest::collection::vec(0..2_000_u64, 5)),
        ],
        retries in 0..5_u32,
        waits in any::<bool>(),
        outage in prop_oneof![
            Just(None),
            Just(Some(Upstream::Answers(503, ""))),
            Just(Some(Upstream::Answers(500, ""))),
            Just(Some(Upstream::Answers(402, "{}"))),
            Just(Some(Upstream::Answers(413, ""))),
            Just(Some(Upstream::Hangs)),
        ],
        rejects in any::<bool>(),
    ) {
        let settings = DeliverySettings { max_retries: retries, ..DeliverySettings::default() };
        let upstream =
            if rejects { Upstream::RejectsBadEvents } else { Upstream::FailsOnBadEvents };
        // Clients that wait send one event each, so an ack concerns that event only.
        let per_request = if waits { 1 } else { 50 };
        let callouts = isolate(settings, upstream, outage, total, &bad, waits, per_request);
        // Each bad event takes two callouts for each halving of its batch, and the retries of its
        // client.
        let bound = 60 + bad.len() as u64 * (2 * 11 + 60) + if waits { total } else { 0 };
        prop_assert!(callouts <= bound, "{callouts} callouts");
    }
}
