//! One message, borrowed from the body.
//!
//! ```
//! use keen_edge::json::Value;
//! use keen_edge::segment::message::{Body, Message, MessageType};
//!
//! let text = r#"{"event": "Purchased", "properties": {"total": 19.90}}"#;
//! let body = Body::parse(Some(MessageType::Track), text, 1).unwrap();
//! let message: &Message<'_> = &body.messages[0];
//! // The text of the body, digit by digit.
//! assert_eq!(message.properties.json(), r#"{"total": 19.90}"#);
//! assert_eq!(message.user_id, Value::Absent);
//! ```

use super::MessageType;
use super::context::{Context, ContextReader};
use super::integrations::Integrations;
use crate::json::{
    Name, ObjectSeed, ReadMember, Value, for_each_element, for_each_member, read_object,
};
use serde::de::{Error, IgnoredAny, MapAccess};
use serde_json::value::RawValue;

/// Maximum length of a type's name, in bytes.
const MAX_TYPE_BYTES: usize = 64;

/// Declares the members of a message that are kept unparsed: each once, by field and JSON name.
macro_rules! message_fields {
    ($($(#[$doc:meta])* $field:ident = $name:literal,)*) => {
        /// A message as received, reduced to what the mapping needs.
        #[derive(Debug, Clone, Copy, Default)]
        pub struct Message<'a> {
            /// The type, from the path or, in a batch, from `type`. `None`: Segment does not know
            /// it.
            pub message_type: Option<MessageType>,
            $($(#[$doc])* pub $field: Value<'a>,)*
            /// `context`, or `options`, its older name. If both exist, `options` is used.
            pub context: Context<'a>,
            /// `integrations`
            pub integrations: Integrations<'a>,
            /// According to `_metadata` the browser has already sent this message to Keen.
            pub sent_by_browser: bool,
        }

        impl<'a> Message<'a> {
            /// Returns the field for the member `name`.
            // Match on bytes: byte patterns compile to a decision tree, string patterns to a
            // sequence of comparisons.
            #[inline]
            fn field_mut(&mut self, name: &[u8]) -> Option<&mut Value<'a>> {
                Some(match name {
                    $($name => &mut self.$field,)*
                    _ => return None,
                })
            }
        }
    };
}

message_fields! {
    /// `event` of a track message.
    event = b"event",
    /// `name` of a page or screen.
    name = b"name",
    /// `category` of a page or screen.
    category = b"category",
    /// `userId`
    user_id = b"userId",
    /// `anonymousId`
    anonymous_id = b"anonymousId",
    /// `sessionId`, sent by old libraries.
    session_id = b"sessionId",
    /// `messageId`
    message_id = b"messageId",
    /// `timestamp`
    timestamp = b"timestamp",
    /// `originalTimestamp`
    original_timestamp = b"originalTimestamp",
    /// `sentAt`
    sent_at = b"sentAt",
    /// `properties`
    properties = b"properties",
    /// `traits` of an identify message.
    traits = b"traits",
    /// `writeKey`
    write_key = b"writeKey",
}

/// Reads the members of a message.
#[derive(Debug)]
pub(super) struct MessageReader<'m, 'a> {
    message: &'m mut Message<'a>,
    /// `type`, unparsed.
    pub(super) type_value: Value<'a>,
    options: Option<Context<'a>>,
    in_place: bool,
}

impl<'m, 'a> MessageReader<'m, 'a> {
    /// Creates a reader into `message`, which is empty. `in_place`: see [`read_next_object`].
    pub(super) fn new(message: &'m mut Message<'a>, in_place: bool) -> Self {
        Self { message, type_value: Value::Absent, options: None, in_place }
    }

    /// Sets the type. Call it when all members have been read.
    pub(super) fn finish(&mut self) {
        if let Some(options) = self.options {
            self.message.context = options;
        }
        self.message.message_type =
            self.type_value.short_str(MAX_TYPE_BYTES).and_then(|name| MessageType::parse(&name));
    }
}

impl<'a> ReadMember<'a> for MessageReader<'_, 'a> {
    fn member<A: MapAccess<'a>>(&mut self, name: Name<'a>, map: &mut A) -> Result<(), A::Error> {
        if let Some(field) = self.message.field_mut(&name.0) {
            *field = map.next_value::<&RawValue>()?.into();
            return Ok(());
        }
        match &*name.0 {
            b"type" => self.type_value = map.next_value::<&RawValue>()?.into(),
            b"context" => {
                let mut reader = ContextReader::default();
                read_next_object(map, &mut reader, self.in_place)?;
                // Of equal names the last one replaces the earlier ones completely.
                self.message.context = reader.context;
            }
            b"options" => {
                let mut reader = ContextReader::default();
                let is_object = read_next_object(map, &mut reader, false)?;
                self.options = is_object.then_some(reader.context);
            }
            b"integrations" => {
                self.message.integrations =
                    Integrations::parse(map.next_value::<&RawValue>()?.into());
            }
            b"_metadata" => {
                self.message.sent_by_browser =
                    sent_by_browser(map.next_value::<&RawValue>()?.into());
            }
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

/// Reads the next value if it is an object. Returns whether it was one.
///
/// If `in_place`, the value is read in one pass. That fails on a value that serde_json can only
/// skip (a number like `1e400`, a string with a lone surrogate). Otherwise its text is found first
/// and read in a second pass.
pub(super) fn read_next_object<'a, A: MapAccess<'a>>(
    map: &mut A,
    reader: &mut impl ReadMember<'a>,
    in_place: bool,
) -> Result<bool, A::Error> {
    if in_place {
        return map.next_value_seed(ObjectSeed(reader));
    }
    match map.next_value::<&RawValue>()?.into() {
        Value::Object(text) => {
            read_object(text, reader).map_err(A::Error::custom)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Whether `_metadata.bundled` contains Keen and `_metadata.failedInitializations` does not.
fn sent_by_browser(metadata: Value<'_>) -> bool {
    let (mut bundled, mut failed) = (false, false);
    if let Value::Object(text) = metadata {
        for_each_member(text, &mut |name, value| match &*name.0 {
            b"bundled" => bundled = names_keen(value),
            b"failedInitializations" => failed = names_keen(value),
            _ => {}
        });
    }
    bundled && !failed
}

/// Whether an array contains one of Keen's names.
fn names_keen(list: Value<'_>) -> bool {
    let mut found = false;
    if let Value::Array(text) = list {
        for_each_element(text, &mut |name| {
            found |= matches!(name, Value::String(name) if name.is("Keen IO") || name.is("Keen"));
        });
    }
    found
}
