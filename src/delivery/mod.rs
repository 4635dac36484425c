//! Group commit, retry with backoff, and back-pressure, as a pure state machine: no clock, no I/O.
//!
//! A client whose request is paused is a *waiter*. Its events are [submitted](Delivery::submit);
//! events of many waiters leave together in one [callout](Delivery::next_callout) to Keen, and its
//! outcome [settles](Delivery::settle) them all. Each waiter then gets one [`Ack`]. If no callout
//! for a project is in flight, the first event leaves at once; while one is, events linger and
//! leave together. Times are milliseconds of any one clock that only goes forward.
//!
//! Events may also come without a waiter (*unattended*): their client has been answered, and will
//! not retry. They are retried until Keen has them, within the bounds. A batch of them that keeps
//! failing is parked: it retries apart from the others. A batch that keeps failing is split in
//! halves, parked or not, so that one bad event does not hold back its neighbours.
//!
//! Each project may always use its fair share of the pending bytes and of the callouts. It may use
//! more only while no other project needs it. Every admitted event ends in exactly one of:
//! delivered, rejected, unconfirmed, dropped, overflowed.
//!
//! ```
//! use keen_edge::config::DeliverySettings;
//! use keen_edge::delivery::{Ack, Admission, CalloutResponse, Delivery};
//! use keen_edge::keen::bulk::Event;
//!
//! let settings = DeliverySettings::default();
//! let mut delivery = Delivery::new(settings, 5_000, 1, 42);
//! let event = Event { destination: 0, collection: "Purchased", json: b"{\"total\":7}" };
//! assert_eq!(delivery.submit(Some(1), [event].into_iter(), 0), Admission::Admitted);
//!
//! let callout = delivery.next_callout(0).unwrap();
//! assert_eq!(callout.body, br#"{"Purchased":[{"total":7}]}"#);
//! let reply = br#"{"Purchased": [{"success": true}]}"#;
//! let response = CalloutResponse { status: Some(200), reply, retry_after: b"" };
//! let outcome = delivery.classify(callout.id, response, 1_700_000_000_000);
//! assert_eq!(delivery.settle(callout.id, outcome, 12).delivered, 1);
//! assert_eq!(delivery.pop_ack(), Some((1, Ack::Delivered)));
//! ```

mod backoff;
mod batch;
pub mod classify;
mod fair_share;
mod handover;
mod monotonic_clock;
mod project_queue;
mod retry;
mod waiters;

pub(crate) use batch::Batch;
pub use classify::{CalloutOutcome, CalloutResponse};
pub use handover::{Handover, HandoverOutcome, HandoverReport, OverflowPolicy};
pub use monotonic_clock::MonotonicClock;

use crate::config;
use crate::keen::bulk::{self, Event, EventResult};
use backoff::Backoff;
use batch::event_cost;
use fair_share::ActiveProjects;
use handover::{HandoverInFlight, Overflow};
use project_queue::{Concurrency, ProjectQueue};
use retry::{Failure, Settlement, requeue_split};
use rustc_hash::FxHashMap;
use std::iter::{repeat, repeat_n};
use std::mem::take;
use waiters::Waiters;

/// The filter's id of a paused request: the id of its HTTP context.
pub type WaiterId = u32;
/// A callout in flight.
pub type CalloutId = u32;

/// Capacity that a delivered batch leaves to a later one, at most.
const MAX_RECYCLED_BYTES: usize = 2_000_000;
/// Bytes that a pending event occupies in addition to its text.
const EVENT_OVERHEAD: usize = 64;
/// The error name of an event that is larger than [`bulk::MAX_EVENT_BYTES`].
const TOO_LARGE: &str = "TooLarge";

/// The outcome of [`Delivery::submit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The request has no events: respond now.
    Empty,
    /// Admitted. The waiter, if any, gets its [`Ack`] later. There may be a
    /// [callout](Delivery::next_callout) to make now.
    Admitted,
    /// The request exceeds the bound of pending bytes. None of its events is kept.
    Rejected,
}

