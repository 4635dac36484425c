//! keen-edge: Segment's Keen destination as an Envoy HTTP filter.
//!
//! The way of an event, one direction, each step a value handed on:
//!
//! | module | takes | gives |
//! |---|---|---|
//! | [`config`] | the filter's configuration, as a person writes it | settings, or an error with its JSON pointer |
//! | [`segment`] | a request's head and body | the call, its write key, its messages; Segment's answers |
//! | [`mapping`] | a message, its source, what the request tells of the client | Keen events |
//! | [`keen`] | names, values, events, a bulk reply | what Keen accepts, and what it said |
//! | [`users`] | what identify calls say, and whom an event names | what events show of that user |
//! | [`delivery`] | events with their waiters, and what became of calls | calls to make, answers to give |
//! | `filter` | Envoy's callbacks | host calls: the only code that knows proxy-wasm |
//!
//! [`json`] reads the text that all of them speak, [`tree`] holds what is small of it, [`by_id`] finds what has a number.

// No caller may end the VM: nothing outside tests panics. clippy.toml lets unit tests do so.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::todo,
    clippy::unimplemented,
    clippy::unreachable,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects
)]
#![warn(missing_docs, unreachable_pub, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

pub mod by_id;
pub mod config;
pub mod delivery;
pub mod json;
pub mod keen;
pub mod mapping;
pub mod overflow;
pub mod segment;
pub mod tree;
pub mod users;

#[cfg(target_arch = "wasm32")]
mod filter;
