//! The command line in daily use: pairs without a selection file, splits, SQL at a prompt and over
//! files, completion, usage.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use diptych_test_support::eventually;
use diptych_tests::service::{PATIENCE, Process};
use diptych_tests::{Work, binary, messages, tiny_config};
use serde_json::Value;

const OF: [&str; 2] = ["--dataset", "data"];

fn json(work: &Work, name: &str) -> Value {
    serde_json::from_str(&work.read(name)).unwrap()
}

#[test]
fn without_a_selection_all_pairs_are_meant_and_where_chooses_some() {
    let work = Work::new().with_demo_data(160);
    work.write("run.toml", tiny_config("run", 1, ""));
    work.diptych(&["train", "run.toml"]).ok();
    let all = work.sql(&OF, "SELECT count(*) FROM meta");
    let wide = work.sql(&OF, "SELECT count(*) FROM meta WHERE width > 100");
    assert!(all != wide && wide != "0", "{all} {wide}");
    let of_model = ["--model", "run", OF[0], OF[1]];
    let with = |command: &str, more: &[&str]| {
        work.diptych(&[&[command][..], &of_model, more].concat()).ok()
    };

    let embedded = with("embed", &["--where", "width > 100"]);
    assert!(embedded.stdout.starts_with(&format!("{wide} of {wide} ")));
    embedded.names(&[&wide, &all, "width > 100"]);
    // What is there is not computed again, by whatever way the pairs were chosen.
    let rest: u64 = all.parse::<u64>().unwrap() - wide.parse::<u64>().unwrap();
    let again = with("embed", &[]).stdout;
    let embedded: u64 = again.split(' ').next().unwrap().parse().unwrap();
    // The images that cannot be decoded are tried again.
    assert!((rest..rest + 5).contains(&embedded), "{again}");
    assert!(with("search", &["a red circle", "--where", "width > 100"]).stdout.contains("  1  "));

    work.diptych(&["select", OF[0], OF[1], "--output", "all.parquet"]).ok();
    work.diptych(&["select", "width > 100", OF[0], OF[1], "--output", "wide.parquet"]).ok();
    let mut found = Vec::new();
    for (name, more) in [
        ("chosen_by_none", &[][..]),
        ("chosen_by_all", &["--selection", "all.parquet"]),
        ("chosen_by_where", &["--where", "width > 100"]),
        ("chosen_by_wide", &["--selection", "wide.parquet"]),
        ("chosen_by_part", &["--selection", "all.parquet", "--where", "width > 100"]),
    ] {
        let file = format!("{name}.json");
        let ran = with("eval", &[more, &["--json", &file]].concat());
        // Embeddings that are kept from before are said.
        messages::check("eval", name, &ran.stderr);
        let json = json(&work, &file);
        found.push((
            json["selection_hash"].clone(),
            json["pairs"].clone(),
            json["retrieval"].clone(),
        ));
    }
    assert_eq!(found[0], found[1]);
    assert!(found[2] == found[3] && found[3] == found[4]);
    assert_ne!(found[0].0, found[2].0);
    let names = work
        .diptych(&[
            "sql",
            "SELECT DISTINCT name FROM metrics",
            "--state",
            "state",
            "--format",
            "csv",
        ])
        .ok();
    assert!(names.stdout.contains("eval/data where width > 100/"), "{}", names.stdout);

    let error = work.diptych(&[&["embed", "--where", "widht > 64"][..], &of_model].concat());
    error.fails(1, "where_with_a_wrong_column").names(&["  widht > 64\n  ^^^^^", "width?"]);
    work.diptych(&[
        "bench",
        "loader",
        OF[0],
        OF[1],
        "--where",
        "width > 100",
        "--rounds",
        "1",
        "--image-size",
        "16",
    ])
    .ok();
    work.diptych(&[
        "dedup",
        "--by",
        "sha256",
        OF[0],
        OF[1],
        "--where",
        "width > 100",
        "--output",
        "u.parquet",
    ])
    .ok();
    let error =
        work.diptych(&["eval", "--model", "run", OF[0], "data", "--where", "width > 100000"]);
    error.fails(1, "where_selects_no_rows").names(&["100000"]);
}

