//! The API Keen offers: legal names and values, events, bulk requests and their replies.
//!
//! Rules are those of Keen's write API 3.0 (keen.io/docs/api, "Record multiple events", and the
//! texts of its errors).

pub mod bulk;
pub mod event_writer;
pub mod names;
pub mod sanitize;
mod transliterate;
