//! `diptych bench search`: measures search next to its bounds, in turns. One query cannot be faster
//! than reading the memory that it searches. A batch cannot be faster than its matrix product. The
//! approximate index is compared with exact answers.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context, bail};
use diptych_cli::BenchSearchArgs;
use diptych_embeddings::nearest::{
    Graph, GraphSpec, Hit, Vectors, nearest, nearest_of_batch, padded,
};
use diptych_pipeline::sql::default_memory;
use diptych_pipeline::{Random, seed_of};
use diptych_schemas::Uid;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::thousands;
use diptych_store::Modality;
use diptych_trainer::{flops, set_threads};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{MIB, peak_rss, spread_of};
use crate::client::reading::store_to_read;
use crate::output::line;

/// Rows of a bare product.
const TILE: usize = 16_384;
/// Rows around one made-up centre.
const CLUSTER: usize = 100;
/// Length of the noise that is added to a centre of length 1. Cosines within a cluster are about 1
/// / (1 + 0.8²) = 0.6.
const NOISE: f64 = 0.8;

pub(super) fn run(args: &BenchSearchArgs) -> anyhow::Result<Outcome> {
    let threads = set_threads(0);
    let (queries, k) = (args.queries as usize, args.k as usize);
    let (vectors, queries) = match &args.state {
        Some(state) => stored(state, queries)?,
        None => made_up(args.rows as usize, args.dimension as usize, queries),
    };
    let (rows, dimension) = (vectors.len(), vectors.dimension());
    let bytes = size_of_val(vectors.values()) as f64;
    line(format!(
        "{} rows of {dimension}, {:.0} MiB, k = {k}, {threads} threads",
        thousands(rows as u64),
        bytes / MIB
    ))?;

    let (mut reads, mut singles, mut products, mut batches) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut exact = Vec::new();
    for round in 0..args.rounds as usize {
        reads.push(timed(|| read(vectors.values())).0);
        singles.push(timed(|| nearest(&vectors, &queries[round % queries.len()], k)).0);
        // In tiles, since all scores at once would take gigabytes.
        let tile = rows.min(TILE);
        let times = (rows / tile) as u32;
        let seconds =
            flops::matmul_seconds(queries.len() as i64, dimension as i64, tile as i64, times)?;
        products.push(seconds * rows as f64 / (tile * times as usize) as f64);
        let (seconds, answers) = timed(|| nearest_of_batch(&vectors, &queries, k));
        batches.push(seconds);
        exact = answers?;
    }
    let pairs = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>();
    line(format!(
        "one query      {}  {:.1} GB/s at best",
        shown(&singles)?,
        bytes / 1e9 / best(&singles)
    ))?;
    line(format!(
        "  a plain read {}  the query takes {} of it",
        shown(&reads)?,
        ratio(pairs(&singles, &reads))?
    ))?;
    line(format!(
        "batch of {:<5} {}  {:.2} ms a query",
        queries.len(),
        shown(&batches)?,
        1e3 * best(&batches) / queries.len() as f64
    ))?;
    line(format!(
        "  bare product {}  the batch takes {} of it",
        shown(&products)?,
        ratio(pairs(&batches, &products))?
    ))?;
    if args.hnsw {
        approximate(args, &vectors, &queries, &exact)?;
    }
    if let Some(peak) = peak_rss() {
        line(format!("memory at most {:.0} MiB", peak as f64 / MIB))?;
    }
    Ok(Outcome::Done)
}

/// Builds the index and searches it at each width, next to the exact answers.
fn approximate(
    args: &BenchSearchArgs,
    vectors: &Vectors,
    queries: &[Vec<f32>],
    exact: &[Vec<Hit>],
) -> anyhow::Result<()> {
    let spec = GraphSpec { links: args.links, candidates: args.candidates };
    let before = rss();
    let (seconds, graph) = timed(|| Graph::build(vectors, spec));
    let graph = graph?;
    let grown = before.zip(rss()).map_or(String::new(), |(before, after)| {
        format!(
            ", {:.0} bytes a row",
            after.saturating_sub(before) as f64 / vectors.len().max(1) as f64
        )
    });
    line(format!(
        "HNSW, M = {}, ef_construction = {}: built in {seconds:.1} s{grown}",
        spec.links, spec.candidates
    ))?;
    for width in &args.ef {
        let (mut found, mut wanted, mut taken) = (0, 0, Vec::new());
        for (query, exact) in queries.iter().zip(exact) {
            let (seconds, hits) = timed(|| graph.nearest(vectors, query, args.k as usize, *width));
            let hits = hits?;
            taken.push(seconds);
            wanted += exact.len();
            found += exact
                .iter()
                .filter(|right| hits.iter().any(|hit| hit.place == right.place))
                .count();
        }
        let recall = f64::from(found as u32) / f64::from(wanted.max(1) as u32);
        line(format!(
            "  ef = {width:<5} recall@{} {recall:.4}, {} a query on one thread",
            args.k,
            shown(&taken)?
        ))?;
    }
    Ok(())
}

