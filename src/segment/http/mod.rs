//! Segment's HTTP API: routes, write keys, content encodings, and the responses that SDKs expect.
//!
//! ```
//! use keen_edge::segment::http::{BadRequestReason, Endpoint, Response};
//!
//! // Segment responds with 400, not with 405, and SDKs do not retry it.
//! let endpoint = Endpoint::parse(b"PUT", b"/v1/batch", None);
//! assert_eq!(endpoint, Some(Endpoint::MethodNotAllowed));
//! assert_eq!(Response::BadRequest(BadRequestReason::MethodNotAllowed).status(), 400);
//! ```

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
