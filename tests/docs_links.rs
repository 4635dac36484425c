//! Checks links and words in the Markdown files of this repository.
//!
//! Links to files and headings must lead somewhere. Words that the glossary replaces must not
//! return.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Directories that contain no documents of this project.
const SKIPPED: [&str; 3] = ["target", "node_modules", ".git"];

/// Words of an earlier vocabulary, in lower case. `docs/glossary.md` has their replacements.
const REPLACED_WORDS: [&str; 12] = [
    "behind it all",
    "doorbell",
    "heard of",
    "mended",
    "no matter",
    "nobody",
    "of late",
    "rung",
    "whoever",
    "whom",
    "woken",
    "stands aside",
];

fn markdown_files(directory: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                markdown_files(&path, found);
            }
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

fn documents() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    markdown_files(Path::new("."), &mut files);
    files
        .into_iter()
        .map(|file| {
            let text = fs::read_to_string(&file).unwrap();
            (normalized(&file), text)
        })
        .collect()
}

/// Returns the path without `.` and `..`.
fn normalized(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// Returns the lines outside of fenced code blocks.
fn prose(text: &str) -> Vec<&str> {
    let mut fence: Option<&str> = None;
    let mut lines = Vec::new();
    for line in text.lines() {
        let marker =
            ["```", "~~~"].into_iter().find(|marker| line.trim_start().starts_with(marker));
        match (fence, marker) {
            (None, Some(_)) => fence = marker,
            (Some(open), Some(close)) if open == close => fence = None,
            (Some(_), _) => {}
            (None, None) => lines.push(line),
        }
    }
    lines
}

/// Returns a line without its inline code.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join(" ")
}

/// Returns the anchors that GitHub gives to the headings of a document.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut counts = BTreeMap::new();
    let mut found = BTreeSet::new();
    for line in prose(text) {
        if let Some((_, rest)) = line.split_once("<a id=\"") {
            found.extend(rest.split('"').next().map(str::to_owned));
        }
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let slug: String = heading
            .trim()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() })
            .collect();
        let count = counts.entry(slug.clone()).or_insert(0_usize);
        found.insert(if *count == 0 { slug } else { format!("{slug}-{count}") });
        *count += 1;
    }
    found
}

/// Returns the targets of the links and images of a document.
fn targets(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        let line = without_code(line);
        for rest in line.split("](").skip(1) {
            let target = rest.split([')', ' ']).next().unwrap_or_default();
            found.push(target.trim_matches(['<', '>']).to_owned());
        }
    }
    found
}

#[test]
fn links_of_all_documents_lead_to_a_file_and_a_heading() {
    let documents = documents();
    let anchors: BTreeMap<&Path, BTreeSet<String>> =
        documents.iter().map(|(file, text)| (file.as_path(), anchors(text))).collect();
    let mut checked = 0;
    let mut broken = Vec::new();
    for (file, text) in &documents {
        for target in targets(text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let to = match path {
                "" => file.clone(),
                _ => normalized(&file.parent().unwrap_or(Path::new("")).join(path)),
            };
            let is_there = to.exists()
                && (anchor.is_empty()
                    || anchors.get(to.as_path()).is_some_and(|known| known.contains(anchor)));
            if !is_there {
                broken.push(format!("{}: {target}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
    assert!(checked > 60, "{checked} links");
}

/// Returns the pieces of inline code of a line.
fn code(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[test]
fn files_that_documents_name_exist() {
    const DIRECTORIES: [&str; 8] =
        ["benches/", "deploy/", "docs/", "fuzz/", "mock-keen/", "scripts/", "src/", "tests/"];
    let mut missing = Vec::new();
    for (file, text) in documents() {
        for path in prose(&text).into_iter().flat_map(code) {
            let is_path = DIRECTORIES.iter().any(|directory| path.starts_with(directory))
                && !path.contains(['*', ' ', '<', '{', '…'])
                && !path.contains("::");
            let beside = file.parent().unwrap_or(Path::new("")).join(path);
            if is_path && !Path::new(path).exists() && !beside.exists() {
                missing.push(format!("{}: {path}", file.display()));
            }
        }
    }
    // The changelog names files of the past.
    missing.retain(|entry| !entry.starts_with("CHANGELOG.md"));
    assert!(missing.is_empty(), "files that do not exist:\n{}", missing.join("\n"));
}

/// Appends the text of all Rust files below a directory.
fn rust_text(directory: &Path, text: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_text(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn names_in_the_last_column_of_the_glossary_exist() {
    // Metrics are compared with a real Envoy by tests/envoy/metrics.rs.
    let mut text = fs::read_to_string("docs/operating.md").unwrap();
    text.push_str(&fs::read_to_string("envoy.yaml").unwrap());
    rust_text(Path::new("src"), &mut text);
    let words: BTreeSet<&str> =
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    let glossary = fs::read_to_string("docs/glossary.md").unwrap();
    let mut missing = Vec::new();
    let mut checked = 0;
    for row in glossary.lines().filter(|line| line.starts_with("| **")) {
        let column = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        for name in code(column) {
            checked += 1;
            let metric = format!("keen_edge_{name}");
            let is_name = words.contains(name) || words.contains(metric.as_str());
            if !is_name && !Path::new(name).exists() {
                missing.push(name);
            }
        }
    }
    assert!(missing.is_empty(), "the glossary names what does not exist: {missing:?}");
    assert!(checked > 80, "{checked} names");
}

#[test]
fn documents_use_no_replaced_word() {
    let mut found = Vec::new();
    for (file, text) in documents() {
        for line in prose(&text) {
            let words = without_code(line).to_lowercase();
            let words = words.split(|c: char| !c.is_alphabetic()).collect::<Vec<_>>().join(" ");
            for word in REPLACED_WORDS {
                if format!(" {words} ").contains(&format!(" {word} ")) {
                    found.push(format!("{}: {word}: {line}", file.display()));
                }
            }
        }
    }
    assert!(found.is_empty(), "words that docs/glossary.md replaces:\n{}", found.join("\n"));
}
