//! Events of many clients that go to Keen in one request, stored in the request's format.

use super::{EVENT_OVERHEAD, WaiterId, bulk};
use std::collections::BTreeMap;

/// Maximum number of collections whose buffers a delivered batch passes on to the next one.
const MAX_RECYCLED_COLLECTIONS: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Collections by name, which is their order in the request.
    collections: BTreeMap<Box<str>, Collection>,
    events: usize,
    /// Bytes of the events and the names of their collections.
    bytes: usize,
    /// The part of [`Batch::pending_cost`] for events without a waiter.
    unattended_cost: usize,
    /// Number of waiters of its events. A waiter whose events are not consecutive counts more than
    /// once.
    distinct_waiters: usize,
    last_waiter: Option<WaiterId>,
    /// When its oldest event was submitted.
    pub(super) since_ms: u64,
    /// Number of callouts made with it.
    pub(super) attempts: u32,
    /// Number of successful callouts of its project when it first failed. `None`: it has not
    /// failed.
    pub(super) successes_at_failure: Option<u64>,
    /// It was parked although none of its events is known to be bad. Other such batches may be
    /// merged into it.
    pub(super) is_mergeable: bool,
    /// The overflow queue has refused it.
    pub(super) is_unstorable: bool,
}

/// Events of one collection.
#[derive(Debug, Default)]
struct Collection {
    /// The events as the request has them, separated by commas.
    text: Vec<u8>,
    events: Vec<Event>,
}

#[derive(Debug, Clone, Copy)]
struct Event {
    /// `None` if the client has already been answered.
    waiter: Option<WaiterId>,
    /// Offset of the event's end in its collection's text.
    end: usize,
}

impl Collection {
    fn push(&mut self, waiter: Option<WaiterId>, event: &[u8]) {
        if !self.events.is_empty() {
            self.text.push(b',');
        }
        self.text.extend_from_slice(event);
        self.events.push(Event { waiter, end: self.text.len() });
    }

    fn heap_bytes(&self) -> usize {
        let events = self.events.capacity().saturating_mul(size_of::<Event>());
        self.text.capacity().saturating_add(events)
    }

    fn events(&self) -> impl Iterator<Item = (Option<WaiterId>, &[u8])> {
        let starts =
            std::iter::once(0).chain(self.events.iter().map(|event| event.end.saturating_add(1)));
        let text =
            |(start, event): (usize, &Event)| self.text.get(start..event.end).unwrap_or_default();
        starts.zip(&self.events).map(move |each| (each.1.waiter, text(each)))
    }
}

/// Returns the bytes that an event adds to the pending bytes.
pub(super) fn event_cost(collection: &str, event: &[u8]) -> usize {
    collection.len().saturating_add(event.len()).saturating_add(EVENT_OVERHEAD)
}

/// Returns the maximum bytes that an event adds to a stored body. It may be the first of its
/// collection. A character that the overflow queue does not accept takes 6 bytes there instead of
/// 3.
fn stored_bytes(collection: &str, event: &[u8]) -> usize {
    // Quotes and brackets of the collection, whose name may need escapes, and commas.
    let name = collection.len().saturating_mul(2).saturating_add(8);
    let escapes = noncharacters(event).saturating_mul(3);
    name.saturating_add(event.len()).saturating_add(escapes)
}

/// Counts U+FFFE and U+FFFF in UTF-8 text.
fn noncharacters(text: &[u8]) -> usize {
    text.windows(3).filter(|bytes| matches!(bytes, [0xef, 0xbf, 0xbe | 0xbf])).count()
}