#[test]
fn labels_that_there_are_are_the_classes_where_none_are_listed() {
    let work = Work::new().with_demo_data(120);
    work.write("run.toml", tiny_config("run", 1, ""));
    work.diptych(&["train", "run.toml"]).ok();
    let label = "format";
    let labels = work.sql(&OF, &format!("SELECT count(DISTINCT {label}) FROM meta"));
    let eval = |more: &[&str]| {
        work.diptych(
            &[&["eval", "--model", "run", OF[0], OF[1], "--label-column", label], more].concat(),
        )
    };
    eval(&["--json", "e.json"]).ok();
    let classes = &json(&work, "e.json")["zero_shot"]["per_class"];
    assert_eq!(classes.as_array().unwrap().len().to_string(), labels);
    // A list that lacks some: all of them are named at once, before anything is encoded.
    work.write("classes.txt", "nothing like it\n");
    eval(&["--classes", "classes.txt"])
        .fails(1, "labels_without_a_class")
        .names(&["\"jpeg\" (", "\"png\" ("]);
}

#[test]
fn split_keeps_groups_on_one_side_and_says_what_went_where() {
    let work = Work::new().with_demo_data(200);
    work.diptych(&[
        "dedup",
        OF[0],
        OF[1],
        "--by",
        "caption",
        "--output",
        "unique.parquet",
        "--groups",
        "groups.parquet",
    ])
    .ok();
    work.diptych(&[
        "split",
        "--heldout",
        "20%",
        "--groups",
        "groups.parquet",
        OF[0],
        OF[1],
        "--output",
        "parts",
    ])
    .ok()
    .says("split", "groups_on_one_side");
    let tables = [
        "--table",
        "t=parts/train.parquet",
        "--table",
        "h=parts/heldout.parquet",
        "--table",
        "g=groups.parquet",
        "--dataset",
        "data",
    ];
    let all = work.sql(
        &tables,
        "SELECT (SELECT count(*) FROM t) + (SELECT count(*) FROM h) = (SELECT count(*) FROM meta)",
    );
    assert_eq!(all, "true");
    let torn = "SELECT count(*) FROM (SELECT \"group\" FROM g JOIN t USING (uid) INTERSECT SELECT \"group\" FROM g JOIN h USING (uid))";
    assert_eq!(work.sql(&tables, torn), "0");
    // Such a selection trains and evaluates like any other. A join, or a selection within it, drops
    // its duplicates.
    for (more, output) in [
        (
            &[
                "SELECT uid FROM meta JOIN unique USING (uid)",
                "--table",
                "unique=unique.parquet",
                "--selection",
                "parts/train.parquet",
            ][..],
            "a.parquet",
        ),
        (
            &[
                "SELECT uid FROM meta JOIN train USING (uid)",
                "--table",
                "train=parts/train.parquet",
                "--selection",
                "unique.parquet",
            ],
            "b.parquet",
        ),
    ] {
        work.diptych(&[&["select"][..], more, &[OF[0], OF[1], "--output", output]].concat()).ok();
    }
    let same = work.sql(
        &["--table", "a=a.parquet", "--table", "b=b.parquet"],
        "SELECT count(*) FROM a FULL JOIN b USING (uid) WHERE a.row IS NULL OR b.row IS NULL",
    );
    assert_eq!(same, "0");
    let ran = work.diptych(&["split", "--heldout", "7", OF[0], OF[1]]).ok();
    ran.says("split", "number_of_pairs");
    for (wrong, message) in [
        ("0", "nothing_held_out"),
        ("100%", "everything_held_out"),
        ("1.5", "no_share_of_pairs"),
        ("much", "no_number_of_pairs"),
    ] {
        work.diptych(&["split", "--heldout", wrong, OF[0], OF[1]]).fails(2, message);
    }
}

