//! Events of many callers that go to Keen together, in the form in which they go.

use super::{EVENT_OVERHEAD, WaiterId, bulk};
use std::collections::BTreeMap;

/// Collections whose room a delivered batch leaves, at most.
const ROOMS: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Batch {
    /// In the order of their names, which is the request's.
    collections: BTreeMap<Box<str>, Collection>,
    events: usize,
    /// Of events and the names of their collections.
    bytes: usize,
    /// Whom its events came from, one after the other.
    callers: usize,
    last: Option<WaiterId>,
    /// Calls made with it.
    pub(super) attempts: u32,
}

/// Events of one collection.
#[derive(Debug, Default)]
struct Collection {
    /// As the request has them: a comma between them.
    text: Vec<u8>,
    events: Vec<Event>,
}

#[derive(Debug, Clone, Copy)]
struct Event {
    /// Who is to be told; none where the caller has been answered.
    waiter: Option<WaiterId>,
    /// Where it ends in its collection's text.
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

    /// Bytes that it has on the heap.
    fn room(&self) -> usize {
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

impl Batch {
    pub(super) fn len(&self) -> usize {
        self.events
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Whether it stands where another stood.
    pub(super) fn has_room(&self) -> bool {
        !self.collections.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many wait for it.
    pub(super) fn callers(&self) -> usize {
        self.callers
    }

    /// What it adds to the bytes pending.
    pub(super) fn cost(&self) -> usize {
        self.bytes.saturating_add(self.events.saturating_mul(EVENT_OVERHEAD))
    }

    pub(super) fn push(&mut self, waiter: Option<WaiterId>, collection: &str, event: &[u8]) {
        self.events = self.events.saturating_add(1);
        self.bytes = self.bytes.saturating_add(collection.len()).saturating_add(event.len());
        if waiter.is_some() && waiter != self.last {
            self.callers = self.callers.saturating_add(1);
            self.last = waiter;
        }
        match self.collections.get_mut(collection) {
            Some(found) => found.push(waiter, event),
            None => self.collections.entry(collection.into()).or_default().push(waiter, event),
        }
    }

    /// Whom each event's end is to be told to, and its collection: as in the request, with how many follow each other.
    pub(super) fn runs(&self) -> impl Iterator<Item = (Option<WaiterId>, &str, usize)> {
        self.collections.iter().flat_map(|(name, collection)| {
            let runs = collection.events.chunk_by(|a, b| a.waiter == b.waiter);
            runs.filter_map(|run| Some((run.first()?.waiter, name.as_ref(), run.len())))
        })
    }

    /// Drops the events of which `stays` says no; gives what they cost.
    pub(super) fn keep(&mut self, stays: impl Fn(Option<WaiterId>) -> bool) -> usize {
        if self.runs().all(|(waiter, _, _)| stays(waiter)) {
            return 0;
        }
        self.copy_where(stays)
    }

    /// Keeps the events whose flag is set, flags in the order of the request; gives what the others cost.
    pub(super) fn keep_flagged(&mut self, flags: &[bool]) -> usize {
        let mut flags = flags.iter();
        self.copy_where(|_| flags.next().copied().unwrap_or(false))
    }

    /// What stays moves to room of its own: what a batch holds is what it is counted for.
    fn copy_where(&mut self, mut stays: impl FnMut(Option<WaiterId>) -> bool) -> usize {
        let mut copy = Self { attempts: self.attempts, ..Self::default() };
        for (name, waiter, event) in self.all() {
            if stays(waiter) {
                copy.push(waiter, name, event);
            }
        }
        let before = std::mem::replace(self, copy).cost();
        before.saturating_sub(self.cost())
    }

    /// Collections that have events: one may be there for the room it had.
    fn used(&self) -> impl Iterator<Item = (&str, &Collection)> {
        let all = self.collections.iter().map(|(name, collection)| (name.as_ref(), collection));
        all.filter(|(_, collection)| !collection.events.is_empty())
    }

    fn all(&self) -> impl Iterator<Item = (&str, Option<WaiterId>, &[u8])> {
        let events = |(name, collection)| {
            Collection::events(collection).map(move |(waiter, event)| (name, waiter, event))
        };
        self.collections
            .iter()
            .map(|(name, collection)| (name.as_ref(), collection))
            .flat_map(events)
    }

    /// The same without its events, which have been delivered: their room is the next batch's, where it is no more than
    /// `most` bytes in no more than [`ROOMS`] collections.
    pub(super) fn emptied(mut self, most: usize) -> Self {
        let room = self.collections.values().map(Collection::room).fold(0, usize::saturating_add);
        if room > most || self.collections.len() > ROOMS {
            return Self::default();
        }
        for collection in self.collections.values_mut() {
            collection.text.clear();
            collection.events.clear();
        }
        Self { collections: self.collections, ..Self::default() }
    }

    /// The bulk request.
    pub(super) fn request(&self) -> Vec<u8> {
        let collections = self.used().map(|(name, collection)| (name, collection.text.as_slice()));
        // Commas, and each name with its marks.
        let marks = self.events.saturating_add(self.collections.len().saturating_mul(16));
        bulk::body(collections, self.bytes.saturating_add(marks).saturating_add(16))
    }

    /// Collections and how many events each has, as in the request.
    pub(super) fn asked(&self) -> Vec<(&str, usize)> {
        self.used().map(|(name, collection)| (name, collection.events.len())).collect()
    }

    /// Its two halves.
    pub(super) fn split(&self) -> (Self, Self) {
        let half = || Self { attempts: self.attempts, ..Self::default() };
        let (mut first, mut second) = (half(), half());
        for (at, (name, waiter, event)) in self.all().enumerate() {
            let of = if at < self.events >> 1 { &mut first } else { &mut second };
            of.push(waiter, name, event);
        }
        (first, second)
    }
}
