//! The pending events of one Keen project: batches that fill, wait, retry or are parked.

use super::batch::{Batch, event_cost};
use super::{EventCounts, WaiterId};
use crate::config::DeliverySettings;
use std::collections::VecDeque;
use std::mem::take;

/// While a callout is in flight, the next one leaves only with events that have lingered this long:
/// one fuller callout costs less than two.
const LINGER_MIN_MS: u64 = 10;
/// Events linger at most this long, however slow Keen is.
const LINGER_MAX_MS: u64 = 2_000;
/// After a callout settles, the next one waits at most this long for the clients just answered:
/// they usually send again at once, and one callout is cheaper than two.
const SIBLING_WAIT_MS: u64 = 4;
/// Consecutive splits without a success that need no pause. They find one event among 2^12. The
/// bound keeps an upstream that fails on everything from getting its batches event by event.
const MAX_CONSECUTIVE_SPLITS: u32 = 12;
/// After [`MAX_CONSECUTIVE_SPLITS`], one more split is allowed each time this has passed.
const SPLIT_INTERVAL_MS: u64 = 5_000;
/// Maximum number of batches searched for one that the overflow queue accepts.
const MAX_SCANNED_BATCHES: usize = 64;
/// Consecutive requests of a single event that are rejected as a whole with an error name. After
/// this many without a success the upstream counts as rejecting everything, and its error names are
/// not about an event.
const MAX_CONSECUTIVE_REJECTIONS: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct ProjectQueue {
    /// The batch that new events join.
    pub(super) filling: Batch,
    filling_since_ms: u64,
    /// Full, split and failed batches, in order.
    sealed: VecDeque<Batch>,
    /// Batches without waiters that failed more often than `maxRetries`. They retry apart from the
    /// others, which they do not delay.
    parked: VecDeque<Batch>,
    parked_until_ms: u64,
    parked_failures: u32,
    /// Batches for the overflow queue.
    pub(super) handover: VecDeque<Batch>,
    /// When further batches are handed over: those of one interval go in few messages.
    pub(super) next_handover_ms: u64,
    pub(super) in_flight: usize,
    /// How many of `in_flight` count against `maxInFlight`: none while the project is unhealthy.
    pub(super) counted_in_flight: usize,
    /// Bytes of its events, callouts in flight included.
    pub(super) pending_bytes: usize,
    /// The part of `pending_bytes` that is queued and has no waiter.
    unattended_bytes: usize,
    /// Consecutive failed callouts, not counting those of parked batches.
    failures: u32,
    /// Backoff: no callout leaves before this time.
    retry_at_ms: u64,
    /// Keen's `Retry-After`: no callout leaves before this time, even after a success.
    throttled_until_ms: u64,
    /// Keen, or a proxy before it, rejected the project's last callout as a whole.
    rejecting: bool,
    consecutive_splits: u32,
    last_split_ms: u64,
    consecutive_rejections: u32,
    successes: u64,
    callout_latency_ewma_ms: u64,
    pub(super) siblings: CommitSiblings,
    /// Events that ended outside of a callout, since the last report.
    pub(super) unreported: EventCounts,
}

/// Clients that were answered a moment ago and are expected to send again (PostgreSQL's
/// `commit_siblings`).
#[derive(Debug, Default)]
pub(super) struct CommitSiblings {
    expected: usize,
    deadline_ms: u64,
}

impl CommitSiblings {
    /// `answered`: waiters just answered. `queued`: waiters that have sent already. An eighth of
    /// them may be missing.
    pub(super) fn expect(&mut self, answered: usize, queued: usize, now: u64) {
        let all = answered.saturating_add(queued);
        *self = Self {
            expected: all.saturating_sub(all >> 3),
            deadline_ms: now.saturating_add(SIBLING_WAIT_MS),
        };
    }

    fn still_waiting(&self, queued: usize, now: u64) -> bool {
        queued < self.expected && now < self.deadline_ms
    }
}

/// How many callouts a worker may make at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Concurrency {
    /// `maxInFlight`.
    pub(super) limit: usize,
    /// Fewer than `limit` are in flight. A healthy project may use more than its share then.
    pub(super) available: bool,
    /// A project's fair share of `limit`, at least 1. It is always available.
    pub(super) share: usize,
}

impl ProjectQueue {
    /// Whether a callout is due. The callouts of other projects never delay a project's own share.
    pub(super) fn has_due_batch(&self, now: u64, concurrency: Concurrency) -> bool {
        let may_exceed_share = concurrency.available && !self.is_unhealthy();
        (self.in_flight < concurrency.share || may_exceed_share)
            && now >= self.throttled_until_ms
            && (self.has_due_parked(now) || self.has_due_fresh(now, concurrency.limit))
    }

