//! The waiters, and the acks for them. Each waiter gets one ack: when its last event has settled,
//! and at its deadline at the latest.

use super::batch::Batch;
use super::{Ack, WaiterId};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

#[derive(Debug)]
struct Waiter {
    deadline_ms: u64,
    /// Events that have not ended yet.
    unsettled_events: usize,
    /// The ack that it gets once the remaining events have settled. A project that fails does not
    /// delay the events of another.
    ack: Ack,
    /// Its client is still connected. The events of a disconnected client are still delivered.
    connected: bool,
}

/// The waiters that have no ack yet, and the acks that have not been taken.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    by_id: FxHashMap<WaiterId, Waiter>,
    /// Ordered by deadline, since all waiters wait equally long.
    deadlines: VecDeque<(u64, WaiterId)>,
    acks: VecDeque<(WaiterId, Ack)>,
}

impl Waiters {
    /// Adds a waiter of that many events. No later waiter may have an earlier deadline.
    pub(super) fn add(&mut self, waiter: WaiterId, events: usize, deadline_ms: u64) {
        let state =
            Waiter { deadline_ms, unsettled_events: events, ack: Ack::Delivered, connected: true };
        self.by_id.insert(waiter, state);
        self.deadlines.push_back((deadline_ms, waiter));
        if self.deadlines.len() > self.by_id.len().saturating_mul(2).saturating_add(1024) {
            // A waiter that waits long may precede many that have ended.
            self.deadlines.retain(|(_, waiter)| self.by_id.contains_key(waiter));
        }
    }

    /// Whether the waiter has no ack yet.
    pub(super) fn contains(&self, waiter: WaiterId) -> bool {
        self.by_id.contains_key(&waiter)
    }

    /// Returns the deadline of a waiter that has no ack yet.
    pub(super) fn deadline_ms(&self, waiter: WaiterId) -> Option<u64> {
        self.by_id.get(&waiter).map(|state| state.deadline_ms)
    }

    /// Returns the latest deadline of a batch's waiters: never, if an event has no waiter. `None` if
    /// the batch is empty.
    pub(super) fn latest_deadline_ms(&self, batch: &Batch) -> Option<u64> {
        let deadline =
            |waiter: Option<WaiterId>| waiter.map_or(Some(u64::MAX), |w| self.deadline_ms(w));
        batch.runs().filter_map(|(waiter, _, _)| deadline(waiter)).max()
    }

    /// Settles events of a waiter. Its ack is the worst of all its events.
    pub(super) fn settle(&mut self, waiter: Option<WaiterId>, events: usize, ack: Ack) {
        let Some((waiter, state)) = waiter.and_then(|w| Some((w, self.by_id.get_mut(&w)?))) else {
            return;
        };
        state.ack = state.ack.max(ack);
        state.unsettled_events = state.unsettled_events.saturating_sub(events);
        if state.unsettled_events == 0 {
            let ack = state.ack;
            self.acknowledge(waiter, ack);
        }
    }

    /// Settles the events of a batch's waiters with `ack`. Returns the number of these events.
    pub(super) fn settle_batch(&mut self, batch: &Batch, ack: Ack) -> u64 {
        for (waiter, _, count) in batch.runs() {
            self.settle(waiter, count, ack);
        }
        batch.count(true)
    }

    fn acknowledge(&mut self, waiter: WaiterId, ack: Ack) {
        if self.by_id.remove(&waiter).is_some_and(|state| state.connected) {
            self.acks.push_back((waiter, ack));
        }
    }

    /// Acknowledges the waiters whose deadline is not after `until_ms`. Returns how many.
    pub(super) fn expire(&mut self, until_ms: u64) -> u64 {
        let mut expired = 0_u64;
        while let Some(&(deadline, waiter)) = self.deadlines.front() {
            let state = self.by_id.get(&waiter).filter(|state| state.deadline_ms == deadline);
            let ack = state.map(|state| state.ack.max(Ack::Unconfirmed));
            if ack.is_some() && deadline > until_ms {
                break;
            }
            self.deadlines.pop_front();
            if let Some(ack) = ack {
                expired = expired.saturating_add(1);
                self.acknowledge(waiter, ack);
            }
        }
        expired
    }

    /// Handles the disconnection of a waiter's client: it gets no ack.
    pub(super) fn disconnect(&mut self, waiter: WaiterId) {
        if let Some(state) = self.by_id.get_mut(&waiter) {
            state.connected = false;
        }
    }

    pub(super) fn pop_ack(&mut self) -> Option<(WaiterId, Ack)> {
        self.acks.pop_front()
    }

    /// Returns the number of acks that have not been taken.
    pub(super) fn ack_count(&self) -> usize {
        self.acks.len()
    }

    /// Whether there is neither a waiter nor an ack.
    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty() && self.acks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ack_is_the_worst_of_a_waiters_events_and_comes_with_the_last() {
        let mut waiters = Waiters::default();
        waiters.add(1, 3, 100);
        waiters.settle(Some(1), 1, Ack::Delivered);
        waiters.settle(Some(1), 1, Ack::Unconfirmed);
        assert_eq!(waiters.pop_ack(), None);
        waiters.settle(Some(1), 1, Ack::Delivered);
        assert_eq!(waiters.pop_ack(), Some((1, Ack::Unconfirmed)));
        assert!(waiters.is_empty());
    }

    #[test]
    fn waiter_that_expires_or_disconnects_gets_at_most_one_ack() {
        let mut waiters = Waiters::default();
        waiters.add(1, 1, 100);
        waiters.add(2, 1, 100);
        waiters.disconnect(2);
        assert_eq!(waiters.expire(99), 0);
        assert_eq!(waiters.expire(100), 2);
        for waiter in [1, 2] {
            waiters.settle(Some(waiter), 1, Ack::Delivered);
        }
        assert_eq!(waiters.pop_ack(), Some((1, Ack::Unconfirmed)));
        assert!(waiters.is_empty());
    }

    #[test]
    fn deadlines_of_settled_waiters_are_freed() {
        let mut waiters = Waiters::default();
        waiters.add(1, 1, 100);
        for waiter in 2..20_000 {
            waiters.add(waiter, 1, 100);
            waiters.settle(Some(waiter), 1, Ack::Delivered);
        }
        assert!(waiters.deadlines.len() < 2_000, "{}", waiters.deadlines.len());
    }
}
