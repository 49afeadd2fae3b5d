//! A selection: the chosen pairs of a dataset and the SQL that chose them. Immutable once written;
//! equal rows give an equal hash and equal bytes.

mod origin;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, Float32Array, RecordBatch, UInt32Array,
};
use arrow::datatypes::{Float32Type, SchemaRef, UInt32Type};
use diptych_schemas::words::unreadable;
use diptych_schemas::{
    ContentHash, SELECTION_VERSION, SchemaError, Uid, column, durable, key, selection_schema,
};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use sha2::{Digest, Sha256};

use crate::checksums::ParquetWriter;
use crate::footer;
use crate::order::samples;

/// Rows that are written at once.
const WRITTEN_ROWS: usize = 1 << 16;
/// Rows that are hashed at once.
const HASHED_ROWS: usize = 1 << 10;

/// An error in a selection file.
#[derive(Debug, thiserror::Error)]
pub enum SelectionError {
    #[error(
        "{}",
        unreadable(path, message, &format!("not a readable selection: {message}. Make one with \
            `diptych select`"))
    )]
    Unreadable { path: PathBuf, message: String },
    #[error(
        "row {row} of the selection has weight {weight}, but a weight must be a finite number \
         above 0. Select again with `diptych select`"
    )]
    Weight { row: usize, weight: f32 },
    #[error(
        "the weights of the selection add up to {sum:e}. This is the number of samples per epoch, \
         and must be between 1 and {most:e}. Scale the weights accordingly and select again"
    )]
    WeightSum { sum: f64, most: f64 },
    #[error(
        "{selection} is a selection of another dataset: it was made from {made_from}, not from \
         {dataset} ({content}). Use the dataset that it was made from, or make a selection of \
         {dataset} with `diptych select`"
    )]
    OtherDataset { selection: PathBuf, made_from: String, dataset: PathBuf, content: String },
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// Largest sum of weights, which is the number of samples per epoch.
const MOST_SAMPLES: f64 = (1_u64 << 36) as f64;

/// The selected rows, ordered by place in the dataset, one array per column.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    pub uids: Vec<Uid>,
    pub shards: Vec<u32>,
    pub row_groups: Vec<u32>,
    /// Row within the row group.
    pub rows: Vec<u32>,
    pub weights: Vec<f32>,
    /// The SQL that made the selection, as it was given.
    pub sql: String,
    /// [`diptych_schemas::DatasetManifest::content_hash`] of the dataset that the selection was
    /// made from.
    pub dataset_hash: ContentHash,
    /// The file that the selection was read from, or `None` if this process made it.
    pub file: Option<PathBuf>,
}

impl Selection {
    /// Creates a selection without pairs.
    pub(crate) fn empty(sql: String, dataset_hash: ContentHash) -> Self {
        Self {
            uids: Vec::new(),
            shards: Vec::new(),
            row_groups: Vec::new(),
            rows: Vec::new(),
            weights: Vec::new(),
            sql,
            dataset_hash,
            file: None,
        }
    }

    /// Appends a pair. Its place is shard, row group and row.
    pub(crate) fn push(&mut self, uid: Uid, [shard, row_group, row]: [u32; 3], weight: f32) {
        self.uids.push(uid);
        self.shards.push(shard);
        self.row_groups.push(row_group);
        self.rows.push(row);
        self.weights.push(weight);
    }

    pub fn len(&self) -> usize {
        self.uids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.uids.is_empty()
    }

    /// Returns the samples in a pass: the rows or, with weights, their sum rounded down.
    pub fn samples(&self) -> u64 {
        samples(&self.weights)
    }

    /// Refuses weights from which no order can be made.
    pub fn check_weights(&self) -> Result<(), SelectionError> {
        let mut sum = 0.0;
        for (row, &weight) in self.weights.iter().enumerate() {
            if !(weight.is_finite() && weight > 0.0) {
                return Err(SelectionError::Weight { row, weight });
            }
            sum += f64::from(weight);
        }
        if sum > MOST_SAMPLES || (!self.is_empty() && self.samples() == 0) {
            return Err(SelectionError::WeightSum { sum, most: MOST_SAMPLES });
        }
        Ok(())
    }

    /// Returns a hash of the rows and their weights, on which the order of training depends.
    pub fn hash(&self) -> ContentHash {
        let mut hasher = Sha256::new();
        let mut bytes = Vec::with_capacity(HASHED_ROWS * 32);
        for start in (0..self.len()).step_by(HASHED_ROWS) {
            bytes.clear();
            for row in start..(start + HASHED_ROWS).min(self.len()) {
                bytes.extend_from_slice(&self.uids[row].0);
                for number in [self.shards[row], self.row_groups[row], self.rows[row]] {
                    bytes.extend_from_slice(&number.to_le_bytes());
                }
                bytes.extend_from_slice(&self.weights[row].to_le_bytes());
            }
            hasher.update(&bytes);
        }
        ContentHash(hasher.finalize().into())
    }

