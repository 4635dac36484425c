//! What the requests of one worker share.

use super::callouts::Callouts;
use super::host;
use super::process_state;
use super::request_queue::{QueuedRequest, RequestMapper, RequestQueue, RequestSeq};
use super::responses::{self, ClientForm, MAX_RESPONSES_PER_CALLBACK, PendingResponses};
use super::telemetry::{LogRateLimit, Metrics};
use super::user_store::UserStore;
use super::wake::{FAST_TICK_MS, TICK_MS, Waker};
use crate::config::Config;
use crate::delivery::{
    Admission, Callout, CalloutResponse, Delivery, MonotonicClock, Rejection, SettleReport,
    WaiterId,
};
use crate::keen::event_writer::MAX_BYTES;
use crate::mapping::pipeline::Tally;
use crate::segment::http::{Response, Unavailable};
use crate::users::{CommitReport, UserTransaction};
use std::mem::replace;

/// Bytes held for requests that are read or wait, at most; over it new ones are answered 429. Bodies are in Envoy's
/// memory, headers and state in that of the VM. It is a quarter of the VM's 1 GiB: room for 512 bodies of the default
/// `limits.bodyBytes`, or 250,000 requests without a body.
const MAX_HELD_BYTES: usize = 268_435_456;

/// The state of one root context.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) config: Config,
    /// Bytes held for requests that are read or wait.
    pub(super) held_bytes: usize,
    root_id: u32,
    /// The configuration is in use: see [`Self::activate`].
    active: bool,
    response_capability_checked: bool,
    /// Time of deadlines and backoffs.
    clock: MonotonicClock,
    queue: RequestQueue,
    mapper: RequestMapper,
    delivery: Delivery,
    callouts: Callouts,
    responses: PendingResponses,
    metrics: Metrics,
    log_rate_limit: LogRateLimit,
    waker: Waker,
    last_flush_ms: u64,
    /// Envoy has asked the root context to end.
    draining: bool,
}

impl Worker {
    pub(super) fn new(config: Config, root_id: u32) -> Self {
        let seed = host::unix_us() ^ u64::from(root_id).rotate_right(16);
        let mut waker = Waker::default();
        // The first tick activates the worker, where no request has before.
        waker.ensure_ticking();
        Self {
            held_bytes: 0,
            root_id,
            active: false,
            response_capability_checked: false,
            clock: MonotonicClock::default(),
            queue: RequestQueue::default(),
            mapper: RequestMapper::new(&config),
            delivery: Delivery::new(
                config.delivery,
                config.timeout_ms,
                config.destinations.len(),
                seed,
            ),
            callouts: Callouts::default(),
            responses: PendingResponses::default(),
            metrics: Metrics::default(),
            log_rate_limit: LogRateLimit::default(),
            waker,
            last_flush_ms: 0,
            draining: false,
            config,
        }
    }

    /// Takes the configuration into use, at the first request or tick. Before, Envoy may only be checking it: what other
    /// workers see must not change.
    fn activate(&mut self) {
        if self.active {
            return;
        }
        self.active = true;
        self.waker.register(process_state::next_process_unique_id());
        if self.config.remembers_users() {
            UserTransaction::prepare(&mut UserStore, self.config.users);
        }
        let projects = self.config.destinations.iter().map(|d| d.project_id.as_str());
        self.metrics = Metrics::new(projects);
    }

    /// Counts a request on Segment's paths.
    pub(super) fn count_request(&mut self) {
        self.activate();
        self.metrics.counted.requests = self.metrics.counted.requests.saturating_add(1);
        self.waker.ensure_ticking();
    }

    /// Queues a complete request. It is processed when the root context wakes. Returns its number.
    pub(super) fn enqueue_request(&mut self, request: QueuedRequest) -> RequestSeq {
        let stream_id = request.stream_id;
        let seq = self.queue.push(request);
        // Above the high watermark a request that is rejected is answered at once, and Envoy need not hold it.
        if self.queue.is_full() || self.delivery.is_above_watermark() {
            self.process_queue(stream_id);
            self.send_responses();
            // The stream may send a response of its own next.
            host::set_effective_context(stream_id);
        }
        self.waker.ensure_ticking();
        self.waker.wake();
        seq
    }

