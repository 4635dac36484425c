//! A request's body: one message, or a batch.

use super::{Message, MessageType};
use crate::json::{Cursor, Malformed, Member, Members, Read, Value};

/// What a body holds.
#[derive(Debug, Default)]
pub struct Body<'a> {
    /// Its messages, what the batch says of all of them merged in.
    pub messages: Vec<Message<'a>>,
    /// The members of all their `properties`.
    properties: Vec<Member<'a>>,
    /// The body itself.
    text: &'a str,
    /// Elements of a batch that are no objects.
    pub not_messages: usize,
    /// The `writeKey` of the whole body.
    pub write_key: Value<'a>,
}

impl<'a> Body<'a> {
    /// The members of a message's `properties`; none where that is no object.
    #[must_use]
    pub fn properties(&'a self, message: &Message<'_>) -> Members<'a> {
        Members {
            text: self.text,
            list: self.properties.get(message.members.clone()).unwrap_or_default(),
        }
    }
}

/// A message of SDKs' has this many bytes or more: what room to make for those of a batch.
const USUAL_BYTES: usize = 600;
/// … and so many properties.
const USUAL_PROPERTIES: usize = 8;

/// Reads a body: one message of a type, or a batch.
///
/// # Errors
/// It is not UTF-8, not JSON, no object, or its `batch` is no array.
pub fn read(message_type: Option<MessageType>, body: &[u8]) -> Read<Body<'_>> {
    let text = simdutf8::basic::from_utf8(body).map_err(|_| Malformed)?;
    let mut cursor = Cursor::new(text);
    let mut body = match message_type {
        Some(message_type) => single(&mut cursor, message_type)?,
        None => batch(&mut cursor, text.len().checked_div(USUAL_BYTES).unwrap_or(0))?,
    };
    cursor.end()?;
    body.text = text;
    Ok(body)
}

fn single<'a>(cursor: &mut Cursor<'a>, kind: MessageType) -> Read<Body<'a>> {
    let properties = Vec::with_capacity(USUAL_PROPERTIES);
    let mut body = Body { messages: vec![Message::default()], properties, ..Body::default() };
    if let Some(message) = body.messages.last_mut() {
        message.read(cursor, &mut body.properties, |_, cursor| cursor.skip().map(drop))?;
        message.kind = Some(kind);
        body.write_key = message.write_key;
    }
    Ok(body)
}

/// Reads a batch of some `expected` messages.
fn batch<'a>(cursor: &mut Cursor<'a>, expected: usize) -> Read<Body<'a>> {
    let messages = Vec::with_capacity(expected);
    let properties = Vec::with_capacity(expected.saturating_mul(USUAL_PROPERTIES));
    let mut found = Body { messages, properties, ..Body::default() };
    let mut has_batch = false;
    let mut shared = Message::default();
    let mut own = Vec::new();
    let kind = shared.read(cursor, &mut own, |key, cursor| {
        if !key.is("batch") {
            return cursor.skip().map(drop);
        }
        has_batch = true;
        cursor.array(|cursor| {
            if cursor.peek() == Some(b'{') {
                found.messages.push(Message::default());
                if let Some(message) = found.messages.last_mut() {
                    message
                        .read(cursor, &mut found.properties, |_, cursor| cursor.skip().map(drop))?;
                }
            } else {
                cursor.skip()?;
                found.not_messages = found.not_messages.saturating_add(1);
            }
            Ok(())
        })
    })?;
    found.write_key = shared.write_key;
    if has_batch {
        for message in &mut found.messages {
            message.inherit(&shared);
        }
    } else if kind != Value::Absent {
        // One message where a batch belongs: some callers do, and it says what it is.
        found.messages.push(shared);
        found.properties = own;
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_merges_what_it_says_of_all() {
        let text = br#"{"batch":[{"type":"track","event":"a","context":{"ip":"1.1.1.1"}},null,{"type":"track","event":"b","writeKey":"own","integrations":{"Keen IO":true}}],
            "writeKey":"k","sentAt":"2014","context":{"ip":"2.2.2.2","library":{"name":"analytics-go"}},"integrations":{"all":false}}"#;
        let body = read(None, text).unwrap();
        assert_eq!((body.messages.len(), body.not_messages), (2, 1));
        let (a, b) = (&body.messages[0], &body.messages[1]);
        assert_eq!(a.context.ip.as_str().unwrap(), "1.1.1.1");
        assert_eq!(a.context.library.as_str().unwrap(), "analytics-go");
        assert_eq!(b.context.ip.as_str().unwrap(), "2.2.2.2");
        assert_eq!(
            (a.write_key.as_str().unwrap().as_ref(), b.write_key.as_str().unwrap().as_ref()),
            ("k", "own")
        );
        assert!(!a.integrations.enabled(&a.context) && b.integrations.enabled(&b.context));
    }

    #[test]
    fn what_makes_no_sense_is_malformed() {
        for text in [
            "",
            "[]",
            "null",
            "{",
            "{\"batch\":{}}",
            "{\"batch\":[,]}",
            "{}{}",
            "{\"a\":01}",
            "\u{feff}{}",
        ] {
            assert!(read(None, text.as_bytes()).is_err(), "{text}");
        }
        assert!(read(None, b"{\"a\":\"\xff\"}").is_err());
        assert!(read(None, "[".repeat(1_000_000).as_bytes()).is_err());
        assert!(read(Some(MessageType::Track), b"{}").is_ok());
    }
}
