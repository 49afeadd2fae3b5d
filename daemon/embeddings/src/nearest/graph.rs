//! The optional approximate index: HNSW (Malkov and Yashunin, 2016) by the crate hnsw_rs, in
//! memory.
//!
//! It copies the vectors, so it takes as much memory as the exact search and its links on top. Its
//! hits are scored as in the exact search. It is never stored: a graph lives as long as its
//! process, so none on disk can be damaged.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use half::f16;
use half::slice::HalfFloatSliceExt;
use hnsw_rs::prelude::{Distance, Hnsw};

use super::NearestError;
use super::best::{Best, Hit};
use super::kernel;
use super::vectors::Vectors;

/// Most layers that hnsw_rs supports.
const LAYERS: usize = 16;

/// How to build a graph. Larger values find more and take longer.
#[derive(Clone, Copy, Debug)]
pub struct GraphSpec {
    /// M: links per row and layer. The lowest layer has twice as many.
    pub links: usize,
    /// ef_construction: candidates considered for links. hnsw_rs needs more than 2·M.
    pub candidates: usize,
}

impl Default for GraphSpec {
    fn default() -> Self {
        Self { links: 16, candidates: 200 }
    }
}

/// 1 − cosine of rows of unit length. Never below 0, which hnsw_rs asserts.
struct FromCosine;

impl Distance<f16> for FromCosine {
    fn eval(&self, a: &[f16], b: &[f16]) -> f32 {
        (1.0 - kernel::score_pair(a, b)).max(0.0)
    }
}

/// Rows with links to their neighbours.
pub struct Graph {
    hnsw: Hnsw<'static, f16, FromCosine>,
    /// Rows in the graph.
    rows: usize,
}

impl Graph {
    pub fn build(vectors: &Vectors, spec: GraphSpec) -> Result<Self, NearestError> {
        let GraphSpec { links, candidates } = spec;
        if !(2..=128).contains(&links) || candidates <= 2 * links {
            return Err(NearestError::Query(format!(
                "an index needs 2 to 128 links per row and more than twice as many candidates, got \
                 {links} and {candidates}"
            )));
        }
        let hnsw = Hnsw::new(links, vectors.len().max(1), LAYERS, candidates, FromCosine);
        let mut graph = Self { hnsw, rows: 0 };
        graph.grow(vectors)?;
        Ok(graph)
    }

    /// Inserts the rows appended since the last call, on all cores.
    pub fn grow(&mut self, vectors: &Vectors) -> Result<(), NearestError> {
        let insert = |place: usize| self.hnsw.insert_slice((vectors.row(place), place));
        let build = || {
            // The first row must be in the graph before two threads look for an entry point.
            if self.rows == 0 && vectors.len() > 0 {
                insert(0);
            }
            let next = AtomicUsize::new(self.rows.max(1));
            thread::scope(|scope| {
                for _ in 0..thread::available_parallelism().map_or(1, std::num::NonZero::get) {
                    scope.spawn(|| {
                        loop {
                            let place = next.fetch_add(1, Ordering::Relaxed);
                            if place >= vectors.len() {
                                break;
                            }
                            insert(place);
                        }
                    });
                }
            });
        };
        // hnsw_rs asserts its assumptions about distances.
        catch_unwind(AssertUnwindSafe(build))
            .map_err(|_| NearestError::Graph("hnsw_rs failed".into()))?;
        self.rows = vectors.len();
        Ok(())
    }

    /// Finds roughly the k nearest rows of the graph, considering `width` (ef) candidates.
    pub fn nearest(
        &self,
        vectors: &Vectors,
        query: &[f32],
        k: usize,
        width: usize,
    ) -> Result<Vec<Hit>, NearestError> {
        let mut narrow = vec![f16::ZERO; query.len()];
        narrow.convert_from_f32_slice(query);
        let search =
            || if k == 0 { Vec::new() } else { self.hnsw.search(&narrow, k, width.max(k)) };
        let found = catch_unwind(AssertUnwindSafe(search))
            .map_err(|_| NearestError::Graph("hnsw_rs failed".into()))?;
        let mut best = Best::new(k);
        for neighbour in found {
            let place = neighbour.d_id;
            let mut score = [0.0];
            kernel::score(vectors.row(place), query, &mut score);
            best.push(Hit { score: score[0], place, uid: vectors.uids()[place] });
        }
        Ok(best.into_hits())
    }
}
