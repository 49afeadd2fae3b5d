//! Bad input: the user reads one screen that names the file and the place and says what to do. The
//! exit code is not 0, and no half-written file is left.

use std::process::Command;
use std::sync::Arc;

use arrow::array::{BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use diptych_test_support::{eventually, needs};
use diptych_tests::service::PATIENCE;
use diptych_tests::{Work, binary, pairs, tiny_config};
use parquet::arrow::ArrowWriter;

/// Returns the unfinished files below a folder. A dataset must not have any.
fn unfinished(work: &Work, folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![work.path(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.to_string_lossy().ends_with(".incomplete") {
                found.push(path.display().to_string());
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

fn parquet(columns: &[(&str, DataType)]) -> Vec<u8> {
    let schema = Arc::new(Schema::new(
        columns
            .iter()
            .map(|(name, kind)| Field::new(*name, kind.clone(), true))
            .collect::<Vec<_>>(),
    ));
    let arrays = columns.iter().map(|(_, kind)| match kind {
        DataType::Binary => {
            Arc::new(BinaryArray::from_vec(vec![&pairs::png(9, 9, [1, 2, 3])])) as _
        }
        _ => Arc::new(StringArray::from(vec!["a caption of words"])) as _,
    });
    let batch = RecordBatch::try_new(schema.clone(), arrays.collect()).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn missing_files_are_named() {
    let work = Work::new();
    work.diptych(&["ingest", "nowhere.tar", "--dataset", "data"])
        .fails(1, "no_such_source")
        .names(&["nowhere.tar"]);
    assert!(!work.path("data/dataset.json").exists());
    work.diptych(&["train", "nowhere.toml"])
        .fails(1, "no_such_configuration")
        .names(&["nowhere.toml"]);
    work.diptych(&[
        "select",
        "SELECT uid FROM meta",
        "--dataset",
        "nowhere",
        "--output",
        "s.parquet",
    ])
    .fails(1, "no_such_dataset")
    .names(&["nowhere"]);
    work.diptych(&["export", "--model", "nowhere", "--format", "hf", "--output", "out"])
        .fails(1, "no_such_model")
        .names(&["nowhere"]);
    work.diptych(&["sql", "SELECT 1", "--state", "nowhere"])
        .fails(1, "no_such_state")
        .names(&["nowhere"]);
    assert!(!work.path("nowhere").exists(), "a typo made a state folder");
}

#[test]
fn parquet_without_images_says_what_it_has_and_which_option_to_set() {
    let work = Work::new();
    work.write(
        "a.parquet",
        parquet(&[("picture_data", DataType::Binary), ("caption", DataType::Utf8)]),
    );
    work.diptych(&["ingest", "a.parquet", "--dataset", "data"])
        .fails(1, "no_image_column")
        .names(&["a.parquet", "picture_data", "--image-column"]);
    work.diptych(&["ingest", "a.parquet", "--dataset", "data", "--image-column", "picture_data"])
        .ok();
    assert_eq!(work.sql(&["--dataset", "data"], "SELECT count(*) FROM meta"), "1");
}

#[test]
fn caption_column_that_does_not_exist_is_answered_with_those_that_do() {
    let work = Work::new();
    work.write("a.parquet", parquet(&[("image", DataType::Binary), ("caption", DataType::Utf8)]));
    work.diptych(&["ingest", "a.parquet", "--dataset", "data", "--caption-column", "captoin"])
        .fails(1, "no_such_caption_column")
        .names(&["a.parquet", "captoin", "--caption-column"]);
    assert!(!work.path("data/dataset.json").exists());
}

#[test]
fn tar_cut_short_gives_its_whole_pairs_and_an_exit_code() {
    let work = Work::new();
    let tar = pairs::tar_of(10);
    work.write("cut.tar", &tar[..tar.len() * 6 / 10]);
    work.diptych(&["ingest", "cut.tar", "--dataset", "data"])
        .fails(3, "truncated_tar")
        .names(&["cut.tar"])
        .ended_with(3);
    let kept: u32 = work.sql(&["--dataset", "data"], "SELECT count(*) FROM meta").parse().unwrap();
    assert!((4..=6).contains(&kept), "{kept}");
    let ledger = work.sql(
        &["--dataset", "data"],
        "SELECT source || ' ' || position FROM ledger WHERE reason = 'truncated_source'",
    );
    assert!(ledger.contains("cut.tar"), "{ledger}");
    assert!(unfinished(&work, "data").is_empty());

    // Somebody copies the whole file: the rest comes in, nothing comes twice.
    work.write("cut.tar", &tar);
    work.diptych(&["ingest", "cut.tar", "--dataset", "data"]).ok();
    assert_eq!(work.sql(&["--dataset", "data"], "SELECT count(*) FROM meta"), "10");
}

#[test]
fn parquet_whose_footer_lies_is_named_and_the_other_sources_go_on() {
    let work = Work::new();
    let mut bytes = parquet(&[("image", DataType::Binary), ("caption", DataType::Utf8)]);
    let length = bytes.len();
    // The last 8 bytes are the footer's length and the magic. This length is larger than the file.
    bytes[length - 8..length - 4].copy_from_slice(&u32::MAX.to_le_bytes());
    work.write("liar.parquet", &bytes);
    work.write("good.tar", pairs::tar_of(3));
    work.diptych(&["ingest", "liar.parquet", "good.tar", "--dataset", "data"])
        .fails(3, "parquet_with_a_wrong_footer")
        .names(&["liar.parquet"])
        .ended_with(3);
    assert_eq!(work.sql(&["--dataset", "data"], "SELECT count(*) FROM meta"), "3");
}

#[test]
fn bomb_of_60000_pixels_squared_goes_to_the_ledger_and_is_never_decoded() {
    let work = Work::new();
    work.write(
        "bomb.tar",
        pairs::tar(&[("a.png", pairs::bomb()), ("a.txt", b"a very large image".to_vec())]),
    );
    work.diptych(&["ingest", "bomb.tar", "--dataset", "data"])
        .fails(1, "image_of_too_many_pixels")
        .names(&["bomb.tar", "a.png", "too_many_pixels"]);
    let row = work.sql(
        &["--dataset", "data"],
        "SELECT reason || ' ' || position || ' ' || detail FROM ledger",
    );
    assert!(
        row.contains("too_many_pixels") && row.contains("a.png") && row.contains("60000"),
        "{row}"
    );
}

#[test]
fn strip_that_would_take_gigabytes_to_resize_goes_to_the_ledger() {
    let work = Work::new();
    let strip = pairs::png(1, (1 << 20) + 1, [1, 2, 3]);
    work.write("strip.tar", pairs::tar(&[("a.png", strip), ("a.txt", b"a long image".to_vec())]));
    work.diptych(&["ingest", "strip.tar", "--dataset", "data", "--phash"])
        .fails(1, "image_with_a_side_too_long")
        .names(&["strip.tar", "a.png", "1048576"]);
}

#[test]
fn empty_selection_is_refused_and_not_written() {
    let work = Work::new();
    work.write("a.tar", pairs::tar_of(3));
    work.diptych(&["ingest", "a.tar", "--dataset", "data"]).ok();
    work.diptych(&[
        "select",
        "SELECT uid FROM meta WHERE width > 9999",
        "--dataset",
        "data",
        "--output",
        "s.parquet",
    ])
    .fails(1, "no_rows")
    .names(&["width > 9999"]);
    assert!(!work.path("s.parquet").exists());
}

#[test]
fn sql_that_is_wrong_is_answered_with_the_place() {
    let work = Work::new();
    work.write("a.tar", pairs::tar_of(3));
    work.diptych(&["ingest", "a.tar", "--dataset", "data"]).ok();
    work.diptych(&["sql", "SELECT captoin FROM meta", "--dataset", "data"])
        .fails(1, "no_such_column")
        .names(&["captoin", "^"]);
    work.diptych(&["sql", "SELECT FROM WHERE", "--dataset", "data"])
        .fails(1, "syntax_error")
        .names(&["^"]);
    work.diptych(&["sql", "COPY meta TO 'x.csv'", "--dataset", "data"])
        .fails(1, "writing_statement");
    assert!(!work.path("x.csv").exists());
}

#[test]
fn configuration_with_a_typo_names_line_and_key() {
    let work = Work::new();
    work.write("run.toml", tiny_config("a", 1, "[checkpoint]\nevery_step = 3\n"));
    work.diptych(&["train", "run.toml"])
        .fails(1, "unknown_key")
        .names(&["run.toml", "every_steps"]);
}

#[test]
fn another_file_is_not_taken_for_a_selection() {
    let work = Work::new().with_demo_data(60);
    work.write("train.parquet", parquet(&[("image", DataType::Binary)]));
    work.write("run.toml", tiny_config("a", 1, ""));
    work.diptych(&["train", "run.toml"]).fails(1, "not_a_selection").names(&["train.parquet"]);
}

#[test]
fn second_process_on_the_same_state_is_told_who_has_it() {
    let work = Work::new().with_demo_data(120);
    work.write("long.toml", tiny_config("long", 100_000, ""));
    work.write("other.toml", tiny_config("other", 1, ""));
    let mut first = work.start(&["train", "long.toml", "--no-progress"]);
    // The owner file appears when the first process holds the folder.
    eventually(PATIENCE, "the first process to hold the folder", || {
        assert!(!first.has_ended(), "the first process ended");
        work.path("state/owner.json").exists().then_some(())
    });
    let second = work.diptych(&["train", "other.toml"]);
    first.kill();
    let pid = first.0.id().to_string();
    second.fails(1, "state_in_use_by_training").names(&["state", &pid]);
    // The owner is dead: nothing is locked any more.
    work.diptych(&["train", "other.toml"]).ok();
}

#[needs(mounts)]
#[test]
fn full_disk_while_a_checkpoint_is_written_loses_nothing() {
    let work = Work::new().with_demo_data(120);
    work.write(
        "run.toml",
        tiny_config("run", 40, "[checkpoint]\nevery_steps = 0\nevery_epochs = 0\n"),
    );
    work.diptych(&["train", "run.toml", "--stop-after", "3"]).ended_with(4);
    std::fs::create_dir(work.path("small")).unwrap();
    // A small disk in its own mount namespace has room for the first checkpoint, but not for a
    // second.
    let script = format!(
        "mount -t tmpfs -o size=9m tmpfs small && cp -r state small/ && sed -i 's/\"state\"/\"small\\/state\"/' run.toml && \
         {} train run.toml --no-progress --stop-after 2; code=$?; find small -name '*.incomplete'; ls small/state/checkpoints/run; exit $code",
        binary().display()
    );
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", &script])
        .current_dir(work.path(""))
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("step 5") && text.contains("No space left"), "{text}");
    assert!(
        !text.lines().any(|line| line.starts_with("small/") && line.ends_with(".incomplete")),
        "{text}"
    );
    assert!(text.contains("step-000000003") && !text.contains("step-000000005\n"), "{text}");
}

#[needs(mounts)]
#[test]
fn full_disk_under_the_store_ends_no_training_and_its_metrics_are_written_when_there_is_room() {
    let work = Work::new().with_demo_data(120);
    let config = tiny_config("run", 100_000, "[checkpoint]\nevery_steps = 0\nevery_epochs = 0\n");
    work.write("run.toml", config.replace("\"state\"", "\"small/state\""));
    std::fs::create_dir(work.path("small")).unwrap();
    // Fills the disk of a training, makes room again and stops it, each after a sign in the log or
    // the store.
    let script = format!(
        "waits_for() {{ n=0; until grep -q \"$1\" log; do n=$((n+1)); [ $n -lt 1200 ] || exit 97; sleep 0.1; done; }}
         waits_for_event() {{ n=0; until [ \"$({0} sql \"SELECT count(*) FROM events WHERE kind = '$1'\" --state small/state --format csv | tail -1)\" = 1 ]; do n=$((n+1)); [ $n -lt 600 ] || exit 95; sleep 0.1; done; }}
         mount -t tmpfs -o size=24m tmpfs small || exit 98
         {0} train run.toml > out 2> log & run=$!
         waits_for 'step 2'
         dd if=/dev/zero of=small/filler bs=4k 2> /dev/null
         waits_for 'No space left'
         sleep 1
         kill -0 $run || exit 96
         rm small/filler
         waits_for_event store_failed
         kill -TERM $run; wait $run; code=$?
         cp -r small/state state; exit $code",
        binary().display()
    );
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", &script])
        .current_dir(work.path(""))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", work.read("log"));
    let state = ["--state", "state"];
    let of =
        |what: &str| work.sql(&state, &format!("SELECT {what} FROM metrics WHERE name = 'loss'"));
    assert_eq!(of("max(step)"), of("count(*)"), "steps are missing");
    let told = work.sql(&state, "SELECT count(*) FROM events WHERE kind = 'store_failed'");
    assert_eq!(told, "1");
    work.waits_for_event("store_failed");
    work.diptych(&["doctor", "state"]).ok();
}
