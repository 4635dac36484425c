//! Properties of the mapping, over arbitrary input.

/// Number of inputs for a property: `PROPTEST_CASES` if it is set, else `default`.
fn cases(default: u32) -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.map_or(default, |cases| cases.parse().expect("PROPTEST_CASES is a number"))
}

mod arbitrary;
mod configurations;
mod events;
mod json_value;
mod oracle;
mod times;
mod v8_dates;
