//! An upstream that rejects everything gets few callouts, and nothing is lost or acknowledged.

use super::simulation::{NAMED_ERROR, Request, Simulation, Upstream};
use keen_edge::config::DeliverySettings;
use keen_edge::delivery::Ack;
use proptest::prelude::*;

/// Each second for half a minute, clients send one event each at the same time.
fn burst(settings: DeliverySettings, upstream: Upstream, waits: bool, clients: u64) -> Simulation {
    let mut simulation = Simulation::new(settings, 1);
    simulation.clients_retry = false;
    simulation.set_upstream(0, upstream);
    let mut id = 0;
    for second in 0..30 {
        simulation.run_until(second * 1_000);
        for _ in 0..clients {
            simulation.send(Request { destination: 0, events: id..id + 1, waits, bytes: 50 });
            id += 1;
        }
    }
    simulation.run_until(45_000);
    simulation
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn upstream_that_rejects_everything_gets_few_callouts_and_acknowledges_nothing(
        upstream in prop_oneof![
            Just(Upstream::Answers(413, "")),
            Just(Upstream::Answers(400, "<html>")),
            Just(Upstream::Answers(400, NAMED_ERROR)),
            Just(Upstream::Answers(402, "{}")),
            Just(Upstream::Answers(500, "")),
            Just(Upstream::Answers(503, "")),
            Just(Upstream::Answers(200, "{}")),
        ],
        retries in 0..5_u32,
        waits in any::<bool>(),
        clients in 1..200_u64,
    ) {
        let settings = DeliverySettings { max_retries: retries, ..DeliverySettings::default() };
        let healthy = burst(settings, Upstream::Healthy, waits, clients);
        let mut failing = burst(settings, upstream, waits, clients);
        let (few, many) = (healthy.projects[0].callouts, failing.projects[0].callouts);
        prop_assert!(many <= 4 * few + 40, "{many} callouts, {few} of a healthy upstream");
        // At most a few rejections by name count as verdicts on events.
        let project = &failing.projects[0];
        let delivered = project.acks.iter().filter(|(ack, _)| *ack == Ack::Delivered).count() as u64;
        prop_assert!(delivered <= 8 && project.rejected <= 8);
        if upstream != Upstream::Answers(400, NAMED_ERROR) {
            prop_assert_eq!(delivered + project.rejected, 0);
        }
        let is_down = matches!(upstream, Upstream::Answers(400..=499, _));
        prop_assert_eq!(project.up, is_down.then_some(false));
        prop_assert_eq!(project.dropped, 0);
        failing.assert_accounted();
        // Once the upstream accepts again, every event without a client arrives within a minute, in
        // few callouts.
        failing.set_upstream(0, Upstream::Healthy);
        failing.run_until(105_000);
        let project = &failing.projects[0];
        if !waits {
            prop_assert!(failing.delivery.is_idle());
            prop_assert_eq!(project.delivered.len() as u64 + project.rejected, 30 * clients);
            prop_assert!(project.callouts - many <= few + 40);
        }
        failing.assert_accounted();
    }
}
