//! Rules for the code itself: which crate may name which library, and the length of files.

use std::fs;
use std::path::{Path, PathBuf};

use diptych_tests::project;

/// Longest file in lines.
const LONGEST: usize = 600;

/// Returns every Rust file of the workspace: its path from the project's root, and its text.
pub(super) fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for member in ["schemas", "pipeline", "trainer", "daemon", "tests"] {
        walk(&project().join(member), &mut found);
    }
    let named = |path: PathBuf| {
        let name = path.strip_prefix(project()).unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(&path).unwrap())
    };
    let sources: Vec<_> =
        found.into_iter().map(named).filter(|(name, _)| !name.ends_with("/tidy.rs")).collect();
    assert!(sources.len() > 100, "only {} files were found", sources.len());
    sources
}

/// Returns the code of a line: the part before a comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Returns whether `code` contains `word`, and not as the end of a longer name.
fn holds(code: &str, word: &str) -> bool {
    let within_a_name =
        |at: usize| code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
    code.match_indices(word).any(|(at, _)| !within_a_name(at))
}

/// Returns the lines of code outside of `allowed` that contain one of `words`.
fn offenders(allowed: &[&str], words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, text) in sources() {
        if allowed.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| holds(code(line), word)) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn only_the_trainer_names_libtorch_and_only_the_store_names_sled() {
    assert_eq!(offenders(&["trainer/"], &["tch::", "torch_sys", "use tch"]), Vec::<String>::new());
    assert_eq!(offenders(&["daemon/store/"], &["sled::", "use sled"]), Vec::<String>::new());
}

/// Folders of tests, build scripts and benchmarks, which print for developers.
const NOT_THE_PRODUCT: [&str; 10] = [
    "tests/",
    "trainer/tests/",
    "trainer/benches/",
    "trainer/build/",
    "trainer/torch-api/",
    "pipeline/tests/",
    "pipeline/src/order/mixing.rs",
    "daemon/tests/",
    "daemon/benches/",
    "schemas/tests/",
];

#[test]
fn only_commands_print_draw_progress_and_watch_for_signals() {
    let mut allowed = NOT_THE_PRODUCT.to_vec();
    let sources = sources();
    allowed.extend(
        sources.iter().map(|(name, _)| name.as_str()).filter(|name| name.ends_with("/tests.rs")),
    );
    // The library that cannot be opened when a tensor is needed ends the process, and says why.
    allowed.extend(["daemon/src/", "trainer/src/device/shim/library.rs"]);
    let prints = [
        "println!(",
        "eprintln!(",
        "print!(",
        "eprint!(",
        "io::stdout()",
        "stdout().",
        "indicatif::",
        "use indicatif",
    ];
    assert_eq!(offenders(&allowed, &prints), Vec::<String>::new());
    // The service is a command in itself: it leaves at signals, and systemd decides where its log
    // goes.
    allowed.extend(["daemon/serve/src/lib.rs", "daemon/serve/src/jobs/log.rs"]);
    assert_eq!(
        offenders(&allowed, &["signal::unix", "SignalKind", "io::stderr()"]),
        Vec::<String>::new()
    );
}

#[test]
fn unsafe_code_is_in_the_shim_alone_with_its_reason() {
    assert_eq!(
        offenders(
            &["trainer/src/device/shim.rs", "trainer/src/device/shim/"],
            &["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code"]
        ),
        Vec::<String>::new()
    );
    for (name, text) in sources() {
        let (blocks, reasons) = (text.matches("unsafe {").count(), text.matches("SAFETY").count());
        assert!(
            blocks == 0 || reasons > 0,
            "{name} has {blocks} unsafe blocks and no SAFETY comment"
        );
    }
}

#[test]
fn files_have_one_subject_that_can_be_read_in_one_sitting() {
    let long: Vec<_> = sources()
        .into_iter()
        .filter(|(_, text)| text.lines().count() > LONGEST)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(long, Vec::<String>::new(), "more than {LONGEST} lines: split by subject");
}
