//! Writes one event, member by member. Callers must pass valid JSON without duplicate names, which
//! [`super::sanitize`] ensures.
//!
//! ```
//! use keen_edge::keen::event_writer::EventWriter;
//!
//! let mut out = Vec::new();
//! let mut event = EventWriter::new(&mut out);
//! event.members(r#""item": "T-Shirt", "price": 19.90"#);
//! event.field(",\"userId\":", "\"u-17\"");
//! event.finish();
//! assert_eq!(out, br#"{"item": "T-Shirt", "price": 19.90,"userId":"u-17"}"#);
//! ```

/// Maximum size of an event, in bytes (Keen's documentation of limits). A larger one would cost its
/// whole batch another callout.
pub const MAX_BYTES: usize = 900_000;

/// Writes one event at the end of a buffer.
#[derive(Debug)]
pub struct EventWriter<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
}

impl<'o> EventWriter<'o> {
    /// Starts an event at the end of `out`.
    pub fn new(out: &'o mut Vec<u8>) -> Self {
        let start = out.len();
        Self { out, start }
    }

    /// Copies members: the text between the braces of an object.
    pub fn members(&mut self, inside: &str) {
        if !inside.is_empty() {
            self.out.push(b',');
            self.out.extend_from_slice(inside.as_bytes());
        }
    }

    /// Writes a member whose value is `json`. `key`: a comma, the name and a colon, such as
    /// `,"userId":`.
    #[inline]
    pub fn field(&mut self, key: &str, json: &str) {
        self.raw(key, |out| out.extend_from_slice(json.as_bytes()));
    }

    /// Writes a member whose value is written by `write`. `key`: see [`Self::field`].
    #[inline]
    pub fn raw(&mut self, key: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.out.extend_from_slice(key.as_bytes());
        write(self.out);
    }

    /// Ends the event.
    pub fn finish(self) {
        // The brace takes the place of the first comma.
        match self.out.get_mut(self.start) {
            Some(comma) => *comma = b'{',
            None => self.out.push(b'{'),
        }
        self.out.push(b'}');
    }
}
