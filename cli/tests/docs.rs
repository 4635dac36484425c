//! The commands in docs/cli.md print the output that the document shows.

use std::path::Path;
use std::process::Command;

/// Returns commands and their output: `$ command`, then lines up to the next command or the end of
/// the block.
fn examples(document: &str) -> Vec<(String, String)> {
    let mut examples: Vec<(String, String)> = Vec::new();
    let mut in_block = false;
    for line in document.lines() {
        if line.starts_with("```") {
            in_block = line == "```console";
        } else if let (true, Some(command)) = (in_block, line.strip_prefix("$ ")) {
            examples.push((command.to_owned(), String::new()));
        } else if let (true, Some((_, output))) = (in_block, examples.last_mut()) {
            output.push_str(line);
            output.push('\n');
        }
    }
    examples
}

#[test]
fn commands_print_what_the_document_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let programs = Path::new(env!("CARGO_BIN_EXE_keen-edge")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let examples = examples(&std::fs::read_to_string(root.join("docs/cli.md")).unwrap());
    assert!(examples.len() >= 5, "{} commands", examples.len());
    for (command, want) in examples {
        let output = Command::new("bash")
            .args(["-c", &command])
            .current_dir(&root)
            .env("PATH", &path)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(String::from_utf8_lossy(&output.stdout), want, "{command}\n{errors}");
    }
}