    fn has_due_fresh(&self, now: u64, limit: usize) -> bool {
        let lingered = if self.in_flight == 0 {
            !self.siblings.still_waiting(self.filling.distinct_waiters(), now)
        } else {
            now >= self.filling_since_ms.saturating_add(self.linger_ms(limit))
        };
        now >= self.retry_at_ms
            && (!self.sealed.is_empty() || (lingered && !self.filling.is_empty()))
    }

    fn has_due_parked(&self, now: u64) -> bool {
        now >= self.parked_until_ms && !self.parked.is_empty()
    }

    /// Whether a batch waits for siblings and leaves within milliseconds, so that a timer is
    /// needed.
    pub(super) fn is_lingering(&self, now: u64) -> bool {
        !self.filling.is_empty()
            && self.in_flight == 0
            && self.siblings.still_waiting(self.filling.distinct_waiters(), now)
    }

    /// Returns how long events linger. The more callouts are in flight, the longer: this spreads
    /// them over the duration of one. Otherwise an event that arrives just after the last available
    /// callout left would wait for one to end, and then for its own.
    fn linger_ms(&self, limit: usize) -> u64 {
        let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let whole = number(limit).saturating_mul(number(limit.saturating_sub(1)));
        let in_flight = number(self.in_flight);
        let share =
            self.callout_latency_ewma_ms.saturating_mul(in_flight).checked_div(whole).unwrap_or(0);
        share.clamp(LINGER_MIN_MS, LINGER_MAX_MS)
    }

    /// Removes and returns the batch to send if one is due, and whether it was parked. Parked
    /// batches have separate pauses.
    pub(super) fn pop_batch(
        &mut self,
        now: u64,
        parked_timeout_ms: u64,
        concurrency: Concurrency,
    ) -> Option<(Batch, bool)> {
        if !self.has_due_batch(now, concurrency) {
            return None;
        }
        let parked = self.has_due_parked(now);
        let batch = if parked {
            // Only one parked batch is retried at a time.
            self.parked_until_ms = now.saturating_add(parked_timeout_ms);
            let mut batch = self.parked.pop_front().unwrap_or_default();
            batch.is_mergeable = false;
            batch
        } else {
            self.sealed.pop_front().unwrap_or_else(|| take(&mut self.filling))
        };
        self.unattended_bytes = self.unattended_bytes.saturating_sub(batch.unattended_cost());
        Some((batch, parked))
    }

    /// Adds an event to the filling batch. `recycled`: a batch whose buffers may be used.
    pub(super) fn push(
        &mut self,
        waiter: Option<WaiterId>,
        collection: &str,
        event: &[u8],
        recycled: &mut Batch,
        now: u64,
    ) {
        if self.filling.is_empty() {
            self.filling_since_ms = now;
            if !self.filling.is_recycled() {
                self.filling = take(recycled);
            }
            self.filling.since_ms = now;
        }
        if waiter.is_none() {
            self.unattended_bytes =
                self.unattended_bytes.saturating_add(event_cost(collection, event));
        }
        self.filling.push(waiter, collection, event);
    }

    /// Seals the filling batch.
    pub(super) fn seal(&mut self) {
        self.sealed.push_back(take(&mut self.filling));
    }

    /// Puts a batch in front of the sealed or the parked ones.
    pub(super) fn push_front(&mut self, batch: Batch, parked: bool) {
        self.unattended_bytes = self.unattended_bytes.saturating_add(batch.unattended_cost());
        if parked { &mut self.parked } else { &mut self.sealed }.push_front(batch);
    }

    pub(super) fn park(&mut self, batch: Batch) {
        self.unattended_bytes = self.unattended_bytes.saturating_add(batch.unattended_cost());
        self.parked.push_back(batch);
    }

    /// Parks a batch that failed although none of its events is known to be bad. It is merged into
    /// the last parked one if both fit into one callout, which saves callouts after an outage of
    /// Keen.
    pub(super) fn park_merged(&mut self, mut batch: Batch, settings: &DeliverySettings) {
        let last = self.parked.back_mut().filter(|last| {
            last.is_mergeable
                && last.len().saturating_add(batch.len()) <= settings.max_batch_events
                && last.bytes().saturating_add(batch.bytes()) <= settings.max_batch_bytes
        });
        let Some(last) = last else {
            batch.is_mergeable = true;
            return self.park(batch);
        };
        self.unattended_bytes = self.unattended_bytes.saturating_add(batch.unattended_cost());
        last.append(&batch);
    }

