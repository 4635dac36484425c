#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic
)]

use super::*;
use std::collections::BTreeMap;

/// Index of the destination, collection and JSON of each event of a request.
type Events<'a> = &'a [(usize, &'a str, &'a str)];

impl Delivery {
    fn submit_all(&mut self, waiter: Option<WaiterId>, events: Events<'_>, now: u64) -> Admission {
        let events = events.iter().map(|(destination, collection, json)| Event {
            destination: *destination,
            collection,
            json: json.as_bytes(),
        });
        self.submit(waiter, events, now)
    }
}

const EVENT: Events<'static> = &[(0, "a", "{}")];
const SIBLING_WAIT_MS: u64 = 4;

fn settings() -> config::DeliverySettings {
    config::DeliverySettings { max_pending_bytes: 100_000, ..config::DeliverySettings::default() }
}

fn machine(settings: config::DeliverySettings) -> Delivery {
    let mut machine = Delivery::new(settings, 5000, 2, 7);
    machine.enable_timer();
    machine
}

fn recorded(count: usize) -> CalloutOutcome {
    CalloutOutcome::Results(vec![EventResult::Recorded; count])
}

fn acks(machine: &mut Delivery) -> Vec<(WaiterId, Ack)> {
    std::iter::from_fn(|| machine.pop_ack()).collect()
}

