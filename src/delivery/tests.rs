#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic
)]

use super::*;
use crate::mapping::EventBuffer;
use std::collections::BTreeMap;

trait SubmitBuffer {
    fn submit_buffer(
        &mut self,
        waiter: Option<WaiterId>,
        buffer: &EventBuffer,
        now: u64,
    ) -> Admission;
}

impl SubmitBuffer for Delivery {
    fn submit_buffer(
        &mut self,
        waiter: Option<WaiterId>,
        buffer: &EventBuffer,
        now: u64,
    ) -> Admission {
        if buffer.is_overflowed() {
            Admission::Rejected
        } else {
            self.submit(waiter, buffer.events(), now)
        }
    }
}

const SETTINGS: config::DeliverySettings = config::DeliverySettings {
    accepted: false,
    hold_ms: 7000,
    retries: 3,
    max_in_flight: 4,
    max_batch_events: 1000,
    max_batch_bytes: 1_000_000,
    max_pending_bytes: 100_000,
};

fn machine(settings: config::DeliverySettings) -> Delivery {
    let mut machine = Delivery::new(settings, 5000, 2, 7);
    machine.enable_timer();
    machine
}

fn offer(events: &[(usize, &str, &str)]) -> EventBuffer {
    let mut offer = EventBuffer::default();
    for (destination, collection, event) in events {
        offer.push(*destination, collection, |out| out.extend_from_slice(event.as_bytes()));
    }
    offer
}

fn recorded(count: usize) -> CalloutOutcome {
    CalloutOutcome::Results(vec![EventResult::Recorded; count])
}

fn answers(machine: &mut Delivery) -> Vec<(WaiterId, Ack)> {
    std::iter::from_fn(|| machine.pop_ack()).collect()
}

