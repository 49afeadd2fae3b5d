//! Ingest as its users see it: sources go in, and what lies on the disk afterwards is looked at with other readers.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "clippy does not know the helpers of tests for tests")]

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{Cursor, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryViewArray, BooleanArray, Int64Array, LargeBinaryArray, RecordBatch, StringArray,
    StructArray,
};
use arrow::datatypes::{DataType, Field, UInt32Type, UInt64Type};
use diptych_pipeline::header::{self, ImageFormat};
use diptych_pipeline::ingest::{IngestError, IngestReport, IngestRequest, SourceOutcome, ingest};
use diptych_schemas::{ContentHash, DatasetManifest, MAX_PIXELS, Uid, blob_path, durable, ledger_path, meta_path};
use flate2::Compression;
use flate2::write::GzEncoder;
use image::{DynamicImage, Rgb, RgbImage};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Encoding;
use parquet::file::properties::{ReaderProperties, WriterProperties};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::serialized_reader::ReadOptionsBuilder;
use tempfile::TempDir;

// ---- builders -------------------------------------------------------------------------------------------------------

/// A PNG whose pixels, and so whose hash, depend on `number`.
fn png(number: u32) -> Vec<u8> {
    let [_, r, g, b] = number.to_be_bytes();
    let mut bytes = Cursor::new(Vec::new());
    let image = DynamicImage::from(RgbImage::from_pixel(6, 4, Rgb([r, g, b])));
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A PNG header that claims 60,000 × 60,000 pixels. Its checksum does not hold, which nobody should get to see.
fn bomb() -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    bytes.extend(60_000_u32.to_be_bytes());
    bytes.extend(60_000_u32.to_be_bytes());
    bytes.extend([8, 2, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A tar of pairs with the numbers given.
fn tar_of_pairs(numbers: std::ops::Range<u32>) -> Vec<u8> {
    let members: Vec<(String, Vec<u8>)> = numbers
        .flat_map(|n| [(format!("{n:04}.png"), png(n)), (format!("{n:04}.txt"), format!("caption {n}\n").into_bytes())])
        .collect();
    tar(&members.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect::<Vec<_>>())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn parquet(columns: Vec<(&str, ArrayRef)>, rows_of_a_group: usize) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(rows_of_a_group)).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn strings(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// A folder of sources beside the dataset that comes of them.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sources")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("sources").join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        durable::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn dataset(&self) -> PathBuf {
        self.folder.path().join("dataset")
    }

    fn request(&self, sources: &[&str]) -> IngestRequest {
        IngestRequest::new(sources.iter().map(|&source| source.to_owned()).collect(), self.dataset())
    }

    fn ingest(&self, sources: &[&str]) -> IngestReport {
        run(&self.request(sources)).unwrap()
    }

    fn error(&self, request: &IngestRequest) -> String {
        let before = self.dataset().exists();
        let message = run(request).unwrap_err().to_string();
        assert_eq!(self.dataset().exists(), before, "something was written before: {message}");
        message
    }
}

fn run(request: &IngestRequest) -> Result<IngestReport, IngestError> {
    ingest(request, &mut |_| ControlFlow::Continue(()))
}

// ---- what lies on the disk ------------------------------------------------------------------------------------------

#[derive(Clone, Debug, PartialEq)]
struct Row {
    uid: Uid,
    caption: String,
    size: (u32, u32),
    format: String,
    bytes: u64,
    sha256: Vec<u8>,
    phash: Option<u64>,
    source: String,
    key: String,
    place: (u32, u32, u32),
    own: BTreeMap<String, String>,
    image: Vec<u8>,
}

fn batches(path: &Path) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    reader.map(Result::unwrap).collect()
}

/// All pairs, after checking that row k of meta is row k of blob, at the place that meta says.
fn pairs(dataset: &Path) -> Vec<Row> {
    let manifest = DatasetManifest::read(dataset).unwrap();
    let mut rows = Vec::new();
    for shard in &manifest.shards {
        let mut blobs = Vec::new();
        let groups = ParquetRecordBatchReaderBuilder::try_new(File::open(blob_path(dataset, shard.shard)).unwrap()).unwrap();
        for group in 0..groups.metadata().num_row_groups() {
            let file = File::open(blob_path(dataset, shard.shard)).unwrap();
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().with_row_groups(vec![group]).build().unwrap();
            let mut row = 0;
            for batch in reader {
                let batch = batch.unwrap();
                for index in 0..batch.num_rows() {
                    let uid = Uid::try_from(batch.column(0).as_fixed_size_binary().value(index)).unwrap();
                    let image = batch.column(1).as_binary::<i64>().value(index).to_vec();
                    blobs.push((uid, image, (shard.shard, group as u32, row)));
                    row += 1;
                }
            }
        }
        let mut blobs = blobs.into_iter();
        for batch in batches(&meta_path(dataset, shard.shard)) {
            let text = |name: &str, row: usize| batch.column_by_name(name).unwrap().as_string::<i32>().value(row).to_owned();
            let number = |name: &str, row: usize| batch.column_by_name(name).unwrap().as_primitive::<UInt32Type>().value(row);
            let phash = batch.column_by_name("phash").unwrap().as_primitive::<UInt64Type>();
            for row in 0..batch.num_rows() {
                let own = manifest.source_columns.iter().filter_map(|name| {
                    let column = batch.column_by_name(name)?;
                    column.is_valid(row).then(|| (name.clone(), text(name, row)))
                });
                let (uid, image, place) = blobs.next().unwrap();
                let found = Row {
                    uid: Uid::try_from(batch.column(0).as_fixed_size_binary().value(row)).unwrap(),
                    caption: text("caption", row),
                    size: (number("width", row), number("height", row)),
                    format: text("format", row),
                    bytes: batch.column_by_name("bytes").unwrap().as_primitive::<UInt64Type>().value(row),
                    sha256: batch.column_by_name("sha256").unwrap().as_fixed_size_binary().value(row).to_vec(),
                    phash: phash.is_valid(row).then(|| phash.value(row)),
                    source: text("source", row),
                    key: text("key", row),
                    place: (number("shard", row), number("row_group", row), number("row", row)),
                    own: own.collect(),
                    image,
                };
                assert_eq!((found.uid, found.place), (uid, place));
                assert_eq!(found.sha256, ContentHash::of(&found.image).0);
                assert_eq!(found.uid, Uid::of(&ContentHash::of(&found.image), &found.caption));
                assert_eq!(found.bytes, found.image.len() as u64);
                rows.push(found);
            }
        }
        assert!(blobs.next().is_none() && shard.pairs > 0);
    }
    assert_eq!(rows.len() as u64, manifest.pairs);
    rows
}

fn captions(dataset: &Path) -> Vec<String> {
    pairs(dataset).into_iter().map(|row| row.caption).collect()
}

/// Reason, position, disposition and detail of each row.
fn ledger(dataset: &Path) -> Vec<[String; 4]> {
    let manifest = DatasetManifest::read(dataset).unwrap();
    let mut rows = Vec::new();
    for file in &manifest.ledgers {
        for batch in batches(&ledger_path(dataset, file.number)) {
            let text = |name: &str, row: usize| batch.column_by_name(name).unwrap().as_string::<i32>().value(row).to_owned();
            rows.extend(
                (0..batch.num_rows()).map(|row| ["reason", "position", "disposition", "detail"].map(|name| text(name, row))),
            );
        }
    }
    assert_eq!(rows.len() as u64, manifest.ledger_rows);
    rows
}

fn reasons(dataset: &Path) -> Vec<String> {
    ledger(dataset).into_iter().map(|[reason, ..]| reason).collect()
}

/// All files of a dataset but the lock, with their bytes.
fn files(dataset: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dataset.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with(".lock") {
                files.insert(path.strip_prefix(dataset).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// A file of `shared/data`, or a word that the test is skipped.
fn shared(name: &str) -> Option<String> {
    let folder = std::env::var_os("DIPTYCH_TEST_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let path = folder.join(name);
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path.to_str().unwrap().to_owned())
}

// ---- real data ------------------------------------------------------------------------------------------------------

/// Width and height of an image by decoding all of it.
fn decoded_size(bytes: &[u8]) -> (u32, u32) {
    if bytes.starts_with(&[0xff, 0xd8]) {
        let header = turbojpeg::read_header(bytes).unwrap();
        return (header.width as u32, header.height as u32);
    }
    let image = image::load_from_memory(bytes).unwrap();
    (image.width(), image.height())
}

#[test]
fn real_archives_become_pairs_with_the_original_bytes_and_sizes() {
    for (name, count, format) in [("emoji_test.tar", 256, "png"), ("photos.tar", 160, "jpeg")] {
        let Some(source) = shared(name) else { return };
        let mut members = BTreeMap::new();
        for entry in tar::Archive::new(File::open(&source).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            members.insert(entry.path().unwrap().to_str().unwrap().to_owned(), bytes);
        }
        let bench = Bench::new();
        let mut request = bench.request(&[&source]);
        // Several row groups and shards.
        (request.row_group_bytes, request.shard_bytes) = (1 << 20, 4 << 20);
        let report = run(&request).unwrap();
        assert_eq!((report.pairs_added, report.pairs_total, report.ledger_total), (count, count, 0));
        assert_eq!(report.sources[0].outcome, SourceOutcome::Done);
        let rows = pairs(&bench.dataset());
        for row in &rows {
            let image = members.get(&format!("{}.jpg", row.key)).or_else(|| members.get(&format!("{}.png", row.key))).unwrap();
            assert!(row.image == *image, "{}", row.key);
            assert_eq!(row.caption.as_bytes(), members[&format!("{}.txt", row.key)].trim_ascii());
            assert_eq!((row.size, row.format.as_str()), (decoded_size(image), format), "{}", row.key);
            let json: serde_json::Map<_, _> = serde_json::from_slice(&members[&format!("{}.json", row.key)]).unwrap();
            for (field, value) in json {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                assert_eq!(row.own[&field], text);
            }
        }
        assert_eq!(rows.iter().map(|row| row.uid).collect::<HashSet<_>>().len() as u64, count);
    }
}

// ---- layouts --------------------------------------------------------------------------------------------------------

#[test]
fn tar_groups_members_by_key_and_keeps_their_other_fields() {
    let bench = Bench::new();
    let (a, b, c) = (png(1), png(2), png(3));
    let source = bench.file(
        "a.tar",
        &tar(&[
            ("x/one.png", &a),
            ("x/one.txt", b" a cat\n"),
            ("x/one.cls", b"7\n"),
            ("x/one.json", br#"{"Width": 3, "tags": ["p", "q"], "nothing": null, "caption": "a cat"}"#),
            ("two.png", &b),
            ("two.json", br#"{"caption": "a dog", "text": "other", "nsfw": false}"#),
            ("three.seg.npy", b"\xff\xfe"),
            ("three.png", &c),
            ("three.txt", b"a cow"),
        ]),
    );
    let report = bench.ingest(&[&source]);
    assert_eq!((report.pairs_added, report.ledger_total), (3, 0));
    assert!(report.sources[0].layout.contains("WebDataset"));
    assert!(report.sources[0].notes[0].contains(".seg.npy"));
    let rows = pairs(&bench.dataset());
    assert_eq!(rows.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(), ["x/one", "two", "three"]);
    assert_eq!(rows.iter().map(|row| row.caption.as_str()).collect::<Vec<_>>(), ["a cat", "a dog", "a cow"]);
    let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>();
    assert_eq!(rows[0].own, own(&[("cls", "7"), ("src_width", "3"), ("tags", r#"["p","q"]"#)]));
    assert_eq!(rows[1].own, own(&[("text", "other"), ("nsfw", "false")]));
}

#[test]
fn gzip_and_members_that_come_apart_give_the_same_pairs() {
    let (a, b) = (png(1), png(2));
    let beside = tar(&[("1.png", &a), ("1.txt", b"one"), ("2.png", &b), ("2.txt", b"two")]);
    let apart = tar(&[("1.png", &a), ("2.png", &b), ("1.txt", b"one"), ("2.txt", b"two")]);
    let captions_first = tar(&[("1.json", br#"{"text":"one"}"#), ("2.json", br#"{"text":"two"}"#), ("1.png", &a), ("2.png", &b)]);
    let mut hashes = HashSet::new();
    for (name, bytes) in [
        ("a.tar", beside.clone()),
        ("a.tar.gz", gzip(&beside)),
        ("misnamed.tar", gzip(&beside)),
        ("apart.tar", apart.clone()),
        ("apart.tgz", gzip(&apart)),
        ("captions.tar", captions_first.clone()),
        ("captions.tgz", gzip(&captions_first)),
    ] {
        let bench = Bench::new();
        let source = bench.file(name, &bytes);
        let report = bench.ingest(&[&source]);
        assert_eq!((report.pairs_added, report.ledger_total), (2, 0), "{name}");
        assert_eq!(captions(&bench.dataset()), ["one", "two"]);
        hashes.insert(report.content_hash);
    }
    assert_eq!(hashes.len(), 1);
}

#[test]
fn parquet_is_read_in_all_its_forms() {
    let images: Vec<Vec<u8>> = (0..3).map(png).collect();
    let slices: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(slices.clone()));
    let nested: ArrayRef = Arc::new(StructArray::from(vec![
        (Arc::new(Field::new("bytes", DataType::Binary, true)), bytes.clone()),
        (Arc::new(Field::new("path", DataType::Utf8, true)), strings(&["a.png", "b.png", "c.png"])),
    ]));
    let words = ["one", "two", "three"];
    let forms: [(&str, &str, ArrayRef); 4] = [
        ("image", "caption", bytes),
        ("jpg", "TEXT", Arc::new(LargeBinaryArray::from_vec(slices.clone()))),
        ("IMAGE", "text", Arc::new(BinaryViewArray::from_iter_values(slices))),
        ("image", "text", nested),
    ];
    for (image_name, caption_name, image) in forms {
        let bench = Bench::new();
        let columns = vec![
            ("key", strings(&["k0", "k1", "k2"])),
            (caption_name, strings(&words)),
            ("sha256", strings(&["x", "y", "z"])),
            ("score", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])) as ArrayRef),
            ("nsfw", Arc::new(BooleanArray::from(vec![true, false, true])) as ArrayRef),
            (image_name, image),
        ];
        let source = bench.file("a.parquet", &parquet(columns, 2));
        let report = bench.ingest(&[&source]);
        assert_eq!((report.pairs_added, report.ledger_total), (3, 0), "{image_name}");
        assert!(report.sources[0].layout.contains(caption_name), "{}", report.sources[0].layout);
        let rows = pairs(&bench.dataset());
        for (index, row) in rows.iter().enumerate() {
            assert_eq!((row.image.clone(), row.caption.as_str()), (images[index].clone(), words[index]));
            assert_eq!((row.key.clone(), row.own["nsfw"].as_str()), (format!("k{index}"), ["true", "false", "true"][index]));
        }
        assert_eq!(
            (rows[0].own["score"].as_str(), rows[1].own.get("score"), rows[2].own["src_sha256"].as_str()),
            ("1", None, "z")
        );
    }
}

#[test]
fn what_is_null_in_parquet_goes_to_the_ledger() {
    let bench = Bench::new();
    let image = png(1);
    let nested: ArrayRef = Arc::new(StructArray::from(vec![
        (
            Arc::new(Field::new("bytes", DataType::Binary, true)),
            Arc::new(BinaryArray::from_opt_vec(vec![None, Some(&image), Some(&image)])) as ArrayRef,
        ),
        (Arc::new(Field::new("path", DataType::Utf8, true)), strings(&["elsewhere.png", "b.png", "c.png"])),
    ]));
    let captions_of_rows: ArrayRef = Arc::new(StringArray::from(vec![Some("one"), None, Some("three")]));
    let source = bench.file("a.parquet", &parquet(vec![("image", nested), ("text", captions_of_rows)], 10));
    let report = bench.ingest(&[&source]);
    assert_eq!(report.pairs_added, 1);
    let rows = ledger(&bench.dataset());
    assert_eq!((rows[0][0].as_str(), rows[0][1].as_str()), ("missing_image", "row group 0, row 0"));
    assert!(rows[0][3].contains("elsewhere.png"));
    assert_eq!((rows[1][0].as_str(), rows[1][1].as_str()), ("missing_caption", "row group 0, row 1"));
}

#[test]
fn listings_are_read_with_any_separator_and_as_json_lines() {
    let forms = [
        ("list.csv", "file_name,caption,class\n1.png,\"a cat, black\",5\nsub/2.png,a dog,\n"),
        ("openclip.csv", "filepath\ttitle\n1.png\ta cat, black\nsub/2.png\ta dog\n"),
        ("list.tsv", "\u{feff}path\ttext\r\n1.png\ta cat, black\r\nsub/2.png\ta dog\r\n"),
        (
            "metadata.jsonl",
            "{\"file_name\":\"1.png\",\"text\":\"a cat, black\"}\n\n{\"file_name\":\"sub/2.png\",\"text\":\"a dog\",\"n\":1}",
        ),
    ];
    let mut hashes = HashSet::new();
    for (name, text) in forms {
        let bench = Bench::new();
        bench.file("1.png", &png(1));
        bench.file("sub/2.png", &png(2));
        let listing = bench.file(name, text.as_bytes());
        let report = bench.ingest(&[&listing]);
        assert_eq!((report.pairs_added, report.ledger_total), (2, 0), "{name}");
        assert_eq!(captions(&bench.dataset()), ["a cat, black", "a dog"]);
        hashes.insert(report.content_hash);
        // The folder stands for the listing within it: nothing is new.
        let report = bench.ingest(&[bench.path("").to_str().unwrap()]);
        assert!(report.added_nothing() && report.skipped() == 1, "{name}");
    }
    assert_eq!(hashes.len(), 1);
}

#[test]
fn listing_cannot_lead_out_of_its_folder() {
    let bench = Bench::new();
    let outside = bench.file("outside.png", &png(9));
    fs::create_dir(bench.path("in")).unwrap();
    std::os::unix::fs::symlink(&outside, bench.path("in/link.png")).unwrap();
    std::os::unix::fs::symlink(bench.path(""), bench.path("in/folder")).unwrap();
    bench.file("in/good.png", &png(1));
    std::os::unix::fs::symlink("good.png", bench.path("in/inner.png")).unwrap();
    let text = format!(
        "file,caption\n../outside.png,a\n{outside},b\nlink.png,c\nfolder/outside.png,d\nsub/../../outside.png,e\n.,f\nnone.png,g\n\
         https://example.org/x.png,h\ngood.png,i\ninner.png,j\n"
    );
    let listing = bench.file("in/list.csv", text.as_bytes());
    bench.ingest(&[&listing]);
    assert_eq!(captions(&bench.dataset()), ["i", "j"]);
    assert_eq!(
        reasons(&bench.dataset()),
        ["bad_record", "bad_record", "bad_record", "bad_record", "bad_record", "bad_record", "missing_image", "missing_image"]
    );
    assert_eq!(ledger(&bench.dataset())[0][1], "line 2");
    assert!(ledger(&bench.dataset())[7][3].contains("img2dataset"));
}

#[test]
fn bad_lines_cost_only_themselves() {
    let bench = Bench::new();
    bench.file("1.png", &png(1));
    let csv = bench.file("a.csv", b"file,caption\n1.png,one,more\n1.png,\xff\xfe\n1.png,\n1.png,good\n");
    let json =
        bench.file("b.jsonl", b"{\"file\":\"1.png\",\"text\":\"fine\"}\nno json\n{\"file\":\"1.png\"}\n[1]\n{\"text\":\"x\"}\n");
    let report = bench.ingest(&[&csv, &json]);
    assert_eq!(captions(&bench.dataset()), ["good", "fine"]);
    let rows = ledger(&bench.dataset());
    let found: Vec<(&str, &str)> = rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    assert_eq!(
        found,
        [
            ("bad_record", "line 2"),
            ("bad_record", "line 3"),
            ("empty_caption", "line 4"),
            ("bad_record", "line 2"),
            ("missing_caption", "line 3"),
            ("bad_record", "line 4"),
            ("missing_image", "line 5"),
        ]
    );
    assert_eq!(report.ledger_added["bad_record"], 4);
}

#[test]
fn quote_that_is_never_closed_does_not_swallow_the_memory() {
    let bench = Bench::new();
    bench.file("1.png", &png(1));
    let mut text = b"file,caption\n1.png,good\n1.png,\"never closed\n".to_vec();
    text.resize(text.len() + (17 << 20), b'x');
    let report = bench.ingest(&[&bench.file("a.csv", &text)]);
    assert_eq!(report.pairs_added, 1);
    assert!(matches!(&report.sources[0].outcome, SourceOutcome::Partial(message) if message.contains("quote")));
}

#[test]
fn folder_of_images_takes_its_captions_from_text_files() {
    let bench = Bench::new();
    let outside = bench.file("outside.png", &png(9));
    for (name, bytes) in [
        ("in/b.png", png(1)),
        ("in/b.txt", b"bee".to_vec()),
        ("in/a/c.d.PNG", png(2)),
        ("in/a/c.d.txt", b"sea\n".to_vec()),
        ("in/lonely.png", png(3)),
        ("in/README.txt", b"words".to_vec()),
        ("in/.hidden.png", png(4)),
        ("in/notes.md", b"nothing".to_vec()),
    ] {
        bench.file(name, &bytes);
    }
    std::os::unix::fs::symlink(&outside, bench.path("in/out.png")).unwrap();
    let report = bench.ingest(&[bench.path("in").to_str().unwrap()]);
    assert!(report.sources[0].layout.contains("folder of images"));
    assert_eq!(captions(&bench.dataset()), ["sea", "bee"]);
    let rows = ledger(&bench.dataset());
    let found: Vec<(&str, &str)> = rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    assert_eq!(
        found,
        [("missing_image", "file README.txt"), ("missing_caption", "file lonely.png"), ("bad_record", "file out.png")]
    );
}

#[test]
fn several_sources_and_patterns_are_taken_in_a_fixed_order() {
    let bench = Bench::new();
    bench.file("b.tar", &tar_of_pairs(2..4));
    bench.file("a.tar", &tar_of_pairs(0..2));
    let images: ArrayRef = Arc::new(BinaryArray::from_vec(vec![&png(7)]));
    let table = bench.file("t.parquet", &parquet(vec![("image", images), ("text", strings(&["seven"]))], 10));
    let pattern = bench.path("*.tar").to_str().unwrap().to_owned();
    let report = bench.ingest(&[&table, &pattern]);
    assert_eq!(report.sources.len(), 3);
    assert_eq!(captions(&bench.dataset()), ["seven", "caption 0", "caption 1", "caption 2", "caption 3"]);
    let manifest = DatasetManifest::read(&bench.dataset()).unwrap();
    assert_eq!(manifest.shards.len(), 1);
}

// ---- what does not become a pair ------------------------------------------------------------------------------------

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
    let found: Vec<(&str, bool, &str)> =
        rows.iter().map(|row| (row[0].as_str(), row[1].starts_with("member "), row[2].as_str())).collect();
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
fn limits_on_bytes_hold_in_every_layout() {
    let bench = Bench::new();
    let big = png(1);
    bench.file("list/1.png", &big);
    let listing = bench.file("list/l.csv", b"file,text\n1.png,a\n");
    bench.file("folder/1.png", &big);
    bench.file("folder/1.txt", b"a");
    let images: ArrayRef = Arc::new(BinaryArray::from_vec(vec![&big]));
    let table = bench.file("t.parquet", &parquet(vec![("image", images), ("text", strings(&["a"]))], 10));
    let archive = bench.file("a.tar", &tar(&[("1.png", &big), ("1.txt", b"a")]));
    let mut request = bench.request(&[&listing, bench.path("folder").to_str().unwrap(), &table, &archive]);
    request.max_image_bytes = big.len() as u64 - 1;
    let report = run(&request).unwrap();
    assert_eq!((report.pairs_added, report.ledger_added["too_many_bytes"]), (0, 4));
    assert!(report.sources.iter().all(|source| source.notes.iter().any(|note| note.contains("none of its records"))));
    // A set of nothing makes no shard.
    assert!(DatasetManifest::read(&bench.dataset()).unwrap().shards.is_empty());
}

#[test]
fn cut_archive_gives_what_is_whole_and_the_rest_when_it_is_repaired() {
    let whole = tar_of_pairs(0..6);
    for packed in [false, true] {
        let bench = Bench::new();
        let (name, bytes) = if packed { ("a.tar.gz", gzip(&whole)) } else { ("a.tar", whole.clone()) };
        // Within the last members, or well within the packed stream.
        let cut = if packed { bytes.len() * 2 / 3 } else { bytes.len() - 3072 };
        let source = bench.file(name, &bytes[..cut]);
        let report = bench.ingest(&[&source]);
        assert!(report.pairs_added >= 2 && report.pairs_added < 6, "{}", report.pairs_added);
        assert!(matches!(&report.sources[0].outcome, SourceOutcome::Partial(message) if message.contains("byte")));
        let rows = ledger(&bench.dataset());
        assert_eq!((rows.len(), rows[0][0].as_str(), rows[0][2].as_str()), (1, "truncated_source", "retryable"));

        // Nothing has changed: nothing is added, and it is still told.
        let before = files(&bench.dataset());
        let again = bench.ingest(&[&source]);
        assert!(again.added_nothing());
        assert!(matches!(again.sources[0].outcome, SourceOutcome::Partial(_)));
        assert_eq!(files(&bench.dataset()), before);

        bench.file(name, &bytes);
        let repaired = bench.ingest(&[&source]);
        assert_eq!((repaired.pairs_added, repaired.ledger_added.len()), (6 - report.pairs_added, 0));
        assert_eq!((repaired.pairs_total, repaired.sources[0].known_before), (6, report.pairs_added));
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
    assert_eq!(reasons(&bench.dataset()), ["truncated_source", "bad_record", "bad_record", "bad_record", "truncated_source"]);
    assert!(ledger(&bench.dataset())[0][3].contains("PAR1"));
    let again = bench.ingest(&sources);
    assert!(again.added_nothing());
    assert_eq!(again.unreadable().count(), 5);
}

#[test]
fn damage_within_a_parquet_file_costs_its_row_group_and_never_more_than_an_error() {
    let images: Vec<Vec<u8>> = (0..6).map(png).collect();
    let array: ArrayRef = Arc::new(BinaryArray::from_vec(images.iter().map(Vec::as_slice).collect()));
    let table = parquet(vec![("image", array), ("text", strings(&["a", "b", "c", "d", "e", "f"]))], 2);
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

// ---- requests that are refused --------------------------------------------------------------------------------------

#[test]
fn column_that_does_not_exist_is_refused_with_those_that_do() {
    let bench = Bench::new();
    let images: ArrayRef = Arc::new(BinaryArray::from_vec(vec![&png(7)]));
    let sources = [
        bench.file("t.parquet", &parquet(vec![("image", images), ("words", strings(&["seven"]))], 10)),
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

    // A folder that holds something else is left alone.
    fs::create_dir(bench.dataset()).unwrap();
    durable::write(&bench.dataset().join("thesis.tex"), b"precious").unwrap();
    let message = bench.error(&bench.request(&[&good]));
    assert!(message.contains("thesis.tex"), "{message}");
    assert_eq!(fs::read_dir(bench.dataset()).unwrap().count(), 1);
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
    assert!(refusals.iter().all(|message| message.contains("another ingest") && message.contains(&own)), "{}", refusals[0]);
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

// ---- again, and after a kill ----------------------------------------------------------------------------------------

/// Sources of several layouts with several flaws, and a request that cuts them into many shards.
fn mixed(bench: &Bench) -> IngestRequest {
    let first = bench.file("a.tar", &[&tar_of_pairs(0..12)[..], b""].concat());
    let (one, two) = (png(100), png(101));
    let flawed = tar(&[
        ("x.png", &one),
        ("x.txt", b"x"),
        ("y.txt", b"no image"),
        ("z.png", &one),
        ("z.txt", b"x"),
        ("w.png", &two),
        ("w.txt", b"w"),
        ("w.cls", b"4"),
    ]);
    let second = bench.file("b.tar.gz", &gzip(&flawed));
    let images: Vec<Vec<u8>> = (200..208).map(png).collect();
    let array: ArrayRef = Arc::new(BinaryArray::from_vec(images.iter().map(Vec::as_slice).collect()));
    let words = strings(&["a", "", "c", "d", "e", "f", "g", "h"]);
    let third = bench.file("c.parquet", &parquet(vec![("image", array), ("text", words)], 3));
    bench.file("d/1.png", &png(300));
    bench.file("d/2.png", &png(301));
    let fourth = bench.file("d/list.csv", b"file,caption,more\n1.png,one,p\nnone.png,x,q\n2.png,two,\n");
    let cut = bench.file("e.tar", &tar_of_pairs(400..403)[..4 * 1024 + 100]);
    let mut request = bench.request(&[&first, &second, &third, &fourth, &cut]);
    let size = png(1).len() as u64;
    (request.row_group_bytes, request.shard_bytes) = (2 * size, 7 * size);
    request
}

#[test]
fn ingest_that_is_stopped_anywhere_and_started_again_gives_the_same_bytes() {
    let bench = Bench::new();
    let mut request = mixed(&bench);
    let mut steps = 0;
    let report = ingest(&request, &mut |_| {
        steps += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    let expected = files(&bench.dataset());
    let manifest = DatasetManifest::read(&bench.dataset()).unwrap();
    assert!(manifest.shards.len() > 3 && manifest.ledgers.len() > 1 && steps > 20, "{manifest:?}");
    assert_eq!(report.ledger_added.values().sum::<u64>(), manifest.ledger_rows);

    for stop in 0..steps {
        request.dataset = bench.folder.path().join(format!("stopped-{stop}"));
        let mut left = stop;
        let stopped = ingest(&request, &mut |_| {
            left -= 1;
            if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(stopped, Err(IngestError::Stopped { .. })), "{stop}");
        // What a kill would leave beside it.
        for name in ["blob/00009.parquet.incomplete", "meta/00009.parquet", "ledger/00009.parquet.incomplete"] {
            durable::write(&request.dataset.join(name), b"half").unwrap();
        }
        let report = run(&request).unwrap();
        assert_eq!(report.content_hash, manifest.content_hash(), "{stop}");
        assert!(files(&request.dataset) == expected, "stopped at step {stop}");
        fs::remove_dir_all(&request.dataset).unwrap();
    }
    assert_eq!(pairs(&bench.dataset()).len(), 12 + 2 + 7 + 2 + 2);
}

#[test]
fn reading_a_changed_source_again_can_be_stopped_anywhere_too() {
    let bench = Bench::new();
    let mut request = mixed(&bench);
    run(&request).unwrap();
    // The first archive has five more pairs in front, one of them in the dataset already; the cut one is repaired.
    let changed = tar(&[("x.png", &png(100)), ("x.txt", b"x"), ("only.txt", b"no image")]);
    let changed = [&changed[..changed.len() - 1024], &tar_of_pairs(500..504)[..4 * 1024], &tar_of_pairs(0..12)].concat();
    bench.file("a.tar", &changed);
    bench.file("e.tar", &tar_of_pairs(400..403));
    let original = files(&bench.dataset());
    let copy = |name: String| {
        let folder = bench.folder.path().join(name);
        for (path, bytes) in &original {
            fs::create_dir_all(folder.join(path).parent().unwrap()).unwrap();
            durable::write(&folder.join(path), bytes).unwrap();
        }
        folder
    };
    request.dataset = copy("whole".into());
    let mut steps = 0;
    let report = ingest(&request, &mut |_| {
        steps += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    let expected = files(&request.dataset);
    assert_eq!(report.ledger_added, BTreeMap::from([("duplicate_pair", 1), ("missing_image", 1)]));
    for stop in 0..steps {
        request.dataset = copy(format!("stopped-{stop}"));
        let mut left = stop;
        let stopped = ingest(&request, &mut |_| {
            left -= 1;
            if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(stopped, Err(IngestError::Stopped { .. })), "{stop}");
        run(&request).unwrap();
        assert!(files(&request.dataset) == expected, "stopped at step {stop}");
    }
}

#[test]
fn source_is_read_again_when_it_is_to_be_read_in_another_way() {
    let bench = Bench::new();
    let source = bench.file("a.tar", &tar(&[("1.png", &png(1)), ("1.json", br#"{"alt": "one"}"#), ("2.txt", b"two")]));
    let mut request = bench.request(&[&source]);
    let report = run(&request).unwrap();
    assert_eq!((report.pairs_added, report.ledger_total), (0, 2));
    assert!(ledger(&bench.dataset()).iter().any(|row| row[0] == "missing_caption" && row[3].contains("json")));
    request.caption_column = Some("alt".into());
    let report = run(&request).unwrap();
    assert_eq!((report.pairs_added, report.ledger_total), (1, 2));
    assert!(run(&request).unwrap().added_nothing());
}

#[test]
fn second_run_adds_nothing_and_says_so() {
    let bench = Bench::new();
    let request = mixed(&bench);
    run(&request).unwrap();
    let before = files(&bench.dataset());
    let report = run(&request).unwrap();
    assert!(report.added_nothing());
    // All but the archive that is cut, which is tried again.
    assert_eq!(report.skipped(), 4);
    assert_eq!(files(&bench.dataset()), before);
}

#[test]
fn same_sources_give_the_same_dataset_whatever_the_threads() {
    let mut found = HashSet::new();
    for threads in [1, 3] {
        let bench = Bench::new();
        let mut request = mixed(&bench);
        request.threads = threads;
        found.insert(run(&request).unwrap().content_hash);
    }
    assert_eq!(found.len(), 1);
}

#[test]
fn changed_source_is_read_again_and_what_is_known_is_not_told_as_a_duplicate() {
    let bench = Bench::new();
    let with = |more: &[(&str, &[u8])]| {
        let (a, b) = (png(1), png(2));
        let members: Vec<(&str, &[u8])> =
            vec![("1.png", &a), ("1.txt", b"one"), ("2.png", &b), ("2.txt", b" "), ("3.png", &a), ("3.txt", b"one")];
        tar(&[&members[..], more].concat())
    };
    let source = bench.file("a.tar", &with(&[]));
    assert_eq!(bench.ingest(&[&source]).ledger_total, 2);
    let new = png(5);
    bench.file("a.tar", &with(&[("5.png", &new), ("5.txt", b"five"), ("6.png", &new), ("6.txt", b"five")]));
    let report = bench.ingest(&[&source]);
    assert_eq!((report.pairs_added, report.pairs_total), (1, 2));
    // Only what is new in it: the new pair's double.
    assert_eq!(report.ledger_added, BTreeMap::from([("duplicate_pair", 1)]));
    assert!(bench.ingest(&[&source]).added_nothing());
}

// ---- layout on the disk ---------------------------------------------------------------------------------------------

#[test]
fn blob_is_plain_with_small_pages_and_bounded_row_groups_and_meta_has_bloom_filters() {
    let bench = Bench::new();
    // Images of about 30 KB that do not compress: a PNG header, then noise.
    let noise = |seed: u64| -> Vec<u8> {
        let mut state = seed;
        let more = (0..30_000).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        png(seed as u32).into_iter().chain(more).collect()
    };
    let members: Vec<(String, Vec<u8>)> =
        (0..40).flat_map(|n| [(format!("{n}.png"), noise(n)), (format!("{n}.txt"), format!("{n}").into_bytes())]).collect();
    let source = bench.file("a.tar", &tar(&members.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect::<Vec<_>>()));
    let mut request = bench.request(&[&source]);
    (request.row_group_bytes, request.shard_bytes) = (300_000, 900_000);
    run(&request).unwrap();
    let manifest = DatasetManifest::read(&bench.dataset()).unwrap();
    // 29 images fit into 900,000 bytes, 9 into 300,000.
    assert_eq!(manifest.shards.iter().map(|shard| shard.pairs).collect::<Vec<_>>(), [29, 11]);

    let options = ReadOptionsBuilder::new().with_page_index().build();
    let file = File::open(blob_path(&bench.dataset(), 0)).unwrap();
    let reader = SerializedFileReader::new_with_options(file, options).unwrap();
    let metadata = reader.metadata();
    assert_eq!((0..4).map(|group| metadata.row_group(group).num_rows()).collect::<Vec<_>>(), [9, 9, 9, 2]);
    for (group, row_group) in metadata.row_groups().iter().enumerate() {
        assert!(row_group.total_byte_size() < 310_000);
        let image = row_group.column(1);
        assert_eq!(image.compression(), parquet::basic::Compression::UNCOMPRESSED);
        assert!(image.encodings().all(|encoding| matches!(encoding, Encoding::PLAIN | Encoding::RLE)));
        assert!(image.dictionary_page_offset().is_none() && image.statistics().is_none());
        // Pages of two or three images, so that one can be read by its range.
        let pages = &metadata.offset_index().unwrap()[group][1].page_locations;
        assert!(pages.len() as i64 >= row_group.num_rows() / 3, "{}", pages.len());
        assert!(pages.iter().all(|page| page.compressed_page_size < 100_000));
    }

    let properties = ReaderProperties::builder().set_read_bloom_filter(true).build();
    let options = ReadOptionsBuilder::new().with_reader_properties(properties).build();
    let reader = SerializedFileReader::new_with_options(File::open(meta_path(&bench.dataset(), 0)).unwrap(), options).unwrap();
    let row_group = reader.get_row_group(0).unwrap();
    let names: Vec<String> = row_group.metadata().columns().iter().map(|column| column.column_path().string()).collect();
    for (index, name) in names.iter().enumerate() {
        let filtered = name == "uid" || name == "sha256";
        assert_eq!(row_group.get_column_bloom_filter(index).is_some(), filtered, "{name}");
        assert!(matches!(row_group.metadata().column(index).compression(), parquet::basic::Compression::ZSTD(_)), "{name}");
        assert!(row_group.metadata().column(index).statistics().is_some(), "{name}");
    }
}

#[test]
fn phash_comes_from_the_function_that_the_request_names() {
    let bench = Bench::new();
    let source = bench.file("a.tar", &tar_of_pairs(0..2));
    let mut request = bench.request(&[&source]);
    request.phash = Some(|bytes| Some(bytes.len() as u64 | 1 << 63));
    run(&request).unwrap();
    for row in pairs(&bench.dataset()) {
        assert_eq!(row.phash, Some(row.bytes | 1 << 63));
    }
}

#[test]
fn photographs_have_the_size_that_libjpeg_sees() {
    let Some(source) = shared("photos.tar") else { return };
    let mut seen = 0;
    for entry in tar::Archive::new(File::open(source).unwrap()).entries().unwrap() {
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
