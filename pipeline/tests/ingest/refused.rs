//! Requests that are refused before anything is written.

use std::fs::{self};
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::build::*;
use arrow::array::{ArrayRef, BinaryArray};
use diptych_pipeline::ingest::ingest;
use diptych_schemas::{blob_path, durable};

#[test]
fn column_that_does_not_exist_is_refused_with_those_that_do() {
    let bench = Bench::new();
    let images: ArrayRef = Arc::new(BinaryArray::from_vec(vec![&png(7)]));
    let sources = [
        bench.file(
            "t.parquet",
            &parquet(vec![("image", images), ("words", strings(&["seven"]))], 10),
        ),
        bench.file("l.csv", b"file,words\n1.png,seven\n"),
        bench.file("l.jsonl", b"{\"file\":\"1.png\",\"words\":\"seven\"}\n"),
        bench.file("a.tar", &tar(&[("1.png", &png(1)), ("1.json", br#"{"words":"seven"}"#)])),
    ];
    for (source, name) in sources.iter().zip(["t.parquet", "l.csv", "l.jsonl", "a.tar"]) {
        let mut request = bench.request(&[source]);
        request.caption_column = Some("sentence".into());
        let message = bench.error(&request);
        for part in [name, "words", "sentence", "--caption-column"] {
            assert!(message.contains(part), "{message}");
        }
        request.caption_column = Some("words".into());
        request.image_column = Some("picture".into());
        let message = bench.error(&request);
        assert!(message.contains("--image-column") && message.contains("picture"), "{message}");
    }
    // With the option that the message names it works.
    for source in &sources[..1] {
        let mut request = bench.request(&[source]);
        request.caption_column = Some("words".into());
        assert_eq!(run(&request).unwrap().pairs_added, 1);
    }
}

#[test]
fn what_is_not_there_or_not_known_is_refused_before_anything_is_written() {
    let bench = Bench::new();
    let good = bench.file("good.tar", &tar_of_pairs(0..1));
    let missing = bench.path("none.tar").to_str().unwrap().to_owned();
    let message = bench.error(&bench.request(&[&good, &missing]));
    assert!(message.contains("none.tar"), "{message}");
    let text = bench.file("notes.md", b"words");
    assert!(bench.error(&bench.request(&[&good, &text])).contains("notes.md"));
    assert!(bench.error(&bench.request(&[])).contains("no source"));
    let mut request = bench.request(&[&good]);
    request.shard_bytes = request.row_group_bytes - 1;
    assert!(bench.error(&request).contains("row group"));

    // A folder with other content stays untouched.
    fs::create_dir(bench.dataset()).unwrap();
    durable::write(&bench.dataset().join("thesis.tex"), b"precious").unwrap();
    let message = bench.error(&bench.request(&[&good]));
    assert!(message.contains("thesis.tex"), "{message}");
    assert_eq!(fs::read_dir(bench.dataset()).unwrap().count(), 1);
}

#[test]
fn sources_elsewhere_are_refused_with_the_way_to_get_them_here() {
    let bench = Bench::new();
    for (source, advice) in [
        ("s3://bucket/data/{00000..00003}.tar", "aws s3 sync s3://bucket/data ."),
        ("gs://bucket/data/0.parquet", "gcloud storage cp -r gs://bucket/data ."),
        ("https://example.org/a.tar", "curl -fLO \"https://example.org/a.tar\""),
        ("hf://datasets/who/what/data/0.parquet", "hf download who/what --repo-type dataset"),
        ("ftp://example.org/a.tar", "copy it to this machine"),
        ("pipe:aws s3 cp s3://bucket/0.tar -", "aws s3 cp s3://bucket/0.tar - > 00000.tar"),
        ("a.tar::b.tar", "a.tar b.tar"),
    ] {
        let mut request = bench.request(&[]);
        request.sources = vec![source.to_owned()];
        let message = bench.error(&request);
        assert!(message.starts_with(source) && message.contains(advice), "{message}");
        assert!(!bench.dataset().exists(), "{source}");
    }
    // A file may still have such a name.
    let joined = bench.file("a.tar::b.tar", &tar_of_pairs(0..1));
    assert_eq!(run(&bench.request(&[&joined])).unwrap().pairs_added, 1);
}

#[test]
fn second_ingest_at_the_same_time_is_refused() {
    let bench = Bench::new();
    let source = bench.file("a.tar", &tar_of_pairs(0..3));
    let mut refusals = Vec::new();
    ingest(&bench.request(&[&source]), &mut |_| {
        refusals.push(run(&bench.request(&[&source])).unwrap_err().to_string());
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(!refusals.is_empty());
    let own = format!("process {}", std::process::id());
    assert!(
        refusals.iter().all(|message| message.contains("another ingest") && message.contains(&own)),
        "{}",
        refusals[0]
    );
}

#[test]
fn dataset_that_lost_a_file_is_not_added_to() {
    let bench = Bench::new();
    let source = bench.file("a.tar", &tar_of_pairs(0..3));
    bench.ingest(&[&source]);
    let blob = blob_path(&bench.dataset(), 0);
    let bytes = fs::read(&blob).unwrap();
    durable::write(&blob, &bytes[..bytes.len() - 1]).unwrap();
    let message = bench.error(&bench.request(&[&source]));
    assert!(message.contains("blob/00000.parquet") && message.contains("damaged"), "{message}");
}
