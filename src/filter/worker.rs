//! What the streams of a worker share: configuration, delivery, and the way to wake the root context.

use super::host;
use super::hostcalls::Pairs;
use super::metrics::Metrics;
use super::request_queue::{Arrival, Intake, Number};
use crate::by_id::ById;
use crate::config::Config;
use crate::delivery::{
    Ack, Admission, Callout, CalloutId, CalloutResponse, Delivery, MonotonicClock, Rejection,
    SettleReport, WaiterId,
};
use crate::keen::event_writer::MAX_BYTES;
use crate::mapping::{RequestStats, SkipReason};
use crate::segment::http::cors;
use crate::segment::http::{Response, Unavailable};
use crate::users::CommitReport;
use std::collections::VecDeque;

/// How often the root context looks at deadlines, pauses and counters while there is anything to look at.
const TICK_MS: u32 = 50;
/// How soon it looks again where a call is to leave in a moment.
const SOON_MS: u32 = 1;
/// Answers a callback. Envoy's replies run inside each other; some 300 exhaust the VM's stack.
const ANSWERS: usize = 64;
/// Bytes of Keen's reply that are read: 1,000 refused events with their descriptions fit.
const REPLY_BYTES: usize = 4_194_304;
/// One log line for each kind of trouble in this time.
const LOG_EVERY_MS: u64 = 60_000;
/// Kinds of trouble remembered for that.
const LOG_KINDS: usize = 256;

/// The state of one root context.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) config: Config,
    root: u32,
    delivery: Delivery,
    /// What deadlines and pauses are measured by.
    clock: MonotonicClock,
    intake: Intake,
    /// Answers that need no word of Keen's.
    answers: VecDeque<(WaiterId, Response)>,
    metrics: Metrics,
    doorbell: Option<u32>,
    rung: bool,
    /// The timer's; 0 where it stands.
    period: u32,
    /// When metrics were told last.
    told: u64,
    /// The headers of nearly all answers: 200, and no browser's.
    taken: Pairs,
    /// Origins of waiting browsers: their answers carry CORS.
    origins: ById<String>,
    /// Envoy's tokens of the calls under way: a few, in the order they were made.
    calls: VecDeque<(u32, CalloutId)>,
    /// Kinds of trouble, and when they were logged last.
    logged: Vec<(String, u64)>,
    /// Envoy asked the root context to end.
    ending: bool,
}

impl Engine {
    pub(super) fn new(config: Config, root: u32) -> Self {
        let number = host::process_wide_number("keen_edge.roots");
        let seed = host::now().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number;
        let paths = config.destinations.iter().map(|d| d.project_id.as_str());
        Self {
            delivery: Delivery::new(
                config.delivery,
                config.timeout_ms,
                config.destinations.len(),
                seed,
            ),
            clock: MonotonicClock::default(),
            intake: Intake::new(&config, number),
            answers: VecDeque::new(),
            metrics: Metrics::new(paths),
            doorbell: host::doorbell(&format!("keen_edge.{number}")),
            rung: false,
            period: 0,
            told: 0,
            taken: Pairs::new(&answer_headers(Response::Ok, None, &[])),
            origins: ById::default(),
            calls: VecDeque::new(),
            logged: Vec::new(),
            ending: false,
            config,
            root,
        }
    }

    /// Takes a request that has come whole; its number. It is mapped in the root context's next turn.
    pub(super) fn arrive(&mut self, arrival: Arrival) -> Number {
        let stream = arrival.stream;
        let number = self.intake.add(arrival);
        // Where much is pending, who does not fit is told at once, and Envoy need not hold the request.
        if self.intake.is_full() || self.delivery.is_above_watermark() {
            self.map_arrivals(stream);
            self.answer();
            // It may have an answer of its own to give.
            host::act_for(stream);
        }
        self.keep_time();
        self.ring();
        number
    }

    /// Maps what has come. `acting`: the context whose callback this is.
    fn map_arrivals(&mut self, acting: u32) {
        if self.intake.is_empty() {
            return;
        }
        let received = host::now();
        let now = self.clock.advance(received);
        let mut effective = acting;
        for arrival in self.intake.take() {
            let answer = self.map(&arrival, received, now, &mut effective);
            if arrival.copied {
                self.copied(answer);
            } else if let Some(answer) = answer {
                self.answers.push_back((arrival.stream, answer));
            }
        }
        if effective != acting {
            host::act_for(acting);
        }
    }

