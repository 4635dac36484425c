//! State shared by the requests of one worker.

use super::callouts::{Callouts, Origin};
use super::host;
use super::process_state;
use super::request_queue::{QueuedRequest, RequestMapper, RequestQueue, RequestSeq};
use super::responses::{self, ClientForm, MAX_RESPONSES_PER_CALLBACK, PendingResponses};
use super::telemetry::Telemetry;
use super::wake::{FAST_TICK_MS, SLOW_TICK_MS, TICK_MS, Waker};
use crate::config::Config;
use crate::delivery::{Admission, Callout, CalloutResponse, Delivery, MonotonicClock, WaiterId};
use crate::overflow::{Call, Overflow, Target};
use crate::segment::http::{self, Response, Unavailable};
use std::mem::replace;

/// Maximum bytes held for requests that are read or wait. Above it new requests get a 429. Bodies
/// are in Envoy's memory, headers and state in the VM's. The bound is a quarter of the VM's 1 GiB,
/// which fits 512 bodies of the default `limits.bodyBytes`, or 250,000 requests without a body.
pub(super) const MAX_HELD_BYTES: usize = 268_435_456;

/// The state of one root context.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) config: Config,
    /// Bytes held for requests that are read or wait.
    pub(super) held_bytes: usize,
    root_id: u32,
    /// Whether the configuration is in use: see [`Self::activate`].
    active: bool,
    response_capability_checked: bool,
    buffer_limit_logged: bool,
    /// Clock of deadlines and backoffs.
    clock: MonotonicClock,
    queue: RequestQueue,
    mapper: RequestMapper,
    delivery: Delivery,
    /// `None`: the configuration has no overflow queue.
    overflow: Option<Overflow>,
    /// Unique in the process. 0 until the worker is active.
    worker_id: u64,
    callouts: Callouts,
    responses: PendingResponses,
    telemetry: Telemetry,
    waker: Waker,
    last_flush_ms: u64,
    /// See [`Telemetry::flush`].
    others_pending: bool,
    /// Envoy has asked the root context to finish.
    draining: bool,
}

impl Worker {
    pub(super) fn new(config: Config, root_id: u32) -> Self {
        let seed = host::unix_us() ^ u64::from(root_id).rotate_right(16);
        let mut waker = Waker::default();
        // The first tick activates the worker, unless a request has done so before.
        waker.ensure_ticking();
        let mut delivery =
            Delivery::new(config.delivery, config.timeout_ms, config.destinations.len(), seed);
        let overflow = config.overflow.as_ref().map(|settings| {
            process_state::create_drain_lease(&settings.queue_url);
            let projects = config.destinations.iter().map(|d| d.project_id.clone()).collect();
            Overflow::new(settings, projects, config.timeout_ms)
        });
        if let Some(overflow) = &overflow {
            delivery.enable_overflow(overflow.policy());
        }
        Self {
            held_bytes: 0,
            root_id,
            active: false,
            response_capability_checked: false,
            buffer_limit_logged: false,
            clock: MonotonicClock::default(),
            queue: RequestQueue::default(),
            mapper: RequestMapper::new(&config),
            delivery,
            overflow,
            worker_id: 0,
            callouts: Callouts::default(),
            responses: PendingResponses::default(),
            telemetry: Telemetry::new(&config),
            waker,
            last_flush_ms: 0,
            others_pending: false,
            draining: false,
            config,
        }
    }

    /// Starts to use the configuration at the first request or tick. Before that, Envoy may only be
    /// checking it, so state that other workers see must not change.
    fn activate(&mut self) {
        if self.active {
            return;
        }
        self.active = true;
        let worker_id = process_state::next_process_unique_id();
        self.worker_id = worker_id;
        self.waker.register(worker_id);
        self.mapper.activate(worker_id);
        self.telemetry.activate(worker_id, self.config.delivery.max_pending_bytes);
    }