#[test]
fn callout_of_the_first_event_leaves_at_once_and_the_rest_together() {
    let mut m = machine(settings());
    for waiter in 1..=50 {
        assert_eq!(m.submit_all(Some(waiter), EVENT, 0), Admission::Admitted);
        if waiter == 1 {
            assert_eq!(m.next_callout(0).unwrap().body, br#"{"a":[{}]}"#);
        }
    }
    assert_eq!(m.next_callout(0), None);
    m.settle(1, recorded(1), 1);
    let callout = m.next_callout(1).unwrap();
    m.settle(callout.id, recorded(49), 2);
    assert_eq!(acks(&mut m).len(), 50);
    assert!(m.is_idle());
    assert_eq!(m.pending_bytes(), 0);
}

#[test]
fn linger_after_acks_waits_for_siblings() {
    let mut m = machine(settings());
    let send = |m: &mut Delivery, waiters: std::ops::RangeInclusive<u32>, now| {
        waiters.for_each(|waiter| {
            assert_eq!(m.submit_all(Some(waiter), EVENT, now), Admission::Admitted)
        });
    };
    send(&mut m, 1..=2, 0);
    let callout = m.next_callout(0).unwrap();
    assert!(!m.is_lingering());
    send(&mut m, 3..=4, 5);
    m.settle(callout.id, recorded(2), 10);
    // Two waiters are queued and two were just answered: all four leave together.
    assert_eq!(m.next_callout(10), None);
    assert!(m.is_lingering());
    send(&mut m, 5..=5, 11);
    assert_eq!(m.next_callout(11), None);
    send(&mut m, 6..=6, 11);
    let callout = m.next_callout(11).unwrap();
    assert!(!m.is_lingering());
    m.settle(callout.id, recorded(4), 20);
    assert_eq!(m.next_callout(20), None);
    assert!(!m.is_lingering(), "no events are queued");
    // Only one of them sends again: it lingers only briefly.
    send(&mut m, 7..=7, 21);
    assert_eq!(m.next_callout(23), None);
    assert!(m.is_lingering());
    let callout = m.next_callout(24).unwrap();
    m.settle(callout.id, recorded(1), 30);
    // A single client has no siblings to wait for.
    send(&mut m, 8..=8, 30);
    let callout = m.next_callout(30).unwrap();
    m.settle(callout.id, recorded(1), 40);
    // Events without a waiter have no siblings to wait for.
    m.submit_all(None, EVENT, 50);
    let callout = m.next_callout(50).unwrap();
    m.submit_all(None, EVENT, 51);
    m.settle(callout.id, recorded(1), 52);
    assert!(m.next_callout(52).is_some());
}

#[test]
fn linger_without_a_timer_is_disabled() {
    let mut m = Delivery::new(settings(), 5000, 2, 7);
    m.submit_all(Some(1), EVENT, 0);
    m.submit_all(Some(2), EVENT, 0);
    let callout = m.next_callout(0).unwrap();
    m.settle(callout.id, recorded(2), 1);
    m.submit_all(Some(3), EVENT, 1);
    assert!(m.next_callout(1).is_some());
}

#[test]
fn recycled_batch_is_empty() {
    let mut m = machine(settings());
    for (events, want) in [
        (vec![(0, "b", "1"), (0, "a", "2"), (0, "b", "3")], r#"{"a":[2],"b":[1,3]}"#),
        (vec![(0, "c", "4"), (0, "b", "5")], r#"{"b":[5],"c":[4]}"#),
        (vec![(0, "a", "6")], r#"{"a":[6]}"#),
        (vec![(1, "c", "7")], r#"{"c":[7]}"#),
    ] {
        m.submit_all(Some(1), &events, 0);
        let callout = m.next_callout(0).unwrap();
        assert_eq!(String::from_utf8(callout.body).unwrap(), want);
        assert_eq!(m.settle(callout.id, recorded(events.len()), 0).delivered, events.len() as u64);
        assert_eq!(acks(&mut m), [(1, Ack::Delivered)]);
        assert_eq!(m.pending_bytes(), 0);
    }
}

#[test]
fn recycled_batch_is_used_by_the_next_events() {
    let mut m = machine(settings());
    for _ in 0..3 {
        m.submit_all(Some(1), EVENT, 0);
        assert!(!m.recycled_batch.is_recycled());
        let callout = m.next_callout(0).unwrap();
        m.settle(callout.id, recorded(1), 0);
        assert!(m.recycled_batch.is_recycled());
    }
}

#[test]
fn recycled_batch_of_many_bytes_is_freed() {
    let mut m = machine(config::DeliverySettings {
        max_pending_bytes: usize::MAX,
        max_batch_bytes: usize::MAX,
        ..settings()
    });
    let event = "1".repeat(500_000);
    for (count, kept) in [(1, true), (5, false)] {
        m.submit_all(Some(1), &vec![(0, "a", event.as_str()); count], 0);
        let callout = m.next_callout(0).unwrap();
        m.settle(callout.id, recorded(count), 0);
        assert_eq!(m.recycled_batch.is_recycled(), kept);
    }
}

#[test]
fn recycled_batch_of_many_collections_is_freed() {
    let mut m = machine(settings());
    for (count, kept) in [(64, true), (65, false)] {
        let names: Vec<String> = (0..count).map(|at| format!("c{at}")).collect();
        let events: Vec<(usize, &str, &str)> =
            names.iter().map(|name| (0, name.as_str(), "{}")).collect();
        m.submit_all(Some(1), &events, 0);
        let callout = m.next_callout(0).unwrap();
        m.settle(callout.id, recorded(count), 0);
        assert_eq!(m.recycled_batch.is_recycled(), kept);
    }
}

#[test]
fn callout_that_hangs_delays_no_others() {
    let mut m = machine(settings());
    m.submit_all(Some(1), EVENT, 0);
    m.next_callout(0).unwrap();
    m.submit_all(Some(2), EVENT, 1);
    assert_eq!(m.next_callout(5), None);
    assert!(m.next_callout(11).is_some());
    // Another project is never delayed, whatever is in flight.
    for waiter in 3..10 {
        m.submit_all(Some(waiter), EVENT, 20 * u64::from(waiter));
        m.next_callout(20 * u64::from(waiter) + 10);
    }
    assert_eq!(m.in_flight.len(), 4);
    m.submit_all(Some(20), &[(1, "a", "{}")], 300);
    assert_eq!(m.next_callout(300).unwrap().destination_index, 1);
}

#[test]
fn ack_follows_the_last_of_the_waiters_events() {
    let mut m = machine(settings());
    m.submit_all(Some(1), &[(0, "b", "1"), (0, "a", "2"), (1, "a", "3"), (0, "a", "4")], 0);
    let first = m.next_callout(0).unwrap();
    assert_eq!(first.body, br#"{"a":[2,4],"b":[1]}"#);
    let second = m.next_callout(0).unwrap();
    m.settle(first.id, recorded(3), 1);
    assert_eq!(acks(&mut m), []);
    let refused = CalloutOutcome::Results(vec![EventResult::Rejected("X".into())]);
    let rejection = Rejection { collection: "a".to_owned(), error: "X".to_owned() };
    assert_eq!(m.settle(second.id, refused, 1).rejected, [rejection]);
    assert_eq!(acks(&mut m), [(1, Ack::Delivered)]);
}

#[test]
fn waiter_waits_until_its_ack_is_there() {
    let mut m = machine(settings());
    m.submit_all(Some(1), EVENT, 0);
    assert!(m.is_waiting(1) && !m.is_waiting(2) && !m.has_acks());
    let callout = m.next_callout(0).unwrap();
    m.settle(callout.id, recorded(1), 0);
    assert!(!m.is_waiting(1) && m.has_acks());
    assert_eq!(m.pop_ack(), Some((1, Ack::Delivered)));
    assert!(!m.has_acks());
}

#[test]
fn callout_that_was_not_dispatched_is_retried() {
    let mut m = machine(settings());
    m.submit_all(Some(1), &[(1, "a", "{}")], 0);
    let callout = m.next_callout(0).unwrap();
    let report = m.on_dispatch_failed(callout.id, 3);
    assert_eq!((report.destination_index, report.pending_ms, report.retried), (1, 3, true));
    let (retried, _) = next_callout_from(&mut m, 4);
    assert_eq!(retried.body, callout.body);
}

#[test]
fn unavailable_keen_is_retried_with_the_same_events_then_unconfirmed() {
    let mut m = machine(settings());
    m.submit_all(Some(1), EVENT, 0);
    let mut now = 0;
    for attempt in 0..4 {
        let callout = m.next_callout(now).unwrap();
        assert_eq!(callout.body, br#"{"a":[{}]}"#);
        let settled = m.settle(callout.id, CalloutOutcome::RetryAfter(0), now);
        assert_eq!(settled.retried, attempt < 3);
        assert_eq!(m.next_callout(now), None);
        now += 1000;
    }
    assert_eq!(acks(&mut m), [(1, Ack::Unconfirmed)]);
    assert!(m.is_idle());
}

#[test]
fn waiter_at_its_deadline_is_unconfirmed() {
    let mut m = machine(settings());
    m.submit_all(Some(1), EVENT, 0);
    let callout = m.next_callout(6_000).unwrap();
    assert_eq!(callout.timeout_ms, 1000);
    assert_eq!(m.expire(6_899, 100).expired_waiters, 0);
    assert_eq!(m.expire(6_900, 100).expired_waiters, 1);
    assert_eq!(acks(&mut m), [(1, Ack::Unconfirmed)]);
    // The waiter has been answered, so a late failure is not retried.
    assert!(!m.settle(callout.id, CalloutOutcome::RetryAfter(0), 7_000).retried);
    assert!(m.is_idle());
}

#[test]
fn rejection_of_a_batch_is_split_down_to_the_one_event() {
    for (outcome, ack, up) in [
        (CalloutOutcome::Rejected(Some("E".into())), Ack::Delivered, None),
        // A middlebox: its rejection is not about the event.
        (CalloutOutcome::Rejected(None), Ack::Unconfirmed, Some(false)),
        (CalloutOutcome::PayloadTooLarge, Ack::Unconfirmed, Some(false)),
    ] {
        let mut m = machine(settings());
        // The others join while the first callout is in flight.
        m.submit_all(Some(9), &[(0, "z", "0")], 0);
        let first = m.next_callout(0).unwrap();
        for waiter in 0..5 {
            m.submit_all(Some(waiter), &[(0, "a", &waiter.to_string())], 0);
        }
        m.settle(first.id, recorded(1), 0);
        while let Some(callout) = m.next_callout(SIBLING_WAIT_MS) {
            let body = String::from_utf8(callout.body).unwrap();
            let digits = body.matches(|c: char| c.is_ascii_digit()).count();
            let is_bad = body.contains('3');
            let outcome = if is_bad { outcome.clone() } else { recorded(digits) };
            let report = m.settle(callout.id, outcome, 0);
            if is_bad {
                assert_eq!(report.destination_up, if digits == 1 { up } else { None });
                assert_eq!(report.retried, digits > 1);
            }
        }
        for (waiter, got) in acks(&mut m) {
            assert_eq!(got, if waiter == 3 { ack } else { Ack::Delivered }, "{waiter}");
        }
        assert!(m.is_idle());
        assert_eq!(m.pending_bytes(), 0);
    }
}

#[test]
fn payload_too_large_of_an_oversized_event_is_rejected() {
    let mut m = machine(config::DeliverySettings::default());
    for (bytes, ack, rejected) in [
        (bulk::MAX_EVENT_BYTES - 1, Ack::Unconfirmed, 0),
        (bulk::MAX_EVENT_BYTES, Ack::Delivered, 1),
    ] {
        m.submit_all(Some(1), &[(0, "a", &"x".repeat(bytes))], 0);
        let callout = m.next_callout(0).unwrap();
        let report = m.settle(callout.id, CalloutOutcome::PayloadTooLarge, 0);
        assert_eq!(report.rejected.len(), rejected);
        assert_eq!(report.unconfirmed, 1 - rejected as u64);
        assert_eq!(acks(&mut m), [(1, ack)]);
        assert!(m.is_idle());
    }
}

#[test]
fn submission_over_the_bound_is_rejected() {
    let mut m = machine(settings());
    let big = "x".repeat(60_000);
    assert_eq!(m.submit_all(Some(1), &[(0, "a", &big)], 0), Admission::Admitted);
    assert_eq!(m.submit_all(Some(2), &[(0, "a", &big)], 0), Admission::Rejected);
    let callout = m.next_callout(0).unwrap();
    m.settle(callout.id, CalloutOutcome::Misconfigured, 0);
    assert_eq!(acks(&mut m), [(1, Ack::DestinationRejected)]);
    assert!(m.is_idle());
}

#[test]
fn events_of_a_disconnected_waiter_are_delivered() {
    let mut m = machine(settings());
    m.submit_all(Some(1), EVENT, 0);
    m.disconnect(1);
    let callout = m.next_callout(0).unwrap();
    assert_eq!(m.settle(callout.id, recorded(1), 0).delivered, 1);
    assert_eq!(acks(&mut m), []);
    assert!(m.is_idle());
}

#[test]
fn unattended_events_are_retried_until_delivered() {
    let mut m = machine(settings());
    m.submit_all(None, &[(0, "a", "1")], 0);
    m.submit_all(Some(1), &[(0, "a", "2")], 0);
    let mut now = 0;
    for outcome in [
        CalloutOutcome::RetryAfter(0),
        CalloutOutcome::Misconfigured,
        CalloutOutcome::RetryAfter(0),
        CalloutOutcome::Misconfigured,
        CalloutOutcome::RetryAfter(0),
    ] {
        let callout = m.next_callout(now).unwrap();
        assert_eq!(callout.timeout_ms, 5000);
        assert!(m.settle(callout.id, outcome, now).retried);
        assert!(!m.is_idle());
        assert_eq!(m.next_callout(now), None);
        now += 10_000;
        m.expire(now, 0);
    }
    // The waiter was answered long ago.
    assert_eq!(acks(&mut m), [(1, Ack::Unconfirmed)]);
    let callout = m.next_callout(now).unwrap();
    assert_eq!(callout.body, br#"{"a":[1]}"#);
    assert_eq!(m.settle(callout.id, recorded(1), now).delivered, 1);
    assert!(m.is_idle());
    assert_eq!(m.pending_bytes(), 0);
}

#[test]
fn blocked_unattended_events_are_kept_until_others_are_accepted() {
    for others_accepted in [false, true] {
        let mut m = machine(settings());
        m.submit_all(None, &[(0, "a", "1")], 0);
        let mut now = 0;
        for attempt in 1..10_u64 {
            let callout = m.next_callout(now).unwrap();
            assert_eq!(callout.body, br#"{"a":[1]}"#);
            let report = m.settle(callout.id, CalloutOutcome::Rejected(None), now);
            let dropped = others_accepted && attempt == 4;
            assert_eq!((report.retried, report.dropped), (!dropped, u64::from(dropped)));
            assert_eq!(report.destination_up, Some(false));
            if dropped {
                break;
            }
            if others_accepted {
                m.submit_all(Some(1), &[(0, "a", "2")], now);
                let callout = m.next_callout(now).unwrap();
                assert_eq!(callout.body, br#"{"a":[2]}"#);
                m.settle(callout.id, recorded(1), now);
            }
            now += 10_000;
        }
        assert!(!m.is_idle());
        acks(&mut m);
        assert_eq!(m.is_idle(), others_accepted);
    }
}

#[test]
fn unattended_events_at_the_drain_deadline_are_dropped_and_counted() {
    let mut m = machine(settings());
    m.submit_all(None, &[(0, "a", "1")], 0);
    m.begin_drain(0);
    let callout = m.next_callout(0).unwrap();
    assert!(m.settle(callout.id, CalloutOutcome::RetryAfter(0), 0).retried);
    // The failure is within the deadline, but the retry would not be.
    let callout = m.next_callout(6_999).unwrap();
    assert_eq!(m.settle(callout.id, CalloutOutcome::RetryAfter(0), 6_999).dropped, 1);
    assert!(m.is_idle());
    assert_eq!(m.pending_bytes(), 0);
}

#[test]
fn queued_events_at_the_drain_deadline_are_dropped_and_counted() {
    let mut m = machine(settings());
    m.submit_all(None, EVENT, 0);
    let callout = m.next_callout(0).unwrap();
    m.settle(callout.id, CalloutOutcome::RetryAfter(10_000), 0);
    m.submit_all(None, &[(0, "a", "1"), (0, "a", "2")], 1);
    m.begin_drain(1);
    m.submit_all(Some(1), EVENT, 100);
    assert_eq!(m.expire(7_000, 0), ExpiryReport::default());
    let report = m.expire(7_001, 0);
    assert_eq!((report.dropped, report.unconfirmed), (vec![(0, 3)], vec![(0, 1)]));
    assert_eq!(acks(&mut m), [(1, Ack::Unconfirmed)]);
    assert!(m.is_idle());
    assert_eq!(m.pending_bytes(), 0);
}

#[test]
fn large_request_takes_several_callouts() {
    let mut m = machine(config::DeliverySettings { max_batch_events: 10, ..settings() });
    let events: Vec<(usize, &str, &str)> = vec![(0, "a", "{}"); 25];
    m.submit_all(Some(1), &events, 0);
    let mut sizes = Vec::new();
    while let Some(callout) = m.next_callout(0) {
        let count = String::from_utf8(callout.body).unwrap().matches("{}").count();
        sizes.push(count);
        m.settle(callout.id, recorded(count), 0);
    }
    assert_eq!(sizes, [10, 10, 5]);
    assert_eq!(acks(&mut m), [(1, Ack::Delivered)]);
}

#[test]
fn project_that_fails_delays_no_events_of_another() {
    let mut m = machine(settings());
    m.submit_all(Some(1), &[(1, "busy", "{}")], 0);
    let busy = m.next_callout(0).unwrap();
    m.submit_all(Some(2), &[(0, "a", "1"), (1, "b", "2")], 0);
    let failing = m.next_callout(0).unwrap();
    assert_eq!(failing.destination_index, 0);
    assert_eq!(m.settle(failing.id, CalloutOutcome::Misconfigured, 1).unconfirmed, 1);
    m.settle(busy.id, recorded(1), 2);
    let other = m.next_callout(2 + SIBLING_WAIT_MS).unwrap();
    assert_eq!(other.body, br#"{"b":[2]}"#);
    m.settle(other.id, recorded(1), 9);
    assert_eq!(acks(&mut m), [(1, Ack::Delivered), (2, Ack::DestinationRejected)]);
    assert!(m.is_idle());
}

#[test]
fn events_that_keen_failed_on_are_retried_alone() {
    let mut m = machine(settings());
    m.submit_all(Some(1), &[(0, "a", "1"), (0, "a", "2"), (0, "a", "3")], 0);
    let callout = m.next_callout(0).unwrap();
    let results =
        vec![EventResult::Recorded, EventResult::Failed, EventResult::Rejected("X".into())];
    let settled = m.settle(callout.id, CalloutOutcome::Results(results), 0);
    assert_eq!((settled.delivered, settled.rejected.len(), settled.retried), (1, 1, true));
    assert_eq!(acks(&mut m), []);
    let callout = m.next_callout(1000).unwrap();
    assert_eq!(callout.body, br#"{"a":[2]}"#);
    m.settle(callout.id, recorded(1), 1000);
    assert_eq!(acks(&mut m), [(1, Ack::Delivered)]);
    assert!(m.is_idle());
    assert_eq!(m.pending_bytes(), 0);
}

#[test]
fn server_error_of_one_event_is_isolated_by_splitting() {
    let mut m = machine(settings());
    let mut now = 0;
    let first = {
        m.submit_all(Some(99), &[(0, "z", "0")], now);
        m.next_callout(now).unwrap()
    };
    for waiter in 0..20 {
        m.submit_all(Some(waiter), &[(0, "a", &format!("[{waiter}]"))], now);
    }
    m.settle(first.id, recorded(1), now);
    let mut got = BTreeMap::new();
    while !m.is_idle() {
        while let Some(callout) = m.next_callout(now) {
            let body = String::from_utf8(callout.body).unwrap();
            let broken = body.contains("[13]");
            let outcome = if broken {
                CalloutOutcome::ServerError
            } else {
                recorded(body.matches('[').count() - 1)
            };
            m.settle(callout.id, outcome, now);
        }
        m.expire(now, 0);
        got.extend(acks(&mut m));
        now += 10;
    }
    assert!(now < settings().max_wait_ms, "{now}");
    for waiter in 0..20 {
        assert_eq!(
            got[&waiter],
            if waiter == 13 { Ack::Unconfirmed } else { Ack::Delivered },
            "{waiter}"
        );
    }
}

#[test]
fn server_error_on_everything_gets_few_callouts() {
    let mut m = machine(settings());
    m.submit_all(None, &vec![(0, "a", "{}"); 500], 0);
    let mut now = 0;
    for _ in 0..200 {
        let callout = m.next_callout(now).unwrap();
        m.settle(callout.id, CalloutOutcome::ServerError, now);
        now += 10_000;
    }
    let mut calls = 0;
    while let Some(callout) = m.next_callout(now) {
        let count = String::from_utf8(callout.body).unwrap().matches("{}").count();
        m.settle(callout.id, recorded(count), now);
        calls += 1;
    }
    assert!(m.is_idle());
    assert!(calls <= 13, "{calls}");
}

#[test]
fn parked_events_delay_no_fresh_ones() {
    let mut m = machine(settings());
    m.submit_all(None, &[(0, "a", "13")], 0);
    let mut now = 0;
    let mut delivered = 0;
    for round in 0..400_u32 {
        now += 50;
        m.submit_all(None, &[(0, "a", "1")], now);
        while let Some(callout) = m.next_callout(now) {
            let body = String::from_utf8(callout.body).unwrap();
            let count = body.matches('1').count();
            let outcome =
                if body.contains("13") { CalloutOutcome::ServerError } else { recorded(count) };
            delivered += u32::try_from(count).unwrap() * u32::from(!body.contains("13"));
            m.settle(callout.id, outcome, now);
        }
        assert!(round < 100 || delivered + 100 > round, "{delivered} of {round}");
    }
    assert!(!m.is_idle());
}

#[test]
fn retry_after_delays_the_next_callout() {
    let mut m = machine(settings());
    m.submit_all(Some(1), EVENT, 0);
    let callout = m.next_callout(0).unwrap();
    assert!(m.settle(callout.id, CalloutOutcome::RetryAfter(2000), 0).retried);
    assert_eq!(m.next_callout(1999), None);
    let callout = m.next_callout(2000).unwrap();
    // Longer than the client waits: it is answered at once.
    m.settle(callout.id, CalloutOutcome::RetryAfter(3_600_000), 2001);
    assert_eq!(acks(&mut m), [(1, Ack::Unconfirmed)]);
    // An hour is cut to ten seconds.
    m.submit_all(None, EVENT, 3000);
    assert_eq!(m.next_callout(12_000), None);
    assert!(m.next_callout(12_001).is_some());
}

#[test]
fn retry_after_is_not_cut_short_by_a_smaller_pause_or_a_success() {
    let mut m = machine(settings());
    m.submit_all(None, EVENT, 0);
    let first = m.next_callout(0).unwrap();
    m.submit_all(None, EVENT, 0);
    let second = m.next_callout(10).unwrap();
    m.submit_all(None, EVENT, 10);
    let third = m.next_callout(20).unwrap();
    m.settle(first.id, CalloutOutcome::RetryAfter(9_000), 100);
    m.settle(second.id, CalloutOutcome::RetryAfter(1_000), 100);
    m.settle(third.id, recorded(1), 100);
    m.submit_all(None, EVENT, 200);
    assert_eq!(m.next_callout(9_099), None);
    assert!(m.next_callout(9_100).is_some());
}

/// Submits a request every 20 ms for a minute, while Keen takes `call_ms` per callout. Returns each
/// waiter's ack and how long it waited.
fn steady(call_ms: u64) -> Vec<(Ack, u64)> {
    let mut m = machine(settings());
    let (mut came, mut under_way, mut waits) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for now in (0..70_000).step_by(10) {
        if now < 60_000 && now % 20 == 0 {
            let waiter = u32::try_from(now).unwrap();
            came.insert(waiter, now);
            assert_ne!(m.submit_all(Some(waiter), EVENT, now), Admission::Rejected);
        }
        let over: Vec<CalloutId> =
            under_way.iter().filter(|(_, (end, _, _))| *end <= now).map(|(id, _)| *id).collect();
        for id in over {
            let (_, count, in_time) = under_way.remove(&id).unwrap();
            m.settle(
                id,
                if in_time { recorded(count) } else { CalloutOutcome::RetryAfter(0) },
                now,
            );
        }
        m.expire(now, 50);
        while let Some(callout) = m.next_callout(now) {
            let count = String::from_utf8(callout.body).unwrap().matches("{}").count();
            let took = call_ms.min(callout.timeout_ms);
            under_way.insert(callout.id, (now + took, count, took == call_ms));
        }
        waits
            .extend(acks(&mut m).into_iter().map(|(waiter, answer)| (answer, now - came[&waiter])));
    }
    assert!(m.is_idle());
    waits
}

#[test]
fn steady_waiters_of_a_slow_keen_are_delivered() {
    for call_ms in [20, 200, 1_000, 3_000, 4_500] {
        let waits = steady(call_ms);
        let taken = waits.iter().filter(|(answer, _)| *answer == Ack::Delivered).count();
        let longest = waits.iter().map(|(_, waited)| waited).max().unwrap();
        let mean = waits.iter().map(|(_, waited)| waited).sum::<u64>() / waits.len() as u64;
        println!(
            "{call_ms} ms: {taken} of {}, {mean} ms on average, {longest} ms at most",
            waits.len()
        );
        // The first callouts measure the latency.
        assert!(taken * 100 >= waits.len() * 90, "{call_ms}: {taken} of {}", waits.len());
        assert!(mean <= call_ms * 3 / 2 + 20, "{call_ms}: {mean}");
    }
}

/// Returns the next callout that is due at `now` or later, and its time.
fn next_callout_from(m: &mut Delivery, now: u64) -> (Callout, u64) {
    (now..now + 100_000).find_map(|now| m.next_callout(now).map(|callout| (callout, now))).unwrap()
}

#[test]
fn callouts_of_several_projects_take_turns() {
    let settings = config::DeliverySettings { max_batch_events: 1, ..settings() };
    let mut m = Delivery::new(settings, 5000, 3, 7);
    for destination in 0..3 {
        m.submit_all(None, &[(destination, "a", "{}"); 3], 0);
    }
    let turns = std::iter::from_fn(|| m.next_callout(0)).map(|callout| callout.destination_index);
    assert_eq!(turns.take(4).collect::<Vec<_>>(), [0, 1, 2, 0]);
    m.settle(1, recorded(1), 0);
    let callout = m.next_callout(0).unwrap();
    assert_eq!(callout.destination_index, 1, "the next project's turn is remembered");
}

#[test]
fn callouts_of_a_busy_project_leave_others_their_share() {
    let settings = config::DeliverySettings { max_batch_events: 1, ..settings() };
    let mut m = machine(settings);
    m.submit_all(None, &[(0, "a", "{}"); 10], 0);
    assert_eq!(std::iter::from_fn(|| m.next_callout(0)).count(), 4);
    m.submit_all(None, &[(1, "a", "{}"); 10], 0);
    let others: Vec<Callout> = std::iter::from_fn(|| m.next_callout(0)).collect();
    assert_eq!(others.len(), 2);
    // A failing project does not use up the callouts of a healthy one.
    for id in 1..=4 {
        m.settle(id, CalloutOutcome::RetryAfter(0), 1);
    }
    assert_eq!(std::iter::from_fn(|| m.next_callout(1)).count(), 2);
    // A failing project does not exceed its share. A healthy one may.
    for id in [5, 6, 7, 8] {
        m.settle(id, recorded(1), 2);
    }
    let callouts: Vec<usize> =
        std::iter::from_fn(|| m.next_callout(1_001)).map(|c| c.destination_index).collect();
    assert_eq!(callouts.iter().filter(|index| **index == 0).count(), 2, "{callouts:?}");
    assert_eq!(callouts.iter().filter(|index| **index == 1).count(), 4, "{callouts:?}");
}

#[test]
fn backoff_after_a_success_starts_anew() {
    let mut m = machine(config::DeliverySettings { max_retries: 100, ..settings() });
    let pause_after = |m: &mut Delivery, failures: u32, mut now: u64| {
        let mut pause = 0;
        for _ in 0..failures {
            let (callout, at) = next_callout_from(m, now);
            pause = at - now;
            now = at;
            m.settle(callout.id, CalloutOutcome::RetryAfter(0), now);
        }
        let (callout, at) = next_callout_from(m, now);
        m.settle(callout.id, recorded(1), at);
        (pause.max(at - now), at)
    };
    m.submit_all(None, EVENT, 0);
    let (pause, now) = pause_after(&mut m, 6, 0);
    assert!((500..=1_000).contains(&pause), "{pause}");
    m.submit_all(None, EVENT, now);
    let (pause, _) = pause_after(&mut m, 1, now);
    assert!((50..=100).contains(&pause), "{pause}");
}

#[test]
fn backoff_after_a_success_of_another_callout_ends() {
    let mut m = machine(config::DeliverySettings { max_batch_events: 1, ..settings() });
    m.submit_all(None, &[(0, "a", "1"), (0, "a", "2"), (0, "a", "3")], 0);
    let first = m.next_callout(0).unwrap();
    let second = m.next_callout(0).unwrap();
    m.settle(first.id, CalloutOutcome::RetryAfter(0), 1);
    assert_eq!(m.next_callout(1), None);
    m.settle(second.id, recorded(1), 2);
    assert_eq!(m.next_callout(2).unwrap().body, first.body);
}

#[test]
fn backoff_of_parked_batches_after_a_recovery_starts_anew() {
    let mut m =
        machine(config::DeliverySettings { max_retries: 0, max_batch_events: 1, ..settings() });
    m.submit_all(None, &[(0, "a", "1"), (0, "a", "2")], 0);
    let mut now = 0;
    for _ in 0..20 {
        let (callout, at) = next_callout_from(&mut m, now);
        m.settle(callout.id, CalloutOutcome::RetryAfter(0), at);
        now = at;
    }
    let (callout, now) = next_callout_from(&mut m, now);
    m.settle(callout.id, recorded(1), now);
    let callout = m.next_callout(now).unwrap();
    m.settle(callout.id, CalloutOutcome::RetryAfter(0), now);
    let (_, at) = next_callout_from(&mut m, now);
    assert!((50..=100).contains(&(at - now)), "{}", at - now);
}

#[test]
fn parked_batches_after_a_recovery_are_retried_at_once() {
    let mut m =
        machine(config::DeliverySettings { max_retries: 0, max_batch_events: 1, ..settings() });
    m.submit_all(None, &[(0, "a", "1"), (0, "a", "2"), (0, "a", "3")], 0);
    let mut now = 0;
    for _ in 0..30 {
        let (callout, at) = next_callout_from(&mut m, now);
        m.settle(callout.id, CalloutOutcome::RetryAfter(0), at);
        now = at;
    }
    // All are parked with a long pause. A fresh event is not delayed, and shows that Keen is up
    // again.
    assert_eq!(m.next_callout(now + 2_400), None);
    m.submit_all(None, &[(0, "a", "4")], now);
    let callout = m.next_callout(now).unwrap();
    assert_eq!(callout.body, br#"{"a":[4]}"#);
    m.settle(callout.id, CalloutOutcome::RetryAfter(0), now);
    m.submit_all(None, &[(0, "a", "5")], now);
    let callout = m.next_callout(now).unwrap();
    assert_eq!(callout.body, br#"{"a":[5]}"#);
    m.settle(callout.id, recorded(1), now);
    for _ in 0..4 {
        let callout = m.next_callout(now).unwrap();
        m.settle(callout.id, recorded(1), now);
    }
    assert!(m.is_idle());
}

#[test]
fn parked_batches_of_a_healthy_project_keep_their_pause() {
    let mut m = machine(config::DeliverySettings { max_retries: 0, ..settings() });
    m.submit_all(None, &[(0, "a", "13")], 0);
    let mut now = 0;
    for _ in 0..10 {
        let (callout, at) = next_callout_from(&mut m, now);
        m.settle(callout.id, CalloutOutcome::ServerError, at);
        now = at;
        m.submit_all(None, EVENT, now);
        let callout = m.next_callout(now).unwrap();
        assert_eq!(callout.body, br#"{"a":[{}]}"#);
        m.settle(callout.id, recorded(1), now);
    }
    assert_eq!(m.next_callout(now + 2_400), None);
}

#[test]
fn parked_batches_of_one_outage_are_merged() {
    let mut m =
        machine(config::DeliverySettings { max_retries: 0, max_batch_events: 4, ..settings() });
    for event in ["1", "2", "3", "4", "5", "6"] {
        m.submit_all(None, &[(0, "a", event)], 0);
        let callout = m.next_callout(0).unwrap();
        m.settle(callout.id, CalloutOutcome::Misconfigured, 0);
    }
    let callout = m.next_callout(5_000).unwrap();
    assert_eq!(callout.body, br#"{"a":[1,2,3,4]}"#);
    m.settle(callout.id, recorded(4), 5_000);
    let callout = m.next_callout(5_000).unwrap();
    assert_eq!(callout.body, br#"{"a":[5,6]}"#);
    m.settle(callout.id, recorded(2), 5_000);
    assert!(m.is_idle());
    assert_eq!(m.pending_bytes(), 0);
}

#[test]
fn splits_after_a_success_are_counted_anew() {
    let mut m = machine(config::DeliverySettings {
        max_pending_bytes: 10_000_000,
        max_batch_events: 100_000,
        ..settings()
    });
    let splits = |m: &mut Delivery| {
        m.submit_all(None, &vec![(0, "a", "{}"); 20_000], 0);
        let mut splits = 0;
        while let Some(callout) = m.next_callout(0) {
            let report = m.settle(callout.id, CalloutOutcome::PayloadTooLarge, 0);
            if report.destination_up == Some(false) {
                return splits;
            }
            splits += 1;
        }
        splits
    };
    assert_eq!(splits(&mut m), 12);
    assert_eq!(splits(&mut m), 0);
    while let Some((callout, at)) = (!m.is_idle()).then(|| next_callout_from(&mut m, 0)) {
        let count = m.in_flight[&callout.id].batch.len();
        m.settle(callout.id, recorded(count), at);
    }
    assert_eq!(splits(&mut m), 12);
}

#[test]
fn split_after_the_consecutive_ones_waits_for_its_interval() {
    let mut m = machine(config::DeliverySettings {
        max_pending_bytes: 10_000_000,
        max_batch_events: 100_000,
        max_retries: 0,
        ..settings()
    });
    m.submit_all(None, &vec![(0, "a", "{}"); 50_000], 0);
    let (mut now, mut callouts, mut smallest) = (0, 0, usize::MAX);
    while now < 100_000 {
        let (callout, at) = next_callout_from(&mut m, now);
        smallest = smallest.min(m.in_flight[&callout.id].batch.len());
        m.settle(callout.id, CalloutOutcome::ServerError, at);
        (now, callouts) = (at, callouts + 1);
    }
    // The search for the bad event continues at a bounded rate.
    assert!(smallest < 50_000 >> 12, "{smallest}");
    assert!(callouts < 60, "{callouts}");
}

#[test]
fn halves_of_a_batch_keep_its_attempts() {
    let mut m = machine(settings());
    m.submit_all(Some(1), &[(0, "a", "13")], 0);
    m.submit_all(Some(2), &[(0, "a", "1")], 0);
    let (mut now, mut callouts) = (0, 0);
    while !m.is_idle() {
        let (callout, at) = next_callout_from(&mut m, now);
        now = at;
        let is_bad = callout.body.windows(2).any(|bytes| bytes == b"13");
        callouts += u32::from(is_bad);
        let outcome = if is_bad { CalloutOutcome::ServerError } else { recorded(1) };
        m.settle(callout.id, outcome, now);
        while m.pop_ack().is_some() {}
    }
    // Two attempts with its neighbour and two alone: one attempt and three retries.
    assert_eq!(callouts, 4);
}

#[test]
fn events_that_keen_failed_on_keep_their_attempts() {
    let mut m = machine(settings());
    m.submit_all(Some(1), &[(0, "a", "1"), (0, "a", "2")], 0);
    let (callout, mut now) = next_callout_from(&mut m, 0);
    let results = vec![EventResult::Failed, EventResult::Recorded];
    assert!(m.settle(callout.id, CalloutOutcome::Results(results), now).retried);
    for attempt in 2..=4 {
        let (callout, at) = next_callout_from(&mut m, now);
        now = at;
        let failed = CalloutOutcome::Results(vec![EventResult::Failed]);
        let report = m.settle(callout.id, failed, now);
        assert_eq!((report.retried, report.unconfirmed), (attempt < 4, u64::from(attempt == 4)));
        assert_eq!(report.destination_up, None);
    }
    assert_eq!(acks(&mut m), [(1, Ack::Unconfirmed)]);
    assert!(m.is_idle());
}

#[test]
fn rejections_by_name_without_a_success_stop_counting_as_the_events_own() {
    let mut m = machine(settings());
    let rejected = CalloutOutcome::Rejected(Some("E".to_owned()));
    let reject = |m: &mut Delivery| {
        m.submit_all(Some(1), EVENT, 0);
        let callout = m.next_callout(0).unwrap();
        m.settle(callout.id, rejected.clone(), 0);
        m.pop_ack().unwrap().1
    };
    for _ in 0..2 {
        for _ in 0..8 {
            assert_eq!(reject(&mut m), Ack::Delivered);
        }
        assert_eq!(reject(&mut m), Ack::Unconfirmed);
        m.submit_all(Some(1), EVENT, 0);
        let callout = m.next_callout(0).unwrap();
        m.settle(callout.id, recorded(1), 0);
        acks(&mut m);
    }
}

#[test]
fn submission_within_its_share_displaces_unattended_events_first() {
    let mut m = machine(settings());
    let (big, small) = ("x".repeat(8_000), "x".repeat(30_000));
    // Project 1 fills the bound: callouts in flight, and events with and without a waiter.
    for waiter in 0..12 {
        let waiter = (waiter % 2 == 0).then_some(waiter);
        m.submit_all(waiter, &[(1, "a", &big)], 0);
        if m.in_flight.is_empty() {
            m.next_callout(0).unwrap();
        }
    }
    assert_eq!(m.submit_all(Some(90), &[(1, "a", &big)], 0), Admission::Rejected);
    assert_eq!(m.submit_all(Some(100), &[(0, "a", &small)], 0), Admission::Admitted);
    assert_eq!(m.expire(0, 0).displaced, [(1, 6)]);
    assert_eq!(m.expire(0, 0).displaced, []);
    assert_eq!(acks(&mut m), []);
    // The newest waiters of the other project are displaced for the rest of the share.
    assert_eq!(m.submit_all(None, &[(0, "a", &big), (0, "a", &big)], 0), Admission::Admitted);
    assert_eq!(m.expire(0, 0).unconfirmed, []);
    assert_eq!(m.submit_all(Some(101), &[(0, "a", &big)], 0), Admission::Rejected);
    assert!(m.pending_bytes() <= 100_000);
}

#[test]
fn submission_within_its_share_displaces_waiters_of_others() {
    let mut m = machine(settings());
    let big = "x".repeat(9_000);
    for waiter in 1..=11 {
        assert_eq!(m.submit_all(Some(waiter), &[(1, "a", &big)], 0), Admission::Admitted);
    }
    let callout = m.next_callout(0).unwrap();
    assert_eq!(m.submit_all(None, &[(0, "a", &big)], 0), Admission::Admitted);
    // All were in one callout. It continues, but settles nothing.
    let mut unconfirmed = acks(&mut m);
    unconfirmed.sort_unstable();
    assert_eq!(unconfirmed, (1..=11).map(|waiter| (waiter, Ack::Unconfirmed)).collect::<Vec<_>>());
    assert_eq!(m.expire(0, 0).unconfirmed, [(1, 11)]);
    assert_eq!(m.settle(callout.id, recorded(0), 1).delivered, 0);
    let callout = m.next_callout(1).unwrap();
    assert_eq!(m.settle(callout.id, recorded(1), 1).delivered, 1);
    assert!(m.is_idle());
    assert_eq!(m.pending_bytes(), 0);
}

#[test]
fn submission_of_a_client_displaces_unattended_events_of_its_own_project() {
    for (is_failing, waiter, admission) in [
        (false, Some(1), Admission::Admitted),
        (false, None, Admission::Rejected),
        (true, Some(1), Admission::Rejected),
    ] {
        let mut m = machine(settings());
        let big = "x".repeat(9_000);
        if is_failing {
            m.submit_all(None, EVENT, 0);
            let callout = m.next_callout(0).unwrap();
            m.settle(callout.id, CalloutOutcome::Misconfigured, 0);
        }
        while m.submit_all(None, &[(0, "a", &big)], 0) == Admission::Admitted {}
        // The share of a single active project is the whole bound, so nothing is displaced.
        assert_eq!(m.submit_all(waiter, &[(0, "a", &big)], 0), Admission::Rejected);
        // With two active projects, the half beyond the share is displaced by clients.
        m.submit_all(Some(7), &[(1, "a", &big)], 0);
        m.expire(0, 0);
        while m.submit_all(None, &[(0, "a", &big)], 0) == Admission::Admitted {}
        assert_eq!(
            m.submit_all(waiter, &[(0, "a", &big)], 0),
            admission,
            "{is_failing} {waiter:?}"
        );
    }
}

#[test]
fn pending_ms_of_a_callout_is_that_of_its_oldest_event_over_all_retries() {
    let mut m = machine(settings());
    m.submit_all(Some(1), EVENT, 0);
    let first = m.next_callout(0).unwrap();
    m.submit_all(Some(2), EVENT, 10);
    m.submit_all(Some(3), EVENT, 40);
    let failed = m.settle(first.id, CalloutOutcome::RetryAfter(500), 100);
    assert_eq!((failed.delivered, failed.pending_ms), (0, 100));
    let retried = m.next_callout(600).unwrap();
    let report = m.settle(retried.id, recorded(1), 650);
    assert_eq!((report.delivered, report.pending_ms), (1, 650));
    let second = m.next_callout(660).unwrap();
    assert_eq!(second.events, 2);
    let report = m.settle(second.id, recorded(2), 700);
    assert_eq!((report.delivered, report.pending_ms), (2, 690));
}

/// Returns an event of the collection `a` that costs this many pending bytes.
fn event_of(pending_bytes: usize) -> String {
    "x".repeat(pending_bytes - event_cost("a", b""))
}

#[test]
fn submission_to_an_unknown_destination_is_ignored() {
    let mut m = machine(settings());
    assert_eq!(m.submit_all(Some(1), &[(2, "a", "{}")], 0), Admission::Empty);
    assert_eq!(m.submit_all(Some(1), &[(2, "a", "{}"), (1, "a", "{}")], 0), Admission::Admitted);
    let callout = m.next_callout(0).unwrap();
    m.settle(callout.id, recorded(1), 0);
    assert_eq!(acks(&mut m), [(1, Ack::Delivered)]);
}

#[test]
fn submission_up_to_the_bound_displaces_nothing() {
    for (bytes, admission) in [(40_000, Admission::Admitted), (40_001, Admission::Rejected)] {
        for mut m in [machine(settings()), machine_with_overflow(settings(), POLICY)] {
            m.submit_all(None, &[(0, "a", &event_of(10_000)), (1, "a", &event_of(50_000))], 0);
            // Beyond its project's share, so it could not displace anything.
            assert_eq!(m.submit_all(None, &[(1, "a", &event_of(bytes))], 0), admission);
        }
    }
}

#[test]
fn submission_beyond_its_share_displaces_nothing_unless_it_fits_then() {
    let settings = config::DeliverySettings { max_batch_events: 1, ..settings() };
    // The share is a third. 26,667 bytes of project 1 are beyond it.
    for (bytes, admission, displaced) in
        [(26_667, Admission::Admitted, vec![(1, 1)]), (26_668, Admission::Rejected, vec![])]
    {
        let mut m = Delivery::new(settings, 5000, 3, 7);
        m.submit_all(Some(1), &[(0, "a", &event_of(39_000)), (2, "a", &event_of(1_000))], 0);
        m.submit_all(None, &[(1, "a", &event_of(33_333)), (1, "a", &event_of(26_667))], 0);
        assert_eq!(m.submit_all(Some(2), &[(0, "a", &event_of(bytes))], 0), admission);
        assert_eq!(m.expire(0, 0).displaced, displaced);
    }
}

#[test]
fn submission_within_its_share_displaces_no_more_than_it_needs() {
    let settings = config::DeliverySettings { max_batch_events: 1, ..settings() };
    let mut m = machine(settings);
    m.submit_all(None, &[(1, "a", event_of(10_000).as_str()); 10], 0);
    m.submit_all(Some(1), &[(0, "a", &event_of(10_000))], 0);
    assert_eq!(m.expire(0, 0).displaced, [(1, 1)]);
    // A project keeps its share, and the next one loses what is beyond its own.
    let mut m = Delivery::new(settings, 5000, 3, 7);
    for (project, beyond) in [(0, 20_000), (1, 13_000)] {
        let events = [event_of(beyond), event_of(33_333)];
        m.submit_all(None, &[(project, "a", &events[0]), (project, "a", &events[1])], 0);
    }
    m.submit_all(None, &[(2, "a", &event_of(33_333))], 0);
    assert_eq!([0, 1, 2].map(|project| m.pending_bytes_of(project)), [33_333; 3]);
    assert_eq!(m.expire(0, 0).displaced, [(0, 1), (1, 1)]);
}

#[test]
fn release_counts_the_projects_with_pending_bytes() {
    let mut m = machine(settings());
    m.charge(0, 10);
    for (project, bytes, active) in [(1, 0, 1), (0, 9, 1), (0, 1, 0), (0, 1, 0)] {
        m.release(project, bytes);
        assert_eq!(m.active_projects.len(), active, "{bytes} of {project}");
    }
}

#[test]
fn watermark_is_half_of_the_bound() {
    for (bytes, is_above) in [(50_000, false), (50_001, true)] {
        let mut m = machine(settings());
        m.submit_all(None, &[(0, "a", &event_of(bytes))], 0);
        assert_eq!(m.is_above_watermark(), is_above, "{bytes}");
    }
}

#[test]
fn batch_is_filled_up_to_its_bytes() {
    for (max_batch_bytes, callouts) in [(9, 1), (8, 2)] {
        let mut m = machine(config::DeliverySettings { max_batch_bytes, ..settings() });
        m.submit_all(None, &[(0, "a", "1111"), (0, "a", "2222")], 0);
        let mut found = 0;
        while let Some(callout) = m.next_callout(0) {
            m.settle(callout.id, recorded(callout.events), 0);
            found += 1;
        }
        assert_eq!(found, callouts, "{max_batch_bytes}");
    }
}

#[test]
fn retry_at_the_deadline_is_too_late() {
    let max_wait_ms = settings().max_wait_ms;
    for (retry_after, retried) in [(max_wait_ms - 1, true), (max_wait_ms, false)] {
        let mut m = machine(settings());
        m.submit_all(Some(1), EVENT, 0);
        let callout = m.next_callout(0).unwrap();
        let report = m.settle(callout.id, CalloutOutcome::RetryAfter(retry_after), 0);
        assert_eq!((report.retried, report.unconfirmed), (retried, u64::from(!retried)));
    }
}

#[test]
fn server_error_splits_a_batch_once_it_is_repeated_or_the_last() {
    for (max_retries, sizes) in [(3, [2, 2, 1]), (0, [2, 1, 1])] {
        let mut m = machine(config::DeliverySettings { max_retries, ..settings() });
        m.submit_all(None, &[(0, "a", "1"), (0, "a", "2")], 0);
        let mut now = 0;
        for size in sizes {
            let (callout, at) = next_callout_from(&mut m, now);
            assert_eq!(callout.events, size);
            m.settle(callout.id, CalloutOutcome::ServerError, at);
            now = at;
        }
    }
}

// === overflow ===

const POLICY: OverflowPolicy = OverflowPolicy {
    after_ms: 1_000,
    max_body_bytes: 100_000,
    timeout_ms: 500,
    reject_misconfigured: false,
};

fn machine_with_overflow(settings: config::DeliverySettings, policy: OverflowPolicy) -> Delivery {
    let mut m = machine(settings);
    m.enable_overflow(policy);
    m
}

#[test]
fn soft_limit_is_three_quarters_with_an_overflow_queue() {
    assert_eq!(machine(settings()).soft_limit(), 100_000);
    assert_eq!(machine_with_overflow(settings(), POLICY).soft_limit(), 75_000);
}

#[test]
fn submission_above_the_soft_limit_goes_to_the_queue() {
    for (bytes, goes) in [(35_000, false), (35_001, true)] {
        for waiter in [Some(1), None] {
            let mut m = machine_with_overflow(settings(), POLICY);
            m.submit_all(None, &[(0, "a", &event_of(30_000)), (1, "a", &event_of(10_000))], 0);
            m.submit_all(waiter, &[(0, "a", &event_of(bytes))], 0);
            assert_eq!(m.next_handover(0).is_some(), goes, "{bytes} {waiter:?}");
        }
    }
}

#[test]
fn handover_above_the_soft_limit_leaves_each_project_its_share() {
    let mut m = machine_with_overflow(settings(), POLICY);
    m.submit_all(None, &[(0, "a", &event_of(37_500)), (1, "a", &event_of(37_500))], 0);
    m.submit_all(None, &[(1, "a", &event_of(1_000))], 0);
    let handovers: Vec<Handover> = std::iter::from_fn(|| m.next_handover(0)).collect();
    assert_eq!(handovers.iter().map(|each| each.destination_index).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn handover_below_the_soft_limit_takes_nothing_before_its_time() {
    let mut m = machine_with_overflow(settings(), POLICY);
    // Beyond its share, but there is room.
    m.submit_all(None, &[(0, "a", &event_of(40_000)), (1, "a", &event_of(35_000))], 0);
    assert_eq!(m.next_handover(999), None);
    assert!(m.next_handover(1_000).is_some());
}

#[test]
fn handover_that_is_full_leaves_the_next_batch_to_the_next_interval() {
    let settings = config::DeliverySettings { max_batch_events: 1, ..settings() };
    let event = "1".repeat(88);
    let mut batch = Batch::default();
    batch.push(None, "a", event.as_bytes());
    let policy = OverflowPolicy { max_body_bytes: batch.max_body_bytes(), ..POLICY };
    let mut m = machine_with_overflow(settings, policy);
    m.submit_all(None, &[(0, "a", &event), (0, "a", &event)], 0);
    assert_eq!(m.next_handover(999), None);
    assert!(m.next_handover(1_000).is_some());
    assert_eq!(m.next_handover(1_000), None);
    assert_eq!(m.next_handover(1_049), None);
    assert!(m.next_handover(1_050).is_some());
}

#[test]
fn failed_batch_is_handed_over_if_its_retry_would_be_late() {
    for (waiter, max_retries, drains, retry_after_ms, is_handed_over) in [
        (None, 3, false, 999, false),
        (None, 3, false, 1_000, true),
        (Some(1), 3, false, 999, false),
        (Some(1), 3, false, 1_000, true),
        // It would be given up.
        (Some(1), 0, false, 0, true),
        // It would be parked.
        (None, 0, false, 0, false),
        (None, 3, true, 0, true),
        (Some(1), 3, true, 0, true),
    ] {
        let settings = config::DeliverySettings { max_retries, ..settings() };
        let mut m = machine_with_overflow(settings, POLICY);
        m.submit_all(waiter, EVENT, 0);
        if drains {
            m.begin_drain(0);
        }
        let callout = m.next_callout(0).unwrap();
        let report = m.settle(callout.id, CalloutOutcome::RetryAfter(retry_after_ms), 0);
        let case = format!("{waiter:?} {max_retries} {drains} {retry_after_ms}");
        assert_eq!((report.retried, report.unconfirmed), (!is_handed_over, 0), "{case}");
        assert_eq!(m.next_handover(0).is_some(), is_handed_over, "{case}");
    }
}

#[test]
fn event_that_keen_rejects_while_it_accepts_others_is_dropped_and_not_handed_over() {
    let mut m = machine_with_overflow(settings(), OverflowPolicy { after_ms: 30_000, ..POLICY });
    m.submit_all(None, &[(0, "a", "1")], 0);
    for attempt in 0..4 {
        let now = attempt * 10_000;
        let callout = m.next_callout(now).unwrap();
        assert_eq!(callout.body, br#"{"a":[1]}"#);
        let report = m.settle(callout.id, CalloutOutcome::Rejected(None), now);
        assert_eq!((report.retried, report.dropped), (attempt < 3, u64::from(attempt == 3)));
        m.submit_all(None, &[(0, "a", "2")], now);
        let callout = m.next_callout(now).unwrap();
        assert_eq!(callout.body, br#"{"a":[2]}"#);
        m.settle(callout.id, recorded(1), now);
    }
    assert!(m.is_idle());
}

#[test]
fn destination_that_accepts_events_of_the_queue_is_up() {
    let mut m = machine(settings());
    m.submit_all(None, EVENT, 0);
    let callout = m.next_callout(0).unwrap();
    m.settle(callout.id, CalloutOutcome::Misconfigured, 0);
    m.on_destination_up(1, 1);
    assert_eq!(m.next_callout(1), None);
    m.on_destination_up(0, 1);
    assert!(m.next_callout(1).is_some());
}

#[test]
fn destination_is_caught_up_if_nothing_of_it_waits() {
    // No event, and events that fill a batch or are in flight.
    let mut m = machine(config::DeliverySettings { max_in_flight: 2, ..settings() });
    assert!(m.is_caught_up(0, 0));
    assert!(!m.is_caught_up(2, 0), "unknown");
    m.submit_all(None, EVENT, 0);
    assert!(m.is_caught_up(0, 0));
    m.next_callout(0).unwrap();
    assert!(m.is_caught_up(0, 0));
    // All callouts are in flight.
    m.submit_all(None, EVENT, 0);
    let second = m.next_callout(10).unwrap();
    assert!(!m.is_caught_up(0, 10) && !m.is_caught_up(1, 10));
    // A failing destination with events, whose batch is sealed, and after a `Retry-After`.
    m.settle(second.id, CalloutOutcome::RetryAfter(100), 10);
    assert!(!m.is_caught_up(0, 10) && m.is_caught_up(1, 10));
    assert!(!m.is_caught_up(0, 9_000));
    let mut m = machine(config::DeliverySettings { max_retries: 0, ..settings() });
    m.submit_all(Some(1), EVENT, 0);
    let callout = m.next_callout(0).unwrap();
    m.settle(callout.id, CalloutOutcome::RetryAfter(100), 0);
    assert_eq!(m.pending_bytes(), 0);
    assert!(!m.is_caught_up(0, 99) && m.is_caught_up(0, 100), "it may be tried without events");
    m.submit_all(None, EVENT, 100);
    assert!(!m.is_caught_up(0, 100));
    // A parked batch of a healthy destination, and a batch for the queue.
    let mut m = machine_with_overflow(settings(), POLICY);
    for (outcome, waits) in [(CalloutOutcome::Misconfigured, true), (recorded(1), false)] {
        m.submit_all(None, EVENT, 0);
        let callout = m.next_callout(0).unwrap();
        m.settle(callout.id, outcome, 0);
        if waits {
            m.submit_all(None, EVENT, 0);
            let callout = m.next_callout(0).unwrap();
            m.settle(callout.id, recorded(1), 0);
            assert!(!m.is_caught_up(0, 0));
            let callout = m.next_callout(0).unwrap();
            m.settle(callout.id, recorded(1), 0);
        }
        assert!(m.is_caught_up(0, 0));
    }
    m.submit_all(None, EVENT, 0);
    let callout = m.next_callout(0).unwrap();
    m.submit_all(None, EVENT, 0);
    m.settle(callout.id, CalloutOutcome::RetryAfter(1_000), 0);
    assert!(!m.is_caught_up(0, 0));
}

#[test]
fn handover_settles_its_events_or_returns_them_to_wait_for_keen() {
    for (outcome, overflowed) in
        [(HandoverOutcome::Stored, 1), (HandoverOutcome::Failed, 0), (HandoverOutcome::Refused, 0)]
    {
        let mut m = machine_with_overflow(settings(), POLICY);
        m.submit_all(Some(1), &[(1, "a", "{}")], 0);
        let callout = m.next_callout(0).unwrap();
        m.settle(callout.id, CalloutOutcome::RetryAfter(1_000), 0);
        let handover = m.next_handover(0).unwrap();
        assert_eq!((handover.destination_index, handover.timeout_ms), (1, POLICY.timeout_ms));
        let report = HandoverReport { destination_index: 1, overflowed, returned: 1 - overflowed };
        assert_eq!(m.settle_handover(handover.id, outcome, 1), report);
        assert_eq!(m.settle_handover(handover.id, outcome, 1), HandoverReport::default());
        assert_eq!(acks(&mut m).len() as u64, overflowed);
        assert_eq!(m.is_idle(), outcome == HandoverOutcome::Stored);
        assert_eq!(m.next_handover(1), None);
        // A queue that failed is tried again. What it refused is not for it.
        assert_eq!(m.next_handover(1_001).is_some(), outcome == HandoverOutcome::Failed);
        assert_eq!(m.next_callout(1_001).is_some(), outcome == HandoverOutcome::Refused);
    }
}

#[test]
fn queue_that_fails_is_tried_after_pauses_that_double_until_it_stores_events() {
    let mut m = machine_with_overflow(settings(), POLICY);
    let mut now = POLICY.after_ms;
    m.submit_all(None, EVENT, 0);
    for wholes in [&[100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000][..], &[100]] {
        for whole in wholes {
            let handover = m.next_handover(now).unwrap();
            m.settle_handover(handover.id, HandoverOutcome::Failed, now);
            let failed = now;
            while m.open_overflow(now).is_none() {
                now += 1;
            }
            assert!((whole / 2..*whole).contains(&(now - failed)), "{whole}: {}", now - failed);
        }
        let handover = m.next_handover(now).unwrap();
        m.settle_handover(handover.id, HandoverOutcome::Stored, now);
        m.submit_all(None, EVENT, now);
        now += POLICY.after_ms;
    }
}

#[test]
fn event_whose_waiter_is_gone_is_unconfirmed_and_not_sent() {
    let max_wait_ms = settings().max_wait_ms;
    for has_overflow in [false, true] {
        let mut m = machine(settings());
        m.submit_all(Some(1), &[(1, "a", "1")], 0);
        if has_overflow {
            m.enable_overflow(POLICY);
        }
        assert_eq!(m.expire(max_wait_ms, 0).expired_waiters, 1);
        assert_eq!(m.next_handover(max_wait_ms), None);
        assert_eq!(m.next_callout(max_wait_ms), None);
        assert_eq!(m.expire(max_wait_ms, 0).unconfirmed, [(1, 1)]);
        assert_eq!(m.pending_bytes(), 0);
    }
}

#[test]
fn submission_within_its_share_displaces_events_that_are_handed_over() {
    for waiter in [Some(1), None] {
        let mut m = machine_with_overflow(settings(), POLICY);
        m.submit_all(waiter, &[(1, "a", &event_of(90_000))], 0);
        let handover = m.next_handover(0).unwrap();
        let own: Events<'_> = &[(0, "a", &event_of(20_000))];
        assert_eq!(m.submit_all(Some(2), own, 0), Admission::Admitted);
        assert_eq!(m.expire(0, 0).displaced, if waiter.is_none() { vec![(1, 1)] } else { vec![] });
        assert_eq!(acks(&mut m), waiter.map(|waiter| (waiter, Ack::Unconfirmed)).as_slice());
        assert_eq!([0, 1].map(|project| m.pending_bytes_of(project)), [20_000, 0]);
        // The handover continues, but settles nothing.
        let report = HandoverReport { destination_index: 1, ..HandoverReport::default() };
        assert_eq!(m.settle_handover(handover.id, HandoverOutcome::Stored, 1), report);
    }
}

#[test]
fn queue_that_fails_returns_all_batches_to_wait_for_keen() {
    let settings = config::DeliverySettings { max_batch_events: 1, ..settings() };
    // Two batches are collected, and one of them fits.
    let policy = OverflowPolicy { max_body_bytes: 20, ..POLICY };
    let mut m = machine_with_overflow(settings, policy);
    m.submit_all(None, &[(0, "a", "1"), (0, "a", "2")], 0);
    let handover = m.next_handover(1_000).unwrap();
    assert_eq!(handover.body, br#"{"a":[1]}"#);
    m.settle_handover(handover.id, HandoverOutcome::Failed, 1_000);
    for _ in 0..2 {
        let callout = m.next_callout(1_000).unwrap();
        m.settle(callout.id, recorded(1), 1_000);
    }
    assert!(m.is_idle());
}

#[test]
fn submission_displaces_unattended_events_that_are_handed_over_before_waiters() {
    let mut m = Delivery::new(settings(), 5000, 3, 7);
    m.enable_overflow(POLICY);
    m.submit_all(None, &[(1, "a", &event_of(50_000)), (2, "a", &event_of(10_000))], 0);
    m.begin_drain(0);
    let handovers: Vec<Handover> = std::iter::from_fn(|| m.next_handover(0)).collect();
    assert_eq!(handovers.iter().map(|each| each.destination_index).collect::<Vec<_>>(), [1, 2]);
    m.submit_all(Some(1), &[(1, "a", &event_of(20_000))], 0);
    assert_eq!(m.submit_all(Some(2), &[(0, "a", &event_of(25_000))], 0), Admission::Admitted);
    assert_eq!([0, 1, 2].map(|project| m.pending_bytes_of(project)), [25_000, 20_000, 10_000]);
    assert_eq!((m.expire(0, 0).displaced, acks(&mut m)), (vec![(1, 1)], vec![]));
    let report = m.settle_handover(handovers[1].id, HandoverOutcome::Stored, 3);
    assert_eq!((report.destination_index, report.overflowed), (2, 1));
}

#[test]
fn drain_hands_over_events_at_once() {
    let mut m = machine_with_overflow(settings(), POLICY);
    m.submit_all(None, EVENT, 0);
    assert_eq!(m.next_handover(0), None);
    m.begin_drain(0);
    for now in 0..3 {
        assert!(m.next_handover(now).is_some());
        assert_eq!(m.next_handover(now), None);
        m.submit_all(None, EVENT, now);
    }
}

#[test]
fn backoff_of_events_that_keen_failed_on_is_that_of_their_batch() {
    let mut m = machine(config::DeliverySettings { max_retries: 2, ..settings() });
    m.submit_all(None, &[(0, "a", "1"); 8], 0);
    let (mut callout, mut now) = next_callout_from(&mut m, 0);
    // The third failure parks it. Then the pause is always the shortest.
    for whole in [100, 200, 400, 100, 100] {
        let mut results = vec![EventResult::Failed; callout.events];
        results[0] = EventResult::Recorded;
        m.settle(callout.id, CalloutOutcome::Results(results), now);
        let (next, at) = next_callout_from(&mut m, now);
        assert!((whole / 2..whole).contains(&(at - now)), "{whole}: {}", at - now);
        (callout, now) = (next, at);
    }
    assert_eq!(callout.events, 3);
}
