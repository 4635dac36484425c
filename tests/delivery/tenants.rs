//! A project that fails costs the others nothing.

use super::simulation::{LATENCY_MS, Request, Simulation, Upstream};
use keen_edge::config::DeliverySettings;
use keen_edge::delivery::Ack;
use proptest::prelude::*;

/// How the failing project's events arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// Images and mirrored copies.
    Unattended,
    /// Waiting clients.
    Waiting,
    Both,
}

/// Healthy clients send a track every 10 ms for half a minute. Another project is fed until the
/// bound is reached.
fn healthy_latencies(
    settings: DeliverySettings,
    failing: Option<(Upstream, Feed, usize)>,
) -> Vec<u64> {
    let mut simulation = Simulation::new(settings, 3);
    simulation.clients_retry = false;
    if let Some((upstream, _, _)) = failing {
        simulation.set_upstream(1, upstream);
    }
    let mut id = 0;
    for now in 0..30_000 {
        simulation.run_until(now);
        if let Some((_, feed, bytes)) = failing
            && now % 5 == 0
        {
            let waits = match feed {
                Feed::Unattended => false,
                Feed::Waiting => true,
                Feed::Both => now % 10 == 0,
            };
            simulation.send(Request { destination: 1, events: id..id + 2, waits, bytes });
        }
        if now % 10 == 0 {
            simulation.send(Request {
                destination: 0,
                events: id..id + 1,
                waits: true,
                bytes: 100,
            });
        }
        id += 2;
    }
    simulation.run_until(40_000);
    simulation.assert_accounted();
    let healthy = &simulation.projects[0];
    assert_eq!(healthy.refused, 0, "a healthy project's client was refused");
    assert_eq!(healthy.acks.len(), 3_000);
    assert!(healthy.acks.iter().all(|(ack, _)| *ack == Ack::Delivered));
    if failing.is_some() {
        // The failing project did reach the bound.
        let failing = &simulation.projects[1];
        assert!(failing.refused > 0 || failing.dropped > 0 || failing.unconfirmed > 0);
    }
    healthy.acks.iter().map(|(_, latency)| *latency).collect()
}

fn mean(latencies: &[u64]) -> u64 {
    latencies.iter().sum::<u64>() / latencies.len() as u64
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn healthy_project_beside_a_failing_one_is_served_as_if_alone(
        upstream in prop_oneof![
            Just(Upstream::Answers(402, "{}")),
            Just(Upstream::Answers(503, "")),
            Just(Upstream::Answers(500, "")),
            Just(Upstream::Answers(413, "")),
            Just(Upstream::Answers(400, "<html>")),
            Just(Upstream::Hangs),
        ],
        feed in prop_oneof![Just(Feed::Unattended), Just(Feed::Waiting), Just(Feed::Both)],
        bytes in 100..20_000_usize,
        max_in_flight in 1..6_usize,
        retries in 0..4_u32,
    ) {
        let settings = DeliverySettings {
            max_pending_bytes: 200_000,
            max_batch_bytes: 50_000,
            max_in_flight,
            max_retries: retries,
            ..DeliverySettings::default()
        };
        let alone = healthy_latencies(settings, None);
        let beside = healthy_latencies(settings, Some((upstream, feed, bytes)));
        let longest = |latencies: &[u64]| *latencies.iter().max().unwrap();
        // The hanging project holds its share of callouts until the first of them time out.
        let slack = if upstream == Upstream::Hangs { LATENCY_MS / 2 } else { 2 };
        let (mean_beside, mean_alone) = (mean(&beside), mean(&alone));
        prop_assert!(mean_beside <= mean_alone + slack, "{mean_beside} and {mean_alone}");
        prop_assert!(longest(&beside) <= longest(&alone) + LATENCY_MS, "{}", longest(&beside));
    }
}