/// The result for a waiter. Each waiter gets exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ack {
    /// Keen has given a final result for each of its events.
    Delivered,
    /// Keen has not confirmed all of its events: the client should retry.
    Unconfirmed,
    /// Keen rejects everything for a destination of its events: a wrong key or project id, or no
    /// payment.
    DestinationRejected,
}

/// A callout to make.
#[derive(Debug, PartialEq, Eq)]
pub struct Callout {
    /// The id to settle it with.
    pub id: CalloutId,
    /// Index of the configuration's destination.
    pub destination_index: usize,
    /// Number of events in it.
    pub events: usize,
    /// The bulk request's body.
    pub body: Vec<u8>,
    /// How long it may take.
    pub timeout_ms: u64,
}

/// An event that Keen rejected for its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Name of the collection.
    pub collection: String,
    /// Name of Keen's error.
    pub error: String,
}

/// The outcome of a callout, for metrics and logs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SettleReport {
    /// Index of the configuration's destination.
    pub destination_index: usize,
    /// Events that Keen has.
    pub delivered: u64,
    /// How long the callout's oldest event has been pending, in milliseconds.
    pub pending_ms: u64,
    /// Events that Keen rejected for their content.
    pub rejected: Vec<Rejection>,
    /// Events left to their clients to retry.
    pub unconfirmed: u64,
    /// Events without a waiter that are lost.
    pub dropped: u64,
    /// Events of the callout will be retried.
    pub retried: bool,
    /// Whether Keen accepts events for this destination. `None`: the callout does not show it.
    pub destination_up: Option<bool>,
}

/// Events and waiters that ended outside of callouts. Events are counted per destination index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExpiryReport {
    /// Waiters whose deadline has passed.
    pub expired_waiters: u64,
    /// Events left to their clients to retry.
    pub unconfirmed: Vec<(usize, u64)>,
    /// Events without a waiter that were lost because the drain deadline has passed.
    pub dropped: Vec<(usize, u64)>,
    /// Events without a waiter that were lost because requests of other projects or of clients took
    /// their place.
    pub displaced: Vec<(usize, u64)>,
}

/// Events that ended outside of a callout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct EventCounts {
    unconfirmed: u64,
    dropped: u64,
    displaced: u64,
}

/// A callout in flight.
#[derive(Debug)]
struct InFlight {
    destination_index: usize,
    batch: Batch,
    started_ms: u64,
    /// The batch was parked.
    parked: bool,
}

/// The state machine.
#[derive(Debug)]
pub struct Delivery {
    settings: config::DeliverySettings,
    timeout_ms: u64,
    projects: Vec<ProjectQueue>,
    active_projects: ActiveProjects,
    waiters: Waiters,
    in_flight: FxHashMap<CalloutId, InFlight>,
    /// Callouts in flight of healthy projects: only these count against `maxInFlight`.
    healthy_in_flight: usize,
    handovers: Vec<HandoverInFlight>,
    /// `None`: there is no overflow queue.
    overflow: Option<Overflow>,
    last_callout_id: CalloutId,
    /// The project at which the search for the next callout begins, so that projects take turns.
    next_project: usize,
    /// The embedder runs a timer, so lingering for siblings is allowed.
    timer_enabled: bool,
    /// A batch lingers and leaves in some milliseconds.
    lingering: bool,
    pending_bytes: usize,
    /// A project has counts of events that [`Delivery::expire`] has not reported.
    has_unreported: bool,
    /// Buffers of a delivered batch, reused by the next one.
    recycled_batch: Batch,
    backoff: Backoff,
    /// When the drain ends. After it nothing is retried.
    drain_deadline_ms: Option<u64>,
}

impl Delivery {
    /// Creates a state machine for `destinations` projects. `timeout_ms`: time limit of one
    /// callout. `seed`: randomizes its pauses.
    #[must_use]
    pub fn new(
        settings: config::DeliverySettings,
        timeout_ms: u64,
        destinations: usize,
        seed: u64,
    ) -> Self {
        Self {
            settings,
            timeout_ms,
            projects: (0..destinations).map(|_| ProjectQueue::default()).collect(),
            active_projects: ActiveProjects::default(),
            waiters: Waiters::default(),
            in_flight: FxHashMap::default(),
            healthy_in_flight: 0,
            handovers: Vec::new(),
            overflow: None,
            last_callout_id: 0,
            next_project: 0,
            timer_enabled: false,
            lingering: false,
            pending_bytes: 0,
            has_unreported: false,
            recycled_batch: Batch::default(),
            backoff: Backoff::new(seed),
            drain_deadline_ms: None,
        }
    }

