//! Segment's messages: a request body, and what the mapping needs of each message in it.

pub mod body;
pub mod computed_traits;
mod fields;
pub mod integrations;
pub mod key_match;
mod message_type;
pub mod timestamp;

pub use fields::{Context, Message};
pub use message_type::MessageType;
