//! Writes one event, member by member. Callers must pass valid JSON without duplicate names, which
//! [`super::sanitize`] ensures.
//!
//! ```
//! use keen_edge::keen::event_writer::EventWriter;
//!
//! let mut out = Vec::new();
//! let mut event = EventWriter::new(&mut out);
//! event.members(r#""item": "T-Shirt", "price": 19.90"#);
//! event.field("userId", "\"u-17\"");
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
        out.push(b'{');
        let start = out.len();
        Self { out, start }
    }

    /// Copies members: the text between the braces of an object.
    pub fn members(&mut self, inside: &str) {
        if !inside.is_empty() {
            self.comma();
            self.out.extend_from_slice(inside.as_bytes());
        }
    }

    /// Writes a member whose value is `json`.
    #[inline]
    pub fn field(&mut self, name: &str, json: &str) {
        self.raw(name, |out| out.extend_from_slice(json.as_bytes()));
    }

    /// Writes a member whose value is written by `write`.
    #[inline]
    pub fn raw(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.comma();
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        write(self.out);
    }

    /// Ends the event.
    pub fn finish(self) {
        self.out.push(b'}');
    }

    #[inline]
    fn comma(&mut self) {
        if self.out.len() > self.start {
            self.out.push(b',');
        }
    }
}
