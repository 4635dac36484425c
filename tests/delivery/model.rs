//! The world outside of the delivery machine: callers, Keen and time, and what the machine promises them.

use keen_edge::config;
use keen_edge::delivery::{
    Ack, Admission, Callout, CalloutId, CalloutOutcome, CalloutResponse, Delivery, WaiterId,
};
use keen_edge::mapping::EventBuffer;
use std::collections::{BTreeMap, BTreeSet};

pub const PROJECTS: usize = 3;
const TIMEOUT_MS: u64 = 5000;

const NAMED: &str = "{\"message\": \"no\", \"error_code\": \"InvalidEventError\"}";

/// Ends of calls that are no word on each event: status, reply, `Retry-After`.
pub const STATUSES: [(Option<u16>, &str, &str); 12] = [
    (None, "", ""),
    (Some(503), "<html>", "2"),
    (Some(503), "<html>", "1000000"),
    (Some(429), "", ""),
    (Some(500), "", ""),
    (Some(200), "{", ""),
    (Some(204), "", ""),
    (Some(413), "", ""),
    (Some(400), "<html>", ""),
    (Some(400), NAMED, ""),
    (Some(401), "", ""),
    (Some(302), "", ""),
];

/// What a call comes to.
#[derive(Debug, Clone)]
pub enum Fate {
    /// Keen's word on each event: the bits say, two for each event in turn, recorded or refused or failed.
    Verdicts(u64),
    Status(Option<u16>, &'static str, &'static str),
    NotMade,
}

#[derive(Debug, Clone)]
pub enum Step {
    /// A caller with these events (project, collection, length); or nobody, who has been answered.
    Offer {
        waits: bool,
        events: Vec<(usize, u8, usize)>,
    },
    Settle {
        which: usize,
        fate: Fate,
    },
    HangUp {
        which: usize,
    },
    Pass {
        ms: u64,
    },
}

/// An event as the world outside remembers it.
#[derive(Debug)]
struct Told {
    waiter: Option<WaiterId>,
    destination: usize,
    collection: String,
    text: String,
}

/// The world outside of the machine.
pub struct World {
    machine: Delivery,
    settings: config::DeliverySettings,
    now: u64,
    events: Vec<Told>,
    /// Events that Keen has spoken on.
    spoken: BTreeSet<usize>,
    in_flight: BTreeMap<CalloutId, (usize, Vec<usize>)>,
    deadlines: BTreeMap<WaiterId, u64>,
    connected: BTreeSet<WaiterId>,
    answered: BTreeMap<WaiterId, Ack>,
    dropped: u64,
    next_waiter: WaiterId,
}

