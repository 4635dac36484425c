//! Compares `docs/clients.md` with the programs that run and with the behaviour of the SDKs.

use super::sdk::{Reaction, Reactions};
use super::{browser, legacy, sdk};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn page() -> String {
    std::fs::read_to_string(harness::root().join("docs/clients.md"))
        .unwrap_or_else(|error| panic!("{error}"))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let paths = entries.flatten().map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Returns the parts of a program between the comments `docs` and `/docs`, by the rest of the first
/// comment. Removes the indentation, and lines that end in the comment `test`.
fn regions(text: &str) -> Vec<(String, String)> {
    fn comment(line: &str) -> Option<&str> {
        line.trim().strip_prefix("// ").or_else(|| line.trim().strip_prefix("# "))
    }
    let mut regions = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(label) = comment(line).and_then(|comment| comment.strip_prefix("docs")) else {
            continue;
        };
        let region: Vec<&str> =
            lines.by_ref().take_while(|line| comment(line) != Some("/docs")).collect();
        let indent = region.first().map_or(0, |line| line.len() - line.trim_start().len());
        let region = region.iter().filter(|line| !line.ends_with("// test"));
        let region: Vec<&str> = region.map(|line| line.get(indent..).unwrap_or_default()).collect();
        regions.push((label.trim().to_owned(), region.join("\n")));
    }
    regions
}

/// Returns the code blocks of the page, each with the marker before it: `<!-- PROGRAM [LABEL] -->`
/// or `<!-- not run -->`.
fn code_blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut previous = "";
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        // A block inside a list is indented.
        let indent = line.len() - line.trim_start().len();
        if line.trim_start().starts_with("```") {
            let block = lines.by_ref().take_while(|line| line.trim_start() != "```");
            let block: Vec<&str> =
                block.map(|line| line.get(indent..).unwrap_or_default()).collect();
            let marker = previous.trim().strip_prefix("<!-- ");
            let marker = marker.and_then(|rest| rest.strip_suffix(" -->"));
            let marker = marker.unwrap_or_else(|| panic!("no marker before the block {block:?}"));
            blocks.push((marker.to_owned(), block.join("\n")));
        }
        previous = line;
    }
    blocks
}

#[test]
fn page_code_blocks_equal_the_programs() {
    let root = harness::root().join("tests/clients/sdk");
    let mut programs = BTreeMap::new();
    for path in files(&root) {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let name = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
        for (label, region) in regions(&text) {
            programs.insert(format!("{name} {label}").trim().to_owned(), region);
        }
    }
    assert!(programs.len() > 10, "{programs:?}");
    let blocks = code_blocks(&page());
    for (marker, block) in &blocks {
        if marker != "not run" {
            assert_eq!(Some(block), programs.get(marker), "docs/clients.md: {marker}");
        }
    }
    let shown: BTreeSet<&String> = blocks.iter().map(|(marker, _)| marker).collect();
    for program in programs.keys() {
        assert!(shown.contains(program), "docs/clients.md does not show {program}");
    }
}

/// Returns the first word of a cell of the table.
fn word(reaction: Reaction) -> &'static str {
    match reaction {
        Reaction::Retries => "retries",
        Reaction::Drops => "drops",
    }
}

fn words(reactions: Reactions) -> [&'static str; 4] {
    let Reactions { too_many_requests, unavailable, connection_error, bad_request } = reactions;
    [too_many_requests, unavailable, connection_error, bad_request].map(word)
}

#[test]
fn page_table_equals_the_tested_reactions() {
    let mut tested: BTreeMap<&str, [&str; 4]> = BTreeMap::from([legacy::row()]);
    tested.extend(sdk::all().iter().map(|sdk| (sdk.row, words(sdk.reactions))));
    tested.extend(browser::rows().into_iter().map(|(row, reactions)| (row, words(reactions))));
    let page = page();
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        <[&str; 6]>::try_from(cells).ok()
    });
    for [name, reactions @ .., _] in rows.filter(|row| row[5] == "tested") {
        let expected = tested.remove(name);
        let expected = expected.unwrap_or_else(|| panic!("docs/clients.md: {name} is not tested"));
        for (cell, word) in reactions.iter().zip(expected) {
            let cell = cell.trim_start_matches('*');
            assert!(cell.starts_with(word), "docs/clients.md: {name}: {cell} is not {word}");
        }
    }
    assert!(tested.is_empty(), "docs/clients.md has no row for {tested:?}");
}
