//! Pairs with near image embeddings: k-means clusters, and cosines within each (SemDeDup: Abbas,
//! Tirumala, Simig, Ganguli and Morcos, 2023).
//!
//! Pairs in different clusters are not compared, so fewer clusters find more and cost more. Vectors
//! are copied from the dataset to a temporary file in half precision and read back by cluster. So
//! memory holds a sample, the centroids, and one cluster per thread. Sums are computed in stored
//! order, so the result does not depend on threads.

use std::sync::Arc;

use arrow::array::{Array, AsArray, FixedSizeBinaryArray, FixedSizeListArray};
use arrow::datatypes::Float16Type;
use diptych_schemas::{Uid, column};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::DedupError;
use super::classes::{Classes, NO_CLASS};
use super::rows::RowSet;
use super::stars::Alike;
use super::tiers::{Built, Sides, Source, both_ways, first_128_bits, rows_of};
use super::vectors::{Vectors, dot, normalise};
use crate::scores::{EmbeddingFiles, ScoreError, embedding_files, open};
use crate::sql::SqlError;

/// Pairs per cluster if the number of clusters is not given.
const CLUSTER_PAIRS: usize = 1000;
/// Most pairs that are compared with each other. A larger cluster is cut by the distance to its
/// centroid.
const MOST_COMPARED: usize = 8192;
/// Sampled pairs per centroid, and rounds, in the order of magnitude of FAISS and SemDeDup's code.
const SAMPLES: usize = 64;
const ROUNDS: usize = 10;

/// A vector's number in the file and the class of its rows.
#[derive(Clone, Copy)]
struct Member {
    vector: usize,
    class: u32,
}

pub(super) async fn by_embedding(
    sources: &[Source],
    memory: usize,
    cosine: f64,
    clusters: usize,
    producer: &str,
    references: Option<u32>,
) -> Result<Built, DedupError> {
    let files = files_of(sources, producer)?;
    let Some(dimension) = files.first().map(|of| of.dimension) else {
        return Err(DedupError::NoTiers);
    };
    let mut vectors = Vectors::new(dimension).map_err(DedupError::temporary)?;
    let mut classes = Classes::new(rows_of(sources), memory / 2);
    let mut unseen = 0;
    for (source, of) in sources.iter().zip(&files) {
        let read = read_source(source, of, &mut vectors, &mut classes).await?;
        if read == 0 && source.len() > 0 {
            return Err(no_embeddings(source, &of.producer));
        }
        unseen += source.len() - read;
    }
    let classes = classes.finish().map_err(DedupError::temporary)?;
    let rows = vectors.finish().map_err(DedupError::temporary)?;
    let members: Vec<Member> = (0..)
        .zip(&rows)
        .filter(|(_, row)| classes[**row as usize] == **row)
        .map(|(vector, &class)| Member { vector, class })
        .collect();
    drop(rows);
    let clusters = if clusters == 0 {
        members.len().div_ceil(CLUSTER_PAIRS)
    } else {
        clusters.min(members.len())
    };
    let clustered = cluster(&vectors, &members, clusters.max(1), memory)?;

    let sides = references.map(|first| Sides::of(&classes, first));
    let wanted = |a: u32, b: u32| sides.as_ref().is_none_or(|sides| sides.join(a, b));
    let most = (memory / 36).max(1 << 20);
    let mut pairs = Vec::new();
    // In parts, so that too many pairs are detected early.
    for some in clustered.chunks(64) {
        let found: Result<Vec<_>, DedupError> = some
            .par_iter()
            .map(|members| near_pairs(&vectors, members, cosine as f32, &wanted))
            .collect();
        pairs.extend(found?.into_iter().flatten());
        if pairs.len() > most {
            return Err(DedupError::TooManyPairs {
                what: "embeddings are near",
                option: "--cosine, larger",
                most,
            });
        }
    }
    Ok(Built { alike: Alike { classes, near: both_ways(pairs.into_iter()) }, unseen })
}