    /// Maps a request, and hands its events to delivery. `None`: its caller is answered when Keen has them.
    fn map(
        &mut self,
        arrival: &Arrival,
        received: u64,
        now: u64,
        effective: &mut u32,
    ) -> Option<Response> {
        let (tally, kept) = match self.intake.map(arrival, &self.config, received, effective) {
            Ok(mapped) => mapped,
            Err(refusal) => return Some(Response::BadRequest(refusal)),
        };
        self.count_mapped(&tally, kept);
        // Nobody waits for what is answered at once.
        let waits = !arrival.copied && !self.config.delivery.ack_on_receipt;
        let buffer = self.intake.offer();
        if buffer.is_overflowed() {
            return Some(Response::TooManyRequests);
        }
        match self.delivery.submit(waits.then_some(arrival.stream), buffer.events(), now) {
            Admission::Empty => Some(Response::Ok),
            Admission::Rejected => Some(Response::TooManyRequests),
            Admission::Admitted => {
                let counted = &mut self.metrics.counted;
                let events = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
                counted.events = counted.events.saturating_add(events);
                (!waits).then_some(Response::Ok)
            }
        }
    }

    fn count_mapped(&mut self, stats: &RequestStats, kept: CommitReport) {
        let counted = &mut self.metrics.counted;
        let mut oversized = 0_usize;
        for message in &stats.messages {
            counted.messages = counted.messages.saturating_add(1);
            oversized = oversized.saturating_add(message.oversized);
            match message.skipped {
                None | Some(SkipReason::NoEffect) => {}
                Some(SkipReason::UnknownWriteKey) => {
                    counted.messages_unknown_source =
                        counted.messages_unknown_source.saturating_add(1);
                }
                Some(_) => counted.messages_dropped = counted.messages_dropped.saturating_add(1),
            }
        }
        counted.values_mended = counted.values_mended.saturating_add(stats.sanitized);
        counted.users_remembered = counted.users_remembered.saturating_add(kept.written);
        counted.users_evicted = counted.users_evicted.saturating_add(kept.evicted);
        counted.users_refused = counted.users_refused.saturating_add(kept.rejected);
        counted.users_not_shown = counted.users_not_shown.saturating_add(kept.traits_omitted);
        self.too_large(u64::try_from(oversized).unwrap_or(u64::MAX));
    }

    /// A request has been mapped whose caller does not hear of it: a failure is counted.
    fn copied(&mut self, answer: Option<Response>) {
        match answer {
            Some(Response::Ok) | None => {}
            Some(Response::TooManyRequests) => {
                let lost = u64::try_from(self.intake.offer().len()).unwrap_or(u64::MAX);
                self.metrics.counted.events_dropped =
                    self.metrics.counted.events_dropped.saturating_add(lost);
                self.count_not_copied();
            }
            Some(_) => self.count_not_copied(),
        }
    }

    /// Counts a request that goes on to the route and leaves no copy.
    pub(super) fn count_not_copied(&mut self) {
        self.metrics.counted.requests_not_copied =
            self.metrics.counted.requests_not_copied.saturating_add(1);
    }

    /// The answer to `waiter` will carry CORS for `origin`.
    pub(super) fn remember_origin(&mut self, waiter: WaiterId, origin: String) {
        self.origins.insert(waiter, origin);
    }

    /// Counts a request on Segment's paths.
    pub(super) fn count_request(&mut self) {
        self.metrics.counted.requests = self.metrics.counted.requests.saturating_add(1);
        self.keep_time();
    }

    /// There is something to look at deadlines, pauses or counters for.
    fn keep_time(&mut self) {
        if self.period == 0 {
            self.pace(TICK_MS);
        }
    }

    /// Has the timer tick every `ms` milliseconds.
    fn pace(&mut self, ms: u32) {
        if self.period != ms {
            self.period = ms;
            host::tick_every(ms);
        }
    }

    /// Answers the effective context.
    pub(super) fn respond(&mut self, answer: Response, origin: Option<&str>) {
        self.count_answer(answer);
        let (status, body) = (answer.status(), answer.body());
        if (answer, origin) == (Response::Ok, None) {
            return host::respond(status, &self.taken, body.as_bytes());
        }
        let headers = answer_headers(answer, origin, &self.config.allow_origins);
        host::respond(status, &Pairs::new(&headers), body.as_bytes());
    }

    fn count_answer(&mut self, answer: Response) {
        let counted = &mut self.metrics.counted;
        let counter = match answer {
            Response::Ok => return,
            Response::BadRequest(_) => &mut counted.requests_refused,
            Response::TooManyRequests => &mut counted.requests_over_bound,
            Response::ServiceUnavailable(_) => &mut counted.requests_unavailable,
        };
        *counter = counter.saturating_add(1);
    }

    /// Whether the answer to that stream's request is still to be given.
    pub(super) fn owes(&mut self, stream: u32, number: Number) -> bool {
        self.map_before_end(stream, number);
        self.delivery.is_waiting(stream) || self.answers.iter().any(|(waiter, _)| *waiter == stream)
    }

