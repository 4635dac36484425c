//! The events of one request, before they are submitted for delivery.

use crate::keen::bulk::Event;
use crate::keen::event_writer::MAX_BYTES;
use std::ops::Range;

/// Events written one after the other. Cleared and used again, it keeps its capacity.
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
    /// Bytes that the buffer takes.
    limit: usize,
    /// Bytes that the events of this request may take.
    request_limit: usize,
    /// Bytes written for this request, those of oversized events among them.
    written: usize,
    overflowed: bool,
}

/// Where an event is in the buffer's bytes.
#[derive(Debug)]
struct EventSpan {
    destination: usize,
    collection: Range<usize>,
    json: Range<usize>,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The buffer holds it.
    Written,
    /// It is larger than Keen takes, and was left out.
    Oversized,
    /// The buffer is full: neither this event nor a later one was written.
    Overflowed,
}

/// Capacity kept from one request to the next, at most.
const MAX_RETAINED_CAPACITY: usize = 262_144;

impl Default for EventBuffer {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl EventBuffer {
    /// A buffer that takes no more events once it holds `limit` bytes: what a batch says of all its
    /// messages (its traits, its page) is written into each event, so that a small body can make a
    /// thousand times its size.
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

    /// Whether it went over its limit, and does not hold all events.
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

    /// Sets what the events of one request may take, beside the limit of the buffer.
    pub(super) fn limit_request(&mut self, bytes: usize) {
        self.request_limit = self.limit.min(self.written.saturating_add(bytes));
    }

    /// How many events there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The bytes of all of them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Destination, collection and JSON of each event.
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

    /// Adds an event for a destination, by its index in the configuration; `write` appends its
    /// JSON.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_oversized_events_count_against_the_limit() {
        let mut events = EventBuffer::new(2 * MAX_BYTES);
        let mut push =
            |bytes: usize| events.push(0, "c", |out| out.resize(out.len() + bytes, b' '));
        assert_eq!(push(10), Pushed::Written);
        assert_eq!([push(MAX_BYTES + 1), push(MAX_BYTES + 1)], [Pushed::Oversized; 2]);
        assert_eq!(push(10), Pushed::Overflowed);
        assert!(events.is_overflowed());
        assert_eq!((events.len(), events.bytes()), (1, 11));
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
}