    /// Removes and returns all queued batches.
    pub(super) fn take_all(&mut self) -> Vec<Batch> {
        self.unattended_bytes = 0;
        let queued = self.parked.drain(..).chain(self.sealed.drain(..));
        let queued = queued.chain(self.handover.drain(..));
        queued.chain([take(&mut self.filling)]).collect()
    }

    /// Removes and returns a batch of events without waiters, parked ones first. `None` if there is
    /// none.
    pub(super) fn displace_unattended(&mut self) -> Option<Batch> {
        if self.unattended_bytes == 0 {
            return None;
        }
        let batch = self.parked.pop_front().or_else(|| {
            let queued = self.sealed.iter_mut().rev().chain([&mut self.filling]);
            queued.filter(|batch| batch.unattended_cost() > 0).map(Batch::take_unattended).next()
        })?;
        self.unattended_bytes = self.unattended_bytes.saturating_sub(batch.unattended_cost());
        self.sealed.retain(|batch| !batch.is_empty());
        Some(batch)
    }

    /// Removes and returns the newest queued batch.
    pub(super) fn displace_any(&mut self) -> Option<Batch> {
        let batch = if self.filling.is_empty() {
            let queued = self.sealed.pop_back().or_else(|| self.parked.pop_back());
            let Some(queued) = queued else { return self.handover.pop_back() };
            queued
        } else {
            take(&mut self.filling)
        };
        self.unattended_bytes = self.unattended_bytes.saturating_sub(batch.unattended_cost());
        Some(batch)
    }

    /// Moves a batch to `handover`: one whose oldest event has waited for `after_ms`, or, if
    /// `is_unattended_due`, one without waiters. Returns its bytes. `None` if there is none.
    pub(super) fn collect_handover(
        &mut self,
        now: u64,
        after_ms: u64,
        is_unattended_due: bool,
    ) -> Option<usize> {
        let is_due =
            |batch: &Batch| !batch.is_unstorable && batch.since_ms.saturating_add(after_ms) <= now;
        // Batches that the overflow queue refuses may precede ones that it accepts.
        let due = |queue: &VecDeque<Batch>| queue.iter().take(MAX_SCANNED_BATCHES).position(is_due);
        let batch = if let Some(index) = due(&self.parked) {
            self.parked.remove(index)
        } else if let Some(index) = due(&self.sealed) {
            self.sealed.remove(index)
        } else if !self.filling.is_empty() && is_due(&self.filling) {
            Some(take(&mut self.filling))
        } else {
            None
        };
        let batch = if let Some(batch) = batch {
            self.unattended_bytes = self.unattended_bytes.saturating_sub(batch.unattended_cost());
            batch
        } else {
            let batch = is_unattended_due.then(|| self.displace_unattended())??;
            if batch.is_unstorable {
                self.park(batch);
                return None;
            }
            batch
        };
        let bytes = batch.max_body_bytes();
        self.handover.push_back(batch);
        Some(bytes)
    }

    /// Removes and returns a batch for the overflow queue, merged with as many of the next ones as
    /// fit into a body of `max_bytes`.
    pub(super) fn pop_handover(&mut self, max_bytes: usize) -> Option<Batch> {
        let mut batch = self.handover.pop_front()?;
        let mut bytes = batch.max_body_bytes();
        while let Some(next) = self.handover.front() {
            bytes = bytes.saturating_add(next.max_body_bytes());
            if bytes > max_bytes {
                break;
            }
            batch.append(next);
            self.handover.pop_front();
        }
        Some(batch)
    }

    /// Whether nothing waits for a retry or for the overflow queue, and it is healthy or has no
    /// events.
    pub(super) fn is_caught_up(&self, now: u64) -> bool {
        (!self.is_unhealthy() || self.pending_bytes == 0)
            && now >= self.throttled_until_ms
            && self.sealed.is_empty()
            && self.parked.is_empty()
            && self.handover.is_empty()
    }

    pub(super) fn unattended_bytes(&self) -> usize {
        self.unattended_bytes
    }

    /// Records the latency of a callout.
    pub(super) fn on_settled(&mut self, latency_ms: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        // A new value has the weight 1/4, so the average adapts within three or four callouts.
        self.callout_latency_ewma_ms =
            self.callout_latency_ewma_ms.saturating_mul(3).saturating_add(latency_ms) >> 2;
    }

