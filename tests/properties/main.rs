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

/// How many inputs a property is tried with: so many, unless `PROPTEST_CASES` says how many.
fn cases(unless_asked: u32) -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.map_or(unless_asked, |cases| cases.parse().expect("PROPTEST_CASES is a number"))
}

mod arbitrary;
mod configurations;
mod events;
mod oracle;
mod times;
mod tree;
mod v8_dates;
