//! The inputs of `field-cases`: one of each kind that users bring, run by their own scripts.
//!
//! Other tests have the inputs that need a server (numbers of a Parquet list, remote sources,
//! `/metrics`) and those that the folder only describes (compiled weights).

use std::path::Path;
use std::process::Command;

use diptych_test_support::{data, needs};
use diptych_tests::{Work, binary, messages, pairs};

/// Folders of the inputs. The output of each script is a snapshot.
const CASES: [&str; 27] = [
    "03-tsv-quote-swallows-rows",
    "05-absolute-paths-in-csv",
    "07-no-header-tsv",
    "09-pipe-separated-flickr30k",
    "10-nan-in-json-of-tar",
    "12-json-array-and-pretty-jsonl",
    "14-bom-in-txt-of-folder",
    "16-bom-jsonl",
    "17-hf-cache-links-listing",
    "19-parquet-of-paths",
    "21-coco-captions-json",
    "23-img2dataset-files",
    "24-hf-imagefolder-splits",
    "25-jfif-jpe-in-folder",
    "27-csv-gz",
    "29-git-lfs-pointer",
    "31-crlf-line-numbers",
    "32-bytes-behind-end-of-tar",
    "34-input-jpg-outputs-txt",
    "36-resnet-config",
    "43-utf16-csv",
    "45-tokens-not-openclip",
    "48-mixed-parquet-folder",
    "49-hf-save-to-disk",
    "50-dictionary-images",
    "52-icc-profile-incomplete",
    "54-exif-orientation-as-long",
];

#[needs(data)]
#[test]
fn inputs_that_users_bring_are_read_or_refused_with_the_way_out() {
    let inputs = data("field-cases");
    let work = Work::new();
    for name in CASES {
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
        let here = work.path(name).display().to_string();
        messages::check("field-cases", name, &printed.replace(&here, "[case]"));
    }
}

/// Adds the parts that a folder lacks: links that were stored as files with their targets in them,
/// and images that a list names.
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
