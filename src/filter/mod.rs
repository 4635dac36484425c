//! The only code that knows proxy-wasm. It turns Envoy's callbacks into values for the pure modules, and what they
//! decide into host calls.
//!
//! Envoy's ways that shape it: header values may be any bytes, so none is read as text; a decompressed or chunked body
//! may end in trailers; callouts belong to the root context; a callback may answer some 300 streams and no more; a new
//! configuration may run in the same VM, so all state hangs on the root context.

mod dispatcher;
mod headers;
mod host;
mod hostcalls;
mod http_context;
mod logger;
mod metrics;
mod request_head;
mod request_queue;
mod root_context;
mod user_store;
mod worker;