    /// Keen has given results: resets backoff, splits and rejections, and revives parked batches if
    /// Keen was failing.
    pub(super) fn on_success(&mut self, parked: bool, now: u64) {
        if parked || self.failures > 0 || self.rejecting {
            self.parked_until_ms = now;
            self.parked_failures = 0;
        }
        self.failures = 0;
        self.retry_at_ms = 0;
        self.rejecting = false;
        self.consecutive_splits = 0;
        self.consecutive_rejections = 0;
        self.successes = self.successes.saturating_add(1);
    }

    /// Counts a failed callout. Returns the consecutive failures of its kind.
    pub(super) fn on_failure(&mut self, parked: bool) -> u32 {
        let failures = if parked { &mut self.parked_failures } else { &mut self.failures };
        *failures = failures.saturating_add(1);
        *failures
    }

    /// Notes that the destination, or a proxy before it, rejects everything.
    pub(super) fn on_rejecting(&mut self) {
        self.rejecting = true;
    }

    /// Whether Keen is failing or rejects everything.
    pub(super) fn is_unhealthy(&self) -> bool {
        self.failures > 0 || self.rejecting
    }

    /// Delays the retry of fresh or of parked batches. A longer pause is never cut short.
    pub(super) fn back_off_until(&mut self, retry_at_ms: u64, parked: bool) {
        if parked {
            self.parked_until_ms = retry_at_ms;
        } else {
            self.retry_at_ms = self.retry_at_ms.max(retry_at_ms);
        }
    }

    /// Honours Keen's `Retry-After`.
    pub(super) fn throttle_until(&mut self, until_ms: u64) {
        self.throttled_until_ms = self.throttled_until_ms.max(until_ms);
    }

    pub(super) fn may_split(&self, now: u64) -> bool {
        self.consecutive_splits < MAX_CONSECUTIVE_SPLITS
            || now >= self.last_split_ms.saturating_add(SPLIT_INTERVAL_MS)
    }

    pub(super) fn record_split(&mut self, now: u64) {
        self.consecutive_splits = self.consecutive_splits.saturating_add(1);
        self.last_split_ms = now;
    }

    /// Counts a named rejection of a single event. Returns whether it is about that event, and not
    /// one of an upstream that rejects everything.
    pub(super) fn record_rejection(&mut self) -> bool {
        self.consecutive_rejections = self.consecutive_rejections.saturating_add(1);
        self.consecutive_rejections <= MAX_CONSECUTIVE_REJECTIONS
    }

    pub(super) fn successes(&self) -> u64 {
        self.successes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    const CONCURRENCY: Concurrency = Concurrency { limit: 4, available: true, share: 4 };

    #[test]
    fn backoff_is_not_cut_short_by_a_smaller_one() {
        let mut project = ProjectQueue::default();
        project.push(None, "a", b"{}", &mut Batch::default(), 0);
        project.back_off_until(200, false);
        project.back_off_until(100, false);
        assert!(!project.has_due_batch(199, CONCURRENCY));
        assert!(project.has_due_batch(200, CONCURRENCY));
    }

    #[test]
    fn health_after_a_success_is_good_again() {
        for fail in [|p: &mut ProjectQueue| _ = p.on_failure(false), ProjectQueue::on_rejecting] {
            let mut project = ProjectQueue::default();
            assert!(!project.is_unhealthy());
            fail(&mut project);
            assert!(project.is_unhealthy());
            project.on_success(false, 0);
            assert!(!project.is_unhealthy());
        }
    }

    #[test]
    fn linger_grows_with_the_callouts_in_flight_and_their_latency() {
        let mut project = ProjectQueue::default();
        assert_eq!(project.linger_ms(4), LINGER_MIN_MS);
        for _ in 0..40 {
            project.on_settled(1_200);
        }
        project.in_flight = 2;
        assert!((190..=200).contains(&project.linger_ms(4)), "{}", project.linger_ms(4));
        project.in_flight = 4;
        assert!((380..=400).contains(&project.linger_ms(4)), "{}", project.linger_ms(4));
        assert_eq!(project.linger_ms(1), LINGER_MIN_MS);
    }

    #[test]
    fn pop_handover_merges_as_many_batches_as_fit() {
        let batch = || {
            let mut batch = Batch::default();
            batch.push(None, "a", b"{}");
            batch
        };
        let one = batch().max_body_bytes();
        for (max_bytes, merged) in [(one, 1), (2 * one - 1, 1), (2 * one, 2), (3 * one, 3)] {
            let mut project = ProjectQueue::default();
            project.handover.extend([batch(), batch(), batch()]);
            assert_eq!(project.pop_handover(max_bytes).unwrap().len(), merged, "{max_bytes}");
            assert_eq!(project.handover.len(), 3 - merged);
        }
    }
}