    /// Writes the file atomically and returns its [`Selection::hash`].
    ///
    /// The rows must be ordered by place. Refuses weights that a training would refuse.
    pub fn write(&self, path: &Path) -> Result<ContentHash, SelectionError> {
        self.check_weights()?;
        let schema = selection_schema();
        let hash = durable::write_with(path, |file| {
            let mut writer = ParquetWriter::try_new(file, schema.clone(), Some(properties()))
                .map_err(io::Error::other)?;
            let (hashed, written) = rayon::join(
                || self.hash(),
                || -> io::Result<()> {
                    for start in (0..self.len()).step_by(WRITTEN_ROWS) {
                        let rows = start..(start + WRITTEN_ROWS).min(self.len());
                        writer
                            .write(&self.record_batch(&schema, rows)?)
                            .map_err(io::Error::other)?;
                    }
                    Ok(())
                },
            );
            written?;
            for (key, value) in [
                (key::VERSION, SELECTION_VERSION.to_string()),
                (key::SQL, self.sql.clone()),
                (key::DATASET_HASH, self.dataset_hash.to_string()),
                (key::SELECTION_HASH, hashed.to_string()),
            ] {
                writer.append_key_value_metadata(KeyValue::new(key.into(), value));
            }
            writer.close().map_err(io::Error::other)?;
            Ok(hashed)
        })?;
        Ok(hash)
    }

    fn record_batch(&self, schema: &SchemaRef, rows: Range<usize>) -> io::Result<RecordBatch> {
        let uids =
            FixedSizeBinaryArray::try_from_iter(self.uids[rows.clone()].iter().map(|uid| uid.0));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(uids.map_err(io::Error::other)?),
            Arc::new(UInt32Array::from(self.shards[rows.clone()].to_vec())),
            Arc::new(UInt32Array::from(self.row_groups[rows.clone()].to_vec())),
            Arc::new(UInt32Array::from(self.rows[rows.clone()].to_vec())),
            Arc::new(Float32Array::from(self.weights[rows].to_vec())),
        ];
        RecordBatch::try_new(Arc::clone(schema), columns).map_err(io::Error::other)
    }

    /// Reads a file and checks its version, its schema, its order and its hash.
    pub fn read(path: &Path) -> Result<Self, SelectionError> {
        let bad = |message: String| SelectionError::Unreadable { path: path.to_owned(), message };
        let file = File::open(path).map_err(SchemaError::io(path))?;
        let builder = footer::rows_of(file).map_err(|e| bad(e.to_string()))?;
        let metadata =
            builder.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
        let value = |name: &str| {
            let found = metadata
                .iter()
                .find(|entry| entry.key == name)
                .and_then(|entry| entry.value.clone());
            found.ok_or_else(|| bad(format!("it lacks {name} in its metadata")))
        };
        let version = value(key::VERSION)?;
        if version != SELECTION_VERSION.to_string() {
            return Err(bad(format!(
                "it has version {version}, but this binary reads version {SELECTION_VERSION}"
            )));
        }
        let expected = selection_schema();
        for field in expected.fields() {
            match builder.schema().field_with_name(field.name()) {
                Ok(found) if found.data_type() == field.data_type() => {}
                Ok(found) => {
                    return Err(bad(format!(
                        "column {} is {}, not {}",
                        field.name(),
                        found.data_type(),
                        field.data_type()
                    )));
                }
                Err(_) => return Err(bad(format!("it lacks the column {}", field.name()))),
            }
        }
        let mut selection = Self::empty(value(key::SQL)?, value(key::DATASET_HASH)?.parse()?);
        selection.file = Some(path.to_owned());
        for batch in builder.build().map_err(|e| bad(e.to_string()))? {
            let batch = batch.map_err(|e| bad(e.to_string()))?;
            selection.append(&batch).map_err(|e| bad(e.to_string()))?;
        }
        if selection.hash().to_string() != value(key::SELECTION_HASH)? {
            return Err(bad("its rows do not match its hash, so it is damaged".into()));
        }
        Ok(selection)
    }

    fn append(&mut self, batch: &RecordBatch) -> Result<(), SchemaError> {
        for index in 0..batch.num_columns() {
            if batch.column(index).null_count() > 0 {
                return Err(SchemaError::WrongSchema {
                    path: PathBuf::new(),
                    what: "selection",
                    message: "a value is null".into(),
                });
            }
        }
        for uid in batch.column(0).as_fixed_size_binary().iter().flatten() {
            self.uids.push(Uid::try_from(uid)?);
        }
        self.shards.extend(batch.column(1).as_primitive::<UInt32Type>().values());
        self.row_groups.extend(batch.column(2).as_primitive::<UInt32Type>().values());
        self.rows.extend(batch.column(3).as_primitive::<UInt32Type>().values());
        self.weights.extend(batch.column(4).as_primitive::<Float32Type>().values());
        Ok(())
    }
}

