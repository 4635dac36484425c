//! What to do with a batch that failed: retry it, split it, park it, or give it up.

use super::batch::Batch;
use super::project_queue::ProjectQueue;
use super::{Ack, Delivery, SettleReport};
use std::mem::take;

/// Longest pause before a retry while clients wait or fresh events arrive. It bounds how soon a
/// recovery of Keen is noticed.
const BACKOFF_MAX_MS: u64 = 1_000;
/// Longest pause before the retry of a parked batch.
const PARKED_BACKOFF_MAX_MS: u64 = 5_000;
/// Longest `Retry-After` that is honoured: a mistaken one must not stop a project for hours.
const RETRY_AFTER_MAX_MS: u64 = 10_000;

/// Why a batch is not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Keen is unavailable. Its `Retry-After` in milliseconds.
    Unavailable(u64),
    /// Keen failed on this batch.
    ServerError,
    /// Keen gave results, and failed on these events of the batch.
    EventsFailed,
    /// Keen rejects everything for the destination.
    Misconfigured,
    /// The request was rejected as a whole, for no known event.
    Blocked,
}

/// What to do next with a batch that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetryPlan {
    /// Acknowledge its waiters as unconfirmed, so that clients retry. Events without a waiter stay
    /// and get a new plan.
    GiveUpWaiters,
    /// Retry it apart from the other batches.
    Park,
    /// Split it and retry the halves.
    Split,
    /// Retry it unchanged, before all others.
    Requeue,
    /// Store it in the overflow queue.
    HandOver,
    /// Drop its events: the drain deadline has passed.
    Drop,
    /// Drop its only event: it is rejected repeatedly while others are accepted.
    DropRejected,
}

/// A callout that is being settled.
#[derive(Debug)]
pub(super) struct Settlement {
    pub(super) batch: Batch,
    pub(super) parked: bool,
    pub(super) now: u64,
    pub(super) report: SettleReport,
}

impl Delivery {
    /// Schedules the retry of a batch after a backoff, without the events that must not be retried.
    pub(super) fn schedule_retry(&mut self, settlement: &mut Settlement, failure: Failure) {
        let Settlement { batch, parked, now, report } = settlement;
        let (index, now) = (report.destination_index, *now);
        let Some(project) = self.projects.get_mut(index) else { return };
        if failure == Failure::EventsFailed && batch.is_empty() {
            return;
        }
        let failures = match failure {
            Failure::Unavailable(_) | Failure::ServerError => project.on_failure(*parked),
            // Keen is up, so the pause applies to this batch only.
            Failure::EventsFailed if *parked => 1,
            Failure::EventsFailed => batch.attempts.saturating_add(1),
            Failure::Misconfigured | Failure::Blocked => {
                project.on_rejecting();
                report.destination_up = Some(false);
                if *parked { project.on_failure(true) } else { 1 }
            }
        };
        let max_ms = if *parked { PARKED_BACKOFF_MAX_MS } else { BACKOFF_MAX_MS };
        let mut retry_at = now.saturating_add(self.backoff.pause_ms(failures, max_ms));
        if let Failure::Unavailable(retry_after_ms) = failure {
            let until = now.saturating_add(retry_after_ms.min(RETRY_AFTER_MAX_MS));
            project.throttle_until(until);
            retry_at = retry_at.max(until);
        }
        if *parked {
            project.back_off_until(retry_at, true);
        }
        batch.attempts = batch.attempts.saturating_add(1);
        batch.successes_at_failure.get_or_insert(project.successes());
        while !batch.is_empty() {
            let mut plan = self.plan_retry(index, batch, failure, *parked, retry_at);
            if self.is_handed_over(plan, batch, failure, now, retry_at) {
                plan = RetryPlan::HandOver;
            }
            if plan == RetryPlan::GiveUpWaiters {
                let ack = if failure == Failure::Misconfigured {
                    Ack::DestinationRejected
                } else {
                    Ack::Unconfirmed
                };
                report.unconfirmed =
                    report.unconfirmed.saturating_add(self.waiters.settle_batch(batch, ack));
                self.discard(index, batch, |_, waiter| waiter.is_some());
                continue;
            }
            let Some(project) = self.projects.get_mut(index) else { return };
            if matches!(plan, RetryPlan::Drop | RetryPlan::DropRejected) {
                report.dropped = report.dropped.saturating_add(batch.count(false));
                self.release(index, batch.pending_cost());
                return;
            }
            report.retried = plan != RetryPlan::HandOver;
            if plan == RetryPlan::HandOver {
                project.handover.push_back(take(batch));
                return;
            }
            let to_parked = *parked || plan == RetryPlan::Park;
            project.back_off_until(retry_at, to_parked);
            if plan == RetryPlan::Split {
                project.record_split(now);
                requeue_split(project, batch, to_parked);
            } else if !to_parked {
                project.push_front(take(batch), false);
            } else if *parked || failure == Failure::ServerError {
                project.park(take(batch));
            } else {
                project.park_merged(take(batch), &self.settings);
            }
            return;
        }
    }

    /// Decides what to do with a batch that failed.
    pub(super) fn plan_retry(
        &self,
        destination_index: usize,
        batch: &Batch,
        failure: Failure,
        parked: bool,
        retry_at: u64,
    ) -> RetryPlan {
        let Some(project) = self.projects.get(destination_index) else { return RetryPlan::Drop };
        let tries_left = batch.attempts <= self.settings.max_retries;
        let is_rejected = matches!(failure, Failure::Misconfigured | Failure::Blocked);
        if batch.has_waiters() {
            let mut deadlines =
                batch.runs().filter_map(|(waiter, _, _)| self.waiters.deadline_ms(waiter?));
            let in_time = deadlines.any(|deadline| deadline > retry_at);
            if is_rejected || !in_time {
                return RetryPlan::GiveUpWaiters;
            }
        }
        if !batch.has_waiters() && self.drain_deadline_ms.is_some_and(|end| end <= retry_at) {
            return RetryPlan::Drop;
        }
        let repeated = batch.attempts > 1 || !tries_left;
        let splits = match failure {
            Failure::ServerError => repeated,
            // No event is known to be the cause, so only a batch that keeps failing is split.
            Failure::Unavailable(_) | Failure::Blocked => parked,
            Failure::EventsFailed | Failure::Misconfigured => false,
        };
        if splits && batch.len() > 1 && project.may_split(retry_at) {
            return RetryPlan::Split;
        }
        if batch.has_waiters() && !tries_left {
            return RetryPlan::GiveUpWaiters;
        }
        // Others were accepted meanwhile, so this event will be rejected again.
        let others_accepted = batch.successes_at_failure.is_some_and(|n| project.successes() > n);
        if failure == Failure::Blocked && batch.len() == 1 && !tries_left && others_accepted {
            return RetryPlan::DropRejected;
        }
        if tries_left && !is_rejected { RetryPlan::Requeue } else { RetryPlan::Park }
    }
}

/// Replaces a batch by its halves, which leave next.
pub(super) fn requeue_split(project: &mut ProjectQueue, batch: &Batch, parked: bool) {
    let (first, second) = batch.split();
    project.push_front(second, parked);
    project.push_front(first, parked);
}
