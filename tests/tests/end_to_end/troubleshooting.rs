//! The book's page of messages: every message on it is one that the code prints.

use std::fs;
use std::path::Path;

use diptych_tests::project;

/// Appends the Rust files below `folder` to `text`, with string literals that continue on the
/// next line joined.
fn append_sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            append_sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            for line in fs::read_to_string(&path).unwrap().lines() {
                if let Some(continued) = line.strip_suffix('\\') {
                    text.push_str(continued.trim_start());
                } else {
                    text.push_str(line.trim_start());
                    text.push('\n');
                }
            }
        }
    }
}

#[test]
fn every_message_of_the_troubleshooting_page_is_in_the_code() {
    let mut sources = String::new();
    for member in ["daemon", "pipeline", "schemas", "trainer"] {
        append_sources(&project().join(member), &mut sources);
    }
    let page = fs::read_to_string(project().join("daemon/docs/troubleshooting.md")).unwrap();
    let mut messages = 0;
    let mut missing = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let cell = row.split('|').nth(1).unwrap();
        for message in cell.split('`').skip(1).step_by(2) {
            messages += 1;
            if !sources.contains(message) {
                missing.push(message);
            }
        }
    }
    assert!(messages > 40, "only {messages} messages were read");
    assert!(missing.is_empty(), "messages that nothing prints: {missing:#?}");
}
