//! Properties of the mapping, over arbitrary input.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    reason = "tests may fail loudly"
)]

mod arbitrary;
mod configurations;
mod events;
mod oracle;
mod times;
mod tree;