    /// Admits all events of a request, or none. Without a `waiter` nothing is acknowledged.
    pub fn submit<'e>(
        &mut self,
        waiter: Option<WaiterId>,
        events: impl Iterator<Item = Event<'e>> + Clone,
        now: u64,
    ) -> Admission {
        let destinations = self.projects.len();
        let events = events.filter(|event| event.destination < destinations);
        let (mut count, mut cost) = (0_usize, 0_usize);
        for event in events.clone() {
            count = count.saturating_add(1);
            cost = cost.saturating_add(event_cost(event.collection, event.json));
        }
        if count == 0 {
            return Admission::Empty;
        }
        let pending = self.pending_bytes.saturating_add(cost);
        if pending > self.soft_limit() {
            let limit = self.settings.max_pending_bytes;
            if pending > limit && !self.make_room(waiter.is_some(), events.clone(), cost) {
                return Admission::Rejected;
            }
            let is_over_share = || {
                let costs = self.costs_by_project(events.clone());
                !self.is_within_share(&costs, self.soft_limit()).0
            };
            if self.open_overflow(now).is_some() && is_over_share() {
                self.push_handover(waiter, events, now);
                if let Some(waiter) = waiter {
                    self.add_waiter(waiter, count, now);
                }
                return Admission::Admitted;
            }
        }
        for Event { destination, collection, json } in events {
            self.charge(destination, event_cost(collection, json));
            let Some(project) = self.projects.get_mut(destination) else { continue };
            let filling = &project.filling;
            let too_many = filling.len() >= self.settings.max_batch_events;
            let too_large =
                filling.bytes().saturating_add(json.len()) > self.settings.max_batch_bytes;
            if !filling.is_empty() && (too_many || too_large) {
                project.seal();
            }
            project.push(waiter, collection, json, &mut self.recycled_batch, now);
        }
        if let Some(waiter) = waiter {
            self.add_waiter(waiter, count, now);
        }
        Admission::Admitted
    }

    fn add_waiter(&mut self, waiter: WaiterId, events: usize, now: u64) {
        let deadline_ms = now.saturating_add(self.settings.max_wait_ms);
        self.waiters.add(waiter, events, deadline_ms);
    }

    // === callouts ===

    /// Returns the next callout to make now, if any. Call it until there is none.
    pub fn next_callout(&mut self, now: u64) -> Option<Callout> {
        self.lingering = false;
        let mut next = self.next_project;
        for _ in 0..self.active_projects.len() {
            let index = self.active_projects.first_from(next)?;
            next = index.saturating_add(1);
            if let Some(callout) = self.next_callout_for(index, now) {
                self.next_project = next;
                return Some(callout);
            }
        }
        None
    }

    fn concurrency(&self) -> Concurrency {
        let limit = self.settings.max_in_flight;
        let share = limit.checked_div(self.active_projects.len()).unwrap_or(limit);
        Concurrency { limit, available: self.healthy_in_flight < limit, share: share.max(1) }
    }

    fn next_callout_id(&mut self) -> CalloutId {
        self.last_callout_id = self.last_callout_id.wrapping_add(1);
        self.last_callout_id
    }

    /// Recounts a project's callouts in flight, after their number or the project's health may have
    /// changed.
    fn count_in_flight(&mut self, destination_index: usize) {
        let Some(project) = self.projects.get_mut(destination_index) else { return };
        let before = project.counted_in_flight;
        project.counted_in_flight = if project.is_unhealthy() { 0 } else { project.in_flight };
        self.healthy_in_flight =
            self.healthy_in_flight.saturating_sub(before).saturating_add(project.counted_in_flight);
    }

    fn next_callout_for(&mut self, destination_index: usize, now: u64) -> Option<Callout> {
        loop {
            let concurrency = self.concurrency();
            let project = self.projects.get_mut(destination_index)?;
            let Some((mut batch, parked)) = project.pop_batch(now, self.timeout_ms, concurrency)
            else {
                self.lingering |= project.is_lingering(now);
                return None;
            };
            let unconfirmed = self.discard_expired(destination_index, &mut batch);
            self.add_unreported(
                destination_index,
                EventCounts { unconfirmed, ..EventCounts::default() },
            );
            let Some(latest) = self.waiters.latest_deadline_ms(&batch) else { continue };
            let project = self.projects.get_mut(destination_index)?;
            project.in_flight = project.in_flight.saturating_add(1);
            let mut timeout_ms = latest.saturating_sub(now).clamp(1, self.timeout_ms);
            if let Some(policy) = self.open_overflow(now).filter(|_| batch.has_waiters()) {
                // If the callout hangs, there must be time left to hand its events over.
                let left = batch.since_ms.saturating_add(policy.after_ms).saturating_sub(now);
                timeout_ms = timeout_ms.min(left.max(handover::CALLOUT_MIN_MS));
            }
            let body = batch.to_bulk_body();
            let events = batch.len();
            let id = self.next_callout_id();
            let in_flight = InFlight { destination_index, batch, started_ms: now, parked };
            self.in_flight.insert(id, in_flight);
            self.count_in_flight(destination_index);
            return Some(Callout { id, destination_index, events, body, timeout_ms });
        }
    }

    /// Classifies how a callout ended. `unix_ms`: the wall clock, for a `Retry-After` that is a
    /// date.
    #[must_use]
    pub fn classify(
        &self,
        callout: CalloutId,
        response: CalloutResponse<'_>,
        unix_ms: u64,
    ) -> CalloutOutcome {
        let in_flight = self.in_flight.get(&callout);
        let expected = in_flight.map(|callout| callout.batch.expected_results());
        classify::classify(response, &expected.unwrap_or_default(), unix_ms)
    }

    /// Settles a callout that could not be dispatched. Keen counts as unavailable.
    pub fn on_dispatch_failed(&mut self, callout: CalloutId, now: u64) -> SettleReport {
        self.settle(callout, CalloutOutcome::RetryAfter(0), now)
    }

    /// Settles a callout's events by its outcome, or schedules their retry. Acks follow from
    /// [`Delivery::pop_ack`].
    pub fn settle(
        &mut self,
        callout: CalloutId,
        outcome: CalloutOutcome,
        now: u64,
    ) -> SettleReport {
        let Some(in_flight) = self.in_flight.remove(&callout) else {
            return SettleReport::default();
        };
        let InFlight { destination_index, batch, started_ms, parked } = in_flight;
        if let Some(project) = self.projects.get_mut(destination_index) {
            project.on_settled(now.saturating_sub(started_ms));
        }
        let pending_ms = now.saturating_sub(batch.since_ms);
        let report = SettleReport { destination_index, pending_ms, ..SettleReport::default() };
        let mut settlement = Settlement { batch, parked, now, report };
        match outcome {
            CalloutOutcome::Results(results) if is_failure(&results) => {
                self.schedule_retry(&mut settlement, Failure::ServerError);
            }
            CalloutOutcome::Results(results) => self.settle_results(&mut settlement, results),
            CalloutOutcome::PayloadTooLarge => {
                let too_large = settlement.batch.bytes() > bulk::MAX_EVENT_BYTES;
                self.settle_rejected(&mut settlement, too_large.then_some(TOO_LARGE));
            }
            CalloutOutcome::Rejected(name) => {
                self.settle_rejected(&mut settlement, name.as_deref());
            }
            CalloutOutcome::Misconfigured => {
                self.schedule_retry(&mut settlement, Failure::Misconfigured);
            }
            CalloutOutcome::RetryAfter(ms) => {
                self.schedule_retry(&mut settlement, Failure::Unavailable(ms));
            }
            CalloutOutcome::ServerError => {
                self.schedule_retry(&mut settlement, Failure::ServerError);
            }
        }
        self.count_in_flight(destination_index);
        settlement.report
    }

    fn settle_results(&mut self, settlement: &mut Settlement, results: Vec<EventResult>) {
        let index = settlement.report.destination_index;
        settlement.report.destination_up = Some(true);
        if let Some(project) = self.projects.get_mut(index) {
            project.on_success(settlement.parked, settlement.now);
        }
        let acks = self.waiters.ack_count();
        self.apply_results(settlement, results);
        let answered = self.waiters.ack_count().saturating_sub(acks);
        if let (true, Some(project)) = (self.timer_enabled, self.projects.get_mut(index)) {
            let queued = project.filling.distinct_waiters();
            project.siblings.expect(answered, queued, settlement.now);
        }
        self.schedule_retry(settlement, Failure::EventsFailed);
    }

    /// Settles the events with a final result. Those that Keen failed on stay in the batch.
    fn apply_results(&mut self, settlement: &mut Settlement, results: Vec<EventResult>) {
        let Settlement { batch, report, .. } = settlement;
        let mut failed = Vec::with_capacity(batch.len());
        let mut results = results.into_iter().chain(repeat(EventResult::Failed));
        for (waiter, collection, count) in batch.runs() {
            let mut settled = 0_usize;
            for result in results.by_ref().take(count) {
                failed.push(result == EventResult::Failed);
                match result {
                    EventResult::Recorded => report.delivered = report.delivered.saturating_add(1),
                    EventResult::Rejected(error) => {
                        report.rejected.push(Rejection { collection: collection.to_owned(), error })
                    }
                    EventResult::Failed => continue,
                }
                settled = settled.saturating_add(1);
            }
            self.waiters.settle(waiter, settled, Ack::Delivered);
        }
        let before = batch.pending_cost();
        if failed.contains(&true) {
            batch.retain_by_flag(&failed);
        } else {
            self.recycled_batch = take(batch).into_recycled(MAX_RECYCLED_BYTES);
        }
        let released = before.saturating_sub(batch.pending_cost());
        self.release(report.destination_index, released);
    }

    /// Handles a request that was rejected as a whole. `error`: the name of the error, if it can be
    /// about one event.
    fn settle_rejected(&mut self, settlement: &mut Settlement, error: Option<&str>) {
        let Settlement { batch, report, parked, now } = settlement;
        let Some(project) = self.projects.get_mut(report.destination_index) else { return };
        if batch.len() > 1 && project.may_split(*now) {
            project.record_split(*now);
            if *parked {
                project.back_off_until(*now, true);
            }
            requeue_split(project, batch, *parked);
            report.retried = true;
            return;
        }
        let is_single = batch.len() == 1;
        if let Some(error) = error.filter(|_| is_single)
            && (error == TOO_LARGE || project.record_rejection())
        {
            self.reject_all(settlement, error);
            return;
        }
        // A middlebox, or a Keen that rejects everything.
        self.schedule_retry(settlement, Failure::Blocked);
    }

    fn reject_all(&mut self, settlement: &mut Settlement, error: &str) {
        let Settlement { batch, report, .. } = settlement;
        for (waiter, collection, count) in batch.runs() {
            let rejection =
                Rejection { collection: collection.to_owned(), error: error.to_owned() };
            report.rejected.extend(repeat_n(rejection, count));
            self.waiters.settle(waiter, count, Ack::Delivered);
        }
        self.release(report.destination_index, batch.pending_cost());
    }

    // === waiters ===

    /// Removes the events of waiters whose deadline has passed, since their clients got an ack to
    /// retry. Returns how many.
    fn discard_expired(&mut self, destination_index: usize, batch: &mut Batch) -> u64 {
        self.discard(destination_index, batch, |waiters, waiter| {
            waiter.is_some_and(|waiter| !waiters.contains(waiter))
        })
    }

    /// Removes events from a batch by their waiter. Returns how many.
    fn discard(
        &mut self,
        destination_index: usize,
        batch: &mut Batch,
        is_discarded: impl Fn(&Waiters, Option<WaiterId>) -> bool,
    ) -> u64 {
        let (cost, events) = (batch.pending_cost(), batch.len());
        let waiters = &self.waiters;
        batch.retain_waiters(|waiter| !is_discarded(waiters, waiter));
        self.release(destination_index, cost.saturating_sub(batch.pending_cost()));
        u64::try_from(events.saturating_sub(batch.len())).unwrap_or(u64::MAX)
    }

    /// Acknowledges waiters whose deadline has passed, and reports what has ended outside of
    /// callouts. `ahead`: how long until the next call, so that nothing waits beyond its deadline.
    pub fn expire(&mut self, now: u64, ahead: u64) -> ExpiryReport {
        let expired_waiters = self.waiters.expire(now.saturating_add(ahead));
        let mut report = ExpiryReport { expired_waiters, ..ExpiryReport::default() };
        if self.drain_deadline_ms.is_some_and(|deadline| deadline <= now) {
            self.drop_queued();
        }
        if take(&mut self.has_unreported) {
            for (index, project) in self.projects.iter_mut().enumerate() {
                let EventCounts { unconfirmed, dropped, displaced } = take(&mut project.unreported);
                report.unconfirmed.extend((unconfirmed > 0).then_some((index, unconfirmed)));
                report.dropped.extend((dropped > 0).then_some((index, dropped)));
                report.displaced.extend((displaced > 0).then_some((index, displaced)));
            }
        }
        report
    }

    /// Drops all queued events: the drain deadline has passed.
    fn drop_queued(&mut self) {
        for index in 0..self.projects.len() {
            let Some(project) = self.projects.get_mut(index) else { continue };
            for batch in project.take_all() {
                self.release(index, batch.pending_cost());
                let counts = EventCounts {
                    unconfirmed: self.waiters.settle_batch(&batch, Ack::Unconfirmed),
                    dropped: batch.count(false),
                    displaced: 0,
                };
                self.add_unreported(index, counts);
            }
        }
    }

    /// Handles the disconnection of a waiter's client. Its events are still delivered.
    pub fn disconnect(&mut self, waiter: WaiterId) {
        self.waiters.disconnect(waiter);
    }

    /// Whether the waiter has not been acknowledged yet.
    #[must_use]
    pub fn is_waiting(&self, waiter: WaiterId) -> bool {
        self.waiters.contains(waiter)
    }

    /// Takes the next ack.
    pub fn pop_ack(&mut self) -> Option<(WaiterId, Ack)> {
        self.waiters.pop_ack()
    }

    /// Whether there are acks to take.
    #[must_use]
    pub fn has_acks(&self) -> bool {
        self.waiters.ack_count() > 0
    }

    // === state ===

    /// Begins a graceful shutdown: events without a waiter are retried for as long as a client
    /// would wait.
    pub fn begin_drain(&mut self, now: u64) {
        self.drain_deadline_ms = Some(now.saturating_add(self.settings.max_wait_ms));
    }

    /// Whether nothing is pending: no event, no ack, and no unreported event count.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiters.is_empty()
            && self.in_flight.is_empty()
            && self.handovers.is_empty()
            && self.active_projects.is_empty()
            && !self.has_unreported
    }

    /// Whether the pending bytes exceed half of their limit.
    #[must_use]
    pub fn is_above_watermark(&self) -> bool {
        self.pending_bytes > self.settings.max_pending_bytes >> 1
    }

    /// Enables lingering for siblings. Call it once a timer is known to fire.
    pub fn enable_timer(&mut self) {
        self.timer_enabled = true;
    }

    /// Whether a batch lingers and needs a [`Delivery::next_callout`] within milliseconds.
    #[must_use]
    pub fn is_lingering(&self) -> bool {
        self.lingering
    }

    /// Returns the bytes of pending events, with their overhead.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Returns one project's part of [`Delivery::pending_bytes`], by destination index.
    #[must_use]
    pub fn pending_bytes_of(&self, destination_index: usize) -> usize {
        self.projects.get(destination_index).map_or(0, |project| project.pending_bytes)
    }
}

/// Whether Keen failed on every event, which is a failure of Keen and not of events.
pub(crate) fn is_failure(results: &[EventResult]) -> bool {
    !results.is_empty() && results.iter().all(|result| *result == EventResult::Failed)
}

#[cfg(test)]
mod tests;