    /// Processes the queue. `current_context`: the context whose callback this is.
    fn process_queue(&mut self, current_context: u32) {
        if self.queue.is_empty() {
            return;
        }
        let received_ms = host::unix_ms();
        let now = self.clock.advance(received_ms);
        let mut effective_context = current_context;
        for request in self.queue.drain() {
            let response = self.process_request(&request, received_ms, now, &mut effective_context);
            if request.mirrored {
                self.on_mirrored(response);
            } else if let Some(response) = response {
                self.responses.push(request.stream_id, response);
            }
        }
        if effective_context != current_context {
            host::set_effective_context(current_context);
        }
    }

    /// Maps a request and submits its events. None: the response follows when Keen has them.
    fn process_request(
        &mut self,
        request: &QueuedRequest,
        received_ms: u64,
        now: u64,
        effective_context: &mut u32,
    ) -> Option<Response> {
        let mapped = self.mapper.map(request, &self.config, received_ms, effective_context);
        let (tally, committed) = match mapped {
            Ok(mapped) => mapped,
            Err(reason) => return Some(Response::BadRequest(reason)),
        };
        self.count_mapped(tally, committed);
        let waits = !request.mirrored && !self.config.delivery.accepted;
        let buffer = self.mapper.events();
        if buffer.is_overflowed() {
            return Some(Response::TooManyRequests);
        }
        match self.delivery.submit(waits.then_some(request.stream_id), buffer.events(), now) {
            Admission::Empty => Some(Response::Ok),
            Admission::Rejected => Some(Response::TooManyRequests),
            Admission::Admitted => {
                let counted = &mut self.metrics.counted;
                counted.events = counted.events.saturating_add(tally.events);
                (!waits).then_some(Response::Ok)
            }
        }
    }

    fn count_mapped(&mut self, tally: Tally, committed: CommitReport) {
        let counted = &mut self.metrics.counted;
        counted.messages = counted.messages.saturating_add(tally.messages);
        counted.messages_dropped = counted.messages_dropped.saturating_add(tally.dropped);
        counted.messages_unknown_source =
            counted.messages_unknown_source.saturating_add(tally.unknown_source);
        counted.values_mended = counted.values_mended.saturating_add(tally.mended);
        counted.users_remembered = counted.users_remembered.saturating_add(committed.written);
        counted.users_evicted = counted.users_evicted.saturating_add(committed.evicted);
        counted.users_refused = counted.users_refused.saturating_add(committed.refused);
        counted.users_not_shown = counted.users_not_shown.saturating_add(committed.not_shown);
        self.count_too_large(tally.too_large);
    }

    /// A request whose sender does not wait has been processed: counts where it failed.
    fn on_mirrored(&mut self, response: Option<Response>) {
        match response {
            Some(Response::Ok) | None => {}
            Some(Response::TooManyRequests) => {
                let lost = u64::try_from(self.mapper.events().len()).unwrap_or(u64::MAX);
                self.metrics.counted.events_dropped =
                    self.metrics.counted.events_dropped.saturating_add(lost);
                self.count_mirror_dropped();
            }
            Some(_) => self.count_mirror_dropped(),
        }
    }

    /// Counts a request that continues to its route without a copy for Keen.
    pub(super) fn count_mirror_dropped(&mut self) {
        self.metrics.counted.requests_not_copied =
            self.metrics.counted.requests_not_copied.saturating_add(1);
    }

    /// The response to `waiter` will have that form.
    pub(super) fn set_form(&mut self, waiter: WaiterId, form: ClientForm) {
        self.responses.set_form(waiter, form);
    }

    /// Removes and returns the form of the response to `waiter`.
    pub(super) fn take_form(&mut self, waiter: WaiterId) -> ClientForm {
        self.responses.take_form(waiter)
    }

    /// Responds to the effective context.
    pub(super) fn respond(&mut self, response: Response, form: &ClientForm) {
        self.count_response(response);
        responses::send(response, form, &self.config.allow_origins);
    }

    /// Replaces Envoy's own response, which passes by: a 413 over its buffer, a 408 over its patience. SDKs retry a 413
    /// for ever, and drop a call that gets a 408.
    pub(super) fn replace_response(&mut self, form: &ClientForm) {
        if form.is_grpc {
            // Which status it was is lost in gRPC's form.
            let response = Response::ServiceUnavailable(Unavailable::Unconfirmed);
            self.count_response(response);
            host::restore_status(response.status());
        } else {
            self.respond(Response::replacing_local_reply(host::response_status()), form);
        }
    }

