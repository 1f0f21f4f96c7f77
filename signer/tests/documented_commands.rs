//! What docs/policy.md shows of a terminal is what the program prints: each command is run on the files that it names.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{path::Path, process::Command};

const PROGRAM: &str = "touchstone-signer";
/// Where the page says that its commands are run.
const FOLDER: &str = "../docs/examples";
const PAGE: &str = include_str!("../../docs/policy.md");

/// The commands of the page with what it shows of them: a line that begins with a dollar in an indented block, and the
/// lines up to the next or to the block's end.
fn shown() -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut in_block = false;
    for line in PAGE.lines() {
        // A blank line ends a block unless a further indented line follows; so it is kept, and trimmed at the end.
        match line.strip_prefix("    ") {
            Some(text) => match (text.strip_prefix("$ "), all.last_mut()) {
                (Some(command), _) => {
                    in_block = true;
                    all.push((command.to_owned(), String::new()));
                }
                (None, Some((_, output))) if in_block => {
                    *output += text;
                    output.push('\n');
                }
                (None, _) => {}
            },
            None if line.is_empty() && in_block => {
                if let Some((_, output)) = all.last_mut() {
                    output.push('\n');
                }
            }
            None => in_block = false,
        }
    }
    all
}

/// What the program prints, and after it what it says on stderr.
fn printed(command: &str) -> String {
    let mut words = command.split_whitespace();
    assert_eq!(words.next(), Some(PROGRAM), "{command}");
    let output = Command::new(env!("CARGO_BIN_EXE_touchstone-signer"))
        .args(words)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER))
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8(text).unwrap()
}

#[test]
fn each_command_of_the_page_prints_what_the_page_shows() {
    let shown = shown();
    for subject in ["lint", "test", "diff", "explain"] {
        let begins = format!("{PROGRAM} policy {subject} ");
        let is_shown = shown
            .iter()
            .any(|(command, _)| command.starts_with(&begins));
        assert!(is_shown, "{subject} is not shown");
    }
    for (command, output) in shown {
        // Spaces that end a line do not show in a page.
        let trimmed = |text: &str| -> String {
            let lines: Vec<_> = text.trim_end().lines().map(str::trim_end).collect();
            lines.join("\n")
        };
        assert_eq!(trimmed(&printed(&command)), trimmed(&output), "{command}");
    }
}
