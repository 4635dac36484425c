//! What the streams of a worker share: configuration, delivery, and the way to wake the root context.

use super::host;
use super::metrics::Metrics;
use super::shared::Memory;
use crate::config::Config;
use crate::delivery::{Call, CallId, Clock, Delivery, Ended, Offer, Offered, Outcome, Settled, WaiterId};
use crate::keen::event::MAX_BYTES;
use crate::keen::name;
use crate::mapping::Client;
use crate::mapping::request::{Request, map_request};
use crate::segment::answer::Answer;
use crate::segment::cors;
use crate::users::Users;
use std::collections::BTreeMap;

/// How often the root context looks at deadlines, pauses and counters while there is anything to look at.
const TICK_MS: u32 = 50;
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
    clock: Clock,
    offer: Offer,
    metrics: Metrics,
    memory: Memory,
    /// Some source remembers users.
    remembers: bool,
    doorbell: Option<u32>,
    rung: bool,
    ticking: bool,
    /// Origins of waiting browsers: their answers carry CORS.
    origins: BTreeMap<WaiterId, String>,
    /// Envoy's tokens of the calls under way.
    calls: BTreeMap<u32, CallId>,
    token_prefix: String,
    tokens_made: u64,
    logged: BTreeMap<String, u64>,
    /// Envoy asked the root context to end.
    ending: bool,
}

impl Engine {
    pub(super) fn new(config: Config, root: u32) -> Self {
        let number = host::process_wide_number("keen_edge.roots");
        let seed = host::now().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number;
        let paths = config.destinations.iter().map(|d| d.project_id.as_str());
        Self {
            delivery: Delivery::new(config.delivery, config.timeout_ms, config.destinations.len(), seed),
            clock: Clock::default(),
            offer: Offer::new(config.delivery.max_pending_bytes),
            metrics: Metrics::new(paths),
            memory: memory(&config),
            remembers: config.remembers_users(),
            doorbell: host::doorbell(&format!("keen_edge.{number}")),
            rung: false,
            ticking: false,
            origins: BTreeMap::new(),
            calls: BTreeMap::new(),
            token_prefix: String::new(),
            tokens_made: number << 40,
            logged: BTreeMap::new(),
            ending: false,
            config,
            root,
        }
    }

    /// Maps and takes a request. `None`: `waiter` is answered later. Without a waiter there always is an answer.
    pub(super) fn take(
        &mut self,
        waiter: Option<WaiterId>,
        request: Request<'_>,
        client: Client<'_>,
        request_id: &[u8],
    ) -> Option<Answer> {
        self.offer.clear();
        if self.token_prefix.is_empty() {
            // Envoy's request ids are random, its clock differs from host to host: together nobody else has them.
            let seed = [request_id, &host::now().to_le_bytes(), &self.tokens_made.to_le_bytes(), request.body].concat();
            self.token_prefix = name::hex(&seed, 40);
        }
        let address = std::cell::OnceCell::new();
        let received = u64::try_from(request.now).unwrap_or(0);
        // Finer than the request's own time: identifies of one millisecond have an order.
        let now = if self.remembers { host::now_micros() } else { 0 };
        let mut users = Users::new(&mut self.memory, self.config.users, now);
        let tally = map_request(
            &self.config,
            request,
            |wants_address| {
                let source_address = if wants_address { address.get_or_init(host::source_address) } else { &[][..] };
                Client { source_address, ..client }
            },
            || {
                self.tokens_made = self.tokens_made.wrapping_add(1);
                format!("{}-{:x}", self.token_prefix, self.tokens_made)
            },
            &mut users,
            &mut self.offer,
        );
        let kept = users.keep();
        let tally = match tally {
            Ok(tally) => tally,
            Err(refusal) => return Some(Answer::Refused(refusal)),
        };
        let counted = &mut self.metrics.counted;
        counted.messages = counted.messages.saturating_add(tally.messages);
        counted.messages_dropped = counted.messages_dropped.saturating_add(tally.dropped);
        counted.messages_unknown_source = counted.messages_unknown_source.saturating_add(tally.unknown_source);
        counted.values_mended = counted.values_mended.saturating_add(tally.mended);
        counted.users_remembered = counted.users_remembered.saturating_add(kept.written);
        counted.users_evicted = counted.users_evicted.saturating_add(kept.evicted);
        counted.users_refused = counted.users_refused.saturating_add(kept.refused);
        counted.users_not_shown = counted.users_not_shown.saturating_add(kept.not_shown);
        self.too_large(tally.too_large);
        let now = self.clock.read(received);
        match self.delivery.offer(waiter, &self.offer, now) {
            Offered::Nothing => Some(Answer::Taken),
            Offered::Full => Some(Answer::TooMany),
            Offered::Taken { due } => {
                let counted = &mut self.metrics.counted;
                counted.events = counted.events.saturating_add(tally.events);
                if due {
                    self.ring();
                }
                waiter.is_none().then_some(Answer::Taken)
            }
        }
    }

