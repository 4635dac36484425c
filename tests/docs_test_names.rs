//! Checks that every test named in docs/failure-modes.md and docs/security.md exists.

use std::fs;

/// Returns the texts between backticks.
fn code(page: &str) -> Vec<String> {
    page.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether `module::name` is a test in tests/envoy or tests/overflow-queues. `module::*` means all
/// tests of a module.
fn test_exists(module: &str, name: &str) -> bool {
    let of = |dir: &str| fs::read_to_string(format!("{dir}/{module}.rs")).unwrap_or_default();
    let text = of("tests/envoy") + &of("tests/overflow-queues/tests/queues");
    if name == "*" { !text.is_empty() } else { text.contains(&format!("async fn {name}()")) }
}

#[test]
fn tests_named_in_docs_exist() {
    let mut named = 0;
    for page in ["docs/failure-modes.md", "docs/security.md"] {
        for token in code(&fs::read_to_string(page).unwrap()) {
            if let Some((module, name)) = token.split_once("::") {
                assert!(test_exists(module, name), "{page} names {token}");
                named += 1;
            } else if token.ends_with(".rs") {
                assert!(fs::exists(&token).unwrap(), "{page} names {token}");
                named += 1;
            }
        }
    }
    assert!(named > 30, "{named}");
}
