//! Hands events that Keen does not accept over to a queue that survives an outage.
//!
//! Delivery decides which events are handed over and when. It does not depend on the kind of queue.
//! A batch is handed over when its oldest event has waited for [`OverflowPolicy::after_ms`], when
//! it would otherwise be given up, dropped or displaced, and when its request would be rejected
//! because the pending bytes of its project are used up.

use super::batch::{Batch, event_cost};
use super::retry::{Failure, RetryPlan};
use super::{Ack, CalloutId, Delivery, EventCounts, WaiterId};
use crate::keen::bulk::Event;
use std::mem::take;

/// Maximum number of concurrent handovers.
const MAX_HANDOVERS: usize = 4;
/// Events of a project are handed over at most this often: each handover is a message that costs
/// money, and a message has room for many events.
const HANDOVER_INTERVAL_MS: u64 = 50;
/// Longest pause after failed handovers.
const BACKOFF_MAX_MS: u64 = 5_000;
/// Minimum time limit of a callout to Keen, however old its events are.
pub(super) const CALLOUT_MIN_MS: u64 = 500;

/// When and how events are handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverflowPolicy {
    /// How long an event waits for Keen before it is handed over.
    pub after_ms: u64,
    /// The largest [`Handover::body`].
    pub max_body_bytes: usize,
    /// Time limit of one handover.
    pub timeout_ms: u64,
    /// Events for a destination that rejects everything are not handed over.
    pub reject_misconfigured: bool,
}

/// Events to store in the queue.
#[derive(Debug, PartialEq, Eq)]
pub struct Handover {
    /// The id to settle it with.
    pub id: CalloutId,
    /// Index of the configuration's destination.
    pub destination_index: usize,
    /// The events as a bulk request's body.
    pub body: Vec<u8>,
    /// How long it may take.
    pub timeout_ms: u64,
}

/// The outcome of a handover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandoverOutcome {
    /// The queue has stored the events.
    Stored,
    /// The queue is unavailable.
    Failed,
    /// The queue refuses these events permanently.
    Refused,
}

/// The result of a handover, for metrics and logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HandoverReport {
    /// Index of the configuration's destination.
    pub destination_index: usize,
    /// Number of events that the queue has stored.
    pub overflowed: u64,
    /// Number of events that wait for Keen again.
    pub returned: u64,
}

/// A handover in flight.
#[derive(Debug)]
pub(super) struct HandoverInFlight {
    id: CalloutId,
    destination_index: usize,
    batch: Batch,
}

/// The state of handing over.
#[derive(Debug)]
pub(super) struct Overflow {
    policy: OverflowPolicy,
    failures: u32,
    retry_at_ms: u64,
    next_project: usize,
}

impl Delivery {
    /// Enables handing over. A quarter of the pending bytes is then reserved for requests that go
    /// to the queue at once.
    pub fn enable_overflow(&mut self, policy: OverflowPolicy) {
        self.overflow = Some(Overflow { policy, failures: 0, retry_at_ms: 0, next_project: 0 });
    }

    /// Pending bytes above which a project gets no more than its share.
    pub(super) fn soft_limit(&self) -> usize {
        let limit = self.settings.max_pending_bytes;
        if self.overflow.is_some() { limit.saturating_sub(limit >> 2) } else { limit }
    }

    /// The policy, if the queue is not known to be unavailable.
    pub(super) fn open_overflow(&self, now: u64) -> Option<OverflowPolicy> {
        self.overflow.as_ref().filter(|o| now >= o.retry_at_ms).map(|overflow| overflow.policy)
    }