/// Returns the embeddings of one producer in all datasets.
fn files_of(sources: &[Source], producer: &str) -> Result<Vec<EmbeddingFiles>, DedupError> {
    let mut chosen = producer.to_owned();
    let mut files: Vec<EmbeddingFiles> = Vec::new();
    for source in sources {
        let Some(dataset) = source.rows.dataset() else { return Err(DedupError::NoDataset) };
        let all = embedding_files(dataset.folder())?;
        // The newest come last.
        let found = all.into_iter().rev().find(|of| of.producer.starts_with(&chosen));
        let found = found.ok_or_else(|| no_embeddings(source, &chosen))?;
        chosen.clone_from(&found.producer);
        files.push(found);
    }
    if let Some(other) = files.iter().find(|of| of.dimension != files[0].dimension) {
        let what = format!(
            "embeddings of producer {} have {} and {} dimensions",
            chosen, files[0].dimension, other.dimension
        );
        return Err(DedupError::Embeddings(format!("{what}: one of them is damaged; score again")));
    }
    Ok(files)
}

fn no_embeddings(source: &Source, producer: &str) -> DedupError {
    let producer =
        if producer.is_empty() { String::new() } else { format!(" of producer {producer}") };
    DedupError::NoEmbeddings { dataset: source.name.clone(), rows: source.len(), producer }
}

/// Copies the vectors of the requested rows. Returns their number.
async fn read_source(
    source: &Source,
    of: &EmbeddingFiles,
    vectors: &mut Vectors,
    classes: &mut Classes,
) -> Result<u64, DedupError> {
    let mut of_shard = (None, Vec::new());
    let mut read = 0;
    for path in &of.files {
        let damaged = |message: String| {
            DedupError::Score(ScoreError::Damaged { path: path.clone(), message })
        };
        let file = open(path)?;
        if of_shard.0 != Some(file.says.shard) {
            of_shard = (Some(file.says.shard), uids_of_shard(source, file.says.shard).await?);
        }
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file.file, file.footer);
        let mask = ProjectionMask::columns(builder.parquet_schema(), [column::UID, column::IMAGE]);
        for batch in
            builder.with_projection(mask).build().map_err(|error| damaged(error.to_string()))?
        {
            let batch = batch.map_err(|error| damaged(error.to_string()))?;
            let uids = batch
                .column_by_name(column::UID)
                .and_then(|found| found.as_fixed_size_binary_opt());
            let images = batch
                .column_by_name(column::IMAGE)
                .and_then(|found| found.as_fixed_size_list_opt());
            let (Some(uids), Some(images)) = (uids, images) else {
                return Err(damaged("it lacks uid or image".into()));
            };
            read +=
                take_vectors(uids, images, &of_shard.1, vectors, classes)?.ok_or_else(|| {
                    damaged(format!(
                        "its column image does not have {} half-precision floats per row",
                        of.dimension
                    ))
                })?;
        }
    }
    Ok(read)
}

/// Returns the uids of a shard's requested rows, sorted.
async fn uids_of_shard(source: &Source, shard: u32) -> Result<Vec<(Uid, u32)>, DedupError> {
    let mut rows = RowSet::none(source.rows.numbers().end);
    let wanted = |row: &u32| source.wanted.as_ref().is_none_or(|wanted| wanted.contains(*row));
    source.rows.numbers_of_shard(shard).filter(wanted).for_each(|row| rows.insert(row));
    let mut uids: Vec<(Uid, u32)> =
        source.rows.uids(&Arc::new(rows)).await?.into_iter().map(|(row, uid)| (uid, row)).collect();
    uids.sort_unstable();
    Ok(uids)
}

/// Copies a batch. Returns `None` if its vectors have another type or size.
fn take_vectors(
    uids: &FixedSizeBinaryArray,
    images: &FixedSizeListArray,
    rows: &[(Uid, u32)],
    vectors: &mut Vectors,
    classes: &mut Classes,
) -> Result<Option<u64>, DedupError> {
    let dimension = vectors.dimension();
    let Some(values) = images.values().as_primitive_opt::<Float16Type>() else { return Ok(None) };
    if images.value_length() as usize != dimension {
        return Ok(None);
    }
    let mut read = 0;
    for at in (0..images.len()).filter(|at| images.is_valid(*at)) {
        let uid = Uid::try_from(uids.value(at)).map_err(SqlError::from)?;
        let Ok(found) = rows.binary_search_by_key(&uid, |(uid, _)| *uid) else { continue };
        let start = images.value_offset(at) as usize;
        // If a whole vector is null, its numbers are null, too.
        if values.null_count() > 0
            && (start..start + dimension).any(|number| values.is_null(number))
        {
            return Ok(None);
        }
        let vector = &values.values()[start..start + dimension];
        let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
        let key = first_128_bits(&Sha256::digest(&bytes));
        vectors.push(&bytes, rows[found].1).map_err(DedupError::temporary)?;
        classes.push(key, rows[found].1).map_err(DedupError::temporary)?;
        read += 1;
    }
    Ok(Some(read))
}

