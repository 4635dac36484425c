//! A queue like SQS, a Keen, and the workers of several processes.

use keen_edge::config::{DeliverySettings, OverflowSettings};
use keen_edge::delivery::{
    Ack, Admission, Callout, CalloutId, CalloutResponse, Delivery, WaiterId,
};
use keen_edge::keen::bulk::Event;
use keen_edge::overflow::sqs::Action;
use keen_edge::overflow::{Call, CallId, Overflow, Target, lease};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub const PROJECTS: usize = 2;
/// The first two workers share a process, and so a lease.
pub const WORKERS: usize = 3;
pub const KEEN_TIMEOUT_MS: u64 = 5_000;
const START_MS: u64 = 1_000_000;

pub fn project_id(index: usize) -> String {
    format!("{index:024x}")
}

/// How Keen answers a callout.
#[derive(Debug, Clone)]
pub enum KeenReply {
    Accepts,
    /// Two bits for each event: 0 and 1 recorded, 2 rejected, 3 failed.
    Results(u64),
    Fails(Option<u16>),
    /// Status 400 with an error name, for any events.
    RejectsByName,
}

/// How the queue answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueReply {
    Succeeds,
    /// Answers 200 without a `MessageId`, and does nothing.
    WithoutId,
    Throttles,
    Refuses,
    IsAway,
    /// Does what is asked. The response is lost.
    LosesResponse,
}

#[derive(Debug, Clone)]
pub enum Step {
    Submit { worker: usize, waits: bool, events: Vec<(usize, u8, usize)> },
    Keen { worker: usize, which: usize, reply: KeenReply },
    Queue { worker: usize, which: usize, reply: QueueReply },
    Pass { ms: u64 },
}

#[derive(Debug, Clone)]
pub struct Message {
    pub body: String,
    pub visible_at: u64,
    pub receipt: String,
    pub receives: u64,
}

#[derive(Debug)]
pub struct SubmittedEvent {
    pub waiter: Option<(usize, WaiterId)>,
    pub destination: usize,
    pub collection: String,
    pub text: String,
}

pub struct Worker {
    pub delivery: Delivery,
    pub overflow: Overflow,
    callouts: BTreeMap<CalloutId, (usize, Vec<u8>)>,
    calls: BTreeMap<CallId, (Target, Vec<u8>)>,
    pub acks: BTreeMap<WaiterId, Ack>,
    deadlines: BTreeMap<WaiterId, u64>,
}

pub struct Model {
    pub workers: Vec<Worker>,
    pub now: u64,
    pub events: Vec<SubmittedEvent>,
    /// Events for which Keen has given a final result.
    pub at_keen: BTreeSet<usize>,
    /// Events in a message that the queue has confirmed.
    stored: BTreeSet<usize>,
    pub messages: BTreeMap<u64, Message>,
    next_message: u64,
    leases: BTreeMap<usize, Vec<u8>>,
    next_waiter: WaiterId,
    max_message_bytes: usize,
    settings: DeliverySettings,
    pub receives: u64,
    pub left: u64,
    /// Time between two answers of [`Self::run`], in milliseconds.
    pub step_ms: u64,
    pub unknown_projects: u64,
    pub keen_calls: u64,
    pub overflowed: u64,
    pub drained: u64,
}