    /// Whether no more requests can be held.
    pub(super) fn is_overloaded(&self) -> bool {
        self.held_bytes > MAX_HELD_BYTES
    }

    /// Tries what cannot be tried before the first response, once.
    pub(super) fn check_response_capability(&mut self) {
        if !replace(&mut self.response_capability_checked, true) {
            host::check_response_capability();
        }
    }

    fn count_response(&mut self, response: Response) {
        let counted = &mut self.metrics.counted;
        let counter = match response {
            Response::Ok => return,
            Response::BadRequest(_) => &mut counted.requests_refused,
            Response::TooManyRequests => &mut counted.requests_over_bound,
            Response::ServiceUnavailable(_) => &mut counted.requests_unavailable,
        };
        *counter = counter.saturating_add(1);
    }

    /// Whether the response to that stream's request is still to be sent.
    pub(super) fn is_response_pending(&mut self, stream_id: u32, seq: RequestSeq) -> bool {
        self.process_before_destroy(stream_id, seq);
        self.delivery.is_waiting(stream_id) || self.responses.contains(stream_id)
    }

    /// Processes a stream's request, if it is still queued, in the stream's own callback: what Envoy knows of the client
    /// ends with the stream.
    pub(super) fn process_before_destroy(&mut self, stream_id: u32, seq: RequestSeq) {
        if self.queue.contains(seq) {
            self.process_queue(stream_id);
        }
    }

    /// The client has disconnected, or the stream was reset. Its events are delivered all the same.
    pub(super) fn on_client_disconnect(&mut self, waiter: WaiterId) {
        self.delivery.disconnect(waiter);
        self.responses.remove(waiter);
    }

    /// The root context has been woken.
    pub(super) fn on_wake(&mut self) {
        self.activate();
        self.waker.on_wake();
        self.process_queue(self.root_id);
        let now = self.advance_clock();
        self.dispatch(now);
    }

