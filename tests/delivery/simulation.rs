//! Clients that send and retry, and projects at Keen that succeed, fail or hang, in simulated time.

use keen_edge::config::DeliverySettings;
use keen_edge::delivery::{
    Ack, Admission, Callout, CalloutId, CalloutResponse, Delivery, WaiterId,
};
use keen_edge::keen::bulk::Event;
use std::collections::{BTreeMap, BTreeSet};

const TIMEOUT_MS: u64 = 5_000;
/// Period of the filter's tick, in milliseconds.
const TICK_MS: u64 = 50;
/// Time that a client waits before it retries, in milliseconds.
const CLIENT_RETRY_MS: u64 = 1_000;
/// Time that Keen takes for one callout, in milliseconds.
pub const LATENCY_MS: u64 = 20;

/// The behaviour of a project's upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upstream {
    Healthy,
    /// Answers every callout with this status and reply.
    Answers(u16, &'static str),
    /// Answers nothing.
    Hangs,
    /// Answers 500 to every callout that contains a bad event.
    FailsOnBadEvents,
    /// Rejects every callout that contains a bad event, as a whole and with an error name.
    RejectsBadEvents,
}

/// A client's request with events for one project.
#[derive(Debug, Clone)]
pub struct Request {
    pub destination: usize,
    pub events: std::ops::Range<u64>,
    /// The client waits for an ack, and retries until it is [`Ack::Delivered`].
    pub waits: bool,
    /// Size of each event in bytes.
    pub bytes: usize,
}

#[derive(Debug, Default)]
pub struct Project {
    pub upstream: Option<Upstream>,
    pub callouts: u64,
    pub delivered: BTreeSet<u64>,
    pub rejected_events: BTreeSet<u64>,
    pub admitted: u64,
    pub ended: u64,
    pub rejected: u64,
    pub unconfirmed: u64,
    pub dropped: u64,
    /// The time until each ack in milliseconds, and the ack.
    pub acks: Vec<(Ack, u64)>,
    /// Number of requests that were not admitted.
    pub refused: u64,
    pub up: Option<bool>,
}

pub struct Simulation {
    pub delivery: Delivery,
    pub now: u64,
    pub projects: Vec<Project>,
    pub bad_events: BTreeSet<u64>,
    pub clients_retry: bool,
    in_flight: BTreeMap<CalloutId, (u64, usize, Response)>,
    waiting: BTreeMap<WaiterId, (Request, u64)>,
    retries: Vec<(u64, Request)>,
    next_waiter: WaiterId,
}

struct Response {
    status: Option<u16>,
    reply: String,
    ids: Vec<u64>,
}

impl Simulation {
    pub fn new(settings: DeliverySettings, projects: usize) -> Self {
        let mut delivery = Delivery::new(settings, TIMEOUT_MS, projects, 7);
        delivery.enable_timer();
        Self {
            delivery,
            now: 0,
            projects: (0..projects).map(|_| Project::default()).collect(),
            bad_events: BTreeSet::new(),
            clients_retry: true,
            in_flight: BTreeMap::new(),
            waiting: BTreeMap::new(),
            retries: Vec::new(),
            next_waiter: 1,
        }
    }

    pub fn set_upstream(&mut self, destination: usize, upstream: Upstream) {
        self.projects[destination].upstream = Some(upstream);
    }

    pub fn send(&mut self, request: Request) {
        let waiter = request.waits.then_some(self.next_waiter);
        self.next_waiter += 1;
        let texts: Vec<String> = request
            .events
            .clone()
            .map(|id| format!("{{\"id\":{id},\"pad\":\"{}\"}}", "x".repeat(request.bytes)))
            .collect();
        let events = texts.iter().map(|text| Event {
            destination: request.destination,
            collection: "a",
            json: text.as_bytes(),
        });
        let admission = self.delivery.submit(waiter, events, self.now);
        let project = &mut self.projects[request.destination];
        match admission {
            Admission::Rejected => {
                project.refused += 1;
                self.retry_later(request);
            }
            _ => {
                project.admitted += request.events.end - request.events.start;
                if let Some(waiter) = waiter {
                    self.waiting.insert(waiter, (request, self.now));
                }
            }
        }
        self.pump();
    }

    fn retry_later(&mut self, request: Request) {
        if self.clients_retry {
            self.retries.push((self.now + CLIENT_RETRY_MS, request));
        }
    }

