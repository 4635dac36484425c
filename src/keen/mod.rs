//! Keen's API: valid names and values, events, bulk requests and their replies.
//!
//! The rules are those of Keen's write API 3.0 (keen.io/docs/api, "Record multiple events", and its
//! error messages).
//!
//! ```
//! use keen_edge::json::read_value;
//! use keen_edge::keen::event_writer::EventWriter;
//! use keen_edge::keen::sanitize::sanitize;
//!
//! // Keen accepts names of properties without dots only.
//! let properties = sanitize(read_value(r#"{"shipping.city": "Ulm"}"#).unwrap(), 0).json;
//! let mut event = Vec::new();
//! let mut writer = EventWriter::new(&mut event);
//! writer.members(&properties[1..properties.len() - 1]);
//! writer.finish();
//! assert_eq!(event, br#"{"shipping_city":"Ulm"}"#);
//! ```

pub mod bulk;
pub mod event_writer;
pub mod names;
pub mod sanitize;
mod transliterate;
