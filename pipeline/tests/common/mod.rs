//! Datasets for tests of SQL, written by hand with the contracts of `diptych_schemas`, and
//! stand-ins for image functions.
//!
//! An "image" here is the text "IMG width height hash", so that expected values are easy to see.
#![allow(dead_code, unreachable_pub, reason = "each test file includes it and uses a part")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeBinaryArray, Float64Array, LargeBinaryArray, RecordBatch, StringArray,
    UInt8Array, UInt32Array, UInt64Array,
};
use arrow::datatypes::SchemaRef;
use diptych_pipeline::sql::ContentFunctions;
use diptych_schemas::{
    ContentHash, DatasetManifest, LedgerFile, ScoreFileMetadata, ScoreValue, ShardEntry, Uid,
    blob_path, blob_schema, ledger_path, ledger_schema, meta_path, meta_schema, numbered_file,
    score_file_schema, score_folder,
};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

/// Rows of a row group: small, so that pruning has something to prune.
pub const ROW_GROUP: usize = 4;

#[derive(Clone)]
pub struct Pair {
    pub caption: String,
    pub width: u32,
    pub height: u32,
    /// Value of the source's own column `category`.
    pub category: Option<String>,
}

impl Pair {
    pub fn image(&self) -> Vec<u8> {
        format!("IMG {} {} {}", self.width, self.height, self.width * 3).into_bytes()
    }

    pub fn sha256(&self) -> ContentHash {
        ContentHash::of(&self.image())
    }

    pub fn uid(&self) -> Uid {
        Uid::of(&self.sha256(), &self.caption)
    }
}

/// Creates pair number n: caption "caption n", n + 10 pixels wide, 20 high, category a, b or none.
pub fn pair(n: u32) -> Pair {
    let category = ["a", "b"].get(n as usize % 3).map(ToString::to_string);
    Pair { caption: format!("caption {n}"), width: 10 + n, height: 20, category }
}

pub fn pairs(range: std::ops::Range<u32>) -> Vec<Pair> {
    range.map(pair).collect()
}

/// Writes a dataset of these shards. Shard 0 lacks the column `category`, as if its source had
/// none.
pub fn write_dataset(folder: &Path, shards: &[Vec<Pair>]) -> DatasetManifest {
    let mut manifest = DatasetManifest::empty();
    manifest.source_columns = vec!["category".into()];
    for (number, rows) in shards.iter().enumerate() {
        let number = number as u32;
        let own = if number == 0 { vec![] } else { manifest.source_columns.clone() };
        write_parquet(
            &meta_path(folder, number),
            meta_schema(&own),
            meta_columns(number, rows, !own.is_empty()),
        );
        let images: ArrayRef =
            Arc::new(LargeBinaryArray::from_iter_values(rows.iter().map(Pair::image)));
        write_parquet(&blob_path(folder, number), blob_schema(), vec![uids(rows), images]);
        manifest.shards.push(ShardEntry {
            shard: number,
            pairs: rows.len() as u64,
            uids_hash: ContentHash::of(
                &rows.iter().flat_map(|row| row.uid().0).collect::<Vec<_>>(),
            ),
            blob_bytes: std::fs::metadata(blob_path(folder, number)).unwrap().len(),
        });
        manifest.pairs += rows.len() as u64;
    }
    manifest.write(folder).unwrap();
    manifest
}

fn uids(rows: &[Pair]) -> ArrayRef {
    Arc::new(FixedSizeBinaryArray::try_from_iter(rows.iter().map(|row| row.uid().0)).unwrap())
}

fn meta_columns(shard: u32, rows: &[Pair], with_category: bool) -> Vec<ArrayRef> {
    let text = |value: &dyn Fn(&Pair) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(value)))
    };
    let number = |value: &dyn Fn(usize) -> u32| -> ArrayRef {
        Arc::new(UInt32Array::from_iter_values((0..rows.len()).map(value)))
    };
    let mut columns: Vec<ArrayRef> = vec![
        uids(rows),
        text(&|row| row.caption.clone()),
        number(&|n| rows[n].width),
        number(&|n| rows[n].height),
        text(&|_| "jpeg".into()),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.image().len() as u64))),
        Arc::new(
            FixedSizeBinaryArray::try_from_iter(rows.iter().map(|row| row.sha256().0)).unwrap(),
        ),
        Arc::new(
            rows.iter()
                .map(|row| (row.width % 2 == 0).then_some(u64::from(row.width) * 3))
                .collect::<UInt64Array>(),
        ),
        Arc::new(UInt8Array::from_iter_values(rows.iter().map(|_| 1))),
        Arc::new(rows.iter().map(|_| None::<&str>).collect::<StringArray>()),
        text(&|_| "source.tar".into()),
        text(&|row| row.caption.clone()),
        number(&|_| shard),
        number(&|n| (n / ROW_GROUP) as u32),
        number(&|n| (n % ROW_GROUP) as u32),
    ];
    if with_category {
        columns
            .push(Arc::new(rows.iter().map(|row| row.category.clone()).collect::<StringArray>()));
    }
    columns
}

