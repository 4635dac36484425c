//! keen-edge: Segment's Keen destination as an Envoy HTTP filter.
//!
//! A request passes through these modules in one direction. Each step produces a value:
//!
//! | module | takes | returns |
//! |---|---|---|
//! | [`config`] | the filter's configuration | settings, or errors with their JSON pointers |
//! | [`segment`] | a request's head and body | its write key and messages; Segment's responses |
//! | [`mapping`] | a message, its source, client details from the request | Keen events |
//! | [`keen`] | names, values, events, Keen's reply | valid names and values, a result per event |
//! | [`users`] | identify messages | the user that an event contains |
//! | [`delivery`] | events with their waiters, and outcomes of callouts | callouts to dispatch, acks |
//! | [`overflow`] | events that Keen does not take, replies of the queue and of Keen | requests to the queue, events for Keen |
//! | `filter` | Envoy's callbacks | hostcalls; the only code that uses proxy-wasm |
//!
//! All modules share the JSON helpers of [`json`] and the times of [`timestamp`].

#![forbid(unsafe_code)]
// A panic ends the VM, so these lints forbid panics outside tests. clippy.toml allows them in unit
// tests.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::todo,
    clippy::unimplemented,
    clippy::unreachable,
    clippy::indexing_slicing
)]
// clippy.toml has no setting for these two.
#![cfg_attr(not(test), deny(clippy::string_slice, clippy::arithmetic_side_effects))]
#![warn(missing_docs, unreachable_pub, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

pub mod config;
pub mod delivery;
mod filter;
pub mod json;
pub mod keen;
pub mod mapping;
pub mod overflow;
pub mod segment;
pub mod timestamp;
pub mod users;

/// Smaller and faster than the standard library's allocator for wasm, and it reuses large blocks.
#[cfg(target_arch = "wasm32")]
#[global_allocator]
static ALLOCATOR: talc::wasm::WasmDynamicTalc = talc::wasm::new_wasm_dynamic_allocator();

mod entry_point {
    #![allow(missing_docs, reason = "the SDK's macro exports a function")]

    // Envoy calls the entry point once per VM. It installs the logger and the panic hook. Envoy's
    // own log level is applied when the filter is configured.
    proxy_wasm::main! {{
        proxy_wasm::set_log_level(proxy_wasm::types::LogLevel::Info);
        proxy_wasm::set_root_context(|id| Box::new(crate::filter::RootContext::new(id)));
    }}
}
