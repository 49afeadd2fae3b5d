//! Test helpers: reference files, and small datasets on disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeBinaryArray, LargeBinaryArray, RecordBatch, StringArray, UInt8Array,
    UInt32Array, UInt64Array,
};
use diptych_schemas::{
    ContentHash, DatasetManifest, ShardEntry, Uid, blob_path, blob_schema, meta_path, meta_schema,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::Selection;

/// Returns the members of `photos.tar` with a file extension, by name. Only for tests that need the
/// test data.
pub(crate) fn photos(ending: &str) -> BTreeMap<String, Vec<u8>> {
    let mut archive =
        tar::Archive::new(File::open(diptych_test_support::data("photos.tar")).unwrap());
    let mut members = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        if name.ends_with(ending) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            members.insert(name, bytes);
        }
    }
    members
}

/// Returns the path of a file in `tests/data/pictures/`: JPEGs of many kinds and sizes, with the
/// pixels and hashes that other libraries compute.
pub(crate) fn picture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pictures").join(name)
}

/// Returns the u8 tensors of a safetensors file, by name.
pub(crate) fn u8_tensors(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = std::fs::read(path).unwrap();
    let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let tensors: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&file[8..header]).unwrap();
    let of_bytes = tensors.into_iter().filter(|(_, tensor)| tensor["dtype"] == "U8");
    let range = |tensor: &serde_json::Value, end: usize| {
        header + tensor["data_offsets"][end].as_u64().unwrap() as usize
    };
    of_bytes
        .map(|(name, tensor)| (name, file[range(&tensor, 0)..range(&tensor, 1)].to_vec()))
        .collect()
}

/// Reads a file of `sample/testdata/`.
pub(crate) fn own(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("sample/testdata").join(name)).unwrap()
}

/// A small dataset on disk, and the selection of all its pairs.
pub(crate) struct TestDataset {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) selection: Selection,
    /// Image files and captions, in the selection's order.
    pub(crate) pairs: Vec<(Vec<u8>, String)>,
}

/// Writes `pairs` as a dataset with the given rows per row group of a blob and row groups per
/// shard.
///
/// Row groups of `meta` have other borders, as ingest may write them. A column `alt` of its source
/// has a text in every other row, and is missing in shard 0.
pub(crate) fn dataset(
    pairs: Vec<(Vec<u8>, String)>,
    rows_a_group: usize,
    groups_a_shard: usize,
) -> TestDataset {
    let folder = tempfile::tempdir().unwrap();
    let mut manifest = DatasetManifest::empty();
    let mut selection = Selection::empty("SELECT uid FROM meta".into(), ContentHash::of(b""));
    for sub in ["blob", "meta"] {
        std::fs::create_dir(folder.path().join(sub)).unwrap();
    }
    for (shard, of_shard) in pairs.chunks(rows_a_group * groups_a_shard).enumerate() {
        let uids: Vec<Uid> = of_shard
            .iter()
            .map(|(image, caption)| Uid::of(&ContentHash::of(image), caption))
            .collect();
        for (row, uid) in uids.iter().enumerate() {
            selection.push(
                *uid,
                [shard, row / rows_a_group, row % rows_a_group].map(|number| number as u32),
                1.0,
            );
        }
        let blob = blob_path(folder.path(), shard as u32);
        write_parquet(&blob, &blob_batch(of_shard, &uids), rows_a_group, Compression::UNCOMPRESSED);
        let meta = meta_path(folder.path(), shard as u32);
        write_parquet(
            &meta,
            &meta_batch(of_shard, &uids, shard, rows_a_group),
            rows_a_group + 1,
            Compression::SNAPPY,
        );
        manifest.shards.push(ShardEntry {
            shard: shard as u32,
            pairs: of_shard.len() as u64,
            uids_hash: ContentHash::of(&uids.iter().flat_map(|uid| uid.0).collect::<Vec<u8>>()),
            blob_bytes: std::fs::metadata(&blob).unwrap().len(),
        });
    }
    manifest.pairs = pairs.len() as u64;
    manifest.source_columns = vec!["alt".into()];
    selection.dataset_hash = manifest.content_hash();
    manifest.write(folder.path()).unwrap();
    TestDataset { folder, selection, pairs }
}

fn uid_column(uids: &[Uid]) -> ArrayRef {
    Arc::new(FixedSizeBinaryArray::try_from_iter(uids.iter().map(|uid| uid.0)).unwrap())
}

fn blob_batch(pairs: &[(Vec<u8>, String)], uids: &[Uid]) -> RecordBatch {
    let images = LargeBinaryArray::from_iter_values(pairs.iter().map(|(image, _)| image));
    RecordBatch::try_new(blob_schema(), vec![uid_column(uids), Arc::new(images)]).unwrap()
}

/// Creates the meta of a shard. Only columns that a loader reads have true values.
fn meta_batch(
    pairs: &[(Vec<u8>, String)],
    uids: &[Uid],
    shard: usize,
    rows_a_group: usize,
) -> RecordBatch {
    let rows = pairs.len();
    let text = |text: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values((0..rows).map(text)))
    };
    let number = |number: &dyn Fn(usize) -> u32| -> ArrayRef {
        Arc::new(UInt32Array::from_iter_values((0..rows).map(number)))
    };
    let sha256 = FixedSizeBinaryArray::try_from_iter(
        pairs.iter().map(|(image, _)| ContentHash::of(image).0),
    )
    .unwrap();
    let mut columns: Vec<ArrayRef> = vec![
        uid_column(uids),
        text(&|row| pairs[row].1.clone()),
        number(&|_| 1),
        number(&|_| 1),
        text(&|_| "png".into()),
        Arc::new(UInt64Array::from_iter_values(pairs.iter().map(|(image, _)| image.len() as u64))),
        Arc::new(sha256),
        Arc::new(UInt64Array::new_null(rows)),
        Arc::new(UInt8Array::from_iter_values((0..rows).map(|_| 1))),
        Arc::new(StringArray::new_null(rows)),
        text(&|_| format!("source{shard}.tar")),
        text(&|row| format!("key{row}")),
        number(&|_| shard as u32),
        number(&|row| (row / rows_a_group) as u32),
        number(&|row| (row % rows_a_group) as u32),
    ];
    if shard == 0 {
        return RecordBatch::try_new(meta_schema(&[]), columns).unwrap();
    }
    let alt = (0..rows).map(|row| (row % 2 == 0).then(|| format!("alt of {}", pairs[row].1)));
    columns.push(Arc::new(alt.collect::<StringArray>()));
    RecordBatch::try_new(meta_schema(&["alt".into()]), columns).unwrap()
}

fn write_parquet(path: &Path, batch: &RecordBatch, rows_a_group: usize, compression: Compression) {
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_dictionary_enabled(false)
        .set_data_page_row_count_limit(2)
        .set_write_batch_size(1)
        .build();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties))
            .unwrap();
    for start in (0..batch.num_rows()).step_by(rows_a_group) {
        writer.write(&batch.slice(start, rows_a_group.min(batch.num_rows() - start))).unwrap();
        writer.flush().unwrap();
    }
    writer.close().unwrap();
}

/// Creates a different PNG for each number.
pub(crate) fn png(number: usize) -> Vec<u8> {
    let (width, height) = (9 + number as u32 % 7, 8 + number as u32 % 5);
    let pixel = |x: u32, y: u32| image::Rgb([(x * 19) as u8, (y * 23) as u8, number as u8]);
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_fn(width, height, pixel)
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}
