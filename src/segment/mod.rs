//! Segment's protocol: the HTTP requests that its SDKs send, and the messages in their bodies.
//!
//! ```
//! use keen_edge::segment::http::Endpoint;
//! use keen_edge::segment::message::Body;
//!
//! let endpoint = Endpoint::parse(b"POST", b"/v1/track", None);
//! let Some(Endpoint::Ingest { message_type, .. }) = endpoint else { panic!() };
//! let body = Body::parse(message_type, r#"{"event": "Opened", "userId": "u-17"}"#, 2_500).unwrap();
//! assert_eq!(body.messages[0].event.scalar_text().as_deref(), Some("Opened"));
//! ```

pub mod http;
pub mod message;
