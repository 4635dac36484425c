//! Parses a request's body: one message, or a batch.
//!
//! ```
//! use keen_edge::segment::message::MessageType;
//! use keen_edge::segment::message::body::{Body, BodyError};
//!
//! let one = Body::parse(Some(MessageType::Track), r#"{"event": "Opened"}"#, 10).unwrap();
//! assert_eq!(one.messages[0].event.json(), "\"Opened\"");
//!
//! let batch = r#"{"batch": [{"type": "track"}, {"type": "page"}, 7]}"#;
//! let body = Body::parse(None, batch, 10).unwrap();
//! assert_eq!((body.messages.len(), body.non_object_elements), (2, 1));
//! assert_eq!(Body::parse(None, "[]", 10).unwrap_err(), BodyError::Malformed);
//! ```

use super::integrations::Integrations;
use super::message::MessageReader;
use super::{Context, Message, MessageType};
use crate::json::{Name, ObjectSeed, ReadMember, Value, read_object};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// The contents of a body.
#[derive(Debug, Default)]
pub struct Body<'a> {
    /// Its messages.
    pub messages: Vec<Message<'a>>,
    /// Values that the body sets for all messages: write key, `sentAt`, `context`, `integrations`.
    pub batch: Message<'a>,
    /// Number of elements of a batch that are not objects.
    pub non_object_elements: usize,
}

/// Why a body has no messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// The body is not a JSON object, or its `batch` is not an array.
    Malformed,
    /// The body has `messages` instead of `batch`.
    NoBatch,
    /// The body has more messages than allowed.
    TooManyMessages {
        /// Number of messages in the body.
        messages: usize,
    },
}

/// Typical minimum size of an SDK's message, in bytes. Used to estimate the number of messages in a
/// batch.
const TYPICAL_MESSAGE_BYTES: usize = 600;

impl<'a> Body<'a> {
    /// Parses a body: one message of type `message_type`, or a batch if it is `None`.
    ///
    /// # Errors
    /// The body has no messages.
    pub fn parse(
        message_type: Option<MessageType>,
        text: &'a str,
        max_messages: usize,
    ) -> Result<Self, BodyError> {
        // The bodies of SDKs are read in one pass. It fails if a value that serde_json can only
        // skip is in place of an object.
        Self::parse_with(message_type, text, max_messages, true).or_else(|error| match error {
            BodyError::Malformed => Self::parse_with(message_type, text, max_messages, false),
            error => Err(error),
        })
    }

    fn parse_with(
        message_type: Option<MessageType>,
        text: &'a str,
        max_messages: usize,
        in_place: bool,
    ) -> Result<Self, BodyError> {
        let mut body = Body::default();
        let Some(message_type) = message_type else {
            body.parse_batch(text, max_messages, in_place)?;
            return Ok(body);
        };
        let mut message = Message::default();
        let mut reader = MessageReader::new(&mut message, in_place);
        read_object(text, &mut reader).map_err(|_| BodyError::Malformed)?;
        reader.finish();
        message.message_type = Some(message_type);
        body.messages = vec![message];
        Ok(body)
    }

    fn parse_batch(
        &mut self,
        text: &'a str,
        max_messages: usize,
        in_place: bool,
    ) -> Result<(), BodyError> {
        let expected = text.len().checked_div(TYPICAL_MESSAGE_BYTES).unwrap_or(0);
        let mut elements = Elements {
            messages: Vec::with_capacity(expected.min(max_messages)),
            non_objects: 0,
            surplus: 0,
            max_messages,
            in_place,
        };
        let mut reader = BatchReader {
            message: MessageReader::new(&mut self.batch, in_place),
            elements: &mut elements,
            has_batch: false,
            has_messages: false,
        };
        read_object(text, &mut reader).map_err(|_| BodyError::Malformed)?;
        reader.message.finish();
        let is_message = reader.message.type_value != Value::Absent;
        let (has_batch, has_messages) = (reader.has_batch, reader.has_messages);
        let messages = elements.len().saturating_add(elements.surplus);
        if elements.surplus > 0 {
            return Err(BodyError::TooManyMessages { messages });
        }
        self.messages = elements.messages;
        self.non_object_elements = elements.non_objects;
        match (has_batch, is_message, has_messages) {
            (true, _, _) => {}
            // Some clients send one message instead of a batch. It has its own `type`.
            (false, true, _) => self.messages.push(std::mem::take(&mut self.batch)),
            (false, false, true) => return Err(BodyError::NoBatch),
            (false, false, false) => {}
        }
        Ok(())
    }

