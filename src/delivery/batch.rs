//! Events of many callers that go to Keen together.

use super::{EVENT_OVERHEAD, WaiterId, bulk};
use std::ops::Range;

#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    events: Vec<Event>,
    /// Calls made with it.
    pub(super) attempts: u32,
}

#[derive(Debug, Clone)]
struct Event {
    /// Who is to be told; none where the caller has been answered.
    waiter: Option<WaiterId>,
    /// A number for the collection, which another may share: numbers are sorted sooner than names.
    sorted_by: u64,
    collection: Range<usize>,
    event: Range<usize>,
}

impl Event {
    fn cost(&self) -> usize {
        self.collection.len().saturating_add(self.event.len()).saturating_add(EVENT_OVERHEAD)
    }
}

impl Batch {
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What it adds to the bytes pending.
    pub(super) fn cost(&self) -> usize {
        self.events.iter().map(Event::cost).fold(0, usize::saturating_add)
    }

    /// Makes room for so many events and bytes more.
    pub(super) fn reserve(&mut self, events: usize, bytes: usize) {
        self.events.reserve(events);
        self.bytes.reserve(bytes);
    }

    pub(super) fn push(&mut self, waiter: Option<WaiterId>, collection: &str, event: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(collection.as_bytes());
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(event);
        let sorted_by = number(collection.as_bytes());
        self.events.push(Event { waiter, sorted_by, collection: start..middle, event: middle..self.bytes.len() });
    }

    /// Whom each event's end is to be told to.
    pub(super) fn waiters(&self) -> impl Iterator<Item = Option<WaiterId>> {
        self.events.iter().map(|event| event.waiter)
    }

    /// Drops the events of which `stays` says no; gives what they cost.
    pub(super) fn keep(&mut self, stays: impl Fn(Option<WaiterId>) -> bool) -> usize {
        let before = self.cost();
        self.events.retain(|event| stays(event.waiter));
        self.shrink();
        before.saturating_sub(self.cost())
    }

    /// Keeps the events whose flag is set, flags in the order of the request; gives what the others cost.
    pub(super) fn keep_flagged(&mut self, flags: &[bool]) -> usize {
        let before = self.cost();
        let mut flags = flags.iter();
        self.events.retain(|_| flags.next().copied().unwrap_or(false));
        self.shrink();
        before.saturating_sub(self.cost())
    }

    /// Gives back the room of events dropped, where they were most of it: what a batch holds is what it is counted for.
    fn shrink(&mut self) {
        if self.cost().saturating_mul(2) < self.bytes.len() {
            *self = self.copy_of(&self.events);
        }
    }

    fn copy_of(&self, events: &[Event]) -> Self {
        let mut copy = Self { attempts: self.attempts, ..Self::default() };
        for event in events {
            let bytes = self.bytes.get(event.event.clone()).unwrap_or_default();
            copy.push(event.waiter, self.collection(event), bytes);
        }
        copy
    }

    /// The bulk request. Brings the events into the order of their collections, each caller's own order kept.
    pub(super) fn request(&mut self) -> Vec<u8> {
        let bytes = &self.bytes;
        let name = |event: &Event| bytes.get(event.collection.clone()).unwrap_or_default();
        self.events.sort_by(|a, b| a.sorted_by.cmp(&b.sorted_by).then_with(|| name(a).cmp(name(b))));
        let events =
            self.events.iter().map(|e| (self.collection(e), self.bytes.get(e.event.clone()).unwrap_or_default()));
        bulk::body(events, self.bytes.len().saturating_add(64))
    }

    /// Collections and how many events each has, as in the request.
    pub(super) fn asked(&self) -> Vec<(&str, usize)> {
        let mut asked: Vec<(&str, usize)> = Vec::new();
        for event in &self.events {
            let name = self.collection(event);
            match asked.last_mut() {
                Some((last, count)) if *last == name => *count = count.saturating_add(1),
                _ => asked.push((name, 1)),
            }
        }
        asked
    }

    /// Waiter and collection of each event, as in the request.
    pub(super) fn sorted(&self) -> impl Iterator<Item = (Option<WaiterId>, &str)> {
        self.events.iter().map(|event| (event.waiter, self.collection(event)))
    }

    /// Its two halves.
    pub(super) fn split(&self) -> (Self, Self) {
        let (first, second) = self.events.split_at(self.events.len() >> 1);
        (self.copy_of(first), self.copy_of(second))
    }

    fn collection(&self, event: &Event) -> &str {
        std::str::from_utf8(self.bytes.get(event.collection.clone()).unwrap_or_default()).unwrap_or_default()
    }
}

/// The same for the same name, and nearly always another for another.
fn number(name: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (eights, rest) = name.as_chunks::<8>();
    let mixed = eights
        .iter()
        .fold(0, |mixed: u64, eight| (mixed ^ u64::from_le_bytes(*eight)).wrapping_mul(ODD).rotate_left(29));
    rest.iter().fold(mixed, |mixed, byte| (mixed ^ u64::from(*byte)).wrapping_mul(ODD).rotate_left(29))
}