/// Returns properties without dictionaries and statistics. Uids are hashes, which cannot be
/// compressed. Places are in ascending order, so their differences are small and fast to write.
fn properties() -> WriterProperties {
    let places = [column::SHARD, column::ROW_GROUP, column::ROW].map(ColumnPath::from);
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_column_compression(ColumnPath::from(column::UID), Compression::UNCOMPRESSED)
        .set_created_by("diptych".into());
    let delta = |properties: WriterPropertiesBuilder, place| {
        properties.set_column_encoding(place, Encoding::DELTA_BINARY_PACKED)
    };
    places.into_iter().fold(properties, delta).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rows: u32) -> Selection {
        Selection {
            uids: (0..rows)
                .map(|row| Uid::of(&ContentHash::of(b"image"), &row.to_string()))
                .collect(),
            shards: vec![0; rows as usize],
            row_groups: (0..rows).map(|row| row / 3).collect(),
            rows: (0..rows).map(|row| row % 3).collect(),
            weights: vec![1.0; rows as usize],
            sql: "SELECT uid FROM meta".into(),
            dataset_hash: ContentHash::of(b"dataset"),
            file: None,
        }
    }

    #[test]
    fn selection_comes_back_as_written_and_the_same_rows_give_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a.parquet"), folder.path().join("b.parquet"));
        for rows in [0, 10] {
            sample(rows).write(&a).unwrap();
            sample(rows).write(&b).unwrap();
            let written = Selection { file: Some(a.clone()), ..sample(rows) };
            assert_eq!(Selection::read(&a).unwrap(), written);
            assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
        }
    }

    #[test]
    fn weights_that_a_training_refuses_are_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let whole: f32 = 1.0;
        for weights in [
            [whole, f32::NAN],
            [whole, f32::INFINITY],
            [whole, 0.0],
            [whole, -1.0],
            [0.25, 0.5],
            [f32::MIN_POSITIVE, f32::MIN_POSITIVE],
            [3e38, 3e38],
        ] {
            let selection = Selection { weights: weights.to_vec(), ..sample(2) };
            let error = selection.write(&path).unwrap_err();
            assert!(
                matches!(error, SelectionError::Weight { .. } | SelectionError::WeightSum { .. }),
                "{weights:?}: {error}"
            );
            assert!(!path.exists(), "{weights:?}");
        }
        let selection = Selection { weights: vec![0.5, 0.5], ..sample(2) };
        selection.write(&path).unwrap();
        let written = Selection { file: Some(path.clone()), ..selection };
        assert_eq!(Selection::read(&path).unwrap(), written);
    }

    #[test]
    fn another_file_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        durable::write(&path, b"PAR1 no parquet at all PAR1").unwrap();
        let error = Selection::read(&path).unwrap_err().to_string();
        assert!(error.contains("a.parquet") && error.contains("diptych select"), "{error}");
    }

    #[test]
    fn selection_of_another_dataset_is_refused_with_both_names_and_one_that_has_grown_is_taken() {
        let work = tempfile::tempdir().unwrap();
        let shard = |number: u32| diptych_schemas::ShardEntry {
            shard: number,
            pairs: 10,
            uids_hash: ContentHash::of(&number.to_le_bytes()),
            blob_bytes: 1,
        };
        let dataset = |name: &str, shards: &[u32]| {
            let mut manifest = diptych_schemas::DatasetManifest::empty();
            manifest.shards.extend(shards.iter().map(|number| shard(*number)));
            std::fs::create_dir(work.path().join(name)).unwrap();
            manifest.write(&work.path().join(name)).unwrap();
            manifest
        };
        let (data, shop) = (dataset("data", &[0, 1]), dataset("shop", &[5]));
        let grown = dataset("grown", &[0, 1, 2]);
        let path = work.path().join("train.parquet");
        Selection { dataset_hash: data.content_hash(), ..sample(4) }.write(&path).unwrap();
        let selection = Selection::read(&path).unwrap();
        let check =
            |name: &str, manifest| selection.check_dataset(&work.path().join(name), manifest);
        check("data", &data).unwrap();
        check("grown", &grown).unwrap();
        std::fs::remove_dir_all(work.path().join("grown")).unwrap();
        let error = check("shop", &shop).unwrap_err().to_string();
        for name in ["train.parquet", "data (", "shop ("] {
            assert!(error.contains(name), "{name}: {error}");
        }
        std::fs::remove_dir_all(work.path().join("data")).unwrap();
        let error = check("shop", &shop).unwrap_err().to_string();
        assert!(error.contains(&data.content_hash().to_string()[..12]), "{error}");
    }
}
