//! Every public module of the core has an example that runs as a doc test.

use std::fs;
use std::path::{Path, PathBuf};

/// The file of a module in the directory `dir`.
fn file_of(dir: &Path, module: &str) -> PathBuf {
    let nested = dir.join(module).join("mod.rs");
    if nested.exists() { nested } else { dir.join(format!("{module}.rs")) }
}

/// Adds the files of the public modules that `file` declares, and of those within them. `dir`:
/// where they are.
fn add_public_modules(file: &Path, dir: &Path, found: &mut Vec<PathBuf>) {
    let text = fs::read_to_string(file).unwrap();
    for line in text.lines() {
        let Some(module) = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';'))
        else {
            continue;
        };
        let file = file_of(dir, module);
        add_public_modules(&file, &dir.join(module), found);
        found.push(file);
    }
}

/// Whether the comments of a file have a block of Rust that rustdoc runs, with an assertion.
fn has_example(text: &str) -> bool {
    let mut block: Option<(bool, bool)> = None;
    for line in text.lines().map(str::trim_start) {
        let Some(comment) = line.strip_prefix("//!").or_else(|| line.strip_prefix("///")) else {
            block = None;
            continue;
        };
        match (comment.trim().strip_prefix("```"), block) {
            (Some(_), Some((true, true))) => return true,
            (Some(_), Some(_)) => block = None,
            (Some(language), None) => block = Some((matches!(language, "" | "rust"), false)),
            (None, Some((runs, asserts))) => {
                block = Some((runs, asserts || comment.contains("assert")))
            }
            (None, None) => {}
        }
    }
    false
}

#[test]
fn public_modules_have_an_example() {
    let mut files = Vec::new();
    add_public_modules(Path::new("src/lib.rs"), Path::new("src"), &mut files);
    assert!(files.len() > 30, "{}", files.len());
    let without: Vec<_> =
        files.iter().filter(|file| !has_example(&fs::read_to_string(file).unwrap())).collect();
    assert!(without.is_empty(), "without an example that runs: {without:?}");
}

#[test]
fn examples_are_blocks_that_run_and_assert() {
    assert!(has_example("//! Text.\n//! ```\n//! assert!(true);\n//! ```\n"));
    assert!(has_example("    /// ```rust\n    /// assert_eq!(1, 1);\n    /// ```\n"));
    for text in [
        "",
        "//! assert!(true);\n",
        "//! ```json\n//! {\"assert\": 1}\n//! ```\n",
        "//! ```ignore\n//! assert!(true);\n//! ```\n",
        "//! ```\n//! let nothing = 1;\n//! ```\n",
        "//! ```\n//! cut\n",
        "// ```\n// assert!(true);\n// ```\n",
    ] {
        assert!(!has_example(text), "{text}");
    }
}
