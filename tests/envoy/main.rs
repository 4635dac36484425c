//! The filter as built, in a real Envoy with the repository's `envoy.yaml`, in front of the mock of Keen.

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

mod accepted;
mod browser;
mod captures;
#[path = "../golden/cases.rs"]
mod cases;
mod configuration;
mod delivery;
mod edge;
mod faults;
mod forward;
mod golden;
mod hostile;
mod keys;
mod metrics;
mod page_load;
mod pixel;
mod replaced;
mod setting;
mod updates;
mod users;
mod visitors;
mod vm;
mod wire;