impl Batch {
    pub(crate) fn len(&self) -> usize {
        self.events
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Whether it reuses the buffers of a delivered batch.
    pub(super) fn is_recycled(&self) -> bool {
        !self.collections.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn distinct_waiters(&self) -> usize {
        self.distinct_waiters
    }

    pub(super) fn has_waiters(&self) -> bool {
        self.distinct_waiters > 0
    }

    /// Returns the bytes that the batch adds to the pending bytes.
    pub(super) fn pending_cost(&self) -> usize {
        self.bytes.saturating_add(self.events.saturating_mul(EVENT_OVERHEAD))
    }

    /// Returns the bytes that its events without a waiter add to the pending bytes.
    pub(super) fn unattended_cost(&self) -> usize {
        self.unattended_cost
    }

    pub(crate) fn push(&mut self, waiter: Option<WaiterId>, collection: &str, event: &[u8]) {
        self.events = self.events.saturating_add(1);
        self.bytes = self.bytes.saturating_add(collection.len()).saturating_add(event.len());
        if waiter.is_none() {
            self.unattended_cost =
                self.unattended_cost.saturating_add(event_cost(collection, event));
        } else if waiter != self.last_waiter {
            self.distinct_waiters = self.distinct_waiters.saturating_add(1);
            self.last_waiter = waiter;
        }
        match self.collections.get_mut(collection) {
            Some(found) => found.push(waiter, event),
            None => self.collections.entry(collection.into()).or_default().push(waiter, event),
        }
    }

    /// Adds the events of another batch.
    pub(super) fn append(&mut self, other: &Self) {
        self.since_ms = self.since_ms.min(other.since_ms);
        self.attempts = self.attempts.max(other.attempts);
        for (name, waiter, event) in other.events() {
            self.push(waiter, name, event);
        }
    }

    /// Runs of consecutive events with the same waiter, in the request's order: waiter, collection,
    /// number of events.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (Option<WaiterId>, &str, usize)> {
        self.collections.iter().flat_map(|(name, collection)| {
            let runs = collection.events.chunk_by(|a, b| a.waiter == b.waiter);
            runs.filter_map(|run| Some((run.first()?.waiter, name.as_ref(), run.len())))
        })
    }

    /// Returns the number of its events with a waiter (`attended`), or without one.
    pub(super) fn count(&self, attended: bool) -> u64 {
        let runs = self.runs().filter(|(waiter, _, _)| waiter.is_some() == attended);
        let count = runs.fold(0_usize, |sum, (_, _, count)| sum.saturating_add(count));
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// Removes the events for whose waiter `retain` is false.
    pub(super) fn retain_waiters(&mut self, retain: impl Fn(Option<WaiterId>) -> bool) {
        if !self.runs().all(|(waiter, _, _)| retain(waiter)) {
            self.retain_into_new(retain);
        }
    }

    /// Removes the events whose flag is false. Flags are in the request's order.
    pub(super) fn retain_by_flag(&mut self, flags: &[bool]) {
        let mut flags = flags.iter();
        self.retain_into_new(|_| flags.next().copied().unwrap_or(false));
    }

    /// Removes the events without a waiter, and returns them.
    pub(super) fn take_unattended(&mut self) -> Self {
        if !self.has_waiters() {
            return std::mem::take(self);
        }
        let mut unattended = self.empty_copy();
        for (name, waiter, event) in self.events().filter(|(_, waiter, _)| waiter.is_none()) {
            unattended.push(waiter, name, event);
        }
        self.retain_waiters(|waiter| waiter.is_some());
        unattended
    }

    /// Copies the retained events into new buffers, so that a batch occupies no more than it is
    /// charged for.
    fn retain_into_new(&mut self, mut retain: impl FnMut(Option<WaiterId>) -> bool) {
        let mut copy = self.empty_copy();
        for (name, waiter, event) in self.events() {
            if retain(waiter) {
                copy.push(waiter, name, event);
            }
        }
        *self = copy;
    }

    /// Returns a batch without events, with the same history.
    fn empty_copy(&self) -> Self {
        Self {
            since_ms: self.since_ms,
            attempts: self.attempts,
            successes_at_failure: self.successes_at_failure,
            is_unstorable: self.is_unstorable,
            ..Self::default()
        }
    }

    /// Returns the collections with events. A recycled batch may have buffers of collections
    /// without events.
    fn non_empty_collections(&self) -> impl Iterator<Item = (&str, &Collection)> {
        let all = self.collections.iter().map(|(name, collection)| (name.as_ref(), collection));
        all.filter(|(_, collection)| !collection.events.is_empty())
    }

    fn events(&self) -> impl Iterator<Item = (&str, Option<WaiterId>, &[u8])> {
        self.collections.iter().flat_map(|(name, collection)| {
            collection.events().map(move |(waiter, event)| (name.as_ref(), waiter, event))
        })
    }

    /// Returns an empty batch. It reuses this one's buffers if they have at most `max_bytes` in at
    /// most [`MAX_RECYCLED_COLLECTIONS`].
    pub(super) fn into_recycled(mut self, max_bytes: usize) -> Self {
        let bytes =
            self.collections.values().map(Collection::heap_bytes).fold(0, usize::saturating_add);
        if bytes > max_bytes || self.collections.len() > MAX_RECYCLED_COLLECTIONS {
            return Self::default();
        }
        for collection in self.collections.values_mut() {
            collection.text.clear();
            collection.events.clear();
        }
        Self { collections: self.collections, ..Self::default() }
    }

    pub(crate) fn to_bulk_body(&self) -> Vec<u8> {
        let collections = self
            .non_empty_collections()
            .map(|(name, collection)| (name, collection.text.as_slice()));
        // Commas, and the quotes and brackets of each collection.
        let marks = self.events.saturating_add(self.collections.len().saturating_mul(16));
        bulk::body(collections, self.bytes.saturating_add(marks).saturating_add(16))
    }

    /// Returns the request's collections and how many events each has.
    pub(crate) fn expected_results(&self) -> Vec<(&str, usize)> {
        self.non_empty_collections()
            .map(|(name, collection)| (name, collection.events.len()))
            .collect()
    }

    /// Returns an upper bound of the size of [`Batch::to_bulk_body`], with [`stored_bytes`] for
    /// each event.
    pub(super) fn max_body_bytes(&self) -> usize {
        let sizes = self.events().map(|(name, _, event)| stored_bytes(name, event));
        sizes.fold(2, usize::saturating_add)
    }

    /// Removes and returns the events that do not fit into a body of `max_bytes` even alone.
    pub(super) fn take_larger_than(&mut self, max_bytes: usize) -> Self {
        let is_larger =
            |name: &str, event: &[u8]| stored_bytes(name, event).saturating_add(2) > max_bytes;
        let mut larger = self.empty_copy();
        if !self.events().any(|(name, _, event)| is_larger(name, event)) {
            return larger;
        }
        let mut rest = self.empty_copy();
        for (name, waiter, event) in self.events() {
            let to = if is_larger(name, event) { &mut larger } else { &mut rest };
            to.push(waiter, name, event);
        }
        *self = rest;
        larger
    }

    /// Cuts the batch to a body of `max_bytes`, and returns the rest. `None` if it fits. Each event
    /// alone must fit.
    pub(super) fn split_off(&mut self, max_bytes: usize) -> Option<Self> {
        if self.max_body_bytes() <= max_bytes {
            return None;
        }
        let (mut first, mut rest) = (self.empty_copy(), self.empty_copy());
        let mut bytes = 2_usize;
        for (name, waiter, event) in self.events() {
            bytes = bytes.saturating_add(stored_bytes(name, event));
            let to = if bytes <= max_bytes { &mut first } else { &mut rest };
            to.push(waiter, name, event);
        }
        *self = first;
        Some(rest)
    }

    /// Returns its two halves, each with its history.
    pub(crate) fn split(&self) -> (Self, Self) {
        let (mut first, mut second) = (self.empty_copy(), self.empty_copy());
        for (index, (name, waiter, event)) in self.events().enumerate() {
            let half = if index < self.events >> 1 { &mut first } else { &mut second };
            half.push(waiter, name, event);
        }
        (first, second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_of_a_batch_keeps_its_history() {
        let mut batch = Batch { since_ms: 5, attempts: 3, ..Batch::default() };
        batch.successes_at_failure = Some(7);
        batch.is_unstorable = true;
        for event in ["1", "2", "3"] {
            batch.push(None, "a", event.as_bytes());
        }
        let (first, second) = batch.split();
        assert_eq!((first.len(), second.len()), (1, 2));
        for half in [first, second] {
            assert_eq!((half.since_ms, half.attempts), (5, 3));
            assert_eq!((half.successes_at_failure, half.is_unstorable), (Some(7), true));
        }
    }

    #[test]
    fn append_keeps_the_older_time_and_the_more_attempts() {
        let mut batch = Batch { since_ms: 5, attempts: 1, ..Batch::default() };
        batch.push(None, "a", b"1");
        let mut other = Batch { since_ms: 3, attempts: 2, ..Batch::default() };
        other.push(Some(1), "b", b"2");
        batch.append(&other);
        assert_eq!((batch.since_ms, batch.attempts, batch.len()), (3, 2, 2));
        assert_eq!(batch.to_bulk_body(), br#"{"a":[1],"b":[2]}"#);
        assert_eq!((batch.count(true), batch.count(false)), (1, 1));
    }

    #[test]
    fn split_off_gives_bodies_within_the_bound() {
        let mut batch = Batch::default();
        for n in 0..100 {
            let event = "\u{ffff}".repeat(n);
            batch.push(None, if n % 2 == 0 { "a" } else { "b\"" }, event.as_bytes());
        }
        let larger = batch.take_larger_than(400);
        assert!(!larger.is_empty());
        let mut events = larger.len();
        let mut rest = Some(batch);
        while let Some(mut batch) = rest {
            rest = batch.split_off(400);
            assert!(!batch.is_empty());
            let body = String::from_utf8(batch.to_bulk_body()).unwrap_or_default();
            assert!(body.replace('\u{ffff}', "\\uffff").len() <= 400, "{}", body.len());
            events += batch.len();
        }
        assert_eq!(events, 100);
    }

    #[test]
    fn take_larger_than_leaves_an_event_that_fits_exactly() {
        for (max_bytes, larger) in [(22, 0), (21, 1)] {
            let mut batch = Batch::default();
            batch.push(None, "a", b"1234567890");
            assert_eq!(batch.max_body_bytes(), 22);
            assert_eq!(batch.take_larger_than(max_bytes).len(), larger);
        }
    }

    #[test]
    fn into_recycled_keeps_buffers_up_to_the_bound() {
        let batch = || {
            let mut batch = Batch::default();
            batch.push(None, "a", &[b'1'; 100]);
            batch
        };
        let bytes = batch().collections.values().map(Collection::heap_bytes).sum::<usize>();
        assert!(batch().into_recycled(bytes).is_recycled());
        assert!(!batch().into_recycled(bytes - 1).is_recycled());
    }
}
