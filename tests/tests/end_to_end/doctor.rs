//! `diptych doctor` and `diptych backup`: state folders and datasets are checked, mended and
//! copied.

use std::fs;
use std::io::Write;

use diptych_tests::{Work, pairs, tiny_config};

#[test]
fn doctor_finds_a_flipped_bit_in_a_checkpoint_mends_it_and_training_goes_on() {
    let work = Work::new().with_demo_data(200);
    work.write("a.toml", tiny_config("a", 2, "[checkpoint]\nevery_steps = 4\nkeep_last = 0\n"));
    work.diptych(&["train", "a.toml", "--stop-after", "12"]).ended_with(4);
    let checkpoints = || {
        work.sql(&["--state", "state"], "SELECT count(*) FROM checkpoints")
            .parse::<usize>()
            .unwrap()
    };
    let before = checkpoints();
    work.diptych(&["doctor", "state"]).ok().says("doctor", "state_without_problems");

    let weights = work.path("state/checkpoints/a/step-000000008/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::File::create(&weights).unwrap().write_all(&bytes).unwrap();
    for _ in 0..2 {
        work.diptych(&["doctor", "state"])
            .fails(1, "damaged_checkpoint")
            .names(&["step-000000008", "model.safetensors", "--fix"])
            .ended_with(1);
    }
    let mended = work.diptych(&["doctor", "state", "--fix"]).ok();
    mended.says("doctor", "mended_checkpoint").names(&["damaged-checkpoint-a-step-000000008"]);
    work.diptych(&["doctor", "state"]).ok().says("doctor", "state_with_a_note");
    assert_eq!(checkpoints(), before - 1);

    work.diptych(&["backup", "state", "copy"]).ok();
    work.diptych(&["backup", "state", "copy"]).fails(1, "backup_over_a_folder").names(&["copy"]);
    let steps = |state: &str| {
        work.sql(&["--state", state], "SELECT count(*) FROM metrics WHERE name = 'loss'")
    };
    assert_eq!(steps("copy"), "12");
    work.diptych(&["doctor", "copy"]).ok();
    work.diptych(&["train", "a.toml"]).ok();
    work.diptych(&["doctor", "state"]).ok();
    assert_eq!(steps("copy"), "12");
    work.diptych(&["doctor", "nowhere"]).fails(1, "no_such_folder").names(&["nowhere"]);
    assert!(!work.path("nowhere").exists());
}

#[test]
fn flipped_bit_in_a_dataset_never_changes_an_answer_and_is_found_by_the_doctor() {
    let work = Work::new();
    work.write("a.tar", pairs::tar_of(60));
    work.diptych(&["ingest", "a.tar", "--dataset", "data", "--phash"]).ok();
    work.diptych(&["score", "blur", "language", "--dataset", "data"]).ok();
    let of = ["--dataset", "data"];
    let ask = "SELECT count(*), sum(width), min(caption), max(caption), sum(phash % 1000), bit_xor(bytes), \
               sum(blur), count(language), min(hex(uid)), max(key) FROM scored";
    let query = ["sql", ask, "--format", "csv", of[0], of[1]];
    let right = work.diptych(&query).ok().stdout;
    work.diptych(&["doctor", "data"]).ok();

    let mut refused = 0;
    for name in
        ["data/meta/00000.parquet", "data/scores/blur/00000.parquet", "data/blob/00000.parquet"]
    {
        let path = work.path(name);
        let whole = fs::read(&path).unwrap();
        let place = whole.windows(17).position(|window| window == b"diptych.checksums").unwrap();
        let digits = std::str::from_utf8(&whole[place + 19..place + 35]).unwrap();
        let pages = usize::from_str_radix(digits, 16).unwrap();
        let behind = whole.len() - pages;
        let behind = (pages..whole.len()).step_by(behind / 24);
        for at in (4..pages).step_by(pages / 12).chain(behind) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::File::create(&path).unwrap().write_all(&flipped).unwrap();
            let asked = work.diptych(&query);
            if asked.code == Some(0) {
                assert_eq!(asked.stdout, right, "byte {at} of {name}");
            } else {
                asked.ended_with(1).names(&[name.trim_start_matches("data/")]);
                refused += 1;
            }
            work.diptych(&["doctor", "data"]).ended_with(1).names(&[name]);
        }
        fs::File::create(&path).unwrap().write_all(&whole).unwrap();
    }
    assert!(refused > 10, "only {refused} of the flipped bits were met");
    work.diptych(&["doctor", "data"]).ok();
    work.diptych(&["doctor", "data", "--fix"])
        .fails(1, "fix_of_a_dataset")
        .names(&["data", "--fix"]);

    // Whoever reads images finds a flipped bit in them.
    work.diptych(&["select", "SELECT uid FROM meta", of[0], of[1], "--output", "all.parquet"]).ok();
    let path = work.path("data/blob/00000.parquet");
    let mut flipped = fs::read(&path).unwrap();
    let image = flipped.windows(4).position(|window| window == b"IDAT").unwrap();
    flipped[image + 8] ^= 1;
    fs::File::create(&path).unwrap().write_all(&flipped).unwrap();
    work.diptych(&["score", "entropy", of[0], of[1]])
        .fails(1, "damaged_blob")
        .names(&["blob/00000.parquet"]);
    work.diptych(&["sql", "SELECT sum(phash(image)) FROM blob", of[0], of[1]])
        .fails(1, "damaged_blob")
        .names(&["blob/00000.parquet"]);
}
