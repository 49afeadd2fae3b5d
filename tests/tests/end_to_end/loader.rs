//! The loader's benchmark, and through it the loader's use of memory.

use diptych_tests::{Work, messages, pairs};
use serde_json::Value;

/// Makes a dataset of `count` pairs of 200 kB, mostly junk behind the picture, and a selection of
/// all.
fn with_large_files(work: &Work, name: &str, count: usize) {
    let names: Vec<[String; 2]> =
        (0..count).map(|n| [format!("{n:04}.jpg"), format!("{n:04}.txt")]).collect();
    let mut members = Vec::new();
    for (n, [image, text]) in names.iter().enumerate() {
        let mut file = pairs::jpeg(32, 32, [n as u8, (n >> 8) as u8, 99]);
        file.resize(200_000, n as u8);
        members.push((image.as_str(), file));
        members.push((text.as_str(), format!("picture number {n}").into_bytes()));
    }
    let tar = work.write(&format!("{name}.tar"), pairs::tar(&members));
    work.diptych(&["ingest", &tar.to_string_lossy(), "--dataset", name]).ok();
    let selection = format!("{name}.parquet");
    work.diptych(&["select", "SELECT uid FROM meta", "--dataset", name, "--output", &selection])
        .ok();
}

fn bench(work: &Work, arguments: &[&str]) -> Value {
    let ran = work
        .diptych(
            &[&["bench", "loader", "--json", "--rounds", "1", "--threads", "2"], arguments]
                .concat(),
        )
        .ok();
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn memory_stays_the_same_with_ten_times_the_data() {
    let work = Work::new();
    let peak = |name: &str, count: usize| {
        with_large_files(&work, name, count);
        let selection = format!("{name}.parquet");
        let bounds = [
            "--no-bare",
            "--pairs",
            "0",
            "--epochs",
            "2",
            "--queue-mib",
            "16",
            "--batch-size",
            "8",
        ];
        let data = ["--image-size", "32", "--dataset", name, "--selection", &selection];
        let report = bench(&work, &[&bounds[..], &data[..]].concat());
        assert_eq!(report["rounds"][0]["images"], 2 * (count / 8 * 8), "{report}");
        // A quarter of the bytes in flight is for what is not decoded yet.
        assert!(report["peak_encoded_bytes"].as_u64().unwrap() <= 4 << 20, "{report}");
        report["peak_rss_bytes"].as_f64().unwrap()
    };
    // 20 MB and 200 MB, each in few row groups: a loader that kept a whole window would hold all of
    // it.
    let (once, ten_times) = (peak("once", 100), peak("ten", 1000));
    assert!(ten_times < 1.05 * once, "{once} bytes grew to {ten_times}");
}

#[test]
fn benchmark_has_a_row_for_each_stage_and_names_the_one_that_limits() {
    let work = Work::new();
    let tar = work.write("pairs.tar", pairs::tar_of(40));
    work.diptych(&["ingest", &tar.to_string_lossy(), "--dataset", "data"]).ok();
    let small = ["--dataset", "data", "--batch-size", "8", "--image-size", "32", "--epochs", "1"];
    let report = bench(&work, &small);
    let stages: Vec<&str> = report["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| stage["stage"].as_str().unwrap())
        .collect();
    assert_eq!(stages, ["read", "decode", "crop, resize", "tokenize", "collate"]);
    for stage in report["stages"].as_array().unwrap() {
        let share = stage["busy_share"].as_f64().unwrap();
        assert!(
            share > 0.0
                && share <= 1.0
                && stage["images_per_second_per_core"].as_f64().unwrap() > 0.0,
            "{stage}"
        );
    }
    assert_eq!(
        (&report["pairs"], &report["other_formats"], &report["rounds"][0]["images"]),
        (&40.into(), &40.into(), &40.into())
    );
    assert!(
        report["median_ratio"].as_f64().unwrap() > 0.0 && report["limited_by"].is_string(),
        "{report}"
    );

    let text =
        work.diptych(&[&["bench", "loader", "--rounds", "2"], &small[..]].concat()).ok().stdout;
    // Which stage limits, and so what to do, is measured.
    let stages: Vec<String> = stages.iter().map(|stage| format!(" {stage}:")).collect();
    let is_limit = |line: &&str| stages.iter().any(|stage| line.contains(stage));
    assert_eq!(text.lines().filter(is_limit).count(), 1, "{text}");
    let table: String = text.split_inclusive('\n').filter(|line| !is_limit(line)).collect();
    messages::check_without_figures("bench", "loader", &table);
    work.diptych(
        &[&["bench", "loader", "--rounds", "1"], &small[..2], &["--batch-size", "64"]].concat(),
    )
    .fails(1, "batch_larger_than_the_selection")
    .names(&["40", "64"]);
    work.diptych(&["bench", "loader", "--dataset", "nowhere"])
        .fails(1, "no_such_selection")
        .names(&["nowhere"]);
}
