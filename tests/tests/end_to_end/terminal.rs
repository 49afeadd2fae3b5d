//! Control characters from a dataset never reach a terminal as such. Files and pipes get the exact
//! bytes.

use std::process::Command;

use diptych_tests::{Work, binary, pairs};

/// A window title, a red screen, and an eight-bit sequence.
const HOSTILE: &str = "a cat\u{1b}]0;owned\u{7}\u{1b}[41m\u{9b}2J\rno cat";

/// Returns the output of a command on a terminal, standard output and error together.
fn on_a_terminal(work: &Work, arguments: &[&str]) -> String {
    let quoted: Vec<String> =
        arguments.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
    // util-linux's `script` gives it a terminal and hands on what is written there.
    let output = Command::new("script")
        .args(["-qec", &format!("'{}' {}", binary().display(), quoted.join(" ")), "/dev/null"])
        .current_dir(work.path(""))
        .env_remove("RUST_LOG")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n")
}

/// Control sequences that Diptych itself writes to a terminal: a redrawn progress bar, colours of
/// the log.
const OWN: [&str; 6] =
    ["\r\u{1b}[2K", "\u{1b}[0m", "\u{1b}[2m", "\u{1b}[31m", "\u{1b}[32m", "\u{1b}[33m"];

/// Returns the control characters of a text other than those, line breaks and tabs.
fn control(text: &str) -> Vec<char> {
    let plain = OWN.iter().fold(text.to_owned(), |plain, own| plain.replace(own, ""));
    plain.chars().filter(|c| c.is_control() && *c != '\n' && *c != '\t').collect()
}

#[test]
fn captions_names_and_errors_reach_a_terminal_without_their_escape_codes() {
    let work = Work::new();
    let name = |ending: &str| format!("\u{1b}[5mname.{ending}");
    let members = [
        (name("png"), pairs::png(24, 20, [1, 2, 3])),
        (name("txt"), HOSTILE.as_bytes().to_vec()),
        (format!("x{}", name("png")), b"no image".to_vec()),
        (format!("x{}", name("txt")), b"a caption".to_vec()),
    ];
    let members: Vec<_> =
        members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    work.write("\u{1b}chostile.tar", pairs::tar(&members));
    let shown = on_a_terminal(&work, &["ingest", "no\u{1b}7.tar", "--dataset", "data"]);
    assert!(control(&shown).is_empty() && shown.contains("no␛7.tar"), "{shown:?}");
    let shown = on_a_terminal(&work, &["ingest", "\u{1b}chostile.tar", "--dataset", "data"]);
    assert!(control(&shown).is_empty() && shown.contains("␛chostile.tar"), "{shown:?}");

    let of = ["--dataset", "data"];
    for arguments in [
        &["sql", "SELECT key, caption FROM meta", "--format", "table"][..],
        &["sql", "SELECT key, caption FROM meta", "--format", "csv"],
        &["sql", "SELECT key, caption FROM meta", "--format", "json"],
        &["sql", "SELECT key, caption FROM meta", "--format", "jsonl"],
        &["sql", "SELECT caption AS \"\u{1b}[1m\" FROM meta", "--format", "csv"],
        &["sql", "EXPLAIN SELECT caption || '\u{1b}[1m' FROM meta"],
        &["sql", "SELECT \"\u{1b}[1mname\" FROM meta"],
        &["ledger"],
        &["ledger", "--reason", "unsupported_format"],
    ] {
        let shown = on_a_terminal(&work, &[arguments, &of[..]].concat());
        assert_eq!(control(&shown), Vec::<char>::new(), "{arguments:?}: {shown:?}");
        assert!(shown.len() > 20, "{arguments:?}: {shown:?}");
    }
    // A pipe is no terminal.
    let csv = work.diptych(&["sql", "SELECT caption FROM meta", "--format", "csv", of[0], of[1]]);
    assert_eq!(csv.ok().stdout, format!("caption\n\"{HOSTILE}\"\n"));
}

#[test]
fn too_many_open_files_are_not_called_damage() {
    let work = Work::new();
    for shard in 0..3 {
        work.write(&format!("{shard}.tar"), pairs::tar_of(3 + shard));
        work.diptych(&["ingest", &format!("{shard}.tar"), "--dataset", "data"]).ok();
    }
    let mut told = 0;
    // From enough for the program alone to enough for everything. The program raises a soft limit
    // by itself.
    for limit in 8..30 {
        let script = format!(
            "ulimit -n {limit}; exec '{}' sql 'SELECT count(caption), count(image) FROM meta JOIN blob USING (uid)' --dataset data --format csv",
            binary().display()
        );
        let output =
            Command::new("sh").args(["-c", &script]).current_dir(work.path("")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            assert_eq!(String::from_utf8_lossy(&output.stdout).lines().nth(1), Some("5,5"));
            continue;
        }
        assert!(!said.contains("damaged") && !said.contains("whole"), "{limit}: {said}");
        told += usize::from(said.contains("ulimit -n"));
    }
    assert!(told > 0, "no limit was too low");
    let script = format!(
        "ulimit -Sn 12; exec '{}' sql 'SELECT count(caption) FROM meta' --dataset data --format csv",
        binary().display()
    );
    let ran = Command::new("sh").args(["-c", &script]).current_dir(work.path("")).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}
