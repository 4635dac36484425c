//! The edge Segment's SDKs see: which call, whose key, which messages, which answer.

pub mod answer;
pub mod body;
pub mod endpoint;
pub mod inflate;
pub mod integrations;
pub mod message;
pub mod name_like;
pub mod timestamp;
pub mod write_key;
