//! Segment's messages: parses request bodies into the parts of each message that the mapping needs.
//!
//! ```
//! use keen_edge::segment::message::{Body, MessageType};
//!
//! let text = r#"{"batch": [{"type": "track", "event": "Opened", "userId": "u-17"}]}"#;
//! let body = Body::parse(None, text, 2_500).unwrap();
//! assert_eq!(body.messages[0].message_type, Some(MessageType::Track));
//! assert_eq!(body.messages[0].user_id.scalar_text().as_deref(), Some("u-17"));
//! ```

pub mod body;
pub mod computed_traits;
pub mod context;
mod destination_flags;
pub mod integrations;
pub mod key_match;
#[allow(clippy::module_inception, reason = "it is the message")]
pub mod message;
mod message_type;

pub use body::Body;
pub use context::Context;
pub use message::Message;
pub use message_type::MessageType;

/// Whether `text` contains only characters that cannot be seen: white space, control characters and
/// the invisible characters of Unicode (`Default_Ignorable_Code_Point` in UAX #44) that texts have.
#[must_use]
pub(crate) fn is_blank(text: &str) -> bool {
    text.chars().all(|c| {
        c.is_whitespace()
            || c.is_control()
            || matches!(
                c,
                '\u{ad}'
                    | '\u{34f}'
                    | '\u{61c}'
                    | '\u{115f}'..='\u{1160}'
                    | '\u{180e}'
                    | '\u{200b}'..='\u{200f}'
                    | '\u{202a}'..='\u{202e}'
                    | '\u{2060}'..='\u{206f}'
                    | '\u{2800}'
                    | '\u{3164}'
                    | '\u{feff}'
                    | '\u{ffa0}'
                    | '\u{e0000}'..='\u{e0fff}'
            )
    })
}