impl Model {
    pub fn new(settings: DeliverySettings, overflow: &OverflowSettings) -> Self {
        let workers = (0..WORKERS).map(|seed| Worker::new(settings, overflow, seed as u64));
        Self {
            workers: workers.collect(),
            now: START_MS,
            events: Vec::new(),
            at_keen: BTreeSet::new(),
            stored: BTreeSet::new(),
            messages: BTreeMap::new(),
            next_message: 0,
            leases: BTreeMap::new(),
            next_waiter: 1,
            max_message_bytes: overflow.max_message_bytes,
            settings,
            receives: 0,
            left: 0,
            step_ms: 10,
            unknown_projects: 0,
            keen_calls: 0,
            overflowed: 0,
            drained: 0,
        }
    }

    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Submit { worker, waits, events } => {
                self.submit(*worker, *waits, events);
            }
            Step::Keen { worker, which, reply } => self.answer_keen(*worker, *which, reply),
            Step::Queue { worker, which, reply } => self.answer_queue(*worker, *which, *reply),
            Step::Pass { ms } => self.now += ms,
        }
        self.tick();
    }

    pub fn submit(
        &mut self,
        worker: usize,
        waits: bool,
        events: &[(usize, u8, usize)],
    ) -> Admission {
        let waiter = waits.then_some(self.next_waiter);
        self.next_waiter += 1;
        let first = self.events.len();
        for (destination, collection, length) in events {
            let text = format!(
                "{{\"id\":{},\"pad\":\"{}\"}}",
                self.events.len(),
                "\u{ffff}".repeat(*length / 3)
            );
            self.events.push(SubmittedEvent {
                waiter: waiter.map(|waiter| (worker, waiter)),
                destination: *destination,
                collection: format!("c{collection}"),
                text,
            });
        }
        let state = &mut self.workers[worker];
        let offered = self.events[first..].iter().map(|event| Event {
            destination: event.destination,
            collection: &event.collection,
            json: event.text.as_bytes(),
        });
        let admission = state.delivery.submit(waiter, offered, self.now);
        match (admission, waiter) {
            (Admission::Rejected, _) => self.events.truncate(first),
            (Admission::Admitted, Some(waiter)) => {
                state.deadlines.insert(waiter, self.now + self.settings.max_wait_ms);
            }
            _ => {}
        }
        admission
    }

    fn tick(&mut self) {
        for index in 0..self.workers.len() {
            self.tick_worker(index);
        }
    }

    pub fn tick_worker(&mut self, index: usize) {
        // The first two workers share a process.
        let process = index / 2;
        let now = self.now;
        let worker = &mut self.workers[index];
        worker.delivery.expire(now, 0);
        if worker.overflow.is_lease_due(now) {
            let current = self.leases.get(&process).map(Vec::as_slice);
            let claimed = lease::claim(current, index as u64, now);
            worker.overflow.on_lease(claimed.is_some(), now);
            if let Some(value) = claimed {
                self.leases.insert(process, value.to_vec());
            }
        }
        while let Some(Callout { id, destination_index, body, .. }) =
            worker.delivery.next_callout(now)
        {
            worker.callouts.insert(id, (destination_index, body));
        }
        let mut deletes = Vec::new();
        while let Some(Call { id, target, body, timeout_ms }) =
            worker.overflow.next_call(&mut worker.delivery, now)
        {
            assert!(timeout_ms > 0);
            match target {
                Target::Queue(Action::DeleteMessage) => deletes.push(body.clone()),
                Target::Queue(Action::ReceiveMessage) => self.receives += 1,
                _ => {}
            }
            worker.calls.insert(id, (target, body));
        }
        let count = |wanted: fn(&Target) -> bool| {
            worker.calls.values().filter(|(target, _)| wanted(target)).count()
        };
        assert!(count(|t| *t == Target::Queue(Action::SendMessage)) <= 4);
        assert!(count(|t| *t == Target::Queue(Action::DeleteMessage)) <= 4);
        assert!(count(|t| *t == Target::Queue(Action::ReceiveMessage)) <= 1);
        assert!(count(|t| matches!(t, Target::Keen { .. })) <= 8);
        assert!(worker.delivery.pending_bytes() <= self.settings.max_pending_bytes);
        while let Some((waiter, ack)) = worker.delivery.pop_ack() {
            assert!(worker.acks.insert(waiter, ack).is_none(), "a second ack");
            assert!(worker.deadlines.contains_key(&waiter));
            if ack == Ack::Delivered {
                let of_waiter = |event: &&SubmittedEvent| event.waiter == Some((index, waiter));
                let ids = self.events.iter().enumerate().filter(|(_, event)| of_waiter(event));
                for (id, _) in ids {
                    let is_safe = self.at_keen.contains(&id) || self.stored.contains(&id);
                    assert!(is_safe, "acknowledged before Keen or the queue has confirmed");
                }
            }
        }
        let late = worker
            .deadlines
            .iter()
            .find(|(waiter, deadline)| **deadline <= now && !worker.acks.contains_key(*waiter));
        assert_eq!(late, None, "waits beyond its deadline");
        for body in deletes {
            self.check_delete(&body);
        }
    }

    /// Asserts that Keen has given a final result for each event of a message that is deleted.
    fn check_delete(&self, body: &[u8]) {
        let request: Value = serde_json::from_slice(body).unwrap();
        let receipt = request["ReceiptHandle"].as_str().unwrap();
        let message = self.messages.values().find(|message| message.receipt == receipt);
        for id in message.iter().flat_map(|message| ids_of_message(&message.body)) {
            assert!(self.at_keen.contains(&id), "deleted before Keen has confirmed");
        }
    }

    /// Answers one of the worker's callouts to Keen: of delivery or of the drain.
    pub fn answer_keen(&mut self, index: usize, which: usize, reply: &KeenReply) {
        let worker = &mut self.workers[index];
        let callouts = worker.callouts.keys().map(|id| (true, *id));
        let drained = worker.calls.iter().filter(|(_, (t, _))| matches!(t, Target::Keen { .. }));
        let all: Vec<(bool, u32)> = callouts.chain(drained.map(|(id, _)| (false, *id))).collect();
        if all.is_empty() {
            return;
        }
        let (is_delivery, id) = all[which % all.len()];
        let body = if is_delivery {
            worker.callouts.remove(&id).unwrap().1
        } else {
            worker.calls.remove(&id).unwrap().1
        };
        let (status, text) = self.keen(&body, reply);
        let response = CalloutResponse { status, reply: text.as_bytes(), retry_after: b"" };
        let worker = &mut self.workers[index];
        if is_delivery {
            let outcome = worker.delivery.classify(id, response, 0);
            worker.delivery.settle(id, outcome, self.now);
        } else {
            let report = worker.overflow.on_response(id, response, &mut worker.delivery, self.now);
            assert!(report.destination_index.is_some());
            self.left += report.left;
            self.drained += report.drained;
        }
    }

    fn keen(&mut self, body: &[u8], reply: &KeenReply) -> (Option<u16>, String) {
        let body: BTreeMap<String, Vec<Value>> = serde_json::from_slice(body).unwrap();
        let bits = match reply {
            KeenReply::Accepts => 0,
            KeenReply::Results(bits) => *bits,
            KeenReply::Fails(status) => return (*status, "<html>".to_owned()),
            KeenReply::RejectsByName => {
                // For a single event it is a final result.
                let events: Vec<&Value> = body.values().flatten().collect();
                if let [event] = events.as_slice() {
                    self.at_keen.insert(usize::try_from(event["id"].as_u64().unwrap()).unwrap());
                }
                return (Some(400), json!({"error_code": "InvalidBodyError"}).to_string());
            }
        };
        let mut index = 0;
        let mut results = BTreeMap::new();
        for (collection, events) in &body {
            let mut of_collection = Vec::new();
            for event in events {
                let id = usize::try_from(event["id"].as_u64().unwrap()).unwrap();
                let text = serde_json::from_str::<Value>(&self.events[id].text).unwrap();
                assert_eq!((event, collection), (&text, &self.events[id].collection), "changed");
                let bits = (bits >> (2 * (index % 32))) & 3;
                index += 1;
                let result = match bits {
                    0 | 1 => json!({"success": true}),
                    2 => json!({"success": false, "error": {"name": "InvalidEventError"}}),
                    _ => json!({"success": false, "error": {"name": "InternalServerError"}}),
                };
                if bits < 3 {
                    self.at_keen.insert(id);
                }
                of_collection.push(result);
            }
            results.insert(collection, of_collection);
        }
        (Some(200), serde_json::to_string(&results).unwrap())
    }

    /// Answers one of the worker's requests to the queue.
    pub fn answer_queue(&mut self, index: usize, which: usize, reply: QueueReply) {
        let worker = &mut self.workers[index];
        let to_queue = worker.calls.iter().filter(|(_, (t, _))| matches!(t, Target::Queue(_)));
        let ids: Vec<CallId> = to_queue.map(|(id, _)| *id).collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[which % ids.len()];
        let (target, body) = worker.calls.remove(&id).unwrap();
        let Target::Queue(action) = target else { unreachable!() };
        let (status, text) = match reply {
            QueueReply::Succeeds => (Some(200), self.queue(action, &body, true)),
            QueueReply::LosesResponse => {
                self.queue(action, &body, false);
                (None, String::new())
            }
            QueueReply::WithoutId => (Some(200), "{}".to_owned()),
            QueueReply::Throttles => (Some(400), error("com.amazonaws.sqs#RequestThrottled")),
            QueueReply::Refuses => (Some(400), error("com.amazonaws.sqs#InvalidMessageContents")),
            QueueReply::IsAway => (None, String::new()),
        };
        let response = CalloutResponse { status, reply: text.as_bytes(), retry_after: b"" };
        let worker = &mut self.workers[index];
        let report = worker.overflow.on_response(id, response, &mut worker.delivery, self.now);
        assert!(report.queue_up.is_some());
        self.overflowed += report.overflowed;
        self.unknown_projects += report.unknown_projects.len() as u64;
    }

    fn queue(&mut self, action: Action, body: &[u8], is_confirmed: bool) -> String {
        let request: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(request["QueueUrl"], "https://sqs.example/1/keen");
        match action {
            Action::SendMessage => {
                let text = request["MessageBody"].as_str().unwrap().to_owned();
                assert!(text.len() <= self.max_message_bytes, "{} bytes", text.len());
                assert!(!text.contains(['\u{fffe}', '\u{ffff}']));
                if is_confirmed {
                    self.stored.extend(ids_of_message(&text));
                }
                self.put_message(text);
                json!({"MessageId": self.next_message.to_string()}).to_string()
            }
            Action::ReceiveMessage => {
                let most = usize::try_from(request["MaxNumberOfMessages"].as_u64().unwrap());
                let hidden_ms = request["VisibilityTimeout"].as_u64().unwrap() * 1_000;
                assert!(hidden_ms > 2 * KEEN_TIMEOUT_MS);
                let longest_outage_ms = self.now - START_MS;
                assert!(hidden_ms <= longest_outage_ms.max(12 * KEEN_TIMEOUT_MS), "{hidden_ms}");
                assert_eq!(request["WaitTimeSeconds"], 20);
                let now = self.now;
                let visible = self.messages.iter_mut().filter(|(_, m)| m.visible_at <= now);
                let mut messages = Vec::new();
                for (id, message) in visible.take(most.unwrap()) {
                    message.visible_at = now + hidden_ms;
                    message.receives += 1;
                    message.receipt = format!("{id}/{}", message.receives);
                    messages.push(json!({
                        "MessageId": id.to_string(),
                        "ReceiptHandle": message.receipt,
                        "Body": message.body,
                    }));
                }
                if messages.is_empty() {
                    "{}".to_owned()
                } else {
                    json!({"Messages": messages}).to_string()
                }
            }
            Action::DeleteMessage => {
                let receipt = request["ReceiptHandle"].as_str().unwrap();
                // An old receipt deletes the message as well, as SQS may do.
                let (id, _) = receipt.split_once('/').unwrap();
                let id: u64 = id.parse().unwrap();
                if let Some(message) = self.messages.remove(&id) {
                    for id in ids_of_message(&message.body) {
                        assert!(self.at_keen.contains(&id), "deleted before Keen has confirmed");
                    }
                }
                "{}".to_owned()
            }
        }
    }

    pub fn put_message(&mut self, body: String) {
        self.next_message += 1;
        let message = Message { body, visible_at: self.now, receipt: String::new(), receives: 0 };
        self.messages.insert(self.next_message, message);
    }

    /// Advances the time, and answers everything: Keen by `keen`, the queue by `queue`.
    pub fn run(&mut self, ms: u64, keen: impl Fn(&[u8]) -> KeenReply, queue: QueueReply) {
        let end = self.now + ms;
        while self.now < end {
            for index in 0..self.workers.len() {
                while let Some(body) = self.workers[index].first_to_keen() {
                    let reply = keen(&body);
                    self.keen_calls += 1;
                    self.answer_keen(index, 0, &reply);
                }
                let worker = &self.workers[index];
                let to_queue = worker.calls.values().filter(|(t, _)| matches!(t, Target::Queue(_)));
                for _ in 0..to_queue.count() {
                    self.answer_queue(index, 0, queue);
                }
            }
            self.step(&Step::Pass { ms: self.step_ms });
        }
    }

    /// Answers everything successfully.
    pub fn answer_all(&mut self) {
        for index in 0..self.workers.len() {
            while !self.workers[index].callouts.is_empty()
                || self.workers[index].calls.values().any(|(t, _)| matches!(t, Target::Keen { .. }))
            {
                self.answer_keen(index, 0, &KeenReply::Accepts);
            }
            while !self.workers[index].calls.is_empty() {
                self.answer_queue(index, 0, QueueReply::Succeeds);
            }
        }
    }

    /// Ends all faults. Asserts that the queue becomes empty, and that every acknowledged event is
    /// in Keen.
    pub fn recover(&mut self) {
        // A message whose receipt was lost stays hidden for as long as the outage had lasted.
        let longest_outage_ms = self.now - START_MS;
        let deadline = self.now + longest_outage_ms + 400_000;
        while self.now < deadline {
            let is_idle = |worker: &Worker| worker.delivery.is_idle() && worker.overflow.is_idle();
            if self.messages.is_empty() && self.workers.iter().all(is_idle) {
                break;
            }
            self.answer_all();
            self.step(&Step::Pass { ms: 100 });
        }
        assert!(self.messages.is_empty(), "{} messages stay", self.messages.len());
        for worker in &self.workers {
            assert!(worker.delivery.is_idle() && worker.overflow.is_idle());
            assert_eq!(worker.acks.len(), worker.deadlines.len(), "a waiter without an ack");
        }
        for id in &self.stored {
            assert!(self.at_keen.contains(id), "stored, and lost");
        }
        for (id, event) in self.events.iter().enumerate() {
            let ack = event.waiter.map(|(worker, waiter)| self.workers[worker].acks[&waiter]);
            assert!(ack != Some(Ack::Delivered) || self.at_keen.contains(&id), "{id}: lost");
        }
    }
}

