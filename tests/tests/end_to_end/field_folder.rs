//! The inputs of `field-cases`, one of each kind that users bring, run as their scripts run them.
//!
//! Not here: what needs a server of its own (numbers of a Parquet list, remote sources, `/metrics`) and what its folder only describes
//! (compiled weights), which other tests have.

use std::path::Path;
use std::process::Command;

use diptych_test_support::{data, needs};
use diptych_tests::{Work, binary, pairs};

/// A folder of the inputs, what its script must print, and what it must not.
type Case = (&'static str, &'static [&'static str]);

const CASES: [Case; 27] = [
    ("03-tsv-quote-swallows-rows", &["8 pairs added", "end with quote\""]),
    ("05-absolute-paths-in-csv", &["--images-root", "--allow-outside"]),
    ("07-no-header-tsv", &["captions in `caption`", "6 private_address"]),
    ("09-pipe-separated-flickr30k", &["14 pairs added", "1 bad_record"]),
    ("10-nan-in-json-of-tar", &["3 pairs added", "u0"]),
    ("12-json-array-and-pretty-jsonl", &["3 pairs added", "3 duplicate_pair"]),
    ("14-bom-in-txt-of-folder", &["| bom at the start | 16 |"]),
    ("16-bom-jsonl", &["4 pairs added"]),
    ("17-hf-cache-links-listing", &["3 pairs added"]),
    ("19-parquet-of-paths", &["3 pairs added"]),
    ("21-coco-captions-json", &["6 pairs added"]),
    ("23-img2dataset-files", &["4 pairs added"]),
    ("24-hf-imagefolder-splits", &["6 pairs added"]),
    ("25-jfif-jpe-in-folder", &["4 pairs added"]),
    ("27-csv-gz", &["4 pairs added"]),
    ("29-git-lfs-pointer", &["git lfs pull", "00000.tar", "train-00000-of-00001.parquet"]),
    ("31-crlf-line-numbers", &["1 pairs added", "| line 3 "]),
    ("32-bytes-behind-end-of-tar", &["7 pairs added"]),
    ("34-input-jpg-outputs-txt", &["--image-column input.jpg --caption-column outputs.txt"]),
    ("36-resnet-config", &["ResNet", "ViT-B-32"]),
    ("43-utf16-csv", &["4 pairs added"]),
    ("45-tokens-not-openclip", &["65 pairs added", "11 duplicate_pair"]),
    (
        "48-mixed-parquet-folder",
        &["a.parquet: Parquet", "b.parquet: not read", "c.parquet: not read"],
    ),
    ("49-hf-save-to-disk", &["3 pairs added"]),
    ("50-dictionary-images", &["3 pairs added"]),
    ("52-icc-profile-incomplete", &["3 pairs added", "entropy: 3 added"]),
    ("54-exif-orientation-as-long", &["| 72    | 96     | 6 "]),
];

#[needs(data)]
#[test]
fn inputs_that_users_bring_are_read_or_refused_with_the_way_out() {
    let inputs = data("field-cases");
    let work = Work::new();
    for (name, says) in CASES {
        let copied =
            Command::new("cp").arg("-r").arg(inputs.join(name)).arg(work.path(name)).status();
        assert!(copied.unwrap().success());
        // Copies are as read-only as what they are of.
        let opened = Command::new("chmod").args(["-R", "u+w"]).arg(work.path(name)).status();
        assert!(opened.unwrap().success());
        complete(&work, name);
        let script = work.path(name).join("run.sh");
        let ran = Command::new("bash").arg(script).env("DIPTYCH", binary()).output().unwrap();
        let [printed, warned] =
            [ran.stdout, ran.stderr].map(|text| String::from_utf8(text).unwrap());
        let printed = printed + &warned;
        for part in says {
            assert!(printed.contains(part), "{name}: {part:?} is not in\n{printed}");
        }
    }
}

/// What a folder lacks: links that became files with their targets in them, images that a list names.
fn complete(work: &Work, name: &str) {
    match name {
        "17-hf-cache-links-listing" => {
            let folder = work.path(name).join("08c/snapshots/abc/train");
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let target = std::fs::read_to_string(&path).unwrap_or_default();
                if target.starts_with("../") {
                    std::fs::remove_file(&path).unwrap();
                    std::os::unix::fs::symlink(target.trim(), &path).unwrap();
                }
            }
        }
        "27-csv-gz" | "43-utf16-csv" => {
            for number in 0..4_u8 {
                let image = Path::new(name).join(format!("18/images/{number}.jpg"));
                work.write(image.to_str().unwrap(), pairs::jpeg(9, 9, [50 * number, 1, 2]));
            }
        }
        _ => {}
    }
}
