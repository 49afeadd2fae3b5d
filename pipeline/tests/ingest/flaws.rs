//! Inputs that do not become a pair, and their ledger entries.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use crate::build::*;
use crate::disk::*;
use arrow::array::{ArrayRef, BinaryArray};
use diptych_pipeline::ingest::{IngestError, IngestRequest, SourceOutcome};
use diptych_schemas::DatasetManifest;
use parquet::file::reader::{FileReader, SerializedFileReader};

#[test]
fn every_flaw_has_its_reason_and_position() {
    let bench = Bench::new();
    let (image, bomb) = (png(1), bomb());
    let long = vec![b'x'; (1 << 20) + 1];
    let members: Vec<(&str, &[u8])> = vec![
        ("good.png", &image),
        ("good.txt", b"words"),
        ("again.png", &image),
        ("again.txt", b"words\n"),
        ("blank.png", &image),
        ("blank.txt", b" \n\t"),
        ("bomb.png", &bomb),
        ("bomb.txt", b"boom"),
        ("bitmap.bmp", b"BM rest"),
        ("bitmap.txt", b"bitmap"),
        ("short.png", &image[..20]),
        ("short.txt", b"short"),
        ("long.png", &image),
        ("long.txt", &long),
        ("latin.png", &image),
        ("latin.txt", b"caf\xe9"),
        ("noext", b"x"),
        ("image-only.png", &image),
        ("text-only.txt", b"alone"),
    ];
    let source = bench.file("a.tar", &tar(&members));
    let report = bench.ingest(&[&source]);
    assert_eq!(report.pairs_added, 1);
    let rows = ledger(&bench.dataset());
    let found: Vec<(&str, bool, &str)> = rows
        .iter()
        .map(|row| (row[0].as_str(), row[1].starts_with("member "), row[2].as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("duplicate_pair", true, "quarantined"),
            ("empty_caption", true, "quarantined"),
            ("too_many_pixels", true, "quarantined"),
            ("unsupported_format", true, "quarantined"),
            ("corrupt_header", true, "quarantined"),
            ("too_many_bytes", true, "quarantined"),
            ("bad_record", true, "quarantined"),
            ("bad_record", true, "quarantined"),
            ("missing_caption", true, "quarantined"),
            ("missing_image", true, "retryable"),
        ]
    );
    // A ustar header and one block of content for each of the first two members.
    assert_eq!(rows[0][1], "member again.png at byte 2048");
    assert!(rows[2][3].contains("60000 × 60000"), "{}", rows[2][3]);
}

#[test]
fn image_that_cannot_be_decoded_is_found_at_ingest_where_that_is_asked_for() {
    let bench = Bench::new();
    let (whole, mut cut) = (png(1), png(2));
    cut.truncate(cut.len() - 20);
    let members: [(&str, &[u8]); 4] =
        [("a.png", &whole), ("a.txt", b"whole"), ("b.png", &cut), ("b.txt", b"cut")];
    let source = bench.file("a.tar", &tar(&members));
    assert_eq!(bench.ingest(&[&source]).pairs_added, 2, "a header alone is looked at");
    let verified = Bench::new();
    let request = IngestRequest { verify: true, ..verified.request(&[&source]) };
    assert_eq!(run(&request).unwrap().pairs_added, 1);
    assert_eq!(reasons(&verified.dataset()), ["corrupt_pixels"]);
}

#[test]
fn limits_on_bytes_hold_in_every_layout() {
    let bench = Bench::new();
    let big = png(1);
    bench.file("list/1.png", &big);
    let listing = bench.file("list/l.csv", b"file,text\n1.png,a\n");
    bench.file("folder/1.png", &big);
    bench.file("folder/1.txt", b"a");
    let images: ArrayRef = Arc::new(BinaryArray::from_vec(vec![&big]));
    let table =
        bench.file("t.parquet", &parquet(vec![("image", images), ("text", strings(&["a"]))], 10));
    let archive = bench.file("a.tar", &tar(&[("1.png", &big), ("1.txt", b"a")]));
    let mut request =
        bench.request(&[&listing, bench.path("folder").to_str().unwrap(), &table, &archive]);
    request.max_image_bytes = big.len() as u64 - 1;
    let report = run(&request).unwrap();
    assert_eq!((report.pairs_added, report.ledger_added["too_many_bytes"]), (0, 4));
    assert!(
        report
            .sources
            .iter()
            .all(|source| source.notes.iter().any(|note| note.contains("none of its records")))
    );
    // An empty set makes no shard.
    assert!(DatasetManifest::read(&bench.dataset()).unwrap().shards.is_empty());
}

