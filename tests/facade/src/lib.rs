//! Runs Segment's facade in Node. Segment's destinations read messages with this library.

use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};

/// The facade that Segment's Keen integration was built on, and the one that analytics.js bundles
/// today.
pub const PACKAGES: [&str; 2] = ["segmentio-facade", "@segment/facade"];

/// Returns how a package reads each message.
///
/// # Panics
/// Panics with the program's output if Node or the package is missing, or if the program fails.
#[must_use]
pub fn readings(package: &str, messages: &[String]) -> Vec<Value> {
    let script = harness::root().join("scripts/clients.sh");
    let installed = Command::new(&script).arg("facade").stderr(Stdio::inherit()).output();
    let installed = installed.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    assert!(installed.status.success(), "{} facade: {}", script.display(), installed.status);
    let home = String::from_utf8_lossy(&installed.stdout).trim().to_owned();
    let mut node = Command::new("node")
        .args(["facade.mjs", package])
        .current_dir(&home)
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("node: {error}"));
    let text = messages.join("\n");
    let mut stdin = node.stdin.take().unwrap_or_else(|| panic!("no pipe to node"));
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = node.wait_with_output().unwrap_or_else(|error| panic!("node: {error}"));
    let written = writer.join().unwrap_or_else(|_| panic!("the writer failed"));
    assert!(output.status.success() && written.is_ok(), "node: {}, {written:?}", output.status);
    let read =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let readings: Vec<Value> = String::from_utf8_lossy(&output.stdout).lines().map(read).collect();
    assert_eq!(readings.len(), messages.len());
    readings
}
