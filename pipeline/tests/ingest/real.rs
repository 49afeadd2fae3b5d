//! Real archives and photographs.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;

use crate::build::*;
use crate::disk::*;
use diptych_pipeline::ingest::SourceOutcome;
use diptych_pipeline::{ImageFormat, header};
use diptych_schemas::MAX_PIXELS;
use diptych_test_support::{data, needs};

/// Width and height of an image by decoding all of it.
fn decoded_size(bytes: &[u8]) -> (u32, u32) {
    if bytes.starts_with(&[0xff, 0xd8]) {
        let header = turbojpeg::read_header(bytes).unwrap();
        return (header.width as u32, header.height as u32);
    }
    let image = image::load_from_memory(bytes).unwrap();
    (image.width(), image.height())
}

#[needs(data)]
#[test]
fn real_archives_become_pairs_with_the_original_bytes_and_sizes() {
    for (name, count, format) in [("emoji_test.tar", 256, "png"), ("photos.tar", 160, "jpeg")] {
        let source = data(name);
        let mut members = BTreeMap::new();
        for entry in tar::Archive::new(File::open(&source).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            members.insert(entry.path().unwrap().to_str().unwrap().to_owned(), bytes);
        }
        let bench = Bench::new();
        let mut request = bench.request(&[source.to_str().unwrap()]);
        // Several row groups and shards.
        (request.row_group_bytes, request.shard_bytes) = (1 << 20, 4 << 20);
        let report = run(&request).unwrap();
        assert_eq!(
            (report.pairs_added, report.pairs_total, report.ledger_total),
            (count, count, 0)
        );
        assert_eq!(report.sources[0].outcome, SourceOutcome::Done);
        let rows = pairs(&bench.dataset());
        for row in &rows {
            let image = members
                .get(&format!("{}.jpg", row.key))
                .or_else(|| members.get(&format!("{}.png", row.key)))
                .unwrap();
            assert!(row.image == *image, "{}", row.key);
            assert_eq!(row.caption.as_bytes(), members[&format!("{}.txt", row.key)].trim_ascii());
            assert_eq!(
                (row.size, row.format.as_str()),
                (decoded_size(image), format),
                "{}",
                row.key
            );
            let json: serde_json::Map<_, _> =
                serde_json::from_slice(&members[&format!("{}.json", row.key)]).unwrap();
            for (field, value) in json {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                assert_eq!(row.own[&field], text);
            }
        }
        assert_eq!(rows.iter().map(|row| row.uid).collect::<HashSet<_>>().len() as u64, count);
    }
}

#[needs(data)]
#[test]
fn photographs_have_the_size_that_libjpeg_sees() {
    let mut seen = 0;
    for entry in tar::Archive::new(File::open(data("photos.tar")).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().extension().is_some_and(|extension| extension == "jpg") {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let found = header::probe(&bytes, MAX_PIXELS).unwrap();
            assert_eq!(found.format, ImageFormat::Jpeg);
            let (width, height) = decoded_size(&bytes);
            assert!([(width, height), (height, width)].contains(&(found.width, found.height)));
            seen += 1;
        }
    }
    assert_eq!(seen, 160);
}
