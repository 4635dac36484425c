//! Makes the files of `deploy/` that repeat parts of `envoy.yaml`. Tests compare the files with the
//! result, and rewrite them with `UPDATE_DEPLOY=1`.

use std::{fs, path::Path};

/// The path of the module in the files of `deploy/`.
pub const WASM_PATH: &str = "/etc/envoy/keen_edge.wasm";

/// The path of the module if the image with only the filter is mounted as a volume.
pub const WASM_PATH_IN_VOLUME: &str = "/etc/keen-edge/filter/plugin.wasm";

/// The command that updates a file.
pub const UPDATE: &str = "UPDATE_DEPLOY=1 cargo test -p deploy --test generated";

/// Returns the text of a file of the repository.
///
/// # Panics
/// Panics if the file cannot be read.
#[must_use]
pub fn read(path: &str) -> String {
    fs::read_to_string(harness::root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Asserts that a file has this content. Writes it if `UPDATE_DEPLOY` is set.
///
/// # Panics
/// Panics if the file differs.
pub fn assert_up_to_date(path: &str, expected: &str) {
    let file = harness::root().join(path);
    if std::env::var_os("UPDATE_DEPLOY").is_some() {
        fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))
            .and_then(|()| fs::write(&file, expected))
            .unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    assert!(read(path) == expected, "{path} differs from envoy.yaml; run: {UPDATE}");
}

/// Returns `envoy.yaml` without its first comment, with the module's path on a production machine.
#[must_use]
pub fn envoy_yaml() -> String {
    let text = read("envoy.yaml");
    let start = text.find("node:").expect("envoy.yaml has a node");
    text.split_at(start).1.replace("target/keen_edge.wasm", WASM_PATH)
}

/// Returns the item or key of `text` that starts with `first`: that line and the lines after it
/// with more indentation, without their common indentation. An item's own comments are included.
///
/// # Panics
/// Panics if no line starts with `first`.
#[must_use]
pub fn block(text: &str, first: &str) -> String {
    let (_, lines) = find(text, first);
    let indent = indent_of(lines[0]);
    let mut out = String::new();
    for line in lines {
        out.push_str(line.get(indent..).unwrap_or_default());
        out.push('\n');
    }
    out
}

/// Replaces the block that starts with `first`. The new block gets the indentation of the old one.
///
/// # Panics
/// Panics if no line starts with `first`.
#[must_use]
pub fn with_block(text: &str, first: &str, new: &str) -> String {
    let (at, lines) = find(text, first);
    let all: Vec<&str> = text.lines().collect();
    let new = indented(new, indent_of(lines[0]));
    let after = all[at + lines.len()..].join("\n");
    let before = all[..at].join("\n");
    format!("{before}\n{new}{after}\n")
}

/// Returns `text` with `spaces` in front of each line that is not empty.
#[must_use]
pub fn indented(text: &str, spaces: usize) -> String {
    let indent = " ".repeat(spaces);
    let lines = text.lines().map(|line| match line {
        "" => "\n".to_owned(),
        line => format!("{indent}{line}\n"),
    });
    lines.collect()
}

/// Returns the index of the first line of a block, and its lines.
fn find<'a>(text: &'a str, first: &str) -> (usize, Vec<&'a str>) {
    let lines: Vec<&str> = text.lines().collect();
    let exact = lines.iter().position(|line| line.trim() == first);
    let at = exact.or_else(|| lines.iter().position(|line| line.trim_start().starts_with(first)));
    let at = at.unwrap_or_else(|| panic!("no line starts with {first:?}"));
    let indent = indent_of(lines[at]);
    let inside = |line: &&&str| line.trim().is_empty() || indent_of(line) > indent;
    let mut length = 1 + lines[at + 1..].iter().take_while(inside).count();
    while lines[at + length - 1].trim().is_empty() {
        length -= 1;
    }
    (at, lines[at..at + length].to_vec())
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Returns the filter as an item of `http_filters`.
#[must_use]
pub fn filter() -> String {
    block(&envoy_yaml(), "- name: keen_edge")
}

/// Returns the filter as an item of `http_filters`, for a control plane with Envoy's API of 1.39
/// and older. There `capability_restriction_config` is a field of the plugin; since 1.40 it is a
/// field of the VM.
///
/// # Panics
/// Panics if `envoy.yaml` has other lines around that field.
#[must_use]
pub fn filter_for_control_plane() -> String {
    let text = filter().replace(WASM_PATH, WASM_PATH_IN_VOLUME);
    let (start, end) = ("# The callbacks that Envoy runs", "# An invalid configuration");
    assert!(text.contains(start) && text.contains(end), "{text}");
    let mut moved = false;
    let mut out = String::new();
    for line in text.lines() {
        if line.trim().starts_with(start) {
            moved = true;
            let indent = " ".repeat(indent_of(line) - 2);
            out.push_str(&format!(
                "{indent}# In vm_config since Envoy 1.40, which also takes it from here.\n"
            ));
        }
        moved &= !line.trim().starts_with(end);
        out.push_str(if moved { line.get(2..).unwrap_or_default() } else { line });
        out.push('\n');
    }
    out
}

/// Returns the cluster `keen` as an item of `clusters`, for Keen itself instead of the mock: with
/// its address, and its TLS, which is a comment in `envoy.yaml`.
///
/// # Panics
/// Panics if `envoy.yaml` has another address, or no such comment.
#[must_use]
pub fn cluster() -> String {
    let text = block(&envoy_yaml(), "- name: keen");
    let local = "address: 127.0.0.1, port_value: 8089";
    assert!(text.contains(local) && text.contains("# transport_socket:"), "{text}");
    let text = text.replace(local, "address: api.keen.io, port_value: 443");
    let mut in_comment = false;
    let lines =
        text.lines().filter(|line| !line.contains("# This is the mock Keen.")).map(|line| {
            in_comment = line.trim() == "# transport_socket:"
                || in_comment && line.trim_start().starts_with("#   ");
            if in_comment { line.replacen("# ", "", 1) } else { line.to_owned() }
        });
    lines.map(|line| line + "\n").collect()
}

/// Returns the block as a value instead of an item of a list: without `- `.
#[must_use]
pub fn as_value(item: &str) -> String {
    let lines = item.lines().map(|line| format!("{}\n", line.get(2..).unwrap_or_default()));
    lines.collect()
}