/// Runs spherical k-means on a sample, then assigns every member to its nearest centroid. Clusters
/// of one are left out.
fn cluster(
    vectors: &Vectors,
    members: &[Member],
    clusters: usize,
    memory: usize,
) -> Result<Vec<Vec<Member>>, DedupError> {
    let dimension = vectors.dimension();
    let affordable = (memory / 2 / (4 * dimension)).max(clusters);
    let samples = members.len().min((SAMPLES * clusters).min(affordable));
    // Evenly over the stored order.
    let sampled: Vec<usize> =
        (0..samples).map(|n| members[n * members.len() / samples].vector).collect();
    let sample = vectors.read(&sampled).map_err(DedupError::temporary)?;
    let centroids = centroids(&sample, dimension, clusters);
    drop(sample);

    let mut assigned: Vec<(usize, f32, Member)> = Vec::with_capacity(members.len());
    for some in members.chunks(4096) {
        let numbers: Vec<usize> = some.iter().map(|member| member.vector).collect();
        let read = vectors.read(&numbers).map_err(DedupError::temporary)?;
        let nearest: Vec<_> =
            read.par_chunks(dimension).map(|vector| nearest(vector, &centroids)).collect();
        assigned.extend(
            nearest
                .into_iter()
                .zip(some)
                .map(|((cluster, cosine), member)| (cluster, cosine, *member)),
        );
    }
    assigned.par_sort_unstable_by(|a, b| {
        a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)).then(a.2.class.cmp(&b.2.class))
    });
    let clusters =
        assigned.chunk_by(|a, b| a.0 == b.0).flat_map(|cluster| cluster.chunks(MOST_COMPARED));
    Ok(clusters
        .filter(|some| some.len() > 1)
        .map(|some| some.iter().map(|(_, _, member)| *member).collect())
        .collect())
}

/// Returns unit centroids [clusters, D] of unit vectors [N, D].
fn centroids(sample: &[f32], dimension: usize, clusters: usize) -> Vec<f32> {
    let count = sample.len() / dimension;
    let mut centroids: Vec<f32> = (0..clusters)
        .flat_map(|n| {
            let start = n * count / clusters * dimension;
            sample[start..start + dimension].iter().copied()
        })
        .collect();
    for _ in 0..ROUNDS {
        let nearest: Vec<usize> =
            sample.par_chunks(dimension).map(|vector| nearest(vector, &centroids).0).collect();
        let mut sums = vec![0.0; clusters * dimension];
        for (vector, cluster) in sample.chunks(dimension).zip(nearest) {
            let sum = &mut sums[cluster * dimension..(cluster + 1) * dimension];
            sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value);
        }
        for (centroid, sum) in centroids.chunks_mut(dimension).zip(sums.chunks_mut(dimension)) {
            // A centroid that is not the nearest of any vector stays.
            if normalise(sum) {
                centroid.copy_from_slice(sum);
            }
        }
    }
    centroids
}

/// Returns the first of the nearest centroids, and its cosine.
fn nearest(vector: &[f32], centroids: &[f32]) -> (usize, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    for (cluster, centroid) in centroids.chunks(vector.len()).enumerate() {
        let cosine = dot(vector, centroid);
        if cosine > best.1 {
            best = (cluster, cosine);
        }
    }
    best
}

fn near_pairs(
    vectors: &Vectors,
    members: &[Member],
    cosine: f32,
    wanted: &(impl Fn(u32, u32) -> bool + Sync),
) -> Result<Vec<(u32, u32, f32)>, DedupError> {
    let dimension = vectors.dimension();
    let numbers: Vec<usize> = members.iter().map(|member| member.vector).collect();
    let read = vectors.read(&numbers).map_err(DedupError::temporary)?;
    let mut pairs = Vec::new();
    for (index, (a, x)) in members.iter().zip(read.chunks(dimension)).enumerate() {
        for (b, y) in members.iter().zip(read.chunks(dimension)).skip(index + 1) {
            let found = dot(x, y);
            if found >= cosine && a.class != NO_CLASS && wanted(a.class, b.class) {
                pairs.push((a.class, b.class, 1.0 - found));
            }
        }
    }
    Ok(pairs)
}
