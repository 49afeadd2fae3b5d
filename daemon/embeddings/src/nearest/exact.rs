//! Exact search: scores every row, one query at memory speed, or many as a matrix product.
//!
//! Both ways give the same answers, bit for bit. If a matrix product suggests that a row is among
//! the best, the row is scored again as for a single query. Products of libtorch differ in their
//! last bits, by at most twice the rounding error of a sum of D numbers.

use std::num::NonZeroUsize;
use std::thread;

use diptych_trainer::TrainerError;
use diptych_trainer::evaluate::{Products, Rows};

use super::best::{Best, Hit};
use super::kernel;
use super::vectors::Vectors;

/// Rows whose scores are in memory at once.
const BLOCK: usize = 4096;
/// Rows of a matrix product. With 256 queries, its scores take 16 MiB.
const TILE: usize = 16_384;
/// Queries from which a matrix product is faster. It reads 16-bit rows, writes them as f32 and
/// reads those again, which pays off from a few queries on.
pub const BATCH: usize = 8;
/// Rows below which a second thread costs more than it saves.
const ALONE: usize = 16_384;
/// Scores that are skipped together, if none of them can be among the best.
const GLANCE: usize = 64;

fn threads_for(rows: usize) -> usize {
    if rows < ALONE { 1 } else { thread::available_parallelism().map_or(1, NonZeroUsize::get) }
}

/// Finds the k rows nearest to a query, `[stride]`. Best first, equal scores by place.
pub fn nearest(vectors: &Vectors, query: &[f32], k: usize) -> Vec<Hit> {
    let rows = vectors.len();
    let part = rows.div_ceil(threads_for(rows)).max(1);
    let search = |first: usize| {
        let mut best = Best::new(k);
        let mut scores = vec![0.0; BLOCK];
        let end = (first + part).min(rows);
        for block in (first..end).step_by(BLOCK) {
            let count = BLOCK.min(end - block);
            let values = &vectors.values()[block * query.len()..][..count * query.len()];
            kernel::score(values, query, &mut scores[..count]);
            best.extend(&scores[..count], &vectors.uids()[block..block + count], block);
        }
        best
    };
    let mut all = Best::new(k);
    thread::scope(|scope| {
        let others: Vec<_> =
            (part..rows).step_by(part).map(|first| scope.spawn(move || search(first))).collect();
        for hit in search(0).into_hits() {
            all.push(hit);
        }
        for other in others {
            match other.join() {
                Ok(best) => best.into_hits().into_iter().for_each(|hit| all.push(hit)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    all.into_hits()
}

/// Finds the k nearest rows of each of many queries, each `[stride]`.
pub fn nearest_of_batch(
    vectors: &Vectors,
    queries: &[Vec<f32>],
    k: usize,
) -> Result<Vec<Vec<Hit>>, TrainerError> {
    let stride = kernel::stride(vectors.dimension());
    let Some(slack) = slack(vectors, queries) else {
        return Ok(queries.iter().map(|query| nearest(vectors, query, k)).collect());
    };
    let products = Products::new(Rows { values: &queries.concat(), dimension: stride })?;
    let mut best: Vec<Best> = queries.iter().map(|_| Best::new(k)).collect();
    let share = queries.len().div_ceil(threads_for(vectors.len())).max(1);
    for first in (0..vectors.len()).step_by(TILE) {
        let count = TILE.min(vectors.len() - first);
        let scores = products.multiply(&vectors.values()[first * stride..][..count * stride])?;
        thread::scope(|scope| {
            let parts =
                queries.chunks(share).zip(best.chunks_mut(share)).zip(scores.chunks(share * count));
            for ((queries, best), scores) in parts {
                scope.spawn(move || {
                    for ((query, best), scores) in
                        queries.iter().zip(best).zip(scores.chunks_exact(count))
                    {
                        pick(vectors, query, scores, first, slack, best);
                    }
                });
            }
        });
    }
    Ok(best.into_iter().map(Best::into_hits).collect())
}

/// Adds the rows of a tile that may be among the best.
fn pick(
    vectors: &Vectors,
    query: &[f32],
    scores: &[f32],
    first: usize,
    slack: f32,
    best: &mut Best,
) {
    let mut least = best.threshold() - slack;
    for (part, glance) in scores.chunks(GLANCE).enumerate() {
        // Comparing all of them takes fewer instructions than stopping at the first.
        if glance.iter().filter(|score| **score >= least).count() == 0 {
            continue;
        }
        for (index, score) in glance.iter().enumerate() {
            if *score >= least {
                let place = first + part * GLANCE + index;
                let mut exact = [0.0];
                kernel::score(vectors.row(place), query, &mut exact);
                best.push(Hit { score: exact[0], place, uid: vectors.uids()[place] });
                least = best.threshold() - slack;
            }
        }
    }
}

/// Returns how far apart two ways of summing a score can be, or `None` if that is unbounded.
///
/// Each is within D·u / (1 − D·u) · |a| |b| of the true score, with u = 2^-24 (Higham 2002, section
/// 3.1).
fn slack(vectors: &Vectors, queries: &[Vec<f32>]) -> Option<f32> {
    let length = |query: &Vec<f32>| query.iter().map(|value| value * value).sum::<f32>().sqrt();
    let longest = queries.iter().map(length).fold(0.0, f32::max) * vectors.longest();
    let lost = kernel::stride(vectors.dimension()) as f32 / (1 << 24) as f32;
    // A tenth more, because the lengths are rounded too.
    let slack = 2.2 * lost / (1.0 - lost) * longest;
    slack.is_finite().then_some(slack)
}