    /// Copies the batch's `context` and `integrations` to each message that does not set them.
    pub fn apply_batch_defaults(&mut self) {
        let batch = &self.batch;
        if batch.context == Context::default() && batch.integrations == Integrations::default() {
            return;
        }
        for message in &mut self.messages {
            message.context.apply_batch_defaults(&self.batch.context);
            message.integrations.apply_batch_defaults(&self.batch.integrations);
        }
    }
}

/// Reads the members of a batch, or of a single message sent instead of a batch.
struct BatchReader<'r, 'a> {
    message: MessageReader<'r, 'a>,
    elements: &'r mut Elements<'a>,
    has_batch: bool,
    has_messages: bool,
}

impl<'a> ReadMember<'a> for BatchReader<'_, 'a> {
    fn member<A: MapAccess<'a>>(&mut self, name: Name<'a>, map: &mut A) -> Result<(), A::Error> {
        match &*name.0 {
            b"batch" => {
                self.has_batch = true;
                map.next_value_seed(&mut *self.elements)
            }
            b"messages" => {
                self.has_messages = true;
                map.next_value::<IgnoredAny>().map(drop)
            }
            _ => self.message.member(name, map),
        }
    }
}

/// The elements of `batch` that have been read.
struct Elements<'a> {
    messages: Vec<Message<'a>>,
    non_objects: usize,
    /// Number of elements over `max_messages`.
    surplus: usize,
    max_messages: usize,
    in_place: bool,
}

impl Elements<'_> {
    fn len(&self) -> usize {
        self.messages.len().saturating_add(self.non_objects)
    }
}

