//! Parses a configuration, as JSON or as a Struct in its wire form. It is read, or refused with a
//! pointer and a rule.
#![no_main]

use keen_edge::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    match Config::parse(text) {
        Ok(config) => {
            assert!(!config.sources.is_empty());
            for source in &config.sources {
                assert!(source.destination_index < config.destinations.len());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
