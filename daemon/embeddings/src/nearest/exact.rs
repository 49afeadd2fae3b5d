//! The k nearest by looking at every row: one query at the speed of memory, many as a matrix product.
//!
//! Both give the same answers bit for bit: where a matrix product says that a row may be among the best, its score is computed
//! as for one query. Products of libtorch differ in their last bits, by at most what a sum of D numbers can lose twice.

use std::num::NonZeroUsize;
use std::thread;

use diptych_trainer::TrainerError;
use diptych_trainer::evaluate::{Products, Rows};

use super::best::{Best, Hit};
use super::kernel;
use super::vectors::Vectors;

/// Rows whose scores are in memory at once.
const BLOCK: usize = 4096;
/// Rows of a matrix product: with 256 queries, 16 MiB of scores.
const TILE: usize = 16_384;
/// Queries from which a matrix product is taken. It reads 16-bit rows, writes them as f32 and reads those again, which is paid for
/// by a few queries.
pub const BATCH: usize = 8;
/// Rows below which a second thread costs more than it saves.
const ALONE: usize = 16_384;
/// Scores that are passed over at once, where none of them can be among the best.
const GLANCE: usize = 64;

fn threads_for(rows: usize) -> usize {
    if rows < ALONE { 1 } else { thread::available_parallelism().map_or(1, NonZeroUsize::get) }
}

/// The k rows that are nearest to a query [stride], best first, equal ones by place.
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

/// The same for many queries, each [stride].
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
        let scores = products.with(&vectors.values()[first * stride..][..count * stride])?;
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

/// Takes in those of a tile's rows that may be among the best.
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
        // All of them are compared, which takes fewer instructions than stopping at the first.
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

/// How far two ways of summing a score can be apart: each is within D·u / (1 − D·u) · |a| |b| of the true one (Higham 2002,
/// section 3.1), u = 2^-24. None where nothing can be said.
fn slack(vectors: &Vectors, queries: &[Vec<f32>]) -> Option<f32> {
    let length = |query: &Vec<f32>| query.iter().map(|value| value * value).sum::<f32>().sqrt();
    let longest = queries.iter().map(length).fold(0.0, f32::max) * vectors.longest();
    let lost = kernel::stride(vectors.dimension()) as f32 / (1 << 24) as f32;
    // A tenth more, since the lengths are rounded too.
    let slack = 2.2 * lost / (1.0 - lost) * longest;
    slack.is_finite().then_some(slack)
}
