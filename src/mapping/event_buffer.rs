//! The events of one request, before they are taken.

use super::Write;
use super::pipeline::Destinations;
use crate::keen::bulk::Event;
use crate::keen::event_writer::{MAX_BYTES, Notes};
use std::ops::Range;

/// Events written one after the other. Used again and again: it keeps its room.
#[derive(Debug)]
pub struct EventBuffer {
    bytes: Vec<u8>,
    events: Vec<Entry>,
    /// Of the event that is being written.
    notes: Notes,
    limit: usize,
    over: bool,
}

#[derive(Debug)]
struct Entry {
    destination: usize,
    collection: Range<usize>,
    event: Range<usize>,
}

/// Room kept from one request to the next, at most.
const KEPT_BYTES: usize = 262_144;

impl Default for EventBuffer {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl EventBuffer {
    /// One that stops taking events over `limit` bytes: what a batch says of all its messages (its traits, its page) is
    /// written into each event, so that a small body can make a thousand times its size.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), events: Vec::new(), notes: Notes::default(), limit, over: false }
    }

    /// Whether it went over its limit, and does not hold all events.
    #[must_use]
    pub fn is_overflowed(&self) -> bool {
        self.over
    }

    /// Forgets the events.
    pub fn clear(&mut self) {
        self.over = false;
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.events.clear();
        self.notes.shrink(KEPT_BYTES);
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
        self.events.iter().map(|entry| {
            let collection = self.bytes.get(entry.collection.clone()).unwrap_or_default();
            let event = self.bytes.get(entry.event.clone()).unwrap_or_default();
            Event {
                destination: entry.destination,
                collection: std::str::from_utf8(collection).unwrap_or_default(),
                json: event,
            }
        })
    }
}

impl Destinations for EventBuffer {
    fn event(&mut self, destination: usize, collection: &str, write: &mut Write<'_>) -> bool {
        self.over |= self.bytes.len() >= self.limit;
        if self.over {
            return true;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(collection.as_bytes());
        let middle = self.bytes.len();
        write(&mut self.bytes, &mut self.notes);
        let end = self.bytes.len();
        if end.saturating_sub(middle) > MAX_BYTES {
            self.bytes.truncate(start);
            return false;
        }
        self.events.push(Entry { destination, collection: start..middle, event: middle..end });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_buffer_over_its_limit_takes_no_more_events() {
        let mut buffer = EventBuffer::new(1000);
        let mut written = 0;
        for _ in 0..1_000_000 {
            buffer.event(0, "a", &mut |out, _| {
                written += 1;
                out.extend_from_slice(&[b'1'; 100]);
                0
            });
        }
        assert_eq!(written, 10);
        assert!(buffer.is_overflowed());
        buffer.clear();
        assert!(!buffer.is_overflowed());
        assert!(buffer.is_empty());
    }
}
