//! Properties of the mapping, over arbitrary input.

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
