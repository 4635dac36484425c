//! Reads the commands of a document.

use crate::generated::read;

/// Returns the shell commands of the section under `heading`, from its fenced blocks marked `sh`.
///
/// # Panics
/// Panics if the document has no such section, or if the section has no commands.
#[must_use]
pub fn commands(document: &str, heading: &str) -> String {
    let text = read(document);
    let level = heading.chars().take_while(|c| *c == '#').count();
    let mut lines = text.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "{document} has no heading {heading:?}");
    let mut commands = String::new();
    let mut block: Option<&str> = None;
    for line in lines {
        let depth = line.chars().take_while(|c| *c == '#').count();
        match (block, line.strip_prefix("```")) {
            (None, Some(language)) => block = Some(language),
            (Some(_), Some("")) => block = None,
            (Some("sh"), _) => {
                commands.push_str(line);
                commands.push('\n');
            }
            (None, None) if (1..=level).contains(&depth) => break,
            _ => {}
        }
    }
    assert!(!commands.is_empty(), "{document}: no commands under {heading:?}");
    commands
}