#[test]
fn the_first_leaves_at_once_and_the_rest_together() {
    let mut m = machine(SETTINGS);
    for waiter in 1..=50 {
        assert_eq!(
            m.submit_buffer(Some(waiter), &offer(&[(0, "a", "{}")]), 0),
            Admission::Admitted
        );
        if waiter == 1 {
            assert_eq!(m.next_callout(0).unwrap().body, br#"{"a":[{}]}"#);
        }
    }
    assert_eq!(m.next_callout(0), None);
    m.settle(1, recorded(1), 1);
    let call = m.next_callout(1).unwrap();
    m.settle(call.id, recorded(49), 2);
    assert_eq!(answers(&mut m).len(), 50);
    assert!(m.is_idle());
    assert_eq!(m.pending_bytes(), 0);
}

#[test]
fn those_who_were_answered_are_waited_for_a_moment() {
    let event = offer(&[(0, "a", "{}")]);
    let mut m = machine(SETTINGS);
    let send = |m: &mut Delivery, waiters: std::ops::RangeInclusive<u32>, now| {
        waiters.for_each(|waiter| {
            assert_eq!(m.submit_buffer(Some(waiter), &event, now), Admission::Admitted)
        });
    };
    send(&mut m, 1..=2, 0);
    let call = m.next_callout(0).unwrap();
    assert!(!m.is_lingering());
    send(&mut m, 3..=4, 5);
    m.settle(call.id, recorded(2), 10);
    // Two wait and two are free: all four leave together.
    assert_eq!(m.next_callout(10), None);
    assert!(m.is_lingering());
    send(&mut m, 5..=5, 11);
    assert_eq!(m.next_callout(11), None);
    send(&mut m, 6..=6, 11);
    let call = m.next_callout(11).unwrap();
    assert!(!m.is_lingering());
    m.settle(call.id, recorded(4), 20);
    assert_eq!(m.next_callout(20), None);
    assert!(!m.is_lingering(), "nothing is there to leave");
    // Only one comes: it is kept for a moment and no longer.
    send(&mut m, 7..=7, 21);
    assert_eq!(m.next_callout(23), None);
    assert!(m.is_lingering());
    let call = m.next_callout(24).unwrap();
    m.settle(call.id, recorded(1), 30);
    // One alone waits for nobody.
    send(&mut m, 8..=8, 30);
    let call = m.next_callout(30).unwrap();
    m.settle(call.id, recorded(1), 40);
    // Events without a caller set nobody free.
    m.submit_buffer(None, &event, 50);
    let call = m.next_callout(50).unwrap();
    m.submit_buffer(None, &event, 51);
    m.settle(call.id, recorded(1), 52);
    assert!(m.next_callout(52).is_some());
}

#[test]
fn without_a_timer_nobody_is_waited_for() {
    let event = offer(&[(0, "a", "{}")]);
    let mut m = Delivery::new(SETTINGS, 5000, 2, 7);
    m.submit_buffer(Some(1), &event, 0);
    m.submit_buffer(Some(2), &event, 0);
    let call = m.next_callout(0).unwrap();
    m.settle(call.id, recorded(2), 1);
    m.submit_buffer(Some(3), &event, 1);
    assert!(m.next_callout(1).is_some());
}

#[test]
fn a_batch_has_nothing_of_the_one_whose_room_it_takes() {
    let mut m = machine(SETTINGS);
    for (events, want) in [
        (vec![(0, "b", "1"), (0, "a", "2"), (0, "b", "3")], r#"{"a":[2],"b":[1,3]}"#),
        (vec![(0, "c", "4"), (0, "b", "5")], r#"{"b":[5],"c":[4]}"#),
        (vec![(0, "a", "6")], r#"{"a":[6]}"#),
        (vec![(1, "c", "7")], r#"{"c":[7]}"#),
    ] {
        m.submit_buffer(Some(1), &offer(&events), 0);
        let call = m.next_callout(0).unwrap();
        assert_eq!(String::from_utf8(call.body).unwrap(), want);
        assert_eq!(m.settle(call.id, recorded(events.len()), 0).recorded, events.len() as u64);
        assert_eq!(answers(&mut m), [(1, Ack::Delivered)]);
        assert_eq!(m.pending_bytes(), 0);
    }
}

#[test]
fn room_of_many_bytes_is_given_back() {
    let mut m = machine(config::DeliverySettings {
        max_pending_bytes: usize::MAX,
        max_batch_bytes: usize::MAX,
        ..SETTINGS
    });
    let event = "1".repeat(500_000);
    for (count, kept) in [(1, true), (5, false)] {
        m.submit_buffer(Some(1), &offer(&vec![(0, "a", event.as_str()); count]), 0);
        let call = m.next_callout(0).unwrap();
        m.settle(call.id, recorded(count), 0);
        assert_eq!(m.spare.has_room(), kept);
    }
}

#[test]
fn names_of_many_collections_are_given_back() {
    let mut m = machine(SETTINGS);
    for (count, kept) in [(64, true), (65, false)] {
        let names: Vec<String> = (0..count).map(|at| format!("c{at}")).collect();
        let events: Vec<(usize, &str, &str)> =
            names.iter().map(|name| (0, name.as_str(), "{}")).collect();
        m.submit_buffer(Some(1), &offer(&events), 0);
        let call = m.next_callout(0).unwrap();
        m.settle(call.id, recorded(count), 0);
        assert_eq!(m.spare.has_room(), kept);
    }
}

#[test]
fn a_hung_call_does_not_hold_up_what_gathers() {
    let mut m = machine(SETTINGS);
    m.submit_buffer(Some(1), &offer(&[(0, "a", "{}")]), 0);
    m.next_callout(0).unwrap();
    m.submit_buffer(Some(2), &offer(&[(0, "a", "{}")]), 1);
    assert_eq!(m.next_callout(5), None);
    assert!(m.next_callout(11).is_some());
    // Another project is never kept waiting, whatever the slots.
    for waiter in 3..10 {
        m.submit_buffer(Some(waiter), &offer(&[(0, "a", "{}")]), 20 * u64::from(waiter));
        m.next_callout(20 * u64::from(waiter) + 10);
    }
    assert_eq!(m.calls.len(), 4);
    m.submit_buffer(Some(20), &offer(&[(1, "a", "{}")]), 300);
    assert_eq!(m.next_callout(300).unwrap().destination, 1);
}

#[test]
fn a_caller_is_answered_when_all_its_events_are() {
    let mut m = machine(SETTINGS);
    m.submit_buffer(
        Some(1),
        &offer(&[(0, "b", "1"), (0, "a", "2"), (1, "a", "3"), (0, "a", "4")]),
        0,
    );
    let first = m.next_callout(0).unwrap();
    assert_eq!(first.body, br#"{"a":[2,4],"b":[1]}"#);
    let second = m.next_callout(0).unwrap();
    m.settle(first.id, recorded(3), 1);
    assert_eq!(answers(&mut m), []);
    let refused = CalloutOutcome::Results(vec![EventResult::Rejected("X".into())]);
    assert_eq!(m.settle(second.id, refused, 1).refused, [("a".to_owned(), "X".to_owned())]);
    assert_eq!(answers(&mut m), [(1, Ack::Delivered)]);
}

#[test]
fn failures_are_tried_again_with_the_same_events_and_then_told() {
    let mut m = machine(SETTINGS);
    m.submit_buffer(Some(1), &offer(&[(0, "a", "{}")]), 0);
    let mut now = 0;
    for attempt in 0..4 {
        let call = m.next_callout(now).unwrap();
        assert_eq!(call.body, br#"{"a":[{}]}"#);
        let settled = m.settle(call.id, CalloutOutcome::RetryAfter(0), now);
        assert_eq!(settled.retried, attempt < 3);
        assert_eq!(m.next_callout(now), None);
        now += 1000;
    }
    assert_eq!(answers(&mut m), [(1, Ack::Unconfirmed)]);
    assert!(m.is_idle());
}

#[test]
fn nobody_waits_longer_than_the_hold() {
    let mut m = machine(SETTINGS);
    m.submit_buffer(Some(1), &offer(&[(0, "a", "{}")]), 0);
    let call = m.next_callout(6_000).unwrap();
    assert_eq!(call.timeout_ms, 1000);
    assert_eq!(m.expire(6_899, 100).callers, 0);
    assert_eq!(m.expire(6_900, 100).callers, 1);
    assert_eq!(answers(&mut m), [(1, Ack::Unconfirmed)]);
    // A late success tells nobody, and a late failure is not tried again.
    assert!(!m.settle(call.id, CalloutOutcome::RetryAfter(0), 7_000).retried);
    assert!(m.is_idle());
}

#[test]
fn too_large_and_rejected_are_split_down_to_the_one() {
    for (outcome, answer) in [
        (CalloutOutcome::PayloadTooLarge, Ack::Delivered),
        (CalloutOutcome::Rejected(Some("E".into())), Ack::Delivered),
        (CalloutOutcome::Rejected(None), Ack::Unconfirmed),
    ] {
        let mut m = machine(SETTINGS);
        // All gather behind a first call.
        m.submit_buffer(Some(9), &offer(&[(0, "z", "0")]), 0);
        let first = m.next_callout(0).unwrap();
        for waiter in 0..5 {
            m.submit_buffer(Some(waiter), &offer(&[(0, "a", &waiter.to_string())]), 0);
        }
        m.settle(first.id, recorded(1), 0);
        while let Some(call) = m.next_callout(ROUND_MS) {
            let body = String::from_utf8(call.body).unwrap();
            let outcome = if body.contains('3') {
                outcome.clone()
            } else {
                recorded(body.matches(|c: char| c.is_ascii_digit()).count())
            };
            m.settle(call.id, outcome, 0);
        }
        for (waiter, got) in answers(&mut m) {
            assert_eq!(got, if waiter == 3 { answer } else { Ack::Delivered }, "{waiter}");
        }
        assert!(m.is_idle());
        assert_eq!(m.pending_bytes(), 0);
    }
}

#[test]
fn over_the_bound_nothing_is_kept() {
    let mut m = machine(SETTINGS);
    let big = "x".repeat(60_000);
    assert_eq!(m.submit_buffer(Some(1), &offer(&[(0, "a", &big)]), 0), Admission::Admitted);
    assert_eq!(m.submit_buffer(Some(2), &offer(&[(0, "a", &big)]), 0), Admission::Rejected);
    let call = m.next_callout(0).unwrap();
    m.settle(call.id, CalloutOutcome::Misconfigured, 0);
    assert_eq!(answers(&mut m), [(1, Ack::Unconfirmed)]);
    assert!(m.is_idle());
}

#[test]
fn events_of_those_who_hang_up_still_go() {
    let mut m = machine(SETTINGS);
    m.submit_buffer(Some(1), &offer(&[(0, "a", "{}")]), 0);
    m.disconnect(1);
    let call = m.next_callout(0).unwrap();
    assert_eq!(m.settle(call.id, recorded(1), 0).recorded, 1);
    assert_eq!(answers(&mut m), []);
    assert!(m.is_idle());
}

#[test]
fn what_nobody_waits_for_is_tried_until_keen_has_it() {
    let mut m = machine(SETTINGS);
    m.submit_buffer(None, &offer(&[(0, "a", "1")]), 0);
    m.submit_buffer(Some(1), &offer(&[(0, "a", "2")]), 0);
    let mut now = 0;
    for outcome in [
        CalloutOutcome::RetryAfter(0),
        CalloutOutcome::Misconfigured,
        CalloutOutcome::RetryAfter(0),
        CalloutOutcome::Misconfigured,
        CalloutOutcome::RetryAfter(0),
    ] {
        let call = m.next_callout(now).unwrap();
        assert_eq!(call.timeout_ms, 5000);
        assert!(m.settle(call.id, outcome, now).retried);
        assert!(!m.is_idle());
        assert_eq!(m.next_callout(now), None);
        now += 10_000;
        m.expire(now, 0);
    }
    // The caller has long been told.
    assert_eq!(answers(&mut m), [(1, Ack::Unconfirmed)]);
    let call = m.next_callout(now).unwrap();
    assert_eq!(call.body, br#"{"a":[1]}"#);
    assert_eq!(m.settle(call.id, recorded(1), now).recorded, 1);
    assert!(m.is_idle());
    assert_eq!(m.pending_bytes(), 0);
}

#[test]
fn what_nobody_waits_for_is_given_up_where_it_is_hopeless_or_the_end_has_come() {
    let mut m = machine(SETTINGS);
    m.submit_buffer(None, &offer(&[(0, "a", "1")]), 0);
    let mut now = 0;
    for attempt in 0..4 {
        let call = m.next_callout(now).unwrap();
        let settled = m.settle(call.id, CalloutOutcome::Rejected(None), now);
        assert_eq!((settled.retried, settled.dropped), (attempt < 3, u64::from(attempt == 3)));
        now += 10_000;
    }
    assert!(m.is_idle());

    m.submit_buffer(None, &offer(&[(0, "a", "1")]), now);
    m.begin_drain(now);
    let call = m.next_callout(now).unwrap();
    assert!(m.settle(call.id, CalloutOutcome::RetryAfter(0), now).retried);
    let call = m.next_callout(now + 8_000).unwrap();
    assert_eq!(m.settle(call.id, CalloutOutcome::RetryAfter(0), now + 8_000).dropped, 1);
    assert!(m.is_idle());
    assert_eq!(m.pending_bytes(), 0);
}

#[test]
fn large_requests_take_several_calls() {
    let mut m = machine(config::DeliverySettings { max_batch_events: 10, ..SETTINGS });
    let events: Vec<(usize, &str, &str)> = vec![(0, "a", "{}"); 25];
    m.submit_buffer(Some(1), &offer(&events), 0);
    let mut sizes = Vec::new();
    while let Some(call) = m.next_callout(0) {
        let count = String::from_utf8(call.body).unwrap().matches("{}").count();
        sizes.push(count);
        m.settle(call.id, recorded(count), 0);
    }
    assert_eq!(sizes, [10, 10, 5]);
    assert_eq!(answers(&mut m), [(1, Ack::Delivered)]);
}

#[test]
fn a_project_that_fails_keeps_no_events_from_another() {
    let mut m = machine(SETTINGS);
    m.submit_buffer(Some(1), &offer(&[(1, "busy", "{}")]), 0);
    let busy = m.next_callout(0).unwrap();
    m.submit_buffer(Some(2), &offer(&[(0, "a", "1"), (1, "b", "2")]), 0);
    let failing = m.next_callout(0).unwrap();
    assert_eq!(failing.destination, 0);
    assert_eq!(m.settle(failing.id, CalloutOutcome::Misconfigured, 1).failed, 1);
    m.settle(busy.id, recorded(1), 2);
    let other = m.next_callout(2 + ROUND_MS).unwrap();
    assert_eq!(other.body, br#"{"b":[2]}"#);
    m.settle(other.id, recorded(1), 9);
    assert_eq!(answers(&mut m), [(1, Ack::Delivered), (2, Ack::Unconfirmed)]);
    assert!(m.is_idle());
}

#[test]
fn what_keen_itself_fails_over_goes_again_alone() {
    let mut m = machine(SETTINGS);
    m.submit_buffer(Some(1), &offer(&[(0, "a", "1"), (0, "a", "2"), (0, "a", "3")]), 0);
    let call = m.next_callout(0).unwrap();
    let verdicts =
        vec![EventResult::Recorded, EventResult::Failed, EventResult::Rejected("X".into())];
    let settled = m.settle(call.id, CalloutOutcome::Results(verdicts), 0);
    assert_eq!((settled.recorded, settled.refused.len(), settled.retried), (1, 1, true));
    assert_eq!(answers(&mut m), []);
    let call = m.next_callout(1000).unwrap();
    assert_eq!(call.body, br#"{"a":[2]}"#);
    m.settle(call.id, recorded(1), 1000);
    assert_eq!(answers(&mut m), [(1, Ack::Delivered)]);
    assert!(m.is_idle());
    assert_eq!(m.pending_bytes(), 0);
}

#[test]
fn an_event_that_breaks_keen_is_found_and_its_neighbours_are_delivered() {
    let mut m = machine(SETTINGS);
    let mut now = 0;
    let first = {
        m.submit_buffer(Some(99), &offer(&[(0, "z", "0")]), now);
        m.next_callout(now).unwrap()
    };
    for waiter in 0..20 {
        m.submit_buffer(Some(waiter), &offer(&[(0, "a", &format!("[{waiter}]"))]), now);
    }
    m.settle(first.id, recorded(1), now);
    let mut got = BTreeMap::new();
    while !m.is_idle() {
        while let Some(call) = m.next_callout(now) {
            let body = String::from_utf8(call.body).unwrap();
            let broken = body.contains("[13]");
            let outcome = if broken {
                CalloutOutcome::ServerError
            } else {
                recorded(body.matches('[').count() - 1)
            };
            m.settle(call.id, outcome, now);
        }
        m.expire(now, 0);
        got.extend(answers(&mut m));
        now += 10;
    }
    assert!(now < SETTINGS.hold_ms, "{now}");
    for waiter in 0..20 {
        assert_eq!(
            got[&waiter],
            if waiter == 13 { Ack::Unconfirmed } else { Ack::Delivered },
            "{waiter}"
        );
    }
}

#[test]
fn a_keen_that_breaks_over_everything_does_not_get_its_events_one_by_one() {
    let mut m = machine(SETTINGS);
    m.submit_buffer(None, &offer(&vec![(0, "a", "{}"); 500]), 0);
    let mut now = 0;
    for _ in 0..200 {
        let call = m.next_callout(now).unwrap();
        m.settle(call.id, CalloutOutcome::ServerError, now);
        now += 10_000;
    }
    let mut calls = 0;
    while let Some(call) = m.next_callout(now) {
        let count = String::from_utf8(call.body).unwrap().matches("{}").count();
        m.settle(call.id, recorded(count), now);
        calls += 1;
    }
    assert!(m.is_idle());
    assert!(calls <= 13, "{calls}");
}

#[test]
fn what_fails_again_and_again_does_not_hold_up_what_comes_after_it() {
    let mut m = machine(SETTINGS);
    m.submit_buffer(None, &offer(&[(0, "a", "13")]), 0);
    let mut now = 0;
    let mut delivered = 0;
    for round in 0..400_u32 {
        now += 50;
        m.submit_buffer(None, &offer(&[(0, "a", "1")]), now);
        while let Some(call) = m.next_callout(now) {
            let body = String::from_utf8(call.body).unwrap();
            let count = body.matches('1').count();
            let outcome =
                if body.contains("13") { CalloutOutcome::ServerError } else { recorded(count) };
            delivered += u32::try_from(count).unwrap() * u32::from(!body.contains("13"));
            m.settle(call.id, outcome, now);
        }
        assert!(round < 100 || delivered + 100 > round, "{delivered} of {round}");
    }
    assert!(!m.is_idle());
}

#[test]
fn keen_says_when_to_come_again() {
    let mut m = machine(SETTINGS);
    m.submit_buffer(Some(1), &offer(&[(0, "a", "{}")]), 0);
    let call = m.next_callout(0).unwrap();
    assert!(m.settle(call.id, CalloutOutcome::RetryAfter(2000), 0).retried);
    assert_eq!(m.next_callout(1999), None);
    let call = m.next_callout(2000).unwrap();
    // Longer than the caller waits: it is told now.
    m.settle(call.id, CalloutOutcome::RetryAfter(3_600_000), 2001);
    assert_eq!(answers(&mut m), [(1, Ack::Unconfirmed)]);
    // Others need not wait for an hour.
    m.submit_buffer(Some(2), &offer(&[(0, "a", "{}")]), 3000);
    assert!(m.next_callout(7001).is_some());
}

#[test]
fn an_offer_over_its_limit_takes_no_more_and_is_refused() {
    let mut m = machine(SETTINGS);
    let mut big = EventBuffer::new(1000);
    let mut written = 0;
    for _ in 0..1_000_000 {
        big.push(0, "a", |out| {
            written += 1;
            out.extend_from_slice(&[b'1'; 100]);
        });
    }
    assert_eq!(written, 10);
    assert!(big.is_overflowed());
    assert_eq!(m.submit_buffer(Some(1), &big, 0), Admission::Rejected);
    big.clear();
    assert!(!big.is_overflowed());
    assert_eq!(m.submit_buffer(Some(1), &big, 0), Admission::Empty);
}

#[test]
fn deadlines_of_those_answered_do_not_pile_up() {
    let mut m = machine(SETTINGS);
    m.submit_buffer(Some(1), &offer(&[(1, "hangs", "{}")]), 0);
    m.next_callout(0).unwrap();
    for waiter in 2..20_000 {
        m.submit_buffer(Some(waiter), &offer(&[(0, "a", "{}")]), 1);
        let call = m.next_callout(1).unwrap();
        m.settle(call.id, recorded(1), 1);
        m.expire(1, 0);
    }
    assert!(m.deadlines.len() < 2_000, "{}", m.deadlines.len());
}

/// Callers come every 20 ms for a minute, to a Keen that takes `call_ms`: their answers, and how long they waited.
fn steady(call_ms: u64) -> Vec<(Ack, u64)> {
    let mut m = machine(SETTINGS);
    let (mut came, mut under_way, mut waits) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for now in (0..70_000).step_by(10) {
        if now < 60_000 && now % 20 == 0 {
            let waiter = u32::try_from(now).unwrap();
            came.insert(waiter, now);
            assert_ne!(
                m.submit_buffer(Some(waiter), &offer(&[(0, "a", "{}")]), now),
                Admission::Rejected
            );
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
        while let Some(call) = m.next_callout(now) {
            let count = String::from_utf8(call.body).unwrap().matches("{}").count();
            let took = call_ms.min(call.timeout_ms);
            under_way.insert(call.id, (now + took, count, took == call_ms));
        }
        waits.extend(
            answers(&mut m).into_iter().map(|(waiter, answer)| (answer, now - came[&waiter])),
        );
    }
    assert!(m.is_idle());
    waits
}

#[test]
fn a_slow_keen_keeps_up_with_steady_callers() {
    for call_ms in [20, 200, 1_000, 3_000, 4_500] {
        let waits = steady(call_ms);
        let taken = waits.iter().filter(|(answer, _)| *answer == Ack::Delivered).count();
        let longest = waits.iter().map(|(_, waited)| waited).max().unwrap();
        let mean = waits.iter().map(|(_, waited)| waited).sum::<u64>() / waits.len() as u64;
        println!(
            "{call_ms} ms: {taken} of {}, {mean} ms on average, {longest} ms at most",
            waits.len()
        );
        // The first calls learn how slow it is.
        assert!(taken * 100 >= waits.len() * 90, "{call_ms}: {taken} of {}", waits.len());
        assert!(mean <= call_ms * 3 / 2 + 20, "{call_ms}: {mean}");
    }
}
