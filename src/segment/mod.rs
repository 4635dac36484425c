//! Segment's protocol: the HTTP requests that its SDKs send, and the messages in their bodies.

pub mod http;
pub mod message;