/// Writes one ledger file with a row for each reason.
pub fn add_ledger(folder: &Path, manifest: &mut DatasetManifest, reasons: &[&str]) {
    let path = ledger_path(folder, 0);
    write_parquet(&path, ledger_schema(), ledger_columns(reasons, "ingest"));
    manifest.ledgers.push(LedgerFile { number: 0, rows: reasons.len() as u64 });
    manifest.ledger_rows = reasons.len() as u64;
    manifest.write(folder).unwrap();
}

pub fn ledger_columns(reasons: &[&str], stage: &str) -> Vec<ArrayRef> {
    let same = |value: &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(reasons.iter().map(|_| value)))
    };
    vec![
        same("source.tar"),
        same("member"),
        same("key"),
        Arc::new(StringArray::from_iter_values(reasons)),
        same("detail"),
        same("quarantined"),
        same(stage),
        Arc::new(
            FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                reasons.iter().map(|_| None::<[u8; 16]>),
                16,
            )
            .unwrap(),
        ),
    ]
}

/// Writes one file of scores of shard 0.
pub fn add_scores(folder: &Path, name: &str, scores: &[(Uid, f64)]) {
    let values = Arc::new(Float64Array::from_iter_values(scores.iter().map(|(_, value)| *value)));
    let uids: Vec<Uid> = scores.iter().map(|(uid, _)| *uid).collect();
    add_score_file(folder, name, 0, 0, "producer", &uids, ScoreValue::Number, values);
}

#[expect(clippy::too_many_arguments, reason = "a file of scores has that many parts")]
pub fn add_score_file(
    folder: &Path,
    name: &str,
    number: u32,
    shard: u32,
    producer: &str,
    uids: &[Uid],
    value: ScoreValue,
    values: ArrayRef,
) {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(
            FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                uids.iter().map(|uid| Some(uid.0)),
                16,
            )
            .unwrap(),
        ),
        values,
        Arc::new(StringArray::from_iter_values(uids.iter().map(|_| producer))),
        Arc::new(uids.iter().map(|_| None::<&str>).collect::<StringArray>()),
    ];
    let metadata = ScoreFileMetadata { shard, producer: producer.into(), made_by: "a test".into() };
    let metadata =
        metadata.to_pairs().into_iter().map(|(key, value)| KeyValue::new(key.into(), value));
    let path = numbered_file(&score_folder(folder, name), number);
    write_parquet_with(&path, score_file_schema(value), columns, metadata.collect());
}

pub fn write_parquet(path: &Path, schema: SchemaRef, columns: Vec<ArrayRef>) {
    write_parquet_with(path, schema, columns, Vec::new());
}

fn write_parquet_with(
    path: &Path,
    schema: SchemaRef,
    columns: Vec<ArrayRef>,
    metadata: Vec<KeyValue>,
) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(ROW_GROUP));
    let properties = properties.set_key_value_metadata(Some(metadata)).build();
    let mut writer = ArrowWriter::try_new(
        std::fs::File::create(path).unwrap(),
        schema.clone(),
        Some(properties),
    )
    .unwrap();
    let batch = RecordBatch::try_new(schema, columns).unwrap();
    for start in (0..batch.num_rows()).step_by(ROW_GROUP) {
        writer.write(&batch.slice(start, ROW_GROUP.min(batch.num_rows() - start))).unwrap();
    }
    writer.close().unwrap();
}

/// Reads "IMG width height hash"; a token is a character here.
pub fn stand_ins() -> ContentFunctions {
    fn numbers(bytes: &[u8]) -> Option<[u64; 3]> {
        let text = std::str::from_utf8(bytes).ok()?.strip_prefix("IMG ")?;
        let numbers: Vec<u64> = text.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
        numbers.try_into().ok()
    }
    ContentFunctions {
        image_size: Arc::new(|bytes| {
            numbers(bytes).map(|[width, height, _]| (width as u32, height as u32))
        }),
        perceptual_hash: Arc::new(|bytes| numbers(bytes).map(|[_, _, hash]| hash)),
        token_count: Arc::new(|text| text.chars().count()),
    }
}
