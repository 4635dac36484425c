//! Keen's API: valid names and values, events, bulk requests and their replies.
//!
//! The rules are those of Keen's write API 3.0 (keen.io/docs/api, "Record multiple events", and its
//! error messages).

pub mod bulk;
pub mod event_writer;
pub mod names;
pub mod sanitize;
mod transliterate;
