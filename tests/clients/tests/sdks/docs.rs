//! `docs/clients.md` shows what the programs run.

use std::path::{Path, PathBuf};

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let paths = entries.flatten().map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// What stands between the comments `docs` and `/docs`, without its indentation.
fn shown(text: &str) -> Option<String> {
    let is = |line: &str, word: &str| matches!(line.trim().split_once(' '), Some(("//" | "#", rest)) if rest == word);
    let mut lines = text.lines().skip_while(|line| !is(line, "docs"));
    let first = lines.next()?;
    let indent = first.len() - first.trim_start().len();
    let region = lines.take_while(|line| !is(line, "/docs"));
    Some(region.map(|line| line.get(indent..).unwrap_or_default()).collect::<Vec<_>>().join("\n"))
}

#[test]
fn each_snippet_is_what_a_program_runs() {
    let docs = std::fs::read_to_string(harness::root().join("docs/clients.md"))
        .unwrap_or_else(|error| panic!("{error}"));
    let mut found = 0;
    for path in files(&harness::root().join("tests/clients/sdk")) {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let Some(snippet) = shown(&text) else { continue };
        found += 1;
        assert!(
            docs.contains(&format!("\n{snippet}\n")),
            "docs/clients.md does not show {}:\n{snippet}",
            path.display()
        );
    }
    assert_eq!(found, 8, "programs with a part between the comments `docs` and `/docs`");
}
