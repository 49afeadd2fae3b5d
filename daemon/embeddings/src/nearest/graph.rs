//! The approximate index, for who asks for it: HNSW (Malkov and Yashunin, 2016) by the crate hnsw_rs, in memory alone.
//!
//! It holds vectors of its own, so it takes as much memory again as the exact search and its links; what it finds is scored as
//! the exact search scores. It is not kept on the disk: a graph is as old as the process that built it, so none is damaged.

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

/// Layers at most: hnsw_rs has no more.
const LAYERS: usize = 16;

/// How a graph is built: more of either finds more and takes longer.
#[derive(Clone, Copy, Debug)]
pub struct GraphSpec {
    /// M: links of a row in a layer, twice as many in the lowest.
    pub links: usize,
    /// ef_construction: candidates for links that are looked at. hnsw_rs wants more than 2·M.
    pub candidates: usize,
}

impl Default for GraphSpec {
    fn default() -> Self {
        Self { links: 16, candidates: 200 }
    }
}

/// 1 − cosine of rows of unit length, never below 0 (hnsw_rs insists).
struct FromCosine;

impl Distance<f16> for FromCosine {
    fn eval(&self, a: &[f16], b: &[f16]) -> f32 {
        (1.0 - kernel::score_pair(a, b)).max(0.0)
    }
}

/// Rows with links to near ones.
pub struct Graph {
    hnsw: Hnsw<'static, f16, FromCosine>,
    /// Rows that are in it.
    rows: usize,
}

impl Graph {
    pub fn build(vectors: &Vectors, spec: GraphSpec) -> Result<Self, NearestError> {
        let GraphSpec { links, candidates } = spec;
        if !(2..=128).contains(&links) || candidates <= 2 * links {
            return Err(NearestError::Query(format!(
                "an index wants 2 to 128 links a row and more than twice as many candidates, got {links} and {candidates}"
            )));
        }
        let hnsw = Hnsw::new(links, vectors.len().max(1), LAYERS, candidates, FromCosine);
        let mut graph = Self { hnsw, rows: 0 };
        graph.grow(vectors)?;
        Ok(graph)
    }

    /// Takes in the rows that came since, on all cores.
    pub fn grow(&mut self, vectors: &Vectors) -> Result<(), NearestError> {
        let insert = |place: usize| self.hnsw.insert_slice((vectors.row(place), place));
        let build = || {
            // A graph's first row must be in it before two threads look for a place to begin.
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
        // hnsw_rs asserts what it expects of distances.
        catch_unwind(AssertUnwindSafe(build))
            .map_err(|_| NearestError::Graph("hnsw_rs gave up".into()))?;
        self.rows = vectors.len();
        Ok(())
    }

    /// About the k nearest of those that are in it; `width` (ef) candidates are looked at.
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
            .map_err(|_| NearestError::Graph("hnsw_rs gave up".into()))?;
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