    /// Counts a request on Segment's paths.
    pub(super) fn count_request(&mut self) {
        self.activate();
        self.telemetry.count_request();
        self.waker.ensure_ticking();
    }

    /// Queues a complete request, which is processed when the root context wakes. Returns its
    /// sequence number.
    pub(super) fn enqueue_request(&mut self, request: QueuedRequest) -> RequestSeq {
        let stream_id = request.stream_id;
        let seq = self.queue.push(request);
        // Above the high watermark requests are processed at once, so that Envoy does not hold
        // rejected ones.
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
            match response {
                Some(response) if !request.mirrored => {
                    self.responses.push(request.stream_id, response);
                }
                Some(Response::Ok) | None => {}
                Some(_) => self.count_mirror_dropped(),
            }
        }
        if effective_context != current_context {
            host::set_effective_context(current_context);
        }
    }

    /// Maps a request and submits its events. `None`: the response follows when Keen has them.
    fn process_request(
        &mut self,
        request: &QueuedRequest,
        received_ms: u64,
        now: u64,
        effective_context: &mut u32,
    ) -> Option<Response> {
        let mapped = self.mapper.map(request, &self.config, received_ms, effective_context);
        let (stats, committed) = match mapped {
            Ok(mapped) => mapped,
            Err(reason) => return Some(Response::BadRequest(reason)),
        };
        self.telemetry.record_user_updates(&committed);
        let waits = !request.mirrored && !self.config.delivery.ack_on_receipt;
        let buffer = self.mapper.events();
        let admission = match buffer.is_overflowed() {
            true => Admission::Rejected,
            false => self.delivery.submit(waits.then_some(request.stream_id), buffer.events(), now),
        };
        // A client that gets a 429 retries the events. If there is no client to retry, they are
        // lost.
        let is_rejected = admission == Admission::Rejected;
        let counts = !is_rejected || request.mirrored;
        self.telemetry.record_messages(&stats, buffer, counts, &self.config);
        if is_rejected && request.mirrored {
            self.telemetry.count_not_admitted(buffer);
        }
        match admission {
            Admission::Empty => Some(Response::Ok),
            Admission::Rejected => Some(Response::TooManyRequests(http::Overload::QueueFull)),
            Admission::Admitted => (!waits).then_some(Response::Ok),
        }
    }

    /// Counts a request that continues to its route without a copy for Keen, or an image without
    /// its event.
    pub(super) fn count_mirror_dropped(&mut self) {
        self.telemetry.count_mirror_dropped();
    }

    /// Sets the form of the response to `waiter`.
    pub(super) fn set_form(&mut self, waiter: WaiterId, form: ClientForm) {
        self.responses.set_form(waiter, form);
    }

    /// Removes and returns the form of the response to `waiter`.
    pub(super) fn take_form(&mut self, waiter: WaiterId) -> ClientForm {
        self.responses.take_form(waiter)
    }

    /// Responds to the effective context.
    pub(super) fn respond(&mut self, response: Response, form: &ClientForm) {
        self.telemetry.count_response(&response);
        responses::send(response, form, &self.config.allow_origins);
    }

    /// Replaces Envoy's own response: a 413 for its buffer limit, or a 408 for its timeout. SDKs
    /// retry a 413 forever, and drop the events of a 408.
    pub(super) fn replace_response(&mut self, form: &ClientForm) {
        if form.is_grpc {
            // The original status is lost in gRPC's form.
            let response = Response::ServiceUnavailable(Unavailable::Unconfirmed);
            self.telemetry.count_response(&response);
            host::restore_status(response.status());
        } else {
            self.respond(Response::replacing_local_reply(host::response_status()), form);
        }
    }

    /// Logs once that Envoy's buffer limit is too low, if that is why Envoy rejects a request whose
    /// body is being read. `read_bytes`: the bytes of its body that have arrived.
    pub(super) fn check_buffer_limit(&mut self, read_bytes: usize) {
        let limit = self.config.max_body_bytes;
        if !self.buffer_limit_logged && read_bytes < limit && host::response_status() == Some(413) {
            self.buffer_limit_logged = true;
            log::warn!(
                "Envoy refused a body after {read_bytes} bytes: per_connection_buffer_limit_bytes of the \
                 listener is below limits.bodyBytes ({limit}); raise it, or events are lost"
            );
        }
    }

    /// Whether the bytes held for requests exceed [`MAX_HELD_BYTES`].
    pub(super) fn is_overloaded(&self) -> bool {
        self.held_bytes > MAX_HELD_BYTES
    }

    /// Tries the capability that cannot be tried before the first response, once.
    pub(super) fn check_response_capability(&mut self) {
        if !replace(&mut self.response_capability_checked, true) {
            host::check_response_capability();
        }
    }

    /// Whether the response to the stream's request has not been sent yet.
    pub(super) fn is_response_pending(&mut self, stream_id: u32, seq: RequestSeq) -> bool {
        self.process_before_destroy(stream_id, seq);
        self.delivery.is_waiting(stream_id) || self.responses.contains(stream_id)
    }

    /// Processes a stream's request, if it is still queued, in the stream's own callback. Client
    /// details are not available from Envoy after the stream has ended.
    pub(super) fn process_before_destroy(&mut self, stream_id: u32, seq: RequestSeq) {
        if self.queue.contains(seq) {
            self.process_queue(stream_id);
        }
    }

    /// The client has disconnected, or the stream was reset. Its events are still delivered.
    pub(super) fn on_client_disconnect(&mut self, waiter: WaiterId) {
        self.delivery.disconnect(waiter);
        self.responses.remove(waiter);
    }

    /// Handles a wake of the root context.
    pub(super) fn on_wake(&mut self) {
        self.activate();
        self.waker.on_wake();
        self.process_queue(self.root_id);
        let now = self.advance_clock();
        self.dispatch(now);
    }

    /// Handles a tick. Returns true if the root context was asked to finish and has done so.
    pub(super) fn on_tick(&mut self) -> bool {
        self.activate();
        self.waker.on_tick();
        self.delivery.enable_timer();
        let now = self.advance_clock();
        self.process_queue(self.root_id);
        let expired = self.delivery.expire(now, u64::from(TICK_MS));
        self.telemetry.record_expiry(&expired);
        self.claim_drain_lease(now);
        self.dispatch(now);
        let idle = self.is_idle();
        let flush_due = now >= self.last_flush_ms.saturating_add(u64::from(TICK_MS));
        if idle || self.waker.tick_period_ms() == TICK_MS || flush_due {
            self.last_flush_ms = now;
            self.others_pending = self.telemetry.flush(self.delivery.pending_bytes());
        }
        self.waker.set_tick_period(match (idle, self.delivery.is_lingering()) {
            (true, _) if !self.draining && (self.others_pending || self.drains_overflow()) => {
                SLOW_TICK_MS
            }
            (true, _) => 0,
            (_, true) => FAST_TICK_MS,
            (_, false) => TICK_MS,
        });
        idle && self.draining
    }

    /// Envoy asks the root context to finish. Returns true if it can do so at once.
    pub(super) fn on_done(&mut self) -> bool {
        self.draining = true;
        if !self.active {
            return true;
        }
        self.process_queue(self.root_id);
        let now = self.advance_clock();
        self.delivery.begin_drain(now);
        if let (Some(overflow), Some(settings)) = (&mut self.overflow, &self.config.overflow)
            && overflow.begin_drain(now)
        {
            process_state::release_drain_lease(&settings.queue_url);
        }
        self.telemetry.flush(self.delivery.pending_bytes());
        let idle = self.is_idle();
        if !idle {
            // No request wakes the root context any more.
            self.waker.ensure_ticking();
        }
        idle
    }

    /// Whether no request is queued or waiting, and no event is pending or in flight.
    fn is_idle(&self) -> bool {
        self.delivery.is_idle()
            && self.overflow.as_ref().is_none_or(Overflow::is_idle)
            && self.responses.is_empty()
            && self.queue.is_empty()
    }

    fn drains_overflow(&self) -> bool {
        self.overflow.as_ref().is_some_and(Overflow::needs_timer)
    }

    /// Claims or renews the lease to drain the queue, if that is due.
    fn claim_drain_lease(&mut self, now: u64) {
        if let (Some(overflow), Some(settings)) = (&mut self.overflow, &self.config.overflow)
            && overflow.is_lease_due(now)
        {
            let is_held = process_state::claim_drain_lease(&settings.queue_url, self.worker_id);
            overflow.on_lease(is_held, now);
        }
    }

    /// Envoy's callout `token` has ended.
    pub(super) fn on_callout_response(&mut self, token: u32, has_headers: bool) {
        let Some((callout, reply)) = self.callouts.take(token, has_headers) else { return };
        let now = self.advance_clock();
        let response = CalloutResponse {
            status: reply.status,
            reply: &reply.body,
            retry_after: &reply.retry_after,
        };
        match callout.origin {
            Origin::Delivery { id, events } => {
                let outcome = self.delivery.classify(id, response, host::unix_ms());
                let report = self.delivery.settle(id, outcome, now);
                self.telemetry.record_callout(now.saturating_sub(callout.dispatched_ms), events);
                self.telemetry.record_settlement(&report, reply.status);
            }
            Origin::Overflow { id } => {
                if let Some(overflow) = &mut self.overflow {
                    let report = overflow.on_response(id, response, &mut self.delivery, now);
                    self.telemetry.record_overflow(&report, reply.status);
                }
            }
        }
        self.process_queue(self.root_id);
        self.dispatch(now);
    }

    /// Dispatches the callouts that are due, and sends responses.
    fn dispatch(&mut self, now: u64) {
        while let Some(callout) = self.delivery.next_callout(now) {
            self.dispatch_callout(&callout, now);
        }
        while let Some(call) =
            self.overflow.as_mut().and_then(|overflow| overflow.next_call(&mut self.delivery, now))
        {
            self.dispatch_overflow_call(&call, now);
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

    fn dispatch_overflow_call(&mut self, call: &Call, now: u64) {
        let (Some(overflow), Some(settings)) = (&mut self.overflow, &self.config.overflow) else {
            return;
        };
        let destination = match call.target {
            Target::Keen { destination_index } => {
                self.telemetry.count_callout(destination_index);
                self.config.destinations.get(destination_index)
            }
            Target::Queue(_) => None,
        };
        let authority = &self.config.authority;
        let dispatched =
            self.callouts.dispatch_overflow(call, settings, destination, authority, now);
        if let Err(status) = dispatched {
            let cluster = destination.map_or(&settings.cluster, |d| &d.cluster);
            self.telemetry.warn_no_callout(cluster, status);
            let report = overflow.on_dispatch_failed(call.id, &mut self.delivery, now);
            self.telemetry.record_overflow(&report, None);
        }
    }

    fn dispatch_callout(&mut self, callout: &Callout, now: u64) {
        let Some(destination) = self.config.destinations.get(callout.destination_index) else {
            return;
        };
        self.telemetry.count_callout(callout.destination_index);
        let authority = &self.config.authority;
        let dispatched = self.callouts.dispatch(callout, destination, authority, now);
        if let Err(status) = dispatched {
            self.telemetry.warn_no_callout(&destination.cluster, status);
            let report = self.delivery.on_dispatch_failed(callout.id, now);
            self.telemetry.record_settlement(&report, None);
        }
    }

    /// Advances the clock, which does not jump. Returns its time in milliseconds.
    fn advance_clock(&mut self) -> u64 {
        self.clock.advance(host::unix_ms())
    }
}
