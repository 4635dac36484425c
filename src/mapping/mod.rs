//! Maps a request's messages to Keen events as Segment's own Keen integrations do, with their bugs
//! fixed.
//!
//! `mode: cloud` follows the server-side integration. `mode: device` follows the browser's, which
//! adds fewer client details.
//!
//! ```
//! use keen_edge::config::Config;
//! use keen_edge::mapping::{Client, EventBuffer, Request, map_request};
//! use keen_edge::segment::http::route::CallerSide;
//! use keen_edge::segment::message::MessageType;
//! use keen_edge::users::UserTransaction;
//! use std::collections::BTreeMap;
//!
//! let config = br#"{"keen": {"cluster": "keen"}, "sources": {"wk": {"projectId": "9181bcd23843312d87000000"}}}"#;
//! let config = Config::parse(config).unwrap();
//! let request = Request {
//!     message_type: Some(MessageType::Track),
//!     side: CallerSide::Server,
//!     header_write_key: Some("wk"),
//!     body: br#"{"event": "Opened", "userId": "u-17", "messageId": "m-1"}"#,
//!     received_ms: 1_795_471_392_908,
//! };
//! let (mut store, mut events) = (BTreeMap::new(), EventBuffer::default());
//! let mut users = UserTransaction::new(&mut store, config.users, 0);
//! let stats =
//!     map_request(&config, request, |_| Client::default(), String::new, &mut users, &mut events);
//! assert_eq!(stats.unwrap().messages[0].events, 1);
//! assert_eq!(events.events().next().unwrap().collection, "Opened");
//! ```

mod addons;
mod audience_events;
mod batch_values;
mod client;
mod event;
mod event_buffer;
mod fields;
pub(crate) mod identity;
mod own_field;
mod pipeline;
mod properties;

pub use client::Client;
pub use event_buffer::{EventBuffer, Pushed};
pub use pipeline::{MessageOutcome, Request, RequestStats, SkipReason, map_request};

use batch_values::BatchValues;

/// Whether a JSON text is empty, `{}` or `[]`.
fn is_empty_container(json: &str) -> bool {
    let inside = json.get(1..json.len().saturating_sub(1)).unwrap_or_default();
    json.is_empty() || (json.starts_with(['{', '[']) && inside.trim_ascii().is_empty())
}

#[cfg(test)]
mod tests;