/// Reads the largest set of images of a state folder, and captions of the same model as queries.
fn stored(state: &Path, queries: usize) -> anyhow::Result<(Vectors, Vec<Vec<f32>>)> {
    let store = store_to_read(state)?;
    let sets = store.embeddings()?;
    let largest = sets
        .iter()
        .filter(|set| set.modality == Modality::Image && set.rows > 0)
        .max_by_key(|set| set.rows);
    let Some(set) = largest else {
        bail!(
            "{}: there are no embeddings of images: `diptych embed` computes them",
            state.display()
        );
    };
    let vectors = Vectors::read(&store, set.producer, Modality::Image, default_memory() as u64)?;
    let texts = store
        .read_embeddings(set.producer, Modality::Text)?
        .next_chunk(queries)?
        .unwrap_or_default();
    let queries: Vec<Vec<f32>> =
        texts.vectors.chunks_exact(set.dim).map(|row| padded(&widened(row))).collect();
    if queries.is_empty() {
        bail!("{}: there are no embeddings of captions to search with", state.display());
    }
    Ok((vectors, queries))
}

fn widened(row: &[f16]) -> Vec<f32> {
    let mut wide = vec![0.0; row.len()];
    row.convert_to_f32_slice(&mut wide);
    wide
}

/// Makes rows around centres, and queries around the same centres. They are equal in every call.
fn made_up(rows: usize, dimension: usize, queries: usize) -> (Vectors, Vec<Vec<f32>>) {
    let clusters = rows.div_ceil(CLUSTER) as u64;
    let mut values = vec![f16::ZERO; rows * dimension];
    let part = rows.div_ceil(thread::available_parallelism().map_or(1, NonZeroUsize::get)).max(1);
    thread::scope(|scope| {
        for (number, values) in values.chunks_mut(part * dimension).enumerate() {
            scope.spawn(move || {
                for (index, row) in values.chunks_exact_mut(dimension).enumerate() {
                    row.convert_from_f32_slice(&made_up_row(
                        (number * part + index) as u64,
                        dimension,
                        clusters,
                    ));
                }
            });
        }
    });
    let uids = (0..rows as u128).map(|row| Uid(row.to_be_bytes())).collect();
    let queries = (0..queries as u64)
        .map(|query| padded(&made_up_row(u64::MAX - query, dimension, clusters)))
        .collect();
    (Vectors::from_rows(dimension, uids, &values), queries)
}

fn made_up_row(number: u64, dimension: usize, clusters: u64) -> Vec<f32> {
    let mut random = Random::new(seed_of(&[1, number]));
    let mut centre = Random::new(seed_of(&[2, random.below(clusters)]));
    // Uniform in [-1, 1) has a variance of 1/3, so that a row has a length of about sqrt(D / 3).
    let row = (0..dimension)
        .map(|_| (centre.uniform(-1.0, 1.0) + NOISE * random.uniform(-1.0, 1.0)) as f32);
    let row: Vec<f32> = row.collect();
    let length = row.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    row.into_iter().map(|value| value / length).collect()
}

/// Reads all rows once, on as many threads as the search has.
fn read(values: &[f16]) {
    let part =
        values.len().div_ceil(thread::available_parallelism().map_or(1, NonZeroUsize::get)).max(1);
    thread::scope(|scope| {
        for values in values.chunks(part) {
            scope.spawn(|| {
                let bits: &[u16] = values.reinterpret_cast();
                let mut sums = [0_u16; 64];
                for lanes in bits.as_chunks::<64>().0 {
                    for (sum, lane) in sums.iter_mut().zip(lanes) {
                        *sum = sum.wrapping_add(*lane);
                    }
                }
                black_box(sums);
            });
        }
    });
}

fn timed<T>(run: impl FnOnce() -> T) -> (f64, T) {
    let started = Instant::now();
    let value = black_box(run());
    (started.elapsed().as_secs_f64(), value)
}

fn best(seconds: &[f64]) -> f64 {
    seconds.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Formats milliseconds: the median, and the lowest and highest.
fn shown(seconds: &[f64]) -> anyhow::Result<String> {
    let [low, median, high] =
        spread_of(seconds.iter().map(|seconds| 1e3 * seconds)).context("nothing was measured")?;
    Ok(format!("{median:.2} ms ({low:.2}–{high:.2})"))
}

/// Formats quotients: the median, and the lowest and highest.
fn ratio(quotients: Vec<f64>) -> anyhow::Result<String> {
    let [low, median, high] = spread_of(quotients).context("nothing was measured")?;
    Ok(format!("{median:.2} × ({low:.2}–{high:.2})"))
}

/// Returns the resident bytes of this process.
fn rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}