    /// Takes a copy of a request that goes on to the route. A failure is not its caller's: it is counted.
    pub(super) fn copy(&mut self, request: Request<'_>, client: Client<'_>, request_id: &[u8]) {
        match self.take(None, request, client, request_id) {
            Some(Answer::Taken) => {}
            Some(Answer::TooMany) => {
                let lost = u64::try_from(self.offer.len()).unwrap_or(u64::MAX);
                self.metrics.counted.events_dropped = self.metrics.counted.events_dropped.saturating_add(lost);
                self.count_not_copied();
            }
            _ => self.count_not_copied(),
        }
    }

    /// Counts a request that goes on to the route and leaves no copy.
    pub(super) fn count_not_copied(&mut self) {
        self.metrics.counted.requests_not_copied = self.metrics.counted.requests_not_copied.saturating_add(1);
    }

    /// The answer to `waiter` will carry CORS for `origin`.
    pub(super) fn remember_origin(&mut self, waiter: WaiterId, origin: String) {
        self.origins.insert(waiter, origin);
    }

    /// Counts a request on Segment's paths.
    pub(super) fn count_request(&mut self) {
        self.metrics.counted.requests = self.metrics.counted.requests.saturating_add(1);
        if !self.ticking {
            self.ticking = true;
            host::tick_every(TICK_MS);
        }
    }

    /// Answers the effective context.
    pub(super) fn respond(&mut self, answer: Answer, origin: Option<&str>) {
        self.count_answer(answer);
        let mut headers = answer.headers().to_vec();
        headers.extend(cors::headers(origin, &self.config.allow_origins));
        host::respond(answer.status(), &headers, answer.body().as_bytes());
    }

    fn count_answer(&mut self, answer: Answer) {
        let counted = &mut self.metrics.counted;
        let counter = match answer {
            Answer::Taken => return,
            Answer::Refused(_) => &mut counted.requests_refused,
            Answer::TooMany => &mut counted.requests_over_bound,
            Answer::Unavailable => &mut counted.requests_unavailable,
        };
        *counter = counter.saturating_add(1);
    }

    /// Whether the answer to `waiter` is still to be given.
    pub(super) fn owes(&self, waiter: WaiterId) -> bool {
        self.delivery.waits(waiter)
    }

    /// The origin that was remembered of `waiter`.
    pub(super) fn origin(&mut self, waiter: WaiterId) -> Option<String> {
        self.origins.remove(&waiter)
    }

    /// The stream has ended; whoever waited on it is no longer there.
    pub(super) fn gone(&mut self, waiter: WaiterId) {
        self.delivery.gone(waiter);
        self.origins.remove(&waiter);
    }

    /// The doorbell rang.
    pub(super) fn woken(&mut self) {
        if let Some(doorbell) = self.doorbell {
            host::silence(doorbell);
        }
        self.rung = false;
        let now = self.now();
        self.pump(now);
    }

    /// Time has passed. True where the root context, asked to end, may.
    pub(super) fn tick(&mut self) -> bool {
        let now = self.now();
        // Should Envoy have lost a ring, the next is heard.
        self.rung = false;
        let expired = self.delivery.expire(now, u64::from(TICK_MS));
        self.metrics.counted.events_dropped = self.metrics.counted.events_dropped.saturating_add(expired.dropped);
        self.pump(now);
        self.metrics.flush(self.delivery.pending_bytes());
        let idle = self.delivery.idle();
        if idle {
            self.ticking = false;
            host::tick_every(0);
        }
        idle && self.ending
    }

    /// Envoy asks the root context to end. True where it may at once.
    pub(super) fn end(&mut self) -> bool {
        self.ending = true;
        let now = self.now();
        self.delivery.close(now);
        self.metrics.flush(self.delivery.pending_bytes());
        let idle = self.delivery.idle();
        if !idle {
            // Nothing else may wake it any more.
            self.ticking = true;
            host::tick_every(TICK_MS);
        }
        idle
    }