impl<'a> DeserializeSeed<'a> for &mut Elements<'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'a> Visitor<'a> for &mut Elements<'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of messages")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<(), A::Error> {
        loop {
            if self.len() >= self.max_messages {
                if seq.next_element::<IgnoredAny>()?.is_none() {
                    return Ok(());
                }
                self.surplus = self.surplus.saturating_add(1);
                continue;
            }
            // Messages are large, so each is read in place.
            self.messages.push(Message::default());
            let Some(message) = self.messages.last_mut() else { return Ok(()) };
            let mut reader = MessageReader::new(message, self.in_place);
            let is_object = if self.in_place {
                seq.next_element_seed(ObjectSeed(&mut reader))?
            } else {
                seq.next_element::<&RawValue>()?.map(|raw| match raw.into() {
                    Value::Object(text) => read_object(text, &mut reader).is_ok(),
                    _ => false,
                })
            };
            reader.finish();
            if is_object != Some(true) {
                self.messages.pop();
            }
            match is_object {
                None => return Ok(()),
                Some(true) => {}
                Some(false) => self.non_objects = self.non_objects.saturating_add(1),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Body<'_>, BodyError> {
        Body::parse(None, text, 2_500)
    }

    #[test]
    fn batch_context_and_integrations_are_defaults_for_its_messages() {
        let text = r#"{"batch":[{"type":"track","event":"a","context":{"ip":"1.1.1.1"}},null,{"type":"track","event":"b","writeKey":"own","integrations":{"Keen IO":true}}],
            "writeKey":"k","sentAt":"2014","context":{"ip":"2.2.2.2","library":{"name":"analytics-go"}},"integrations":{"all":false}}"#;
        let mut body = parse(text).unwrap();
        body.apply_batch_defaults();
        assert_eq!((body.messages.len(), body.non_object_elements), (2, 1));
        let (a, b) = (&body.messages[0], &body.messages[1]);
        let text = |value: Value<'_>| value.scalar_text().unwrap().into_owned();
        assert_eq!(text(a.context.ip), "1.1.1.1");
        assert_eq!(text(a.context.library_name), "analytics-go");
        assert_eq!(text(b.context.ip), "2.2.2.2");
        assert_eq!((text(body.batch.write_key), text(b.write_key)), ("k".into(), "own".into()));
        assert!(!a.integrations.enabled(&a.context) && b.integrations.enabled(&b.context));
    }

    #[test]
    fn parse_what_is_no_body_is_malformed() {
        for text in [
            "",
            "[]",
            "null",
            "{",
            "{\"batch\":{}}",
            "{\"batch\":[,]}",
            "{}{}",
            "{\"a\":01}",
            "1e400",
        ] {
            assert_eq!(parse(text).unwrap_err(), BodyError::Malformed, "{text}");
        }
        assert!(parse(&"[".repeat(1_000_000)).is_err());
        assert!(Body::parse(Some(MessageType::Track), "{}", 1).is_ok());
        assert!(Body::parse(Some(MessageType::Track), "[]", 1).is_err());
    }

    #[test]
    fn parse_what_serde_json_only_passes_over_costs_no_neighbour() {
        let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
        for odd in ["1e400", r#""\ud800""#, &deep] {
            let text = format!(
                r#"{{"batch":[{odd},{{"type":"track","event":"a","context":{odd}}},{{"type":"page","properties":{odd}}}],"context":{odd},"options":{odd},"x":{odd}}}"#
            );
            let body = parse(&text).unwrap();
            assert_eq!((body.messages.len(), body.non_object_elements), (2, 1), "{text:.80}");
            assert_eq!(body.messages[1].message_type, Some(MessageType::Page));
        }
    }

    #[test]
    fn parse_second_context_replaces_the_first() {
        let text = r#"{"context":{"ip":"1.1.1.1","userAgent":"a"},"context":{"ip":"2.2.2.2"}}"#;
        let body = Body::parse(Some(MessageType::Track), text, 1).unwrap();
        let context = body.messages[0].context;
        assert_eq!(context.ip.scalar_text().as_deref(), Some("2.2.2.2"));
        assert_eq!(context.user_agent, Value::Absent);
    }

    #[test]
    fn parse_messages_instead_of_batch_is_no_batch() {
        assert_eq!(parse(r#"{"messages":[{"type":"track"}]}"#).unwrap_err(), BodyError::NoBatch);
        assert_eq!(parse(r#"{"messages":[],"batch":[]}"#).unwrap().messages.len(), 0);
        assert_eq!(parse(r#"{"messages":[],"type":"track"}"#).unwrap().messages.len(), 1);
    }

    #[test]
    fn parse_more_messages_than_allowed_are_counted_and_refused() {
        let text = format!("{{\"batch\":[{}]}}", ["{}"; 5].join(","));
        assert_eq!(Body::parse(None, &text, 5).unwrap().messages.len(), 5);
        let error = Body::parse(None, &text, 4).unwrap_err();
        assert_eq!(error, BodyError::TooManyMessages { messages: 5 });
    }

    #[test]
    fn parse_failed_initialization_is_not_sent_by_the_browser() {
        for (metadata, sent) in [
            (r#"{"bundled":["Keen IO"]}"#, true),
            (r#"{"bundled":["Keen"]}"#, true),
            (r#"{"bundled":["Other"]}"#, false),
            (r#"{"bundled":["Keen IO"],"failedInitializations":["Keen IO"]}"#, false),
            (r#"{"failedInitializations":["Other"],"bundled":["Keen IO"]}"#, true),
            (r#"{"failedInitializations":["Keen IO"]}"#, false),
            ("[\"Keen IO\"]", false),
        ] {
            let text = format!("{{\"_metadata\":{metadata}}}");
            let body = Body::parse(Some(MessageType::Track), &text, 1).unwrap();
            assert_eq!(body.messages[0].sent_by_browser, sent, "{metadata}");
        }
    }
}
