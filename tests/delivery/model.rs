//! Clients, Keen and time around the delivery state machine, and the promises that it must keep.

use keen_edge::config;
use keen_edge::delivery::{
    Ack, Admission, CalloutId, CalloutOutcome, CalloutResponse, Delivery, HandoverOutcome,
    OverflowPolicy, SettleReport, WaiterId,
};
use keen_edge::keen::bulk::Event;
use std::collections::{BTreeMap, BTreeSet};

pub const PROJECTS: usize = 3;
const TIMEOUT_MS: u64 = 5000;
/// Bytes that a pending event occupies in addition to its JSON.
const EVENT_OVERHEAD: usize = 64;

const NAMED: &str = "{\"message\": \"no\", \"error_code\": \"InvalidEventError\"}";

/// Ends of callouts without a result for each event: status, reply, `Retry-After`.
pub const STATUSES: [(Option<u16>, &str, &str); 14] = [
    (None, "", ""),
    (Some(503), "<html>", "2"),
    (Some(503), "<html>", "1000000"),
    (Some(503), "", "Tue, 14 Nov 2023 22:13:23 GMT"),
    (Some(429), "", ""),
    (Some(500), "", ""),
    (Some(200), "{", ""),
    (Some(201), "{}", ""),
    (Some(204), "", ""),
    (Some(413), "", ""),
    (Some(400), "<html>", ""),
    (Some(400), NAMED, ""),
    (Some(401), "", ""),
    (Some(302), "", ""),
];

/// How a callout ends.
#[derive(Debug, Clone)]
pub enum ScriptedResponse {
    /// A result for each event, two bits each: 0 and 1 recorded, 2 rejected, 3 failed.
    Results(u64),
    Status(Option<u16>, &'static str, &'static str),
    DispatchFailed,
}

#[derive(Debug, Clone)]
pub enum Step {
    /// A request with these events (project, collection, length). `waits`: whether it has a waiter.
    Submit {
        waits: bool,
        events: Vec<(usize, u8, usize)>,
    },
    Settle {
        which: usize,
        response: ScriptedResponse,
    },
    SettleHandover {
        which: usize,
        outcome: HandoverOutcome,
    },
    Disconnect {
        which: usize,
    },
    Pass {
        ms: u64,
    },
}

/// An event that the state machine has admitted.
#[derive(Debug)]
struct SubmittedEvent {
    waiter: Option<WaiterId>,
    destination: usize,
    collection: String,
    text: String,
}

/// Numbers of events by their end, as the state machine reports them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ends {
    delivered: u64,
    rejected: u64,
    unconfirmed: u64,
    dropped: u64,
    overflowed: u64,
}

impl Ends {
    fn sum(&self) -> u64 {
        self.delivered + self.rejected + self.unconfirmed + self.dropped + self.overflowed
    }
}

pub struct Model {
    delivery: Delivery,
    settings: config::DeliverySettings,
    now: u64,
    events: Vec<SubmittedEvent>,
    /// Events for which Keen has given a final result, or which the overflow queue has stored.
    final_results: BTreeSet<usize>,
    in_flight: BTreeMap<CalloutId, (usize, Vec<usize>)>,
    handovers: BTreeMap<CalloutId, (usize, Vec<usize>)>,
    overflow: Option<OverflowPolicy>,
    deadlines: BTreeMap<WaiterId, u64>,
    connected: BTreeSet<WaiterId>,
    acks: BTreeMap<WaiterId, Ack>,
    ends: [Ends; PROJECTS],
    next_waiter: WaiterId,
}