impl Worker {
    /// Returns the body of the callout that [`Model::answer_keen`] answers first.
    fn first_to_keen(&self) -> Option<Vec<u8>> {
        let drained = self.calls.values().find(|(t, _)| matches!(t, Target::Keen { .. }));
        let delivery = self.callouts.values().next();
        delivery.map(|(_, body)| body.clone()).or_else(|| drained.map(|(_, body)| body.clone()))
    }

    pub fn new(settings: DeliverySettings, overflow: &OverflowSettings, seed: u64) -> Self {
        let mut delivery = Delivery::new(settings, KEEN_TIMEOUT_MS, PROJECTS, seed);
        delivery.enable_timer();
        let projects = (0..PROJECTS).map(project_id).collect();
        let overflow = Overflow::new(overflow, projects, KEEN_TIMEOUT_MS);
        delivery.enable_overflow(overflow.policy());
        Self {
            delivery,
            overflow,
            callouts: BTreeMap::new(),
            calls: BTreeMap::new(),
            acks: BTreeMap::new(),
            deadlines: BTreeMap::new(),
        }
    }
}

fn error(name: &str) -> String {
    json!({"__type": name, "message": "no"}).to_string()
}

fn ids_of_message(text: &str) -> Vec<usize> {
    let message: Value = serde_json::from_str(text).unwrap();
    let collections = message["events"].as_object().unwrap().values();
    let events = collections.flat_map(|events| events.as_array().unwrap());
    events.map(|event| usize::try_from(event["id"].as_u64().unwrap()).unwrap()).collect()
}
