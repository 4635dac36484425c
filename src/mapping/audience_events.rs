//! Audiences that come as identify calls, as the track calls that Engage makes of them where it is asked to
//! (segment.com/docs/engage/audiences, "Track events").

use crate::json::{Cursor, Member, Members, Str, Value, write_string};
use crate::segment::message::Message;
use crate::segment::message::MessageType;
use crate::segment::message::computed_traits::engage;

/// A user has entered or left an audience.
pub(super) struct Change {
    entered: bool,
    properties: String,
    /// The message's id and the audience: one identify may tell of several. Between quotes.
    id: String,
}

/// The changes that a message tells of.
pub(super) fn changes(message: &Message<'_>) -> Vec<Change> {
    let audiences = engage(message).map(|engage| engage.audiences).unwrap_or_default();
    let change = |(name, entered): (String, bool)| {
        let mut out = b"{\"audience_key\":".to_vec();
        write_string(&mut out, &name);
        out.push(b',');
        write_string(&mut out, &name);
        out.extend_from_slice(if entered { b":true}" } else { b":false}" });
        let properties = String::from_utf8(out).unwrap_or_default();
        let mut id = Vec::new();
        if let Some(own) = message.message_id.text() {
            crate::json::write_escaped(&mut id, &format!("{own} {name}"));
        }
        Change { entered, properties, id: String::from_utf8(id).unwrap_or_default() }
    };
    audiences.into_iter().map(change).collect()
}

impl Change {
    /// The members of the track call's properties.
    pub(super) fn properties<'a>(&'a self, members: &'a mut Vec<Member<'a>>) -> Members<'a> {
        // The text is our own: it is an object.
        let _ = Cursor::new(&self.properties).members(members);
        Members { text: &self.properties, list: members }
    }

    /// The track call.
    pub(super) fn track<'a>(&'a self, identify: &Message<'a>) -> Message<'a> {
        let event = if self.entered { "Audience Entered" } else { "Audience Exited" };
        let id = Str { raw: &self.id, escaped: self.id.contains('\\') };
        Message {
            kind: Some(MessageType::Track),
            event: Value::String(Str { raw: event, escaped: false }),
            properties: Value::Object(&self.properties),
            message_id: if self.id.is_empty() { Value::Absent } else { Value::String(id) },
            ..identify.clone()
        }
    }
}
