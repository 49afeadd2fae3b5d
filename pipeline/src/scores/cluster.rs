//! The score `cluster`: the number of the centroid nearest to an image's embedding.
//!
//! It is assigned as in DataComp's `get_centroid_ids_gpu` (baselines/apply_filter.py): the largest
//! dot product with the unnormalised centroids, the first of equal ones.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray, FixedSizeListArray};
use arrow::datatypes::Float16Type;
use diptych_schemas::{ContentHash, DatasetManifest, ScoreValue, Uid, column};
use half::f16;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::column::{Column, Value};
use super::pairs::{pairs_of_shard, rows_in_shard};
use super::run::ScoreReport;
use super::{EmbeddingFiles, Producer, ScoreError, embedding_files, open};
use crate::Selection;
use crate::npy::Matrix;

/// A request to assign centroids to pairs.
#[derive(Clone, Copy, Debug)]
pub struct ClusterRequest<'a> {
    pub dataset: &'a Path,
    /// `None`: all pairs of the dataset.
    pub selection: Option<&'a Selection>,
    /// Name of the score.
    pub name: &'a str,
    /// [K, D].
    pub centroids: &'a Matrix,
    /// First characters of the producer of the embeddings; `None`: the newest.
    pub embeddings: Option<&'a str>,
}

/// Assigns clusters to pairs without a row yet, from existing embeddings. Pairs without an
/// embedding are left for later.
pub fn assign_clusters(
    request: &ClusterRequest,
    progress: &mut dyn FnMut(u64),
) -> Result<ScoreReport, ScoreError> {
    let embeddings = chosen(request)?;
    if embeddings.dimension != request.centroids.columns {
        let (found, expected) = (request.centroids.columns, embeddings.dimension);
        return Err(ScoreError::Centroids(format!(
            "they have {found} dimensions, but the embeddings have {expected}"
        )));
    }
    let bytes: Vec<u8> =
        request.centroids.values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let centroids = ContentHash::of(&bytes);
    let producer = Producer::new(format!(
        "cluster v1: embeddings {}, centroids {centroids}",
        embeddings.producer
    ));
    let mut column = Column::score(request.dataset, request.name, ScoreValue::Number, producer)?;
    let mut files: HashMap<u32, Vec<PathBuf>> = HashMap::new();
    for path in &embeddings.files {
        files.entry(open(path)?.says.shard).or_default().push(path.clone());
    }
    for entry in &DatasetManifest::read(request.dataset)?.shards {
        let wanted = request
            .selection
            .map_or(entry.pairs, |selection| rows_in_shard(selection, entry.shard).len() as u64);
        if wanted == 0 || column.is_full(entry.shard, entry.pairs) {
            column.counts.present += wanted;
            progress(wanted);
            continue;
        }
        let pairs = pairs_of_shard(request.dataset, entry, request.selection, false)?;
        column.begin(entry.shard, &pairs, |_| true)?;
        let places: HashMap<Uid, usize> =
            pairs.iter().enumerate().map(|(place, pair)| (pair.uid, place)).collect();
        for path in files.get(&entry.shard).into_iter().flatten() {
            assign_file(path, &places, request.centroids, &mut column)?;
        }
        column.save(entry.shard, &pairs)?;
        progress(wanted);
    }
    Ok(ScoreReport::of(Some(request.name), &column))
}

fn chosen(request: &ClusterRequest) -> Result<EmbeddingFiles, ScoreError> {
    let all = embedding_files(request.dataset)?;
    let known = all.iter().map(|of| format!("{:.12}", of.producer)).collect::<Vec<_>>().join(", ");
    let begins = request.embeddings.unwrap_or("");
    let mut fitting = all.into_iter().filter(|of| of.producer.starts_with(begins));
    match (fitting.next_back(), fitting.next()) {
        (Some(_), Some(_)) if !begins.is_empty() => Err(ScoreError::Centroids(format!(
            "several producers of embeddings start with {begins}: {known}"
        ))),
        (Some(newest), _) => Ok(newest),
        (None, _) if known.is_empty() => Err(ScoreError::Centroids(
            "the dataset has no embeddings to compare them with: make some with `diptych score \
             clip`"
                .into(),
        )),
        (None, _) => Err(ScoreError::Centroids(format!(
            "no producer of embeddings starts with {begins}. Known producers: {known}"
        ))),
    }
}