    /// Envoy's callout `token` has ended.
    pub(super) fn called(&mut self, token: u32, has_headers: bool) {
        let Some(call) = self.calls.remove(&token) else { return };
        let status = if has_headers { host::call_status() } else { None };
        let reply = if status.is_some() { host::call_body(REPLY_BYTES) } else { Vec::new() };
        let retry_after = if matches!(status, Some(429 | 503)) { host::call_header("retry-after") } else { Vec::new() };
        let now = self.now();
        let outcome = self.delivery.outcome(call, Ended { status, reply: &reply, retry_after: &retry_after });
        let misconfigured = matches!(outcome, Outcome::Misconfigured | Outcome::Rejected(None));
        let answered = matches!(outcome, Outcome::Verdicts(_));
        let settled = self.delivery.settle(call, outcome, now);
        if misconfigured || answered {
            self.destination(settled.destination, answered, status);
        } else if settled.failed > 0 {
            self.unconfirmed(settled.destination, status);
        }
        self.tell(settled);
        self.pump(now);
    }

    /// Makes the calls that are due, and gives answers.
    fn pump(&mut self, now: u64) {
        // Callouts belong to the root context, whatever stream's callback this runs in.
        while let Some(call) = self.delivery.take(now) {
            self.call(call, now);
        }
        let mut acted = false;
        for _ in 0..ANSWERS {
            let Some((waiter, answer)) = self.delivery.answers() else { break };
            let origin = self.origins.remove(&waiter);
            if host::act_for(waiter) {
                acted = true;
                self.respond(answer, origin.as_deref());
            }
        }
        if acted {
            host::act_for(self.root);
        }
        if self.delivery.has_answers() {
            self.ring();
        }
    }

    fn call(&mut self, call: Call, now: u64) {
        let Some(destination) = self.config.destinations.get(call.destination) else { return };
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
        match host::call(&destination.cluster, &headers, &call.body, call.timeout_ms) {
            Ok(token) => {
                self.calls.insert(token, call.id);
            }
            Err(status) => {
                let cluster = destination.cluster.clone();
                self.log_once(&format!("no call to {cluster}"), || {
                    format!(
                        "cannot call Keen through cluster {cluster:?}: {status:?}; is it defined, and has it endpoints?"
                    )
                });
                let settled = self.delivery.not_made(call.id, now);
                self.tell(settled);
            }
        }
    }

    fn tell(&mut self, settled: Settled) {
        let counted = &mut self.metrics.counted;
        counted.events_recorded = counted.events_recorded.saturating_add(settled.recorded);
        counted.events_failed = counted.events_failed.saturating_add(settled.failed);
        counted.events_dropped = counted.events_dropped.saturating_add(settled.dropped);
        counted.calls_retried = counted.calls_retried.saturating_add(u64::from(settled.retried));
        for (collection, error) in settled.refused {
            self.metrics.refused(&error);
            self.log_once(&error, || format!("Keen refused an event of collection {collection:?}: {error}"));
        }
    }

    /// Events that Keen would refuse for their size count as those that it does.
    fn too_large(&mut self, events: u64) {
        for _ in 0..events {
            self.metrics.refused("TooLarge");
            self.log_once("TooLarge", || format!("an event is larger than the {MAX_BYTES} bytes that Keen takes"));
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
            Some(status) => format!("Keen did not confirm events of project {project} in time: status {status}"),
            None => format!("Keen did not confirm events of project {project} in time: the call broke off"),
        });
    }

    fn project(&self, destination: usize) -> String {
        self.config.destinations.get(destination).map(|d| d.project_id.clone()).unwrap_or_default()
    }

    /// Logs a kind of trouble, once in a while.
    fn log_once(&mut self, kind: &str, line: impl FnOnce() -> String) {
        let now = host::now();
        let recent = |last: &u64| now.abs_diff(*last) < LOG_EVERY_MS;
        if self.logged.get(kind).is_some_and(recent) {
            return;
        }
        if self.logged.len() >= LOG_KINDS {
            self.logged.retain(|_, last| recent(last));
        }
        if self.logged.len() < LOG_KINDS {
            self.logged.insert(kind.to_owned(), now);
            log::warn!("{}", line());
        }
    }

    /// Milliseconds of a clock that nobody sets.
    fn now(&mut self) -> u64 {
        self.clock.read(host::now())
    }

    fn ring(&mut self) {
        if let (false, Some(doorbell)) = (self.rung, self.doorbell) {
            self.rung = host::ring(doorbell);
        }
    }
}

/// Where users are kept, made ready where some source remembers them.
fn memory(config: &Config) -> Memory {
    if !config.remembers_users() {
        return Memory::Shared;
    }
    let mut memory = Memory::find();
    if matches!(memory, Memory::Own(_)) {
        log::warn!("Envoy's shared data is closed to the filter: each worker remembers users by itself");
    }
    Users::prepare(&mut memory, config.users);
    memory
}
