//! A state folder is looked through, mended and backed up as its owner does it.

use std::fs;
use std::io::Write;

use diptych_tests::{Work, tiny_config};

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
    let clean = work.diptych(&["doctor", "state"]).ok();
    assert!(
        clean.stdout.contains("all is well") && clean.stdout.contains("1 runs"),
        "{}",
        clean.stdout
    );

    let weights = work.path("state/checkpoints/a/step-000000008/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::File::create(&weights).unwrap().write_all(&bytes).unwrap();
    for _ in 0..2 {
        work.diptych(&["doctor", "state"])
            .fails_with(&["problem:", "step-000000008", "model.safetensors", "--fix"])
            .ended_with(1);
    }
    let mended = work.diptych(&["doctor", "state", "--fix"]).ok();
    assert!(mended.stdout.contains("damaged-checkpoint-a-step-000000008"), "{}", mended.stdout);
    let after = work.diptych(&["doctor", "state"]).ok();
    assert!(after.stdout.contains("0 problems, 1 notes"), "{}", after.stdout);
    assert_eq!(checkpoints(), before - 1);

    work.diptych(&["backup", "state", "copy"]).ok();
    work.diptych(&["backup", "state", "copy"]).fails_with(&["copy", "already"]);
    let steps = |state: &str| {
        work.sql(&["--state", state], "SELECT count(*) FROM metrics WHERE name = 'loss'")
    };
    assert_eq!(steps("copy"), "12");
    work.diptych(&["train", "a.toml"]).ok();
    work.diptych(&["doctor", "state"]).ok();
    assert_eq!(steps("copy"), "12");
    work.diptych(&["doctor", "nowhere"]).fails_with(&["nowhere", "no such state folder"]);
    assert!(!work.path("nowhere").exists());
}
