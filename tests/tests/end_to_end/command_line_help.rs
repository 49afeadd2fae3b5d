//! Everything that helps a user at the command line: the list of verbs, man pages, `init`, JSON
//! Schemas, `doctor` of an installation, and mistyped names.

use std::path::Path;
use std::process::Command;

use diptych_tests::Work;
use serde_json::Value;

#[test]
fn help_fits_on_a_screen_and_lists_every_verb_once() {
    let work = Work::new();
    let help = work.diptych(&["--help"]).ok().stdout;
    assert!(help.lines().count() <= 50, "{help}");
    for title in ["Data", "Train", "Evaluate", "Search", "Serve", "Maintain"] {
        assert!(help.lines().any(|line| line.starts_with(title)), "{title}");
    }
    for verb in ["ingest", "init", "eval", "search", "job", "doctor"] {
        let lines = help.lines().filter(|line| line.split_whitespace().any(|word| word == verb));
        assert!(lines.count() >= 1, "{verb}");
    }
    for hidden in ["submit", "pause", "query-worker", "synthetic-meta"] {
        assert!(!help.contains(&format!(" {hidden} ")), "{hidden}");
    }
    let (of_job, alias) = (
        work.diptych(&["job", "submit", "--help"]).ok().stdout,
        work.diptych(&["submit", "--help"]).ok().stdout,
    );
    assert_eq!(of_job.replace("diptych job submit [", "diptych submit ["), alias);
}

#[test]
fn man_pages_are_written_for_every_verb() {
    let work = Work::new();
    work.diptych(&["man", "pages"]).ok();
    for name in ["diptych.1", "diptych-ingest.1", "diptych-job-logs.1"] {
        let page = work.read(&format!("pages/{name}"));
        assert!(page.contains(".TH "), "{name}");
    }
    // Where there is a formatter, it has nothing to complain about.
    let checked = Command::new("groff")
        .args(["-man", "-ww", "-z", "-Tutf8"])
        .arg(work.path("pages/diptych-ingest.1"))
        .output();
    if let Ok(output) = checked {
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && complaints.is_empty(), "{complaints}");
    }
}

#[test]
fn init_makes_a_dataset_and_a_configuration_that_trains_as_it_is() {
    let work = Work::new();
    work.diptych(&["demo-data", "scenes", "--scenes", "120"]).ok();
    let asked = work.diptych(&["init"]);
    assert_eq!(asked.code, Some(1));
    assert!(asked.stderr.contains("--dataset"), "{}", asked.stderr);

    let made = work.diptych(&["init", "scenes/*.tar", "scenes/*.parquet", "scenes/folder"]).ok();
    assert!(made.stdout.ends_with("next: diptych train run.toml\n"), "{}", made.stdout);
    let config = work.read("run.toml");
    assert!(config.contains("config = \"demo\"") && config.contains("# Learning rate:"));
    work.diptych(&["config", "run.toml"]).ok();
    let stopped = work.diptych(&["train", "run.toml", "--stop-after", "2", "--no-progress"]);
    assert_eq!(stopped.code, Some(4), "{}", stopped.stderr);

    // Nothing is overwritten, and a run keeps its name.
    assert_eq!(work.diptych(&["init", "--dataset", "data"]).code, Some(1));
    assert_eq!(work.read("run.toml"), config);
    let taken = work.diptych(&["init", "--dataset", "data", "--force"]);
    assert_eq!(taken.code, Some(1));
    assert!(taken.stderr.contains("--name"), "{}", taken.stderr);
    let other = ["--name", "other", "--hours", "1", "--model", "ViT-S-32"];
    work.diptych(&[&["init", "--dataset", "data", "--force"][..], &other].concat()).ok();
    let config = work.read("run.toml");
    assert!(config.contains("name = \"other\"") && config.contains("ViT-S-32"), "{config}");
    // A model to fine-tune: its own run.
    work.diptych(&["init", "--dataset", "data", "--model", "run@2", "--output", "fine.toml"]).ok();
    let config = work.read("fine.toml");
    assert!(config.contains("weights = \"run@2\"") && config.contains("lr = 1e-5"), "{config}");
}

#[test]
fn schemas_know_every_key_that_config_prints() {
    let work = Work::new();
    for (schema, printed) in [
        (&["config", "--schema"][..], &["config"][..]),
        (&["config", "--serve", "--schema"], &["config", "--serve"]),
    ] {
        let schema: Value = serde_json::from_str(&work.diptych(schema).ok().stdout).unwrap();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        let printed = work.diptych(printed).ok().stdout;
        let sections = printed.lines().filter_map(|line| line.strip_prefix('[')?.strip_suffix(']'));
        for section in sections.filter(|section| !section.contains(['.', '['])) {
            assert!(schema["properties"][section].is_object(), "{section}");
        }
    }
}

#[test]
fn doctor_checks_the_installation_in_words_and_in_json() {
    let work = Work::new();
    let table = work.diptych(&["doctor"]);
    // A machine of tests may be short of something; a bad installation could not run the tests.
    assert_eq!(table.code, Some(0), "{}", table.stdout);
    for name in ["libtorch", "CUDA", "processors", "memory", "disk", "open files", "clock"] {
        assert!(table.stdout.contains(name), "{name}: {}", table.stdout);
    }
    let json: Value =
        serde_json::from_str(&work.diptych(&["doctor", "--format", "json"]).ok().stdout).unwrap();
    assert!(json["checks"].as_array().unwrap().len() >= 8);

    let broken = [("DIPTYCH_TORCH", Path::new("/nowhere/libdiptych_torch.so"))];
    let found = work.diptych_with(&["doctor"], &broken);
    assert_eq!(found.code, Some(1));
    assert!(found.stdout.starts_with("diptych ") && found.stdout.contains("bad   libtorch"));
}

#[test]
fn mistyped_names_get_the_nearest_right_one() {
    let work = Work::new().with_demo_data(60);
    for (line, meant) in [
        ("igest scenes/folder --dataset data", "'ingest'"),
        ("job lst", "'list'"),
        ("train --stopafter 3 run.toml", "'--stop-after'"),
        ("ledger --dataset dta", "did you mean data?"),
        ("ledger --dataset data --reason corrupt_heder", "did you mean corrupt_header?"),
        ("preset datacomp-basc", "did you mean datacomp-basic?"),
        ("preset datacomp-basic --set widht=3", "did you mean width?"),
        ("config --keys optimzer", "did you mean optimizer?"),
        ("config --model ViT-B33", "did you mean ViT-B-32?"),
        ("doctor dtaa", "did you mean data?"),
        ("eval --model x --dataset data --task retreival", "'retrieval'"),
        ("embed --model https://huggingface.co/a/b --dataset data", "hf download a/b"),
    ] {
        let said = work.diptych(&line.split(' ').collect::<Vec<_>>());
        assert_ne!(said.code, Some(0), "{line}");
        assert!(said.stderr.contains(meant), "{line}: {}", said.stderr);
    }
}

#[test]
fn several_runs_are_drawn_in_one_picture() {
    let work = Work::new().with_demo_data(60);
    for run in ["first", "second"] {
        let file = format!("{run}.toml");
        work.diptych(&["init", "--dataset", "data", "--output", &file]).ok();
        let stopped = work.diptych(&["train", &file, "--stop-after", "2", "--no-progress"]);
        assert_eq!(stopped.code, Some(4), "{}", stopped.stderr);
    }
    work.diptych(&["plot", "first", "second", "--output", "both.svg"]).ok();
    let picture = work.read("both.svg");
    assert!(picture.contains("Runs first, second"), "{picture}");
}