impl World {
    pub fn new(settings: config::DeliverySettings, seed: u64) -> Self {
        let mut machine = Delivery::new(settings, TIMEOUT_MS, PROJECTS, seed);
        if seed.is_multiple_of(2) {
            machine.enable_timer();
        }
        Self {
            machine,
            settings,
            now: 1_000_000,
            events: Vec::new(),
            spoken: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            connected: BTreeSet::new(),
            answered: BTreeMap::new(),
            dropped: 0,
            next_waiter: 1,
        }
    }

    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Offer { waits, events } => self.offer(*waits, events),
            Step::Settle { which, fate } => {
                let ids: Vec<CalloutId> = self.in_flight.keys().copied().collect();
                if !ids.is_empty() {
                    self.settle(ids[which % ids.len()], fate);
                }
            }
            Step::HangUp { which } => {
                let waiters: Vec<WaiterId> = self.connected.iter().copied().collect();
                if !waiters.is_empty() {
                    let waiter = waiters[which % waiters.len()];
                    self.machine.disconnect(waiter);
                    self.connected.remove(&waiter);
                }
            }
            Step::Pass { ms } => self.now += ms,
        }
        self.dropped += self.machine.expire(self.now, 0).dropped;
        self.take();
        self.answers();
        assert!(self.machine.pending_bytes() <= self.settings.max_pending_bytes);
        let late = |w: &&WaiterId| self.deadlines[w] <= self.now && !self.answered.contains_key(w);
        assert_eq!(self.connected.iter().find(late), None, "waits beyond the hold");
    }

    fn offer(&mut self, waits: bool, events: &[(usize, u8, usize)]) {
        let waiter = waits.then_some(self.next_waiter);
        self.next_waiter += 1;
        let first = self.events.len();
        let mut offer = EventBuffer::default();
        for (destination, collection, length) in events {
            let text =
                format!("{{\"id\":{},\"pad\":\"{}\"}}", self.events.len(), "x".repeat(*length));
            let collection = format!("c{collection}");
            offer.push(*destination, &collection, |out| out.extend_from_slice(text.as_bytes()));
            self.events.push(Told { waiter, destination: *destination, collection, text });
        }
        match self.machine.submit(waiter, offer.events(), self.now) {
            Admission::Empty => assert!(events.is_empty()),
            Admission::Rejected => self.events.truncate(first),
            Admission::Admitted => {
                if let Some(waiter) = waiter {
                    self.deadlines.insert(waiter, self.now + self.settings.hold_ms);
                    self.connected.insert(waiter);
                }
            }
        }
    }

    fn take(&mut self) {
        while let Some(call) = self.machine.next_callout(self.now) {
            assert!((1..=TIMEOUT_MS).contains(&call.timeout_ms));
            let alone =
                self.in_flight.values().all(|(destination, _)| *destination != call.destination);
            assert!(alone || self.in_flight.len() < self.settings.max_in_flight, "too many calls");
            let ids = self.ids(&call);
            assert!(!ids.is_empty() && ids.len() <= self.settings.max_batch_events);
            assert!(
                ids.len() == 1
                    || call.body.len() < self.settings.max_batch_bytes + 64 + 8 * ids.len()
            );
            let mut under_way = self.in_flight.values().flat_map(|(_, ids)| ids);
            assert!(!under_way.any(|id| ids.contains(id)), "sent twice at once");
            self.in_flight.insert(call.id, (call.destination, ids));
        }
    }

    /// The events in a call, in its order, each as it was offered.
    fn ids(&self, call: &Callout) -> Vec<usize> {
        let body: BTreeMap<String, Vec<Box<serde_json::value::RawValue>>> =
            serde_json::from_slice(&call.body).unwrap();
        let mut ids = Vec::new();
        for (collection, events) in &body {
            let mut last: BTreeMap<Option<WaiterId>, usize> = BTreeMap::new();
            for event in events {
                let id = serde_json::from_str::<serde_json::Value>(event.get()).unwrap()["id"]
                    .as_u64()
                    .unwrap();
                let id = usize::try_from(id).unwrap();
                let told = &self.events[id];
                assert_eq!(event.get(), told.text, "an event has changed");
                assert_eq!((&told.collection, told.destination), (collection, call.destination));
                if told.waiter.is_some() {
                    let before = last.insert(told.waiter, id);
                    assert!(before.is_none_or(|before| before < id), "out of its caller's order");
                }
                ids.push(id);
            }
        }
        ids
    }

    pub fn settle(&mut self, call: CalloutId, fate: &Fate) {
        let (_, ids) = self.in_flight.remove(&call).unwrap();
        let settled = match fate {
            Fate::NotMade => self.machine.on_dispatch_failed(call, self.now),
            Fate::Verdicts(bits) => {
                let mut reply: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
                for (place, id) in ids.iter().enumerate() {
                    let (verdict, spoken) = match (bits >> (2 * (place % 32))) & 3 {
                        0 | 1 => (r#"{"success": true}"#, true),
                        2 => {
                            (r#"{"success": false, "error": {"name": "InvalidEventError"}}"#, true)
                        }
                        _ => (
                            r#"{"success": false, "error": {"name": "InternalServerError"}}"#,
                            false,
                        ),
                    };
                    reply.entry(&self.events[*id].collection).or_default().push(verdict);
                    if spoken {
                        self.spoken.insert(*id);
                    }
                }
                let collections =
                    reply.iter().map(|(name, of)| format!("\"{name}\": [{}]", of.join(", ")));
                let reply = format!("{{{}}}", collections.collect::<Vec<_>>().join(", "));
                let outcome = self.machine.classify(
                    call,
                    CalloutResponse {
                        status: Some(200),
                        reply: reply.as_bytes(),
                        retry_after: b"",
                    },
                );
                assert!(matches!(outcome, CalloutOutcome::Results(_)), "{reply}");
                self.machine.settle(call, outcome, self.now)
            }
            Fate::Status(status, reply, retry_after) => {
                let ended = CalloutResponse {
                    status: *status,
                    reply: reply.as_bytes(),
                    retry_after: retry_after.as_bytes(),
                };
                let outcome = self.machine.classify(call, ended);
                let final_word = matches!(
                    outcome,
                    CalloutOutcome::PayloadTooLarge | CalloutOutcome::Rejected(Some(_))
                );
                if final_word && ids.len() == 1 {
                    self.spoken.extend(&ids);
                }
                self.machine.settle(call, outcome, self.now)
            }
        };
        self.dropped += settled.dropped;
    }

    fn answers(&mut self) {
        while let Some((waiter, answer)) = self.machine.pop_ack() {
            assert!(self.connected.remove(&waiter), "answered, and not there");
            assert!(self.answered.insert(waiter, answer).is_none(), "answered twice");
            if answer == Ack::Delivered {
                let ids =
                    self.events.iter().enumerate().filter(|(_, told)| told.waiter == Some(waiter));
                for (id, _) in ids {
                    assert!(self.spoken.contains(&id), "200 before Keen had spoken on all of it");
                }
            }
        }
    }

    /// Told to close, it comes to rest by itself, even where Keen never answers.
    pub fn close(&mut self) {
        self.machine.begin_drain(self.now);
        let end = self.now + self.settings.hold_ms + 30_000;
        while self.now < end {
            let calls: Vec<CalloutId> = self.in_flight.keys().copied().collect();
            for call in calls {
                self.settle(call, &Fate::Status(None, "", ""));
            }
            self.step(&Step::Pass { ms: 100 });
        }
        assert!(self.machine.is_idle(), "does not come to its end");
        assert_eq!(self.machine.pending_bytes(), 0);
    }

    /// All goes well from now on: everything comes to its end.
    pub fn drain(&mut self) {
        for _ in 0..20_000 {
            if self.machine.is_idle() {
                break;
            }
            let calls: Vec<CalloutId> = self.in_flight.keys().copied().collect();
            for call in calls {
                self.settle(call, &Fate::Verdicts(0));
            }
            self.step(&Step::Pass { ms: 100 });
        }
        assert!(self.machine.is_idle(), "does not come to rest");
        assert_eq!(self.machine.pending_bytes(), 0);
        assert_eq!(self.connected, BTreeSet::new(), "never answered");
        let unspoken = (0..self.events.len())
            .filter(|id| self.events[*id].waiter.is_none() && !self.spoken.contains(id));
        assert_eq!(u64::try_from(unspoken.count()).unwrap(), self.dropped, "lost, and not counted");
    }
}
