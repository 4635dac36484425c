//! The tests that docs/failure-modes.md and docs/security.md name are there.

use std::fs;

/// What stands between backticks.
fn code(page: &str) -> Vec<String> {
    page.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether `module::name` is a test of tests/envoy; a name may end in `…` or `*`.
fn is_there(module: &str, name: &str) -> bool {
    let text = fs::read_to_string(format!("tests/envoy/{module}.rs")).unwrap_or_default();
    let start = name.trim_end_matches(['…', '*', '_']);
    let whole = start.len() == name.len();
    text.contains(&if whole { format!("async fn {name}()") } else { format!("fn {start}") })
}

#[test]
fn tests_named_in_docs_exist() {
    let mut named = 0;
    for page in ["docs/failure-modes.md", "docs/security.md"] {
        for token in code(&fs::read_to_string(page).unwrap()) {
            if let Some((module, name)) = token.split_once("::") {
                assert!(is_there(module, name), "{page} names {token}");
                named += 1;
            } else if token.ends_with(".rs") {
                assert!(fs::exists(&token).unwrap(), "{page} names {token}");
                named += 1;
            }
        }
    }
    assert!(named > 30, "{named}");
}
