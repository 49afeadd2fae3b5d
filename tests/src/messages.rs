//! Messages as snapshots, so that tests check codes and data, and words can be improved freely.
//!
//! A message is compared with `tests/messages/COMMAND/NAME.snap`. All messages of a command are on
//! the page `tests/messages/COMMAND.md`, which is made from its snapshots. `make messages` accepts
//! new words: it writes the snapshots that differ, then the pages.
//!
//! Marks replace the parts that differ from run to run: folders, ports, process ids, times.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use insta::Settings;

use crate::project;

/// Parts of a message that differ from run to run, and the marks that replace them.
const VARYING: [(&str, &str); 13] = [
    // How often a training shows a step depends on its speed.
    (r"(?m)^ INFO step \d+/\d+ .*\n", ""),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?", "[time]"),
    // Milliseconds since 1970 in the name of a folder.
    (r"\b1\d{12}\b", "[time]"),
    (r"(127\.0\.0\.1|localhost):\d{4,5}\b", "$1:[port]"),
    (r"\b(process|pid) \d+", "$1 [pid]"),
    (r"\b\d+(\.\d+)? ?(ns|µs|ms|s)\b", "[duration]"),
    (r"\b\d+(\.\d+)? (GiB|MiB|KiB|GB|MB|kB|bytes) (are )?(free|left)", "[size] $3$4"),
    // Hashes of weights, which differ between processors, and of versions.
    (r"[0-9a-f]{64}", "[hash]"),
    (r"\b(producer|selection) [0-9a-f]{12}\b", "$1 [hash]"),
    (r"\([0-9a-f]{12}\)", "([hash])"),
    (r"-(test|val|train)-[0-9a-f]{12}\b", "-$1-[hash]"),
    (r"/tmp/tmp\.\w+", "[temporary]"),
    (r"(?m) +$", ""),
];

/// Numbers and the spaces that align them, for messages whose figures differ from run to run.
const FIGURES: [(&str, &str); 2] =
    [(r"[-+]?\b\d[\d,]*(\.\d+)?(e[-+]?\d+)?", "N"), (r" {2,}", "  ")];

/// Returns the folder of all snapshots.
pub fn folder() -> PathBuf {
    project().join("tests/messages")
}

/// Compares a message of `command` with its snapshot.
///
/// # Panics
/// If it differs. With `INSTA_UPDATE=always` the snapshot is written instead.
#[track_caller]
pub fn check(command: &str, name: &str, message: &str) {
    compare(command, name, message, &VARYING);
}

/// Compares a message with its snapshot, whatever its figures are.
///
/// # Panics
/// If it differs. With `INSTA_UPDATE=always` the snapshot is written instead.
#[track_caller]
pub fn check_without_figures(command: &str, name: &str, message: &str) {
    compare(command, name, message, &[&VARYING[..], &FIGURES[..]].concat());
}

#[track_caller]
fn compare(command: &str, name: &str, message: &str, marks: &[(&str, &str)]) {
    assert!(!message.trim().is_empty(), "{command}/{name}: there is no message");
    let mut settings = Settings::new();
    settings.set_snapshot_path(folder().join(command));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_filters(marks.iter().copied());
    let message = with_named_folders(message);
    // insta names its own command in its panic, and that one isn't installed everywhere.
    let compared = catch_unwind(AssertUnwindSafe(|| {
        settings.bind(|| insta::assert_snapshot!(name, message));
    }));
    assert!(
        compared.is_ok(),
        "the message differs from tests/messages/{command}/{name}.snap (above). If the new words \
         are right, accept them with `make messages`"
    );
}

/// Replaces the project's folder, the binary's path and folders of tests by marks.
fn with_named_folders(message: &str) -> String {
    let binary = crate::binary();
    let mut named = message.replace(&*binary.to_string_lossy(), "diptych");
    named = named.replace(&*project().to_string_lossy(), "[project]");
    // Folders of tests are `.tmpXXXXXX` in the folder for temporary files.
    let temporary = std::env::temp_dir().join(".tmp").to_string_lossy().into_owned();
    while let Some(at) = named.find(&temporary) {
        let end = named[at + temporary.len()..]
            .find(|c: char| !c.is_ascii_alphanumeric())
            .map_or(named.len(), |length| at + temporary.len() + length);
        named.replace_range(at..end, "[work]");
    }
    named
}

/// Returns the headings of a page of HTML, one a line.
pub fn headings(page: &str) -> String {
    let mut found = String::new();
    for level in 1..=3 {
        for rest in page.split(&format!("<h{level}>")).skip(1) {
            let heading = rest.split(&format!("</h{level}>")).next().unwrap_or_default();
            let mut parts = heading.split('<');
            let mut text = parts.next().unwrap_or_default().to_owned();
            text.extend(parts.filter_map(|part| part.split_once('>')).map(|(_, text)| text));
            found.extend(["h", &level.to_string(), " ", text.trim(), "\n"]);
        }
    }
    found
}

/// Writes `words` as a shell takes them.
pub fn shell(words: &[&str]) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,@%+{}[]".contains(c);
    let quoted = words.iter().map(|word| {
        if !word.is_empty() && word.chars().all(plain) {
            (*word).to_owned()
        } else if word.contains('\'') && !word.contains(['"', '$', '`', '\\']) {
            format!("\"{word}\"")
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// A snapshot as it is in its file.
pub struct Snapshot {
    pub command: String,
    pub name: String,
    pub message: String,
}

/// Reads all snapshots, in the order of their names.
pub fn all() -> Vec<Snapshot> {
    let mut found = Vec::new();
    for folder in sorted(&folder()).into_iter().filter(|path| path.is_dir()) {
        for path in sorted(&folder) {
            if path.extension().is_none_or(|extension| extension != "snap") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            // The header is between two lines of dashes.
            let message = text.splitn(3, "---\n").nth(2).unwrap_or_default();
            let name = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
            found.push(Snapshot {
                command: name(&folder),
                name: name(&path),
                message: message.trim_end().to_owned(),
            });
        }
    }
    found
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Makes the pages: their file names with their texts.
pub fn pages() -> Vec<(String, String)> {
    let mut pages: Vec<(String, String)> = Vec::new();
    for Snapshot { command, name, message } in all() {
        let file = format!("{command}.md");
        if pages.last().is_none_or(|(last, _)| *last != file) {
            let head = format!(
                "# Messages of {command}\n\nMade from the snapshots in `{command}/` by `make messages`.\n"
            );
            pages.push((file, head));
        }
        let (_, page) = pages.last_mut().unwrap();
        let title = name.replace('_', " ");
        page.extend(["\n## ", &title, "\n\n```text\n", &message, "\n```\n"]);
    }
    pages
}
