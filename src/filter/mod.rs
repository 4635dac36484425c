//! The filter: the only code that knows proxy-wasm. It turns Envoy's callbacks into values for the pure modules, and
//! their decisions into host calls.
//!
//! | file | |
//! |---|---|
//! | `root_context` | `RootContext`: one per worker and configuration |
//! | `http_context` | `HttpContext`: one per request, as a state machine |
//! | `worker` | what the requests of a worker share: wires queue, delivery, users, callouts and metrics |
//! | `request_head` | the headers that are kept of a request, and how much of each |
//! | `request_queue` | complete requests, mapped together when the root context wakes |
//! | `responses` | responses to paused requests, a few per callback |
//! | `callouts` | HTTP requests to Keen |
//! | `telemetry` | metrics and the rate-limited log |
//! | `wake` | when the root context runs next |
//! | `overflow` | the overflow queue, in builds that have it |
//! | `process_state` | what all workers of the process share |
//! | `user_store` | the store of users in Envoy's shared data |
//! | `host` | the host calls |
//!
//! Properties of Envoy that shape it: header values may be any bytes; a chunked or decompressed body may end in
//! trailers; callouts belong to the root context; one callback may send some 300 responses and no more; a new
//! configuration may run in the same VM, so all state belongs to the root context and none is global.

mod callouts;
mod host;
mod http_context;
mod metrics;
mod overflow;
mod process_state;
mod request_head;
mod request_queue;
mod responses;
mod root_context;
mod telemetry;
mod user_store;
mod wake;
mod worker;

pub(crate) use root_context::RootContext;
