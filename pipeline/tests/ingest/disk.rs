//! The files on disk after an ingest, and their promised layout.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::build::*;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{UInt32Type, UInt64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use diptych_schemas::{ContentHash, DatasetManifest, Uid, blob_path, ledger_path, meta_path};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Encoding;
use parquet::file::properties::ReaderProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::serialized_reader::ReadOptionsBuilder;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) uid: Uid,
    pub(crate) caption: String,
    pub(crate) size: (u32, u32),
    pub(crate) format: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: Vec<u8>,
    pub(crate) phash: Option<u64>,
    pub(crate) source: String,
    pub(crate) key: String,
    pub(crate) place: (u32, u32, u32),
    pub(crate) own: BTreeMap<String, String>,
    pub(crate) image: Vec<u8>,
}

pub(crate) fn batches(path: &Path) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap())
        .unwrap()
        .build()
        .unwrap();
    reader.map(Result::unwrap).collect()
}

/// Returns all pairs, after checking that row k of meta is row k of blob, at the place in meta.
pub(crate) fn pairs(dataset: &Path) -> Vec<Row> {
    let manifest = DatasetManifest::read(dataset).unwrap();
    let mut rows = Vec::new();
    for shard in &manifest.shards {
        let mut blobs = Vec::new();
        let groups = ParquetRecordBatchReaderBuilder::try_new(
            File::open(blob_path(dataset, shard.shard)).unwrap(),
        )
        .unwrap();
        for group in 0..groups.metadata().num_row_groups() {
            let file = File::open(blob_path(dataset, shard.shard)).unwrap();
            let reader = ParquetRecordBatchReaderBuilder::try_new(file)
                .unwrap()
                .with_row_groups(vec![group])
                .build()
                .unwrap();
            let mut row = 0;
            for batch in reader {
                let batch = batch.unwrap();
                for index in 0..batch.num_rows() {
                    let uid =
                        Uid::try_from(batch.column(0).as_fixed_size_binary().value(index)).unwrap();
                    let image = batch.column(1).as_binary::<i64>().value(index).to_vec();
                    blobs.push((uid, image, (shard.shard, group as u32, row)));
                    row += 1;
                }
            }
        }
        let mut blobs = blobs.into_iter();
        for batch in batches(&meta_path(dataset, shard.shard)) {
            let text = |name: &str, row: usize| {
                batch.column_by_name(name).unwrap().as_string::<i32>().value(row).to_owned()
            };
            let number = |name: &str, row: usize| {
                batch.column_by_name(name).unwrap().as_primitive::<UInt32Type>().value(row)
            };
            let phash = batch.column_by_name("phash").unwrap().as_primitive::<UInt64Type>();
            for row in 0..batch.num_rows() {
                let own = manifest.source_columns.iter().filter_map(|name| {
                    let column = batch.column_by_name(name)?;
                    let shown = ArrayFormatter::try_new(column, &FormatOptions::default()).unwrap();
                    column.is_valid(row).then(|| (name.clone(), shown.value(row).to_string()))
                });
                let (uid, image, place) = blobs.next().unwrap();
                let found = Row {
                    uid: Uid::try_from(batch.column(0).as_fixed_size_binary().value(row)).unwrap(),
                    caption: text("caption", row),
                    size: (number("width", row), number("height", row)),
                    format: text("format", row),
                    bytes: batch
                        .column_by_name("bytes")
                        .unwrap()
                        .as_primitive::<UInt64Type>()
                        .value(row),
                    sha256: batch
                        .column_by_name("sha256")
                        .unwrap()
                        .as_fixed_size_binary()
                        .value(row)
                        .to_vec(),
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

pub(crate) fn captions(dataset: &Path) -> Vec<String> {
    pairs(dataset).into_iter().map(|row| row.caption).collect()
}

/// Reason, position, disposition and detail of each row.
pub(crate) fn ledger(dataset: &Path) -> Vec<[String; 4]> {
    let manifest = DatasetManifest::read(dataset).unwrap();
    let mut rows = Vec::new();
    for file in &manifest.ledgers {
        for batch in batches(&ledger_path(dataset, file.number)) {
            let text = |name: &str, row: usize| {
                batch.column_by_name(name).unwrap().as_string::<i32>().value(row).to_owned()
            };
            rows.extend((0..batch.num_rows()).map(|row| {
                ["reason", "position", "disposition", "detail"].map(|name| text(name, row))
            }));
        }
    }
    assert_eq!(rows.len() as u64, manifest.ledger_rows);
    rows
}

pub(crate) fn reasons(dataset: &Path) -> Vec<String> {
    ledger(dataset).into_iter().map(|[reason, ..]| reason).collect()
}

/// All files of a dataset except the lock, with their bytes.
pub(crate) fn files(dataset: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dataset.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with(".lock") {
                files.insert(
                    path.strip_prefix(dataset).unwrap().to_owned(),
                    fs::read(&path).unwrap(),
                );
            }
        }
    }
    files
}

#[test]
fn blob_is_plain_with_small_pages_and_bounded_row_groups_and_meta_has_bloom_filters() {
    let bench = Bench::new();
    // Images of about 30 KB that do not compress: a PNG header, then noise.
    let noise = |seed: u64| -> Vec<u8> {
        let mut state = seed;
        let more = (0..30_000).map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        png(seed as u32).into_iter().chain(more).collect()
    };
    let members: Vec<(String, Vec<u8>)> = (0..40)
        .flat_map(|n| {
            [(format!("{n}.png"), noise(n)), (format!("{n}.txt"), format!("{n}").into_bytes())]
        })
        .collect();
    let source = bench.file(
        "a.tar",
        &tar(&members.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect::<Vec<_>>()),
    );
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
    assert_eq!(
        (0..4).map(|group| metadata.row_group(group).num_rows()).collect::<Vec<_>>(),
        [9, 9, 9, 2]
    );
    for (group, row_group) in metadata.row_groups().iter().enumerate() {
        assert!(row_group.total_byte_size() < 310_000);
        let image = row_group.column(1);
        assert_eq!(image.compression(), parquet::basic::Compression::UNCOMPRESSED);
        assert!(
            image.encodings().all(|encoding| matches!(encoding, Encoding::PLAIN | Encoding::RLE))
        );
        assert!(image.dictionary_page_offset().is_none() && image.statistics().is_none());
        // Pages of two or three images, so that one can be read by its range.
        let pages = &metadata.offset_index().unwrap()[group][1].page_locations;
        assert!(pages.len() as i64 >= row_group.num_rows() / 3, "{}", pages.len());
        assert!(pages.iter().all(|page| page.compressed_page_size < 100_000));
    }

    let properties = ReaderProperties::builder().set_read_bloom_filter(true).build();
    let options = ReadOptionsBuilder::new().with_reader_properties(properties).build();
    let reader = SerializedFileReader::new_with_options(
        File::open(meta_path(&bench.dataset(), 0)).unwrap(),
        options,
    )
    .unwrap();
    let row_group = reader.get_row_group(0).unwrap();
    let names: Vec<String> =
        row_group.metadata().columns().iter().map(|column| column.column_path().string()).collect();
    for (index, name) in names.iter().enumerate() {
        let filtered = name == "uid" || name == "sha256";
        assert_eq!(row_group.get_column_bloom_filter(index).is_some(), filtered, "{name}");
        assert!(
            matches!(
                row_group.metadata().column(index).compression(),
                parquet::basic::Compression::ZSTD(_)
            ),
            "{name}"
        );
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
