//! The filter: the only code that uses proxy-wasm. It converts Envoy's callbacks to values for the
//! pure modules, and their decisions to hostcalls.
//!
//! | file | |
//! |---|---|
//! | `root_context` | `RootContext`: one per worker and configuration |
//! | `http_context` | `HttpContext`: one per request, as a state machine |
//! | `worker` | state shared by a worker's requests: queue, delivery, users, callouts, metrics |
//! | `request_head` | the stored headers of a request, and their maximum lengths |
//! | `request_queue` | complete requests, mapped together when the root context wakes |
//! | `responses` | responses to paused requests, a few per callback |
//! | `callouts` | HTTP requests to Keen |
//! | `telemetry` | metrics and the rate-limited log |
//! | `wake` | when the root context runs next |
//! | `process_state` | state that all workers of the process share |
//! | `user_store` | the store of users in Envoy's shared data |
//! | `host` | the hostcalls |
//!
//! The design follows from these properties of Envoy. Header values may be any bytes. A chunked or
//! decompressed body may end in trailers. Callouts belong to the root context. One callback may
//! send at most about 300 responses. A new configuration may run in the same VM, so all state
//! belongs to the root context and none is global.

mod callouts;
mod host;
mod http_context;
mod metrics;
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