#[test]
fn sql_reads_files_by_their_names_and_needs_no_dataset() {
    let work = Work::new().with_demo_data(60);
    assert_eq!(work.sql(&[], "SELECT 1"), "1");
    let pairs = work.sql(&["--table", "t=train.parquet"], "SELECT count(*) FROM t");
    work.write("sub/a.csv", "name,number\nx,1\ny,2\n");
    work.write("sub/b.csv", "name,number\nz,3\n");
    work.write("a.jsonl", "{\"name\": \"x\", \"number\": 4}\n");
    for (sql, value) in [
        ("SELECT count(*) FROM 'train.parquet'", pairs.as_str()),
        ("SELECT count(*) FROM read_parquet('train.parquet')", &pairs),
        ("SELECT count(*) FROM './sub/../train.parquet'", &pairs),
        ("SELECT sum(number) FROM 'sub/a.csv' WHERE name = 'y'", "2"),
        ("SELECT sum(number) FROM read_csv('sub/*.csv')", "6"),
        ("SELECT sum(number) FROM 'a.jsonl'", "4"),
    ] {
        assert_eq!(work.sql(&[], sql), value, "{sql}");
    }
    work.diptych(&["sql", "SELECT * FROM 'none.parquet'"])
        .fails(1, "no_such_file")
        .names(&["none.parquet"]);
    work.diptych(&["sql", "SELECT * FROM train.parquet"])
        .fails(1, "file_without_quotes")
        .names(&["FROM 'train.parquet'"]);
    // A dataset beside the folder that one works in.
    std::fs::create_dir(work.path("elsewhere")).unwrap();
    let mut command = Command::new(binary());
    let elsewhere = command
        .args(["sql", "SELECT count(*) FROM meta", "--dataset", "../data", "--format", "csv"])
        .current_dir(work.path("elsewhere"));
    let output = elsewhere.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The rest is reported. Statements from standard input run one after the other, up to an error.
    let ran =
        work.diptych(&["sql", "SELECT key FROM meta ORDER BY key", OF[0], OF[1], "--rows", "2"]);
    ran.ok().says("sql", "rows_that_are_left_out");
    work.write("several.sql", "SELECT 11 AS a; -- one;\nSELECT ';' AS b;\nSELEC;\nSELECT 44 AS d;");
    let mut command = work.command(&["sql", "--format", "csv"]);
    let output = command.stdin(File::open(work.path("several.sql")).unwrap()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a\n11\nb\n;\n");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    messages::check("sql", "second_of_several_statements", &said);
}

/// `diptych sql` at a terminal.
struct Prompt {
    process: Process,
    keys: ChildStdin,
    shown: Arc<Mutex<String>>,
}

impl Prompt {
    fn start(work: &Work) -> Self {
        // Without exec, a shell that waits for the prompt would be ended by its Ctrl-C.
        let call =
            format!("stty cols 60 rows 30; exec '{}' sql --dataset data", binary().display());
        let mut child = Command::new("script")
            .args(["-qec", &call, "/dev/null"])
            .current_dir(work.path(""))
            .env("XDG_STATE_HOME", work.path("home"))
            .env("TERM", "xterm")
            .env_remove("RUST_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (keys, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let shown = Arc::new(Mutex::new(String::new()));
        let collected = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                collected.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        });
        Self { process: Process(child), keys, shown }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits until `text` is shown, followed by the prompt. Returns and forgets everything shown so
    /// far. Keys that are pressed earlier may be lost.
    fn shows(&self, text: &str) -> String {
        eventually(PATIENCE, &format!("{text:?} at the prompt"), || {
            let mut shown = self.shown.lock().unwrap();
            let plain = shown.replace('\r', "");
            let behind = &plain[plain.find(text)? + text.len()..];
            behind.contains("diptych> ").then(|| std::mem::take(&mut *shown))
        })
    }
}

#[test]
fn prompt_has_history_completion_and_commands_and_survives_errors_and_ctrl_c() {
    let work = Work::new().with_demo_data(40);
    let pairs = work.sql(&OF, "SELECT count(*) FROM meta");
    let mut prompt = Prompt::start(&work);
    prompt.shows("ends with ;");
    prompt.press("SELECT count(*) AS pairs\rFROM meta;\r");
    prompt.shows(&format!("| {pairs} "));
    prompt.press("SELECT widht FROM meta;\r");
    prompt.shows("did you mean width?");
    prompt.press("\\d meta\r");
    prompt.shows("FixedSizeBinary(16)");
    prompt.press("SELECT * FROM meta LIMIT 1;\r");
    prompt.shows("as many as fit: \\x shows all");
    prompt.press("\\x\r");
    prompt.shows("rows as lines");
    prompt.press("SELECT capti\t FROM met\t WHERE wid\t > 0 LIMIT 1;\r");
    let shown = prompt.shows("-[ row 1 ]");
    assert!(shown.contains("caption"), "{shown}");
    prompt.press("\\nothing\r");
    prompt.shows("no command");
    prompt.press(
        "SELECT count(*) AS never FROM generate_series(1, 100000000000000) WHERE value % 7 = 3;\r",
    );
    // The terminal is the query's.
    eventually(PATIENCE, "the query", || {
        prompt.shown.lock().unwrap().contains("= 3;\u{1b}[?2004l").then_some(())
    });
    let mut pressed = Instant::now();
    prompt.press("\x03");
    eventually(PATIENCE, "the end of the query", || {
        // A signal before the query started has no effect. Several at once would discard the keys
        // that follow.
        if pressed.elapsed() > Duration::from_secs(3) {
            prompt.press("\x03");
            pressed = Instant::now();
        }
        prompt.shown.lock().unwrap().contains("stopped").then_some(())
    });
    prompt.shows("stopped");
    prompt.press("SELECT 40 + 2 AS answer;\r");
    prompt.shows("answer | 42");
    prompt.press("\\q\r");
    let status = eventually(PATIENCE, "the end", || prompt.process.0.try_wait().unwrap());
    assert!(status.success());
    let history = work.path("home/diptych/sql_history");
    assert!(std::fs::read_to_string(&history).unwrap().contains("40 + 2"));
    assert_eq!(std::fs::metadata(&history).unwrap().permissions().mode() & 0o777, 0o600);
    // The next session has it.
    let mut prompt = Prompt::start(&work);
    prompt.shows("ends with ;");
    prompt.press("\u{1b}[A\r");
    prompt.shows("| 42 ");
    prompt.press("exit\r");
    assert!(eventually(PATIENCE, "the end", || prompt.process.0.try_wait().unwrap()).success());
}

#[test]
fn configuration_explains_itself_and_shells_complete() {
    let work = Work::new();
    let written = work.diptych(&["config"]).ok().stdout;
    work.write("run.toml", &written);
    assert_eq!(work.diptych(&["config", "run.toml"]).ok().stdout, written);
    for key in [
        "selection = \"heldout.parquet\"",
        "# weights = ",
        "# classes = ",
        "# warmup_samples = ",
        "# mix = ",
    ] {
        assert!(written.contains(&format!("\n{key}")), "{key} is missing in\n{written}");
    }
    let said = work.diptych(&["config", "--keys", "eval"]).ok().stdout;
    assert!(said.contains("eval.classes") && !said.contains("optimizer"), "{said}");
    assert!(work.diptych(&["config", "--keys"]).ok().stdout.contains("[optimizer]"));
    work.diptych(&["config", "--keys", "optimiser"])
        .fails(1, "unknown_section")
        .names(&["optimizer"]);
    for (shell, says) in
        [("bash", "_diptych"), ("zsh", "#compdef diptych"), ("fish", "complete -c diptych")]
    {
        let script = work.diptych(&["completions", shell]).ok().stdout;
        assert!(script.contains(says) && script.contains("heldout"), "{shell}");
    }
    // A mistake shows the usage of the command, not the options of this call as if they were
    // required.
    let error = work.diptych(&["search", "--sheet", "x.png", "-k", "3", "--model", "m", "text"]);
    let said = error.ended_with(2).stderr;
    let usage = said.lines().find(|line| line.starts_with("Usage:")).unwrap();
    assert!(
        said.contains("--dataset") && usage.contains("[OPTIONS]") && !usage.contains("--sheet"),
        "{said}"
    );
}
