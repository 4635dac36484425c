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
pub mod integrations;
pub mod key_match;
#[allow(clippy::module_inception, reason = "it is the message")]
pub mod message;
mod message_type;

pub use body::Body;
pub use context::Context;
pub use message::Message;
pub use message_type::MessageType;
