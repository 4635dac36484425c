//! Messages of the overflow queue: one project's events, as a bulk body with their uniqueness
//! tokens.
//!
//! ```json
//! {"v":1,"project":"9181bcd23843312d87000000","events":{"Purchased":[{"total":7,"keen":{…}}]}}
//! ```
//!
//! The tokens make a replay harmless: Keen recognizes the events. The project is named by its id,
//! so that a message outlives a change of the configuration. A message contains only characters
//! that SQS accepts (Amazon SQS API Reference, `SendMessage`):
//! `#x9 | #xA | #xD | #x20-#xD7FF | #xE000-#xFFFD | #x10000-#x10FFFF`.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;
/// Maximum bytes of a message in addition to its bulk body. A project id has 24 characters.
pub const ENVELOPE_BYTES: usize = 128;

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    v: u32,
    #[serde(borrow)]
    project: Cow<'a, str>,
    #[serde(borrow)]
    events: &'a RawValue,
}

/// One event of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Name of the collection.
    pub collection: String,
    /// The event as Keen accepts it.
    pub json: String,
}

/// A parsed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The Keen project.
    pub project_id: String,
    /// Its events, grouped by collection.
    pub events: Vec<StoredEvent>,
}

/// Why a message cannot be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageError {
    /// It was not written by this filter.
    Malformed,
    /// It was written by another version of this filter.
    Version(u32),
}

/// Writes a message. `None` if `bulk_body` is not JSON text, or has a character that SQS does not
/// accept and that JSON cannot escape there.
///
/// ```
/// use keen_edge::overflow::message;
///
/// let text = message::encode("9181bcd23843312d87000000", br#"{"Purchased":[{"total":7}]}"#).unwrap();
/// let message = message::parse(&text).unwrap();
/// assert_eq!(message.project_id, "9181bcd23843312d87000000");
/// assert_eq!(message.events[0].json, r#"{"total":7}"#);
/// ```
#[must_use]
pub fn encode(project_id: &str, bulk_body: &[u8]) -> Option<String> {
    let body = std::str::from_utf8(bulk_body).ok()?;
    let is_accepted = |b: u8| b >= 0x20 || matches!(b, b'\t' | b'\n' | b'\r');
    if !body.bytes().all(is_accepted) {
        return None;
    }
    let mut escaped = Cow::Borrowed(body);
    if body.contains(['\u{fffe}', '\u{ffff}']) {
        // They occur only in strings, where the escaped form means the same.
        let replaced = body.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff");
        escaped = Cow::Owned(replaced);
    }
    let events = serde_json::from_str::<&RawValue>(&escaped).ok()?;
    let envelope = Envelope { v: VERSION, project: Cow::Borrowed(project_id), events };
    serde_json::to_string(&envelope).ok()
}

/// Reads a message.
///
/// # Errors
/// The text is not a message that [`encode`] writes.
pub fn parse(text: &str) -> Result<Message, MessageError> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u32,
    }
    let Versioned { v } = serde_json::from_str(text).map_err(|_| MessageError::Malformed)?;
    if v != VERSION {
        return Err(MessageError::Version(v));
    }
    let envelope: Envelope<'_> = serde_json::from_str(text).map_err(|_| MessageError::Malformed)?;
    let collections: BTreeMap<Cow<'_, str>, Vec<&RawValue>> =
        serde_json::from_str(envelope.events.get()).map_err(|_| MessageError::Malformed)?;
    let mut events = Vec::new();
    for (collection, of_collection) in &collections {
        for event in of_collection {
            if !event.get().starts_with('{') {
                return Err(MessageError::Malformed);
            }
            let json = event.get().to_owned();
            events.push(StoredEvent { collection: collection.clone().into_owned(), json });
        }
    }
    if events.is_empty() {
        return Err(MessageError::Malformed);
    }
    Ok(Message { project_id: envelope.project.into_owned(), events })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PROJECT: &str = "9181bcd23843312d87000000";

    #[test]
    fn encode_wraps_the_bulk_body_within_its_bound() {
        let body = br#"{"b \" x":[{"n":1.0},{"n":2}],"a":[{}]}"#;
        let text = encode(PROJECT, body).unwrap();
        assert_eq!(
            text,
            r#"{"v":1,"project":"9181bcd23843312d87000000","events":{"b \" x":[{"n":1.0},{"n":2}],"a":[{}]}}"#
        );
        assert!(text.len() <= body.len() + ENVELOPE_BYTES);
        let events = parse(&text).unwrap().events;
        let events: Vec<(&str, &str)> =
            events.iter().map(|e| (e.collection.as_str(), e.json.as_str())).collect();
        assert_eq!(events, [("a", "{}"), ("b \" x", "{\"n\":1.0}"), ("b \" x", "{\"n\":2}")]);
    }

    #[test]
    fn encode_escapes_what_sqs_does_not_accept() {
        let body = "{\"a\":[{\"x\":\"\u{fffe}\u{ffff}\u{fffd}\u{10ffff}\u{7f}\\u0000\"}]}";
        let text = encode(PROJECT, body.as_bytes()).unwrap();
        assert!(!text.contains(['\u{fffe}', '\u{ffff}']));
        let event = &parse(&text).unwrap().events[0].json;
        let same = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(same(event)["x"], "\u{fffe}\u{ffff}\u{fffd}\u{10ffff}\u{7f}\0");
        assert_eq!(encode(PROJECT, b"{\"a\":[{\"x\":\"\x01\"}]}"), None);
        assert_eq!(encode(PROJECT, b"{\"a\":[{\"x\":\"\xff\"}]}"), None);
        assert_eq!(encode(PROJECT, b"{\"a\":[{}]"), None);
    }

    #[test]
    fn parse_of_other_texts_is_an_error() {
        for text in [
            "",
            "x",
            "[]",
            "{}",
            r#"{"v":1}"#,
            r#"{"v":"1","project":"p","events":{"a":[{}]}}"#,
            r#"{"v":1,"project":"p","events":{}}"#,
            r#"{"v":1,"project":"p","events":{"a":[]}}"#,
            r#"{"v":1,"project":"p","events":{"a":[1]}}"#,
            r#"{"v":1,"project":"p","events":{"a":{}}}"#,
            r#"{"v":1,"project":"p","events":[]}"#,
            r#"{"v":1,"project":7,"events":{"a":[{}]}}"#,
            r#"{"v":1,"project":"p","events":{"a":[{}]}} x"#,
        ] {
            assert_eq!(parse(text), Err(MessageError::Malformed), "{text}");
        }
        let other = r#"{"v":2,"project":"p","parts":[]}"#;
        assert_eq!(parse(other), Err(MessageError::Version(2)));
    }
}