#[test]
fn cut_archive_gives_what_is_whole_and_the_rest_when_it_is_repaired() {
    let whole = tar_of_pairs(0..6);
    for packed in [false, true] {
        let bench = Bench::new();
        let (name, bytes) =
            if packed { ("a.tar.gz", gzip(&whole)) } else { ("a.tar", whole.clone()) };
        // Within the last members, or well within the compressed stream.
        let cut = if packed { bytes.len() * 2 / 3 } else { bytes.len() - 3072 };
        let source = bench.file(name, &bytes[..cut]);
        let report = bench.ingest(&[&source]);
        assert!(report.pairs_added >= 2 && report.pairs_added < 6, "{}", report.pairs_added);
        assert!(matches!(&report.sources[0].outcome, SourceOutcome::Partial(message) if message
                .contains("byte")));
        let rows = ledger(&bench.dataset());
        assert_eq!(
            (rows.len(), rows[0][0].as_str(), rows[0][2].as_str()),
            (1, "truncated_source", "retryable")
        );

        // Nothing has changed: nothing is added, and it is still reported.
        let before = files(&bench.dataset());
        let again = bench.ingest(&[&source]);
        assert!(again.added_nothing());
        assert!(matches!(again.sources[0].outcome, SourceOutcome::Partial(_)));
        assert_eq!(files(&bench.dataset()), before);

        bench.file(name, &bytes);
        let repaired = bench.ingest(&[&source]);
        assert_eq!(
            (repaired.pairs_added, repaired.ledger_added.len()),
            (6 - report.pairs_added, 0)
        );
        assert_eq!(
            (repaired.pairs_total, repaired.sources[0].known_before),
            (6, report.pairs_added)
        );
        assert_eq!(repaired.sources[0].outcome, SourceOutcome::Done);
    }
}

#[test]
fn source_of_which_nothing_can_be_read_is_told_and_the_others_go_on() {
    let bench = Bench::new();
    let images: ArrayRef = Arc::new(BinaryArray::from_vec(vec![&png(7), &png(8)]));
    let table = parquet(vec![("image", images), ("text", strings(&["seven", "eight"]))], 1);
    let cut = bench.file("cut.parquet", &table[..table.len() / 2]);
    // All offsets of the footer point too far.
    let lying = bench.file("lying.parquet", &[b"PAR1", &table[table.len() - 700..]].concat());
    let mut wrong_length = table.clone();
    let at = wrong_length.len() - 8;
    wrong_length[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let wrong_length = bench.file("length.parquet", &wrong_length);
    let noise = bench.file("noise.tar", &[b'x'; 4096]);
    let empty = bench.file("empty.tar", b"");
    let good = bench.file("good.parquet", &table);
    let sources = [cut.as_str(), &lying, &wrong_length, &noise, &empty, &good];
    let report = bench.ingest(&sources);
    assert_eq!(report.pairs_added, 2);
    let unreadable: Vec<&str> = report.unreadable().map(|source| source.path.as_str()).collect();
    assert_eq!(unreadable, sources[..5]);
    assert_eq!(
        reasons(&bench.dataset()),
        ["truncated_source", "bad_record", "bad_record", "bad_record", "truncated_source"]
    );
    assert!(ledger(&bench.dataset())[0][3].contains("PAR1"));
    let again = bench.ingest(&sources);
    assert!(again.added_nothing());
    assert_eq!(again.unreadable().count(), 5);
}

#[test]
fn damage_within_a_parquet_file_costs_its_row_group_and_never_more_than_an_error() {
    let images: Vec<Vec<u8>> = (0..6).map(png).collect();
    let array: ArrayRef =
        Arc::new(BinaryArray::from_vec(images.iter().map(Vec::as_slice).collect()));
    let table =
        parquet(vec![("image", array), ("text", strings(&["a", "b", "c", "d", "e", "f"]))], 2);
    // The header of the first page of the second row group.
    let reader = SerializedFileReader::new(bytes_of(&table)).unwrap();
    let column = reader.metadata().row_group(1).column(0);
    let at = column.dictionary_page_offset().unwrap_or(column.data_page_offset()) as usize;
    let mut damaged = table.clone();
    damaged[at..at + 16].fill(0xff);
    let bench = Bench::new();
    let source = bench.file("a.parquet", &damaged);
    let report = bench.ingest(&[&source]);
    assert_eq!(captions(&bench.dataset()), ["a", "b", "e", "f"]);
    assert_eq!(ledger(&bench.dataset())[0][1], "row group 1, row 0");
    assert!(matches!(report.sources[0].outcome, SourceOutcome::Partial(_)));
    let again = bench.ingest(&[&source]);
    assert!(again.added_nothing() && matches!(again.sources[0].outcome, SourceOutcome::Partial(_)));

    // Any other damage gives some report, never a panic.
    for at in (0..table.len()).step_by(table.len() / 40) {
        let bench = Bench::new();
        let mut damaged = table.clone();
        damaged[at] ^= 0x55;
        let source = bench.file("a.parquet", &damaged);
        match run(&bench.request(&[&source])) {
            Ok(report) => assert!(report.pairs_added <= 6),
            Err(error) => assert!(matches!(error, IngestError::NoColumn { .. }), "{error}"),
        }
    }
}

fn bytes_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}
