//! Segment's HTTP API: routes, write keys, content encodings, and the responses that SDKs expect.

pub mod content_encoding;
pub mod cors;
pub mod initial_pageview;
pub mod pixel;
pub mod project_settings;
pub mod response;
pub mod route;
pub mod write_key;

pub use response::{BadRequestReason, Overload, Response, Unavailable};
pub use route::{CallerSide, Endpoint};