    /// The origin that was remembered of `waiter`.
    pub(super) fn origin(&mut self, waiter: WaiterId) -> Option<String> {
        self.origins.remove(&waiter)
    }

    /// Maps a stream's request, where that is still to be done, in the stream's own callback: what Envoy knows of the
    /// client ends with the stream.
    pub(super) fn map_before_end(&mut self, stream: u32, number: Number) {
        if self.intake.holds(number) {
            self.map_arrivals(stream);
        }
    }

    /// The stream has ended; whoever waited on it is no longer there.
    pub(super) fn gone(&mut self, waiter: WaiterId) {
        self.delivery.disconnect(waiter);
        self.answers.retain(|(answered, _)| *answered != waiter);
        self.origins.remove(&waiter);
    }

    /// The doorbell rang.
    pub(super) fn woken(&mut self) {
        if let Some(doorbell) = self.doorbell {
            host::silence(doorbell);
        }
        self.rung = false;
        self.map_arrivals(self.root);
        let now = self.now();
        self.pump(now);
    }

    /// Time has passed. True where the root context, asked to end, may.
    pub(super) fn tick(&mut self) -> bool {
        let now = self.now();
        if now > 0 {
            self.delivery.enable_timer();
        }
        // Should Envoy have lost a ring, the next is heard.
        self.rung = false;
        self.map_arrivals(self.root);
        let expired = self.delivery.expire(now, u64::from(TICK_MS));
        let sum = |counts: Vec<(usize, u64)>| {
            counts.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count))
        };
        let dropped = sum(expired.dropped).saturating_add(sum(self.delivery.take_displaced()));
        let counted = &mut self.metrics.counted;
        counted.events_dropped = counted.events_dropped.saturating_add(dropped);
        counted.events_failed = counted.events_failed.saturating_add(sum(expired.unconfirmed));
        self.pump(now);
        let idle = self.idle();
        if idle || self.period == TICK_MS || now >= self.told.saturating_add(u64::from(TICK_MS)) {
            self.told = now;
            self.metrics.flush(self.delivery.pending_bytes());
        }
        self.pace(match (idle, self.delivery.is_lingering()) {
            (true, _) => 0,
            (_, true) => SOON_MS,
            (_, false) => TICK_MS,
        });
        idle && self.ending
    }

    /// Envoy asks the root context to end. True where it may at once.
    pub(super) fn end(&mut self) -> bool {
        self.ending = true;
        self.map_arrivals(self.root);
        let now = self.now();
        self.delivery.begin_drain(now);
        self.metrics.flush(self.delivery.pending_bytes());
        let idle = self.idle();
        if !idle {
            // Nothing else may wake it any more.
            self.keep_time();
        }
        idle
    }

    /// Whether nothing is held, under way or owed.
    fn idle(&self) -> bool {
        self.delivery.is_idle() && self.answers.is_empty() && self.intake.is_empty()
    }

    /// Envoy's callout `token` has ended.
    pub(super) fn called(&mut self, token: u32, has_headers: bool) {
        let place = self.calls.iter().position(|(of, _)| *of == token);
        let Some((_, call)) = place.and_then(|place| self.calls.remove(place)) else { return };
        let status = if has_headers { host::call_status() } else { None };
        let reply = if status.is_some() { host::call_body(REPLY_BYTES) } else { Vec::new() };
        let retry_after = if matches!(status, Some(429 | 503)) {
            host::call_header("retry-after")
        } else {
            Vec::new()
        };
        let now = self.now();
        let outcome = self.delivery.classify(
            call,
            CalloutResponse { status, reply: &reply, retry_after: &retry_after },
            host::now(),
        );
        let settled = self.delivery.settle(call, outcome, now);
        if let Some(up) = settled.destination_up {
            self.destination(settled.destination_index, up, status);
        } else if settled.unconfirmed > 0 {
            self.unconfirmed(settled.destination_index, status);
        }
        self.tell(settled);
        self.map_arrivals(self.root);
        self.pump(now);
    }

    /// Makes the calls that are due, and gives answers.
    fn pump(&mut self, now: u64) {
        // Callouts belong to the root context, whatever stream's callback this runs in.
        while let Some(call) = self.delivery.next_callout(now) {
            self.call(call, now);
        }
        self.answer();
        if self.delivery.is_lingering() {
            self.pace(SOON_MS);
        }
    }

    /// Gives answers. Afterwards the effective context is one of those who got one.
    fn answer(&mut self) {
        for _ in 0..ANSWERS {
            let Some((waiter, answer)) = self.answers.pop_front().or_else(|| {
                let (waiter, ack) = self.delivery.pop_ack()?;
                Some((
                    waiter,
                    if ack == Ack::Delivered {
                        Response::Ok
                    } else {
                        Response::ServiceUnavailable(Unavailable::Unconfirmed)
                    },
                ))
            }) else {
                return;
            };
            let origin = if self.origins.is_empty() { None } else { self.origins.remove(&waiter) };
            if host::act_for(waiter) {
                self.respond(answer, origin.as_deref());
            }
        }
        if !self.answers.is_empty() || self.delivery.has_acks() {
            self.ring();
        }
    }

    fn call(&mut self, call: Callout, now: u64) {
        let Some(destination) = self.config.destinations.get(call.destination_index) else {
            return;
        };
        self.metrics.counted.calls = self.metrics.counted.calls.saturating_add(1);
        let path = format!("/3.0/projects/{}/events", destination.project_id);
        let mut headers = vec![
            (":method", "POST"),
            (":path", path.as_str()),
            (":authority", self.config.authority.as_str()),
            ("content-type", "application/json"),
            ("user-agent", concat!("keen-edge/", env!("CARGO_PKG_VERSION"))),
        ];
        headers.extend(destination.write_key.as_deref().map(|key| ("authorization", key)));
        match host::call(&destination.cluster, &Pairs::new(&headers), &call.body, call.timeout_ms) {
            Ok(token) => self.calls.push_back((token, call.id)),
            Err(status) => {
                let cluster = destination.cluster.clone();
                self.log_once(&format!("no call to {cluster}"), || {
                    format!(
                        "cannot call Keen through cluster {cluster:?}: {status:?}; is it defined, and has it endpoints?"
                    )
                });
                let settled = self.delivery.on_dispatch_failed(call.id, now);
                self.tell(settled);
            }
        }
    }

    fn tell(&mut self, settled: SettleReport) {
        let counted = &mut self.metrics.counted;
        counted.events_recorded = counted.events_recorded.saturating_add(settled.delivered);
        counted.events_failed = counted.events_failed.saturating_add(settled.unconfirmed);
        counted.events_dropped = counted.events_dropped.saturating_add(settled.dropped);
        counted.calls_retried = counted.calls_retried.saturating_add(u64::from(settled.retried));
        for Rejection { collection, error } in settled.rejected {
            self.metrics.refused(&error);
            self.log_once(&error, || {
                format!("Keen refused an event of collection {collection:?}: {error}")
            });
        }
    }

    /// Events that Keen would refuse for their size count as those that it does.
    fn too_large(&mut self, events: u64) {
        for _ in 0..events {
            self.metrics.refused("TooLarge");
            self.log_once("TooLarge", || {
                format!("an event is larger than the {MAX_BYTES} bytes that Keen takes")
            });
        }
    }

    fn destination(&mut self, destination: usize, up: bool, status: Option<u16>) {
        self.metrics.destination(destination, up);
        let project = self.project(destination);
        if !up {
            self.log_once(&format!("down {project}"), || {
                let status = status.unwrap_or(0);
                format!("Keen answers {status} to project {project}: check its id, its write key and its plan")
            });
        }
    }

    fn unconfirmed(&mut self, destination: usize, status: Option<u16>) {
        let project = self.project(destination);
        self.log_once(&format!("unconfirmed {project}"), || match status {
            Some(status) => {
                format!("Keen did not confirm events of project {project} in time: status {status}")
            }
            None => format!(
                "Keen did not confirm events of project {project} in time: the call broke off"
            ),
        });
    }

    fn project(&self, destination: usize) -> String {
        self.config.destinations.get(destination).map(|d| d.project_id.clone()).unwrap_or_default()
    }

    /// Logs a kind of trouble, once in a while.
    fn log_once(&mut self, kind: &str, line: impl FnOnce() -> String) {
        let now = host::now();
        self.logged.retain(|(_, last)| now.abs_diff(*last) < LOG_EVERY_MS);
        if self.logged.len() < LOG_KINDS && self.logged.iter().all(|(logged, _)| logged != kind) {
            self.logged.push((kind.to_owned(), now));
            log::warn!("{}", line());
        }
    }

    /// Milliseconds of a clock that nobody sets.
    fn now(&mut self) -> u64 {
        self.clock.advance(host::now())
    }

    fn ring(&mut self) {
        if let (false, Some(doorbell)) = (self.rung, self.doorbell) {
            self.rung = host::ring(doorbell);
        }
    }
}

fn answer_headers<'a>(
    answer: Response,
    origin: Option<&'a str>,
    allowed: &[crate::config::OriginPattern],
) -> Vec<(&'a str, &'a str)> {
    let mut headers = answer.headers().to_vec();
    headers.extend(cors::headers(origin, allowed));
    headers
}