/// Assigns clusters to the rows of a file. `places` holds the index of each pair in the shard.
fn assign_file(
    path: &Path,
    places: &HashMap<Uid, usize>,
    centroids: &Matrix,
    column: &mut Column<Value>,
) -> Result<(), ScoreError> {
    let damaged = |message: String| ScoreError::Damaged { path: path.to_owned(), message };
    let opened = open(path)?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(opened.file, opened.footer);
    // uid, image, error.
    let mask = ProjectionMask::roots(builder.parquet_schema(), [0, 1, 3]);
    for batch in
        builder.with_projection(mask).build().map_err(|error| damaged(error.to_string()))?
    {
        let batch = batch.map_err(|error| damaged(error.to_string()))?;
        let other = || damaged("its columns have other types than diptych writes".into());
        let uids = batch
            .column_by_name(column::UID)
            .and_then(|uids| uids.as_fixed_size_binary_opt())
            .ok_or_else(other)?;
        let images = batch
            .column_by_name(column::IMAGE)
            .and_then(|images| images.as_fixed_size_list_opt())
            .ok_or_else(other)?;
        let errors = batch
            .column_by_name(column::ERROR)
            .and_then(|errors| errors.as_string_opt::<i32>())
            .ok_or_else(other)?;
        let mut wanted = Vec::new();
        for row in 0..batch.num_rows() {
            match places.get(&Uid::try_from(uids.value(row))?) {
                Some(place) if column.lacks(*place) && images.is_valid(row) => {
                    wanted.push((row, *place));
                }
                Some(place) if column.lacks(*place) => {
                    column.put(*place, Err(errors.value(row).to_owned()));
                }
                _ => {}
            }
        }
        for (place, nearest) in nearest_of(images, &wanted, centroids).ok_or_else(other)? {
            column.put(place, Ok(Some(Value::Number(nearest as f64))));
        }
    }
    Ok(())
}

/// Returns place and nearest centroid of rows, computed on all cores.
fn nearest_of(
    images: &FixedSizeListArray,
    wanted: &[(usize, usize)],
    centroids: &Matrix,
) -> Option<Vec<(usize, usize)>> {
    let values = Arc::clone(images.values());
    let values = values.as_primitive_opt::<Float16Type>()?.values();
    let dimension = centroids.columns;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let nearest = |(row, place): &(usize, usize)| {
        let vector: Vec<f32> = values[row * dimension..(row + 1) * dimension]
            .iter()
            .map(|value: &f16| value.to_f32())
            .collect();
        (*place, nearest(&vector, centroids))
    };
    let nearest = &nearest;
    std::thread::scope(|scope| {
        let parts = wanted.chunks(wanted.len().div_ceil(cores).max(1));
        let threads: Vec<_> = parts
            .map(|part| scope.spawn(move || part.iter().map(nearest).collect::<Vec<_>>()))
            .collect();
        let mut all = Vec::with_capacity(wanted.len());
        for thread in threads {
            all.extend(thread.join().ok()?);
        }
        Some(all)
    })
}

/// Returns the centroid with the largest dot product, the first of equal ones.
fn nearest(vector: &[f32], centroids: &Matrix) -> usize {
    let (mut best, mut largest) = (0, f32::NEG_INFINITY);
    for (number, centroid) in centroids.values.chunks_exact(centroids.columns).enumerate() {
        let product: f32 = centroid.iter().zip(vector).map(|(a, b)| a * b).sum();
        if product > largest {
            (best, largest) = (number, product);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_is_the_first_of_the_largest_products() {
        let centroids =
            Matrix { columns: 2, values: vec![1.0, 0.0, 0.0, 2.0, 0.0, 2.0, -1.0, 0.0] };
        assert_eq!(nearest(&[0.9, 0.1], &centroids), 0);
        // As in DataComp, longer centroids attract more pairs.
        assert_eq!(nearest(&[0.6, 0.4], &centroids), 1);
        assert_eq!(nearest(&[-1.0, 0.0], &centroids), 3);
    }
}
