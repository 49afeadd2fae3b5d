//! Verification of a dataset: all files are read to their ends and compared with each other and
//! with `dataset.json`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, FixedSizeBinaryArray, RecordBatch};
use diptych_schemas::{
    ContentHash, DatasetManifest, SchemaError, ShardEntry, blob_path, column, embeddings_folder,
    ledger_path, meta_path, scores_folder,
};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::footer;

use super::{Checksums, verify_file};

/// Images that are read at once.
const IMAGES_AT_ONCE: usize = 64;

/// A file of a dataset and the result of its check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedFile {
    pub path: PathBuf,
    pub found: Result<Checksums, String>,
    /// Whether the file can be computed again from the dataset: a score or embeddings.
    pub derived: bool,
}

/// Reads every page of every file of a dataset.
///
/// For each shard it also compares uids with `dataset.json`, and images with the hashes in meta. So
/// images of a dataset without checksums are checked as well.
pub fn verify_dataset(folder: &Path) -> Result<Vec<CheckedFile>, SchemaError> {
    let manifest = DatasetManifest::read(folder)?;
    let mut derived = Vec::new();
    for folder in [scores_folder(folder), embeddings_folder(folder)] {
        parquet_files(&folder, &mut derived)?;
    }
    let shards = manifest.shards.into_par_iter().flat_map_iter(|entry| check_shard(folder, &entry));
    let ledgers = manifest.ledgers.into_par_iter().map(|entry| {
        let path = ledger_path(folder, entry.number);
        CheckedFile { found: verify_file(&path), path, derived: false }
    });
    let derived = derived.into_par_iter().map(|path| CheckedFile {
        found: verify_file(&path),
        path,
        derived: true,
    });
    Ok(shards.chain(ledgers).chain(derived).collect())
}

/// Collects the finished Parquet files in a folder and below it, by name.
fn parquet_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), SchemaError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.and_then(Iterator::collect::<Result<Vec<_>, _>>),
    };
    let mut paths: Vec<PathBuf> =
        entries.map_err(SchemaError::io(folder))?.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            parquet_files(&path, found)?;
        } else if path.extension().is_some_and(|ending| ending == "parquet") {
            found.push(path);
        }
    }
    Ok(())
}

fn check_shard(folder: &Path, entry: &ShardEntry) -> [CheckedFile; 2] {
    let [meta, blob] = [meta_path(folder, entry.shard), blob_path(folder, entry.shard)];
    let found_meta = verify_file(&meta).and_then(|sums| {
        let uids = uids_of(&meta)?;
        if uids.0 == entry.pairs && uids.1 == entry.uids_hash {
            Ok(sums)
        } else {
            Err(format!("its {} uids are not the {} in dataset.json", uids.0, entry.pairs))
        }
    });
    let found_blob = fs::metadata(&blob)
        .map_err(|error| error.to_string())
        .and_then(|file| match file.len() {
            length if length == entry.blob_bytes => verify_file(&blob),
            length => {
                Err(format!("it has {length} bytes, but dataset.json says {}", entry.blob_bytes))
            }
        })
        .and_then(|sums| {
            // Without a readable meta there is nothing to compare with.
            if found_meta.is_ok() {
                compare_images(&meta, &blob)?;
            }
            Ok(sums)
        });
    [
        CheckedFile { path: meta, found: found_meta, derived: false },
        CheckedFile { path: blob, found: found_blob, derived: false },
    ]
}

/// Opens the rows of some columns of a file.
fn rows(path: &Path, columns: &[&str], at_once: usize) -> Result<ParquetRecordBatchReader, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let builder = footer::rows_of(file).map_err(|error| error.to_string())?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    builder
        .with_projection(mask)
        .with_batch_size(at_once)
        .build()
        .map_err(|error| error.to_string())
}

fn hashes<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a FixedSizeBinaryArray, String> {
    let column = batch.column_by_name(name).and_then(|array| array.as_fixed_size_binary_opt());
    column.ok_or_else(|| format!("its column {name} has another type than diptych writes"))
}

/// Returns the number of uids and their hash, as in `dataset.json`.
fn uids_of(meta: &Path) -> Result<(u64, ContentHash), String> {
    let mut all = Vec::new();
    let mut count = 0;
    for batch in rows(meta, &[column::UID], 1 << 16)? {
        let batch = batch.map_err(|error| error.to_string())?;
        let uids = hashes(&batch, column::UID)?;
        count += uids.len() as u64;
        all.extend(uids.iter().flatten().flatten());
    }
    Ok((count, ContentHash::of(&all)))
}

/// Compares the images of a shard with the rows of its meta, in order.
fn compare_images(meta: &Path, blob: &Path) -> Result<(), String> {
    let mut described = rows(meta, &[column::UID, column::SHA256], IMAGES_AT_ONCE)?;
    let mut row = 0;
    for images in rows(blob, &[column::UID, column::IMAGE], IMAGES_AT_ONCE)? {
        let images = images.map_err(|error| error.to_string())?;
        let described = described.next().transpose().map_err(|error| error.to_string())?;
        let described = described.filter(|batch| batch.num_rows() == images.num_rows());
        let described = described.ok_or_else(|| "it has more rows than its meta".to_owned())?;
        let (uid, sha256) = (hashes(&described, column::UID)?, hashes(&described, column::SHA256)?);
        let found = hashes(&images, column::UID)?;
        let bytes =
            images.column_by_name(column::IMAGE).and_then(|array| array.as_binary_opt::<i64>());
        let bytes = bytes
            .ok_or_else(|| "its column image has another type than diptych writes".to_owned())?;
        for at in 0..images.num_rows() {
            if found.value(at) != uid.value(at) {
                return Err(format!("row {row} is another pair than in its meta"));
            }
            if ContentHash::of(bytes.value(at)).0 != sha256.value(at) {
                return Err(format!("the image in row {row} does not have the hash in its meta"));
            }
            row += 1;
        }
    }
    match described.next() {
        None => Ok(()),
        Some(_) => Err("it has fewer rows than its meta".into()),
    }
}
