//! Holds the events of one request until they are submitted for delivery.

use crate::keen::bulk::Event;
use crate::keen::event_writer::MAX_BYTES;
use std::ops::Range;

/// A buffer of events. [`clear`](Self::clear) keeps its capacity for the next request.
///
/// ```
/// use keen_edge::mapping::{EventBuffer, Pushed};
///
/// let mut events = EventBuffer::new(1_000_000);
/// let pushed = events.push(0, "Opened", |out| out.extend_from_slice(br#"{"a":1}"#));
/// assert_eq!(pushed, Pushed::Written);
/// assert_eq!(events.events().next().unwrap().collection, "Opened");
/// ```
#[derive(Debug)]
pub struct EventBuffer {
    bytes: Vec<u8>,
    events: Vec<EventSpan>,
    /// Maximum bytes of the buffer.
    limit: usize,
    /// Maximum bytes of the events of this request.
    request_limit: usize,
    /// Bytes written for this request, oversized events included.
    written: usize,
    overflowed: bool,
}

/// The position of an event in `EventBuffer::bytes`.
#[derive(Debug)]
struct EventSpan {
    destination: usize,
    collection: Range<usize>,
    json: Range<usize>,
}

/// The outcome of [`EventBuffer::push`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The event is in the buffer.
    Written,
    /// The event exceeds Keen's size limit and was dropped.
    Oversized,
    /// The buffer is full. Neither this event nor any later one is written.
    Overflowed,
}

/// Maximum capacity kept from one request to the next, in bytes.
const MAX_RETAINED_CAPACITY: usize = 262_144;

impl Default for EventBuffer {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl EventBuffer {
    /// Creates a buffer that accepts no more events once it holds `limit` bytes. Without a limit a
    /// small body could produce a thousand times its size, because the values of a batch (traits,
    /// page) are copied into each event.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            events: Vec::new(),
            limit,
            request_limit: limit,
            written: 0,
            overflowed: false,
        }
    }

    /// Whether the limit was reached, so that events are missing.
    #[must_use]
    pub fn is_overflowed(&self) -> bool {
        self.overflowed
    }

    /// Removes the events.
    pub fn clear(&mut self) {
        self.overflowed = false;
        self.written = 0;
        self.request_limit = self.limit;
        self.bytes.clear();
        self.bytes.shrink_to(MAX_RETAINED_CAPACITY);
        self.events.clear();
    }

    /// Limits the bytes of one request's events, in addition to the limit of the buffer.
    pub(super) fn limit_request(&mut self, bytes: usize) {
        self.request_limit = self.limit.min(self.written.saturating_add(bytes));
    }

    /// Returns the number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there are no events.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Returns the destination, collection and JSON of each event.
    pub fn events(&self) -> impl Iterator<Item = Event<'_>> + Clone {
        self.events.iter().map(|span| {
            let collection = self.bytes.get(span.collection.clone()).unwrap_or_default();
            let json = self.bytes.get(span.json.clone()).unwrap_or_default();
            Event {
                destination: span.destination,
                collection: std::str::from_utf8(collection).unwrap_or_default(),
                json,
            }
        })
    }

    /// Adds an event. `destination`: index of its destination in the configuration. `write` appends
    /// the event's JSON.
    pub fn push(
        &mut self,
        destination: usize,
        collection: &str,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Pushed {
        self.overflowed |= self.written >= self.request_limit;
        if self.overflowed {
            return Pushed::Overflowed;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(collection.as_bytes());
        let middle = self.bytes.len();
        write(&mut self.bytes);
        let end = self.bytes.len();
        self.written = self.written.saturating_add(end.saturating_sub(start));
        if end.saturating_sub(middle) > MAX_BYTES {
            self.bytes.truncate(start);
            return Pushed::Oversized;
        }
        self.events.push(EventSpan { destination, collection: start..middle, json: middle..end });
        Pushed::Written
    }

    /// Adds the JSON of the last event again, for another collection.
    pub(super) fn push_last_again(&mut self, destination: usize, collection: &str) -> Pushed {
        self.overflowed |= self.written >= self.request_limit;
        let last = self.events.last().filter(|_| !self.overflowed);
        let Some(json) = last.map(|span| span.json.clone()) else {
            self.overflowed = true;
            return Pushed::Overflowed;
        };
        let start = self.bytes.len();
        self.bytes.extend_from_slice(collection.as_bytes());
        let end = self.bytes.len();
        self.written = self.written.saturating_add(collection.len()).saturating_add(json.len());
        self.events.push(EventSpan { destination, collection: start..end, json });
        Pushed::Written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_last_again_shares_the_json_and_counts_against_the_limit() {
        let mut events = EventBuffer::new(7);
        assert_eq!(events.push_last_again(0, "none"), Pushed::Overflowed);
        events.clear();
        assert_eq!(events.push(0, "a", |out| out.extend_from_slice(b"{}")), Pushed::Written);
        assert_eq!(events.push_last_again(1, "bc"), Pushed::Written);
        assert_eq!(events.push_last_again(1, "d"), Pushed::Overflowed);
        let found: Vec<_> =
            events.events().map(|e| (e.destination, e.collection, e.json)).collect();
        assert_eq!(found, [(0, "a", &b"{}"[..]), (1, "bc", b"{}")]);
    }

    #[test]
    fn push_oversized_events_count_against_the_limit() {
        let mut events = EventBuffer::new(2 * MAX_BYTES);
        let mut push =
            |bytes: usize| events.push(0, "c", |out| out.resize(out.len() + bytes, b' '));
        assert_eq!(push(10), Pushed::Written);
        assert_eq!([push(MAX_BYTES + 1), push(MAX_BYTES + 1)], [Pushed::Oversized; 2]);
        assert_eq!(push(10), Pushed::Overflowed);
        assert!(events.is_overflowed());
        assert_eq!((events.len(), events.bytes.len()), (1, 11));
        events.clear();
        assert!(!events.is_overflowed() && events.is_empty());
    }

    #[test]
    fn event_buffer_over_its_limit_takes_no_more_events() {
        let mut buffer = EventBuffer::new(1000);
        let mut written = 0;
        for _ in 0..1_000_000 {
            buffer.push(0, "a", |out| {
                written += 1;
                out.extend_from_slice(&[b'1'; 100]);
            });
        }
        assert_eq!(written, 10);
        assert!(buffer.is_overflowed());
        buffer.clear();
        assert!(!buffer.is_overflowed());
        assert!(buffer.is_empty());
    }

    #[test]
    fn push_event_of_the_maximum_size_is_written() {
        let mut events = EventBuffer::default();
        assert!(events.is_empty());
        for (bytes, pushed) in [(MAX_BYTES, Pushed::Written), (MAX_BYTES + 1, Pushed::Oversized)] {
            assert_eq!(events.push(0, "c", |out| out.resize(out.len() + bytes, b' ')), pushed);
        }
        assert!(!events.is_empty());
    }
}