impl Model {
    pub fn new(
        settings: config::DeliverySettings,
        overflow: Option<OverflowPolicy>,
        seed: u64,
    ) -> Self {
        let mut delivery = Delivery::new(settings, TIMEOUT_MS, PROJECTS, seed);
        if let Some(policy) = overflow {
            delivery.enable_overflow(policy);
        }
        if seed.is_multiple_of(2) {
            delivery.enable_timer();
        }
        Self {
            delivery,
            settings,
            now: 1_000_000,
            events: Vec::new(),
            final_results: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            handovers: BTreeMap::new(),
            overflow,
            deadlines: BTreeMap::new(),
            connected: BTreeSet::new(),
            acks: BTreeMap::new(),
            ends: Default::default(),
            next_waiter: 1,
        }
    }

    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Submit { waits, events } => self.submit(*waits, events),
            Step::Settle { which, response } => {
                let ids: Vec<CalloutId> = self.in_flight.keys().copied().collect();
                if !ids.is_empty() {
                    self.settle(ids[which % ids.len()], response);
                }
            }
            Step::SettleHandover { which, outcome } => {
                let ids: Vec<CalloutId> = self.handovers.keys().copied().collect();
                if !ids.is_empty() {
                    self.settle_handover(ids[which % ids.len()], *outcome);
                }
            }
            Step::Disconnect { which } => {
                let waiters: Vec<WaiterId> = self.connected.iter().copied().collect();
                if !waiters.is_empty() {
                    let waiter = waiters[which % waiters.len()];
                    self.delivery.disconnect(waiter);
                    self.connected.remove(&waiter);
                }
            }
            Step::Pass { ms } => self.now += ms,
        }
        let report = self.delivery.expire(self.now, 0);
        for (index, count) in report.unconfirmed {
            self.ends[index].unconfirmed += count;
        }
        for (index, count) in report.dropped.into_iter().chain(report.displaced) {
            self.ends[index].dropped += count;
        }
        self.take_callouts();
        self.take_acks();
        assert!(self.delivery.pending_bytes() <= self.settings.max_pending_bytes);
        let late = |w: &&WaiterId| self.deadlines[w] <= self.now && !self.acks.contains_key(w);
        assert_eq!(self.connected.iter().find(late), None, "waits beyond its deadline");
    }

    fn submit(&mut self, waits: bool, events: &[(usize, u8, usize)]) {
        let waiter = waits.then_some(self.next_waiter);
        self.next_waiter += 1;
        let first = self.events.len();
        let mut costs = [0; PROJECTS];
        for (destination, collection, length) in events {
            let text =
                format!("{{\"id\":{},\"pad\":\"{}\"}}", self.events.len(), "x".repeat(*length));
            let collection = format!("c{collection}");
            costs[*destination] += text.len() + collection.len() + EVENT_OVERHEAD;
            self.events.push(SubmittedEvent {
                waiter,
                destination: *destination,
                collection,
                text,
            });
        }
        let admission = self.delivery.submit(
            waiter,
            self.events[first..].iter().map(|event| Event {
                destination: event.destination,
                collection: &event.collection,
                json: event.text.as_bytes(),
            }),
            self.now,
        );
        match admission {
            Admission::Empty => assert!(events.is_empty()),
            Admission::Rejected => {
                self.events.truncate(first);
                let share = self.settings.max_pending_bytes / PROJECTS;
                let is_within_share = (0..PROJECTS).all(|index| {
                    let pending = self.delivery.pending_bytes_of(index);
                    costs[index] == 0 || pending + costs[index] <= share
                });
                assert!(!is_within_share, "rejected within its share");
            }
            Admission::Admitted => {
                if let Some(waiter) = waiter {
                    self.deadlines.insert(waiter, self.now + self.settings.max_wait_ms);
                    self.connected.insert(waiter);
                }
            }
        }
    }

    fn take_callouts(&mut self) {
        while let Some(callout) = self.delivery.next_callout(self.now) {
            assert!((1..=TIMEOUT_MS).contains(&callout.timeout_ms));
            let limit = self.settings.max_in_flight;
            assert!(self.in_flight.len() < 2 * limit + PROJECTS, "too many callouts");
            let ids = self.ids(callout.destination_index, &callout.body);
            assert!(!ids.is_empty() && ids.len() <= self.settings.max_batch_events);
            assert!(
                ids.len() == 1
                    || callout.body.len() < self.settings.max_batch_bytes + 64 + 8 * ids.len()
            );
            self.assert_not_in_flight(&ids);
            self.in_flight.insert(callout.id, (callout.destination_index, ids));
        }
        while let Some(handover) = self.delivery.next_handover(self.now) {
            let policy = self.overflow.expect("a handover without an overflow queue");
            assert!(handover.body.len() <= policy.max_body_bytes);
            assert!((1..=policy.timeout_ms).contains(&handover.timeout_ms));
            let ids = self.ids(handover.destination_index, &handover.body);
            assert!(!ids.is_empty());
            self.assert_not_in_flight(&ids);
            self.handovers.insert(handover.id, (handover.destination_index, ids));
            assert!(self.handovers.len() <= 4);
        }
    }

    fn assert_not_in_flight(&self, ids: &[usize]) {
        let in_flight = self.in_flight.values().chain(self.handovers.values());
        // A displaced event no longer belongs to its callout.
        let mut in_flight = in_flight.flat_map(|(_, ids)| ids);
        assert!(!in_flight.any(|id| ids.contains(id)), "in two callouts at once");
    }

    fn settle_handover(&mut self, handover: CalloutId, outcome: HandoverOutcome) {
        let (destination, ids) = self.handovers.remove(&handover).unwrap();
        if outcome == HandoverOutcome::Stored {
            self.final_results.extend(&ids);
        }
        let report = self.delivery.settle_handover(handover, outcome, self.now);
        assert_eq!(report.destination_index, destination);
        let count = u64::try_from(ids.len()).unwrap();
        let got = [report.overflowed, report.returned];
        // Both are 0 if a request of another project has displaced the events.
        let want = [count, 0];
        let want = if outcome == HandoverOutcome::Stored { want } else { [0, count] };
        assert!(got == want || got == [0, 0], "{got:?}");
        self.ends[destination].overflowed += report.overflowed;
    }

    /// Returns the ids of the events in a callout, in its order. Asserts that each is as it was
    /// submitted.
    fn ids(&self, destination: usize, body: &[u8]) -> Vec<usize> {
        let body: BTreeMap<String, Vec<Box<serde_json::value::RawValue>>> =
            serde_json::from_slice(body).unwrap();
        let mut ids = Vec::new();
        for (collection, events) in &body {
            let mut last: BTreeMap<Option<WaiterId>, usize> = BTreeMap::new();
            for event in events {
                let id = serde_json::from_str::<serde_json::Value>(event.get()).unwrap()["id"]
                    .as_u64()
                    .unwrap();
                let id = usize::try_from(id).unwrap();
                let offered = &self.events[id];
                assert_eq!(event.get(), offered.text, "an event has changed");
                assert_eq!((&offered.collection, offered.destination), (collection, destination));
                if offered.waiter.is_some() && self.overflow.is_none() {
                    let before = last.insert(offered.waiter, id);
                    assert!(before.is_none_or(|before| before < id), "out of its waiter's order");
                }
                ids.push(id);
            }
        }
        ids
    }

    pub fn settle(&mut self, callout: CalloutId, response: &ScriptedResponse) {
        let (destination, ids) = self.in_flight.remove(&callout).unwrap();
        let report = match response {
            ScriptedResponse::DispatchFailed => self.delivery.on_dispatch_failed(callout, self.now),
            ScriptedResponse::Results(bits) => self.settle_results(callout, &ids, *bits),
            ScriptedResponse::Status(status, reply, retry_after) => {
                let response = CalloutResponse {
                    status: *status,
                    reply: reply.as_bytes(),
                    retry_after: retry_after.as_bytes(),
                };
                let outcome = self.delivery.classify(callout, response, 1_700_000_000_000);
                let is_named = matches!(outcome, CalloutOutcome::Rejected(Some(_)));
                let report = self.delivery.settle(callout, outcome, self.now);
                // Only a named rejection of a single event is final here.
                assert!(report.rejected.is_empty() || (is_named && ids.len() == 1));
                if !report.rejected.is_empty() {
                    self.final_results.extend(&ids);
                }
                report
            }
        };
        assert_eq!(report.destination_index, destination);
        let ends = &mut self.ends[destination];
        ends.delivered += report.delivered;
        ends.rejected += u64::try_from(report.rejected.len()).unwrap();
        ends.unconfirmed += report.unconfirmed;
        ends.dropped += report.dropped;
    }

    fn settle_results(&mut self, callout: CalloutId, ids: &[usize], bits: u64) -> SettleReport {
        let mut reply: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (index, id) in ids.iter().enumerate() {
            let (result, is_final) = match (bits >> (2 * (index % 32))) & 3 {
                0 | 1 => (r#"{"success": true}"#, true),
                2 => (r#"{"success": false, "error": {"name": "InvalidEventError"}}"#, true),
                _ => (r#"{"success": false, "error": {"name": "InternalServerError"}}"#, false),
            };
            reply.entry(&self.events[*id].collection).or_default().push(result);
            if is_final {
                self.final_results.insert(*id);
            }
        }
        let collections =
            reply.iter().map(|(name, results)| format!("\"{name}\": [{}]", results.join(", ")));
        let reply = format!("{{{}}}", collections.collect::<Vec<_>>().join(", "));
        let response =
            CalloutResponse { status: Some(200), reply: reply.as_bytes(), retry_after: b"" };
        let outcome = self.delivery.classify(callout, response, 0);
        assert!(matches!(outcome, CalloutOutcome::Results(_)), "{reply}");
        self.delivery.settle(callout, outcome, self.now)
    }

    fn take_acks(&mut self) {
        while let Some((waiter, ack)) = self.delivery.pop_ack() {
            assert!(self.connected.remove(&waiter), "an ack for no client");
            assert!(self.acks.insert(waiter, ack).is_none(), "a second ack");
            if ack == Ack::Delivered {
                let ids = self.events.iter().enumerate();
                for (id, _) in ids.filter(|(_, event)| event.waiter == Some(waiter)) {
                    assert!(self.final_results.contains(&id), "delivered before a final result");
                }
            }
        }
    }

    /// Drains while Keen never answers.
    pub fn drain(&mut self) {
        self.delivery.begin_drain(self.now);
        let end = self.now + self.settings.max_wait_ms + 30_000;
        while self.now < end {
            let callouts: Vec<CalloutId> = self.in_flight.keys().copied().collect();
            for callout in callouts {
                self.settle(callout, &ScriptedResponse::Status(None, "", ""));
            }
            let handovers: Vec<CalloutId> = self.handovers.keys().copied().collect();
            for handover in handovers {
                self.settle_handover(handover, HandoverOutcome::Failed);
            }
            self.step(&Step::Pass { ms: 100 });
        }
        self.assert_rest();
    }

    /// Settles everything while Keen accepts all events.
    pub fn recover(&mut self) {
        for _ in 0..20_000 {
            if self.delivery.is_idle() {
                break;
            }
            let callouts: Vec<CalloutId> = self.in_flight.keys().copied().collect();
            for callout in callouts {
                self.settle(callout, &ScriptedResponse::Results(0));
            }
            let handovers: Vec<CalloutId> = self.handovers.keys().copied().collect();
            for handover in handovers {
                self.settle_handover(handover, HandoverOutcome::Stored);
            }
            self.step(&Step::Pass { ms: 100 });
        }
        self.assert_rest();
        for (index, ends) in self.ends.iter().enumerate() {
            let unattended = self.events.iter().enumerate().filter(|(id, event)| {
                event.destination == index
                    && event.waiter.is_none()
                    && !self.final_results.contains(id)
            });
            let lost = u64::try_from(unattended.count()).unwrap();
            assert!(lost <= ends.dropped, "lost, and not counted");
        }
    }

    fn assert_rest(&self) {
        assert!(self.delivery.is_idle(), "does not come to rest");
        assert_eq!(self.delivery.pending_bytes(), 0);
        assert_eq!(self.connected, BTreeSet::new(), "without an ack");
        for (index, ends) in self.ends.iter().enumerate() {
            let events = self.events.iter().filter(|event| event.destination == index);
            assert_eq!(u64::try_from(events.count()).unwrap(), ends.sum(), "{index}: {ends:?}");
        }
    }
}