    /// Advances the time to `until`.
    pub fn run_until(&mut self, end: u64) {
        while self.now < end {
            self.now += 1;
            let ended: Vec<CalloutId> = self
                .in_flight
                .iter()
                .filter(|(_, (at, _, _))| *at <= self.now)
                .map(|(id, _)| *id)
                .collect();
            for id in &ended {
                let (_, destination, response) = self.in_flight.remove(id).unwrap();
                self.settle(*id, destination, response);
            }
            if self.now.is_multiple_of(TICK_MS) {
                let report = self.delivery.expire(self.now, TICK_MS);
                for (index, count) in report.unconfirmed {
                    self.projects[index].ended += count;
                    self.projects[index].unconfirmed += count;
                }
                for (index, count) in report.dropped.into_iter().chain(report.displaced) {
                    self.projects[index].ended += count;
                    self.projects[index].dropped += count;
                }
            }
            let is_due = |retry: &(u64, Request)| retry.0 <= self.now;
            let (due, later) = std::mem::take(&mut self.retries).into_iter().partition(is_due);
            self.retries = later;
            for (_, request) in due {
                self.send(request);
            }
            if !ended.is_empty() || self.now.is_multiple_of(TICK_MS) || self.delivery.is_lingering()
            {
                self.pump();
            }
        }
    }

    fn settle(&mut self, id: CalloutId, destination: usize, response: Response) {
        let Response { status, reply, ids } = response;
        let response = CalloutResponse { status, reply: reply.as_bytes(), retry_after: b"" };
        let outcome = self.delivery.classify(id, response, 0);
        let report = self.delivery.settle(id, outcome, self.now);
        let project = &mut self.projects[destination];
        let rejected = report.rejected.len() as u64;
        if status == Some(200) && reply.contains("true") {
            project.delivered.extend(&ids);
        }
        if rejected > 0 {
            project.rejected_events.extend(&ids);
        }
        project.rejected += rejected;
        project.unconfirmed += report.unconfirmed;
        project.dropped += report.dropped;
        project.ended += report.delivered + rejected + report.unconfirmed + report.dropped;
        project.up = report.destination_up.or(project.up);
    }

    fn pump(&mut self) {
        while let Some(callout) = self.delivery.next_callout(self.now) {
            let (response, takes_ms) = self.respond(&callout);
            let project = &mut self.projects[callout.destination_index];
            project.callouts += 1;
            let end = self.now + takes_ms;
            self.in_flight.insert(callout.id, (end, callout.destination_index, response));
        }
        while let Some((waiter, ack)) = self.delivery.pop_ack() {
            let (request, since) = self.waiting.remove(&waiter).unwrap();
            let project = &mut self.projects[request.destination];
            project.acks.push((ack, self.now - since));
            if ack == Ack::Delivered {
                let is_final =
                    |id| project.delivered.contains(&id) || project.rejected_events.contains(&id);
                assert!(request.events.clone().all(is_final), "delivered, and nowhere");
            } else {
                self.retry_later(request);
            }
        }
    }

    fn respond(&self, callout: &Callout) -> (Response, u64) {
        let body: serde_json::Value = serde_json::from_slice(&callout.body).unwrap();
        let events = body["a"].as_array().unwrap();
        let ids: Vec<u64> = events.iter().map(|event| event["id"].as_u64().unwrap()).collect();
        let has_bad = ids.iter().any(|id| self.bad_events.contains(id));
        let upstream = self.projects[callout.destination_index].upstream;
        let (status, reply) = match upstream.unwrap_or(Upstream::Healthy) {
            Upstream::Answers(status, reply) => (Some(status), reply.to_owned()),
            Upstream::FailsOnBadEvents if has_bad => (Some(500), String::new()),
            Upstream::RejectsBadEvents if has_bad => (Some(400), NAMED_ERROR.to_owned()),
            Upstream::Hangs => (None, String::new()),
            _ => {
                let results = vec!["{\"success\":true}"; ids.len()].join(",");
                (Some(200), format!("{{\"a\":[{results}]}}"))
            }
        };
        let takes_ms = if status.is_none() { callout.timeout_ms } else { LATENCY_MS };
        (Response { status, reply, ids }, takes_ms)
    }

    /// Asserts that every admitted event is pending or has ended.
    pub fn assert_accounted(&self) {
        for (index, project) in self.projects.iter().enumerate() {
            assert!(project.ended <= project.admitted, "{index}: {project:?}");
            if self.delivery.is_idle() {
                assert_eq!(project.ended, project.admitted, "{index}");
            }
        }
    }
}

/// Reply that rejects a whole request, with an error name of Keen's.
pub const NAMED_ERROR: &str = "{\"message\": \"no\", \"error_code\": \"InvalidEventError\"}";
