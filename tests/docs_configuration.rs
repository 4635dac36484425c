//! Compares `config.schema.json`, the README's table of settings and `docs/configuration.md` with
//! the table of settings in `src/config/schema.rs`.
//!
//! `UPDATE_DOCS=1 cargo test --test docs_configuration` rewrites them.

use keen_edge::config::reference;
use std::path::PathBuf;

const BEGIN: &str = "<!-- settings:start -->\n";
const END: &str = "<!-- settings:end -->\n";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Compares a file with its expected content. Rewrites it if `UPDATE_DOCS` is set.
fn assert_current(name: &str, want: &str) {
    let found = std::fs::read_to_string(path(name)).unwrap_or_default();
    if found == want {
        return;
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path(name), want).unwrap();
        return;
    }
    let same = found.lines().zip(want.lines()).take_while(|(found, want)| found == want).count();
    panic!(
        "{name} differs from src/config/schema.rs in line {}: run UPDATE_DOCS=1 cargo test --test docs_configuration",
        same + 1
    );
}

/// Returns the file with `generated` between its markers.
fn with_generated(name: &str, generated: &str) -> String {
    let text = std::fs::read_to_string(path(name)).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap_or_else(|| panic!("{name} lacks {BEGIN}"));
    let (_, after) = rest.split_once(END).unwrap_or_else(|| panic!("{name} lacks {END}"));
    format!("{before}{BEGIN}{generated}{END}{after}")
}

#[test]
fn schema_file_is_current() {
    let schema = serde_json::to_string_pretty(&reference::json_schema()).unwrap();
    assert_current("config.schema.json", &format!("{schema}\n"));
}

#[test]
fn readme_table_is_current() {
    assert_current("README.md", &with_generated("README.md", &reference::readme_table()));
}

#[test]
fn configuration_reference_is_current() {
    let name = "docs/configuration.md";
    assert_current(name, &with_generated(name, &reference::reference_tables()));
}

#[test]
fn envoy_yaml_validates_against_the_schema() {
    let schema = std::fs::read_to_string(path("config.schema.json")).unwrap();
    let schema = serde_json::from_str(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    let mut config = harness::default_config();
    if let Err(error) = validator.validate(&config) {
        panic!("{}: {error}", error.instance_path());
    }
    config["delivery"]["holdMS"] = 1.into();
    assert!(!validator.is_valid(&config));
}