    /// Whether to hand over a failed batch instead of following `plan`, which would retry it at
    /// `retry_at`.
    pub(super) fn is_handed_over(
        &self,
        plan: RetryPlan,
        batch: &Batch,
        failure: Failure,
        now: u64,
        retry_at: u64,
    ) -> bool {
        let Some(policy) = self.open_overflow(now).filter(|_| !batch.is_unstorable) else {
            return false;
        };
        let is_rejected = matches!(failure, Failure::Misconfigured | Failure::Blocked);
        let is_kept = match plan {
            RetryPlan::DropRejected => false,
            _ => !(is_rejected && policy.reject_misconfigured),
        };
        let is_due = matches!(plan, RetryPlan::GiveUpWaiters | RetryPlan::Drop)
            || retry_at >= batch.since_ms.saturating_add(policy.after_ms)
            || self.drain_deadline_ms.is_some();
        is_kept && is_due
    }

    /// Schedules the handover of a request's events, which would otherwise be rejected.
    pub(super) fn push_handover<'e>(
        &mut self,
        waiter: Option<WaiterId>,
        events: impl Iterator<Item = Event<'e>>,
        now: u64,
    ) {
        let mut batches: Vec<Option<Batch>> = self.projects.iter().map(|_| None).collect();
        for Event { destination, collection, json } in events {
            self.charge(destination, event_cost(collection, json));
            if let Some(batch) = batches.get_mut(destination) {
                let batch = batch.get_or_insert_default();
                batch.since_ms = now;
                batch.push(waiter, collection, json);
            }
        }
        for (project, batch) in self.projects.iter_mut().zip(batches) {
            project.handover.extend(batch);
        }
    }

    /// Returns the next events to store in the queue, if any. Call it until there are none.
    pub fn next_handover(&mut self, now: u64) -> Option<Handover> {
        let policy = self.open_overflow(now)?;
        if self.handovers.len() >= MAX_HANDOVERS {
            return None;
        }
        let mut next = self.overflow.as_ref()?.next_project;
        for _ in 0..self.active_projects.len() {
            let index = self.active_projects.first_from(next)?;
            next = index.saturating_add(1);
            if let Some(handover) = self.next_handover_for(index, policy, now) {
                self.overflow.as_mut()?.next_project = next;
                return Some(handover);
            }
        }
        None
    }

    fn next_handover_for(
        &mut self,
        destination_index: usize,
        policy: OverflowPolicy,
        now: u64,
    ) -> Option<Handover> {
        loop {
            let (draining, soft_limit) = (self.drain_deadline_ms.is_some(), self.soft_limit());
            let share = soft_limit.checked_div(self.active_projects.len()).unwrap_or(soft_limit);
            let is_above = self.pending_bytes > soft_limit;
            let project = self.projects.get_mut(destination_index)?;
            if now < project.next_handover_ms && !is_above && !draining {
                return None;
            }
            if project.handover.is_empty() {
                let is_unattended_due = draining || (is_above && project.pending_bytes > share);
                let mut left = policy.max_body_bytes;
                while left > 0
                    && let Some(bytes) =
                        project.collect_handover(now, policy.after_ms, is_unattended_due)
                {
                    left = left.saturating_sub(bytes);
                }
            }
            let mut batch = project.pop_handover(policy.max_body_bytes)?;
            if project.handover.is_empty() {
                project.next_handover_ms = now.saturating_add(HANDOVER_INTERVAL_MS);
            }
            let unconfirmed = self.discard_expired(destination_index, &mut batch);
            self.add_unreported(
                destination_index,
                EventCounts { unconfirmed, ..EventCounts::default() },
            );
            let Some(latest) = self.waiters.latest_deadline_ms(&batch) else { continue };
            let unstorable = batch.take_larger_than(policy.max_body_bytes);
            if !unstorable.is_empty() {
                self.return_batch(destination_index, unstorable, true);
            }
            if batch.is_empty() {
                continue;
            }
            if let Some(rest) = batch.split_off(policy.max_body_bytes) {
                self.projects.get_mut(destination_index)?.handover.push_front(rest);
            }
            let id = self.next_callout_id();
            let timeout_ms = latest.saturating_sub(now).clamp(1, policy.timeout_ms);
            let body = batch.to_bulk_body();
            self.handovers.push(HandoverInFlight { id, destination_index, batch });
            return Some(Handover { id, destination_index, body, timeout_ms });
        }
    }

    /// Settles a handover's events, or returns them to wait for Keen. Acks follow from
    /// [`Delivery::pop_ack`].
    pub fn settle_handover(
        &mut self,
        handover: CalloutId,
        outcome: HandoverOutcome,
        now: u64,
    ) -> HandoverReport {
        let Some(index) = self.handovers.iter().position(|in_flight| in_flight.id == handover)
        else {
            return HandoverReport::default();
        };
        let HandoverInFlight { destination_index, batch, .. } = self.handovers.swap_remove(index);
        let events = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let report = HandoverReport { destination_index, ..HandoverReport::default() };
        if let Some(overflow) = &mut self.overflow {
            overflow.failures = match outcome {
                HandoverOutcome::Failed => overflow.failures.saturating_add(1),
                _ => 0,
            };
            if outcome == HandoverOutcome::Failed {
                let pause = self.backoff.pause_ms(overflow.failures, BACKOFF_MAX_MS);
                overflow.retry_at_ms = now.saturating_add(pause);
            }
        }
        if outcome == HandoverOutcome::Failed {
            self.return_all();
        }
        if outcome == HandoverOutcome::Stored {
            self.waiters.settle_batch(&batch, Ack::Delivered);
            self.release(destination_index, batch.pending_cost());
            return HandoverReport { overflowed: events, ..report };
        }
        self.return_batch(destination_index, batch, outcome == HandoverOutcome::Refused);
        HandoverReport { returned: events, ..report }
    }

    /// Returns all scheduled handovers to wait for Keen, because the queue is unavailable.
    fn return_all(&mut self) {
        for index in 0..self.projects.len() {
            let handover = self.projects.get_mut(index).map(|project| take(&mut project.handover));
            for batch in handover.into_iter().flatten().rev() {
                self.return_batch(index, batch, false);
            }
        }
    }

    /// Removes the batch of a handover in flight. The handover continues, but no longer settles
    /// events of its batch.
    pub(super) fn displace_handover(
        &mut self,
        destination_index: usize,
        unattended: bool,
    ) -> Option<Batch> {
        let mut handovers = self.handovers.iter_mut();
        let found = handovers.find(|handover| {
            handover.destination_index == destination_index
                && !handover.batch.is_empty()
                && !(unattended && handover.batch.has_waiters())
        });
        found.map(|handover| take(&mut handover.batch))
    }

    /// Returns a batch to wait for Keen, in parts that fit into a callout.
    fn return_batch(&mut self, destination_index: usize, mut batch: Batch, is_unstorable: bool) {
        batch.is_unstorable |= is_unstorable;
        let Some(project) = self.projects.get_mut(destination_index) else { return };
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            let fits = part.len() <= self.settings.max_batch_events
                && part.bytes() <= self.settings.max_batch_bytes;
            if part.len() > 1 && !fits {
                // Push the second half first, since each part is put in front of the previous one.
                let (first, second) = part.split();
                parts.extend([first, second]);
            } else if part.has_waiters() {
                project.push_front(part, false);
            } else if !part.is_empty() {
                project.park(part);
            }
        }
    }

    /// Notes that Keen has accepted events from the queue for a destination, so it is up again.
    pub fn on_destination_up(&mut self, destination_index: usize, now: u64) {
        if let Some(project) = self.projects.get_mut(destination_index).filter(|p| p.is_unhealthy())
        {
            project.on_success(true, now);
            self.count_in_flight(destination_index);
        }
    }

    /// Whether events from the queue may be sent for a destination: it is healthy, and none of its
    /// own events waits for a retry, a handover or a free callout. An unhealthy destination may be
    /// tried while it has no events of its own.
    #[must_use]
    pub fn is_caught_up(&self, destination_index: usize, now: u64) -> bool {
        self.healthy_in_flight < self.settings.max_in_flight
            && self.projects.get(destination_index).is_some_and(|project| project.is_caught_up(now))
    }
}