    /// Time has passed. True where the root context, asked to end, has ended.
    pub(super) fn on_tick(&mut self) -> bool {
        self.activate();
        self.waker.on_tick();
        self.delivery.enable_timer();
        let now = self.advance_clock();
        self.process_queue(self.root_id);
        let expired = self.delivery.expire(now, u64::from(TICK_MS));
        let sum = |counts: Vec<(usize, u64)>| {
            counts.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count))
        };
        let dropped = sum(expired.dropped).saturating_add(sum(self.delivery.take_displaced()));
        let counted = &mut self.metrics.counted;
        counted.events_dropped = counted.events_dropped.saturating_add(dropped);
        counted.events_failed = counted.events_failed.saturating_add(sum(expired.unconfirmed));
        self.dispatch(now);
        let idle = self.is_idle();
        let flush_due = now >= self.last_flush_ms.saturating_add(u64::from(TICK_MS));
        if idle || self.waker.tick_period_ms() == TICK_MS || flush_due {
            self.last_flush_ms = now;
            host::set_log_level();
            self.metrics.flush(self.delivery.pending_bytes());
        }
        self.waker.set_tick_period(match (idle, self.delivery.is_lingering()) {
            (true, _) => 0,
            (_, true) => FAST_TICK_MS,
            (_, false) => TICK_MS,
        });
        idle && self.draining
    }

    /// Envoy asks the root context to end. True where it can at once.
    pub(super) fn on_done(&mut self) -> bool {
        self.draining = true;
        if !self.active {
            return true;
        }
        self.process_queue(self.root_id);
        let now = self.advance_clock();
        self.delivery.begin_drain(now);
        self.metrics.flush(self.delivery.pending_bytes());
        let idle = self.is_idle();
        if !idle {
            // No request wakes it any more.
            self.waker.ensure_ticking();
        }
        idle
    }

    /// Whether nothing is queued, pending, in flight or to be answered.
    fn is_idle(&self) -> bool {
        self.delivery.is_idle() && self.responses.is_empty() && self.queue.is_empty()
    }

    /// Envoy's callout `token` has ended.
    pub(super) fn on_callout_response(&mut self, token: u32, has_headers: bool) {
        let Some((callout, reply)) = self.callouts.take(token, has_headers) else { return };
        let now = self.advance_clock();
        let outcome = self.delivery.classify(
            callout.id,
            CalloutResponse {
                status: reply.status,
                reply: &reply.body,
                retry_after: &reply.retry_after,
            },
            host::unix_ms(),
        );
        let report = self.delivery.settle(callout.id, outcome, now);
        if let Some(up) = report.destination_up {
            self.set_destination_up(report.destination_index, up, reply.status);
        } else if report.unconfirmed > 0 {
            self.log_unconfirmed(report.destination_index, reply.status);
        }
        self.record_settlement(report);
        self.process_queue(self.root_id);
        self.dispatch(now);
    }

    /// Dispatches the callouts that are due, and sends responses.
    fn dispatch(&mut self, now: u64) {
        while let Some(callout) = self.delivery.next_callout(now) {
            self.dispatch_callout(&callout, now);
        }
        self.send_responses();
        if self.delivery.is_lingering() {
            self.waker.set_tick_period(FAST_TICK_MS);
        }
    }

    /// Sends responses. Afterwards the effective context is one of the streams.
    fn send_responses(&mut self) {
        for _ in 0..MAX_RESPONSES_PER_CALLBACK {
            let Some((waiter, response)) = self.responses.pop(&mut self.delivery) else { return };
            let form = self.responses.take_form(waiter);
            if host::set_effective_context(waiter) {
                self.respond(response, &form);
            }
        }
        if !self.responses.is_empty() || self.delivery.has_acks() {
            self.waker.wake();
        }
    }

    fn dispatch_callout(&mut self, callout: &Callout, now: u64) {
        let Some(destination) = self.config.destinations.get(callout.destination_index) else {
            return;
        };
        self.metrics.counted.calls = self.metrics.counted.calls.saturating_add(1);
        let dispatched = self.callouts.dispatch(callout, destination, &self.config.authority);
        if let Err(status) = dispatched {
            let cluster = destination.cluster.clone();
            self.warn(&format!("no callout to {cluster}"), || {
                format!(
                    "cannot send to Keen through cluster {cluster:?}: {status:?}; is it defined, and has it endpoints?"
                )
            });
            let report = self.delivery.on_dispatch_failed(callout.id, now);
            self.record_settlement(report);
        }
    }

    fn record_settlement(&mut self, report: SettleReport) {
        let counted = &mut self.metrics.counted;
        counted.events_recorded = counted.events_recorded.saturating_add(report.delivered);
        counted.events_failed = counted.events_failed.saturating_add(report.unconfirmed);
        counted.events_dropped = counted.events_dropped.saturating_add(report.dropped);
        counted.calls_retried = counted.calls_retried.saturating_add(u64::from(report.retried));
        for Rejection { collection, error } in report.rejected {
            self.metrics.refused(&error);
            self.warn(&error, || {
                format!("Keen rejected an event of collection {collection:?}: {error}")
            });
        }
    }

    /// Events over Keen's size limit count as rejected.
    fn count_too_large(&mut self, events: u64) {
        for _ in 0..events {
            self.metrics.refused("TooLarge");
            self.warn("TooLarge", || {
                format!("an event is larger than the {MAX_BYTES} bytes that Keen accepts")
            });
        }
    }

    fn set_destination_up(&mut self, destination: usize, up: bool, status: Option<u16>) {
        self.metrics.destination(destination, up);
        let project = self.project_id(destination);
        if !up {
            self.warn(&format!("down {project}"), || {
                let status = status.unwrap_or(0);
                format!(
                    "Keen answers {status} to project {project}: check its id, its write key and its plan"
                )
            });
        }
    }

    fn log_unconfirmed(&mut self, destination: usize, status: Option<u16>) {
        let project = self.project_id(destination);
        self.warn(&format!("unconfirmed {project}"), || {
            let cause = status.map_or("no reply".to_owned(), |status| format!("status {status}"));
            format!("Keen did not confirm events of project {project} in time: {cause}")
        });
    }

    fn project_id(&self, destination: usize) -> String {
        self.config.destinations.get(destination).map(|d| d.project_id.clone()).unwrap_or_default()
    }

    fn warn(&mut self, kind: &str, line: impl FnOnce() -> String) {
        self.log_rate_limit.warn(kind, host::unix_ms(), line);
    }

    /// Milliseconds of a clock that does not jump.
    fn advance_clock(&mut self) -> u64 {
        self.clock.advance(host::unix_ms())
    }
}
