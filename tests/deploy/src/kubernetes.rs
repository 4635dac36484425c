//! Kubernetes objects.

use crate::{run, tool};
use serde_json::Value;
use std::{fs, path::Path, process::Command};

/// The Kubernetes versions whose schemas the tests use: the current one and the oldest.
const VERSIONS: [&str; 2] = ["1.37.0", "1.29.0"];

/// Returns the documents of a YAML stream.
///
/// # Panics
/// Panics if one is not valid YAML.
#[must_use]
pub fn documents(yaml: &str) -> Vec<Value> {
    let documents = yaml.split("\n---").map(|text| text.trim_start_matches("---"));
    let has_content = |text: &&str| {
        text.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
    };
    documents.filter(has_content).map(harness::yaml).collect()
}

/// Returns the object of this kind whose name ends with `name`.
///
/// # Panics
/// Panics if there is none.
#[must_use]
pub fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let matches = |object: &&Value| {
        object["kind"] == kind
            && object["metadata"]["name"].as_str().is_some_and(|found| found.starts_with(name))
    };
    objects.iter().find(matches).unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// Checks objects against the strict schemas of Kubernetes.
///
/// # Errors
/// Returns what the schemas refuse.
///
/// # Panics
/// Panics if the file cannot be written.
pub fn validate(dir: &Path, yaml: &str) -> Result<(), String> {
    let file = dir.join("objects.yaml");
    fs::write(&file, yaml).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    for version in VERSIONS {
        let mut command = Command::new(tool("kubernetes-validate"));
        let checked = run(command.args(["--strict", "--kubernetes-version", version]).arg(&file));
        if !checked.succeeded() {
            return Err(checked.all_output());
        }
    }
    Ok(())
}
