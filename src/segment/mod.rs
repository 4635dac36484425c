//! The edge Segment's SDKs see: which call, whose key, which messages, which answer.

pub mod answer;
mod base64;
pub mod body;
pub mod cors;
pub mod endpoint;
pub mod engage;
pub mod inflate;
pub mod integrations;
pub mod message;
pub mod name_like;
pub mod page_load;
pub mod pixel;
pub mod settings;
pub mod timestamp;
pub mod write_key;
