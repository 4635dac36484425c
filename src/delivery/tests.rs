#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]

use super::*;
use crate::mapping::request::Destinations;

const SETTINGS: config::Delivery = config::Delivery {
    accepted: false,
    hold_ms: 7000,
    retries: 3,
    max_in_flight: 4,
    max_batch_events: 1000,
    max_batch_bytes: 1_000_000,
    max_pending_bytes: 100_000,
};

fn machine(settings: config::Delivery) -> Delivery {
    Delivery::new(settings, 5000, 2, 7)
}

fn offer(events: &[(usize, &str, &str)]) -> Offer {
    let mut offer = Offer::default();
    for (destination, collection, event) in events {
        offer.event(*destination, collection, &mut |out| {
            out.extend_from_slice(event.as_bytes());
            0
        });
    }
    offer
}

fn recorded(count: usize) -> Outcome {
    Outcome::Verdicts(vec![Verdict::Recorded; count])
}

fn answers(machine: &mut Delivery) -> Vec<(WaiterId, Answer)> {
    std::iter::from_fn(|| machine.answers()).collect()
}

#[test]
fn the_first_leaves_at_once_and_the_rest_together() {
    let mut m = machine(SETTINGS);
    for waiter in 1..=50 {
        assert_eq!(m.offer(Some(waiter), &offer(&[(0, "a", "{}")]), 0), Offered::Taken { due: waiter == 1 });
        if waiter == 1 {
            assert_eq!(m.take(0).unwrap().body, br#"{"a":[{}]}"#);
        }
    }
    assert_eq!(m.take(0), None);
    m.settle(1, recorded(1), 1);
    let call = m.take(1).unwrap();
    m.settle(call.id, recorded(49), 2);
    assert_eq!(answers(&mut m).len(), 50);
    assert!(m.idle());
    assert_eq!(m.pending_bytes(), 0);
}

#[test]
fn a_hung_call_does_not_hold_up_what_gathers() {
    let mut m = machine(SETTINGS);
    m.offer(Some(1), &offer(&[(0, "a", "{}")]), 0);
    m.take(0).unwrap();
    m.offer(Some(2), &offer(&[(0, "a", "{}")]), 1);
    assert_eq!(m.take(5), None);
    assert!(m.take(11).is_some());
    // Another project is never kept waiting, whatever the slots.
    for waiter in 3..10 {
        m.offer(Some(waiter), &offer(&[(0, "a", "{}")]), 20 * u64::from(waiter));
        m.take(20 * u64::from(waiter) + 10);
    }
    assert_eq!(m.calls.len(), 4);
    m.offer(Some(20), &offer(&[(1, "a", "{}")]), 300);
    assert_eq!(m.take(300).unwrap().destination, 1);
}

#[test]
fn a_caller_is_answered_when_all_its_events_are() {
    let mut m = machine(SETTINGS);
    m.offer(Some(1), &offer(&[(0, "b", "1"), (0, "a", "2"), (1, "a", "3"), (0, "a", "4")]), 0);
    let first = m.take(0).unwrap();
    assert_eq!(first.body, br#"{"a":[2,4],"b":[1]}"#);
    let second = m.take(0).unwrap();
    m.settle(first.id, recorded(3), 1);
    assert_eq!(answers(&mut m), []);
    let refused = Outcome::Verdicts(vec![Verdict::Refused("X".into())]);
    assert_eq!(m.settle(second.id, refused, 1).refused, [("a".to_owned(), "X".to_owned())]);
    assert_eq!(answers(&mut m), [(1, Answer::Taken)]);
}

#[test]
fn failures_are_tried_again_with_the_same_events_and_then_told() {
    let mut m = machine(SETTINGS);
    m.offer(Some(1), &offer(&[(0, "a", "{}")]), 0);
    let mut now = 0;
    for attempt in 0..4 {
        let call = m.take(now).unwrap();
        assert_eq!(call.body, br#"{"a":[{}]}"#);
        let settled = m.settle(call.id, Outcome::Retry, now);
        assert_eq!(settled.retried, attempt < 3);
        assert_eq!(m.take(now), None);
        now += 1000;
    }
    assert_eq!(answers(&mut m), [(1, Answer::Unavailable)]);
    assert!(m.idle());
}

#[test]
fn nobody_waits_longer_than_the_hold() {
    let mut m = machine(SETTINGS);
    m.offer(Some(1), &offer(&[(0, "a", "{}")]), 0);
    let call = m.take(6_000).unwrap();
    assert_eq!(call.timeout_ms, 1000);
    assert_eq!(m.expire(6_899, 100), 0);
    assert_eq!(m.expire(6_900, 100), 1);
    assert_eq!(answers(&mut m), [(1, Answer::Unavailable)]);
    // A late success tells nobody, and a late failure is not tried again.
    assert!(!m.settle(call.id, Outcome::Retry, 7_000).retried);
    assert!(m.idle());
}

#[test]
fn too_large_and_rejected_are_split_down_to_the_one() {
    for (outcome, answer) in [
        (Outcome::TooLarge, Answer::Taken),
        (Outcome::Rejected(Some("E".into())), Answer::Taken),
        (Outcome::Rejected(None), Answer::Unavailable),
    ] {
        let mut m = machine(SETTINGS);
        // All gather behind a first call.
        m.offer(Some(9), &offer(&[(0, "z", "0")]), 0);
        let first = m.take(0).unwrap();
        for waiter in 0..5 {
            m.offer(Some(waiter), &offer(&[(0, "a", &waiter.to_string())]), 0);
        }
        m.settle(first.id, recorded(1), 0);
        while let Some(call) = m.take(0) {
            let body = String::from_utf8(call.body).unwrap();
            let outcome = if body.contains('3') {
                outcome.clone()
            } else {
                recorded(body.matches(|c: char| c.is_ascii_digit()).count())
            };
            m.settle(call.id, outcome, 0);
        }
        for (waiter, got) in answers(&mut m) {
            assert_eq!(got, if waiter == 3 { answer } else { Answer::Taken }, "{waiter}");
        }
        assert!(m.idle());
        assert_eq!(m.pending_bytes(), 0);
    }
}

#[test]
fn over_the_bound_nothing_is_kept() {
    let mut m = machine(SETTINGS);
    let big = "x".repeat(60_000);
    assert_eq!(m.offer(Some(1), &offer(&[(0, "a", &big)]), 0), Offered::Taken { due: true });
    assert_eq!(m.offer(Some(2), &offer(&[(0, "a", &big)]), 0), Offered::Full);
    let call = m.take(0).unwrap();
    m.settle(call.id, Outcome::Misconfigured, 0);
    assert_eq!(answers(&mut m), [(1, Answer::Unavailable)]);
    assert!(m.idle());
}

#[test]
fn events_of_those_who_hang_up_still_go() {
    let mut m = machine(SETTINGS);
    m.offer(Some(1), &offer(&[(0, "a", "{}")]), 0);
    m.gone(1);
    let call = m.take(0).unwrap();
    assert_eq!(m.settle(call.id, recorded(1), 0).recorded, 1);
    assert_eq!(answers(&mut m), []);
    assert!(m.idle());
}

#[test]
fn what_nobody_waits_for_is_tried_until_keen_has_it() {
    let mut m = machine(SETTINGS);
    m.offer(None, &offer(&[(0, "a", "1")]), 0);
    m.offer(Some(1), &offer(&[(0, "a", "2")]), 0);
    let mut now = 0;
    for outcome in [Outcome::Retry, Outcome::Misconfigured, Outcome::Retry, Outcome::Misconfigured, Outcome::Retry] {
        let call = m.take(now).unwrap();
        assert_eq!(call.timeout_ms, 5000);
        assert!(m.settle(call.id, outcome, now).retried);
        assert!(!m.idle());
        assert_eq!(m.take(now), None);
        now += 10_000;
        m.expire(now, 0);
    }
    // The caller has long been told.
    assert_eq!(answers(&mut m), [(1, Answer::Unavailable)]);
    let call = m.take(now).unwrap();
    assert_eq!(call.body, br#"{"a":[1]}"#);
    assert_eq!(m.settle(call.id, recorded(1), now).recorded, 1);
    assert!(m.idle());
    assert_eq!(m.pending_bytes(), 0);
}

#[test]
fn what_nobody_waits_for_is_given_up_where_it_is_hopeless_or_the_end_has_come() {
    let mut m = machine(SETTINGS);
    m.offer(None, &offer(&[(0, "a", "1")]), 0);
    let mut now = 0;
    for attempt in 0..4 {
        let call = m.take(now).unwrap();
        let settled = m.settle(call.id, Outcome::Rejected(None), now);
        assert_eq!((settled.retried, settled.dropped), (attempt < 3, u64::from(attempt == 3)));
        now += 10_000;
    }
    assert!(m.idle());

    m.offer(None, &offer(&[(0, "a", "1")]), now);
    m.close(now);
    let call = m.take(now).unwrap();
    assert!(m.settle(call.id, Outcome::Retry, now).retried);
    let call = m.take(now + 8_000).unwrap();
    assert_eq!(m.settle(call.id, Outcome::Retry, now + 8_000).dropped, 1);
    assert!(m.idle());
    assert_eq!(m.pending_bytes(), 0);
}

#[test]
fn large_requests_take_several_calls() {
    let mut m = machine(config::Delivery { max_batch_events: 10, ..SETTINGS });
    let events: Vec<(usize, &str, &str)> = vec![(0, "a", "{}"); 25];
    m.offer(Some(1), &offer(&events), 0);
    let mut sizes = Vec::new();
    while let Some(call) = m.take(0) {
        let count = String::from_utf8(call.body).unwrap().matches("{}").count();
        sizes.push(count);
        m.settle(call.id, recorded(count), 0);
    }
    assert_eq!(sizes, [10, 10, 5]);
    assert_eq!(answers(&mut m), [(1, Answer::Taken)]);
}

/// Random arrivals, outcomes, times and hang-ups: every caller is answered exactly once, with 200 only after success of
/// all its events, and at the end nothing is held.
#[test]
fn whatever_happens_each_is_answered_once() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    for round in 0..300 {
        let mut m =
            Delivery::new(config::Delivery { max_batch_events: 7, max_in_flight: 2, ..SETTINGS }, 5000, 2, round + 1);
        let mut calls: Vec<(CallId, Vec<u32>)> = Vec::new();
        let (mut now, mut next) = (0, 1_u32);
        let mut state: BTreeMap<WaiterId, (usize, bool)> = BTreeMap::new();
        let mut answered: BTreeMap<WaiterId, Answer> = BTreeMap::new();
        for step in 0..400 {
            now += random(60);
            match random(6) {
                0..=2 if step < 300 => {
                    let count = 1 + usize::try_from(random(5)).unwrap();
                    let text = next.to_string();
                    let events: Vec<(usize, &str, &str)> = (0..count).map(|i| (i % 2, "c", text.as_str())).collect();
                    if m.offer(Some(next), &offer(&events), now) != Offered::Full {
                        state.insert(next, (count, true));
                    }
                    next += 1;
                }
                3 if next > 1 => {
                    let waiter = 1 + u32::try_from(random(u64::from(next))).unwrap();
                    m.gone(waiter);
                    if let Some(s) = state.get_mut(&waiter) {
                        s.1 = answered.contains_key(&waiter) && s.1;
                    }
                }
                _ => {
                    if !calls.is_empty() {
                        let (id, waiters) = calls.remove(usize::try_from(random(calls.len() as u64)).unwrap());
                        let outcome = match random(6) {
                            0 => Outcome::Retry,
                            1 => Outcome::TooLarge,
                            2 if random(4) == 0 => Outcome::Misconfigured,
                            _ => recorded(waiters.len()),
                        };
                        let done = matches!(outcome, Outcome::Verdicts(_))
                            || (outcome == Outcome::TooLarge && waiters.len() == 1);
                        m.settle(id, outcome, now);
                        for waiter in waiters.iter().filter(|_| done) {
                            state.get_mut(waiter).unwrap().0 -= 1;
                        }
                    }
                }
            }
            m.expire(now, 50);
            while let Some(call) = m.take(now) {
                let value: serde_json::Value = serde_json::from_slice(&call.body).unwrap();
                let waiters = value["c"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|w| u32::try_from(w.as_u64().unwrap()).unwrap())
                    .collect();
                calls.push((call.id, waiters));
            }
            while let Some((waiter, answer)) = m.answers() {
                assert!(answered.insert(waiter, answer).is_none(), "answered twice");
                if answer == Answer::Taken {
                    assert_eq!(state[&waiter].0, 0, "200 before Keen had it");
                }
            }
            assert!(m.pending_bytes() <= SETTINGS.max_pending_bytes);
        }
        now += 100_000;
        m.expire(now, 0);
        while !calls.is_empty() || {
            let call = m.take(now);
            call.map(|c| calls.push((c.id, vec![]))).is_some()
        } {
            let (id, _) = calls.remove(0);
            m.settle(id, Outcome::Misconfigured, now);
        }
        while let Some((waiter, answer)) = m.answers() {
            assert!(answered.insert(waiter, answer).is_none());
        }
        for (waiter, (_, connected)) in &state {
            assert!(answered.contains_key(waiter) || !connected, "{waiter} never answered");
        }
        assert!(m.idle());
        assert_eq!(m.pending_bytes(), 0);
    }
}
