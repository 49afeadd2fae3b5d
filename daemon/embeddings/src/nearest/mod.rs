//! Nearest neighbours among stored image embeddings, of a text, an image, a uid, or a sum of them.
//!
//! [`Searcher::open`] reads a producer's embeddings into memory (2·D + 16 bytes per row, within a
//! limit). [`Searcher::nearest`] answers queries. [`Searcher::refresh`] adds the embeddings stored
//! since.
//!
//! Answers are exact unless the approximate index is requested. They do not depend on threads, the
//! processor, or the number of queries at once. `sql` offers the search as a table function. Every
//! call blocks and computes, so never make one on a tokio worker. Searches run on the CPU only.

mod best;
mod error;
mod exact;
mod graph;
mod kernel;
mod loaded;
mod query;
mod sql;
#[cfg(test)]
mod tests;
mod vectors;

use std::sync::Arc;

use diptych_schemas::Uid;

pub use best::Hit;
pub use error::NearestError;
pub use exact::{BATCH, nearest, nearest_of_batch};
pub use graph::{Graph, GraphSpec};
pub use kernel::padded;
pub use loaded::{Models, SharedModel};
pub use query::{Query, QueryTerm};
pub use sql::{NearestRead, PlanNearest, plan_of, register};
pub use vectors::Vectors;

use diptych_store::{Modality, Store, StoreError};

/// An image that a search found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    pub uid: Uid,
    /// Cosine.
    pub score: f32,
}

/// Options of a search.
#[derive(Clone, Copy, Debug, Default)]
pub struct SearchOptions {
    /// Drops a result whose cosine with a better result is at least this.
    pub distinct: Option<f32>,
    /// Uses the approximate index, if there is one, and considers this many candidates.
    pub width: Option<usize>,
}

/// The image embeddings of one model, and the model. Any number of threads may search at once.
pub struct Searcher {
    store: Store,
    loaded: Arc<SharedModel>,
    vectors: Vectors,
    graph: Option<(Graph, GraphSpec)>,
}

impl Searcher {
    /// Reads all image embeddings of the model, in at most `limit` bytes.
    pub fn open(store: &Store, loaded: Arc<SharedModel>, limit: u64) -> Result<Self, NearestError> {
        let vectors = Vectors::read(store, loaded.producer(), Modality::Image, limit);
        Self::over(store, loaded, vectors)
    }

    /// Reads the image embeddings of these pairs. Equal scores come in the order of `uids`.
    pub fn open_some(
        store: &Store,
        loaded: Arc<SharedModel>,
        uids: &[Uid],
        limit: u64,
    ) -> Result<Self, NearestError> {
        let vectors = Vectors::read_some(store, loaded.producer(), Modality::Image, uids, limit);
        Self::over(store, loaded, vectors)
    }

    fn over(
        store: &Store,
        loaded: Arc<SharedModel>,
        vectors: Result<Vectors, NearestError>,
    ) -> Result<Self, NearestError> {
        let vectors = vectors.map_err(|error| match error {
            NearestError::Store(StoreError::NoEmbeddings { .. }) => NearestError::NoEmbeddings {
                model: loaded.lock().path.display().to_string(),
                state: store.folder().display().to_string(),
            },
            other => other,
        })?;
        Ok(Self { store: store.clone(), loaded, vectors, graph: None })
    }

    /// Adds the embeddings stored since, also to the index. Returns the number of embeddings.
    pub fn refresh(&mut self) -> Result<usize, NearestError> {
        let same = self.vectors.refresh(&self.store)?;
        match &mut self.graph {
            Some((graph, _)) if same => graph.grow(&self.vectors)?,
            Some((graph, spec)) => *graph = Graph::build(&self.vectors, *spec)?,
            None => {}
        }
        Ok(self.vectors.len())
    }

    /// Builds the approximate index. This takes as much memory again and more, and minutes per
    /// million rows.
    pub fn build_graph(&mut self, spec: GraphSpec) -> Result<(), NearestError> {
        let graph = self.graph_of(spec)?;
        self.take_graph(graph, spec);
        Ok(())
    }

    /// Builds a graph for [`Self::take_graph`], so that searches can go on meanwhile.
    pub fn graph_of(&self, spec: GraphSpec) -> Result<Graph, NearestError> {
        Graph::build(&self.vectors, spec)
    }

    /// Installs a graph built from these vectors.
    pub fn take_graph(&mut self, graph: Graph, spec: GraphSpec) {
        self.graph = Some((graph, spec));
    }

    pub fn has_graph(&self) -> bool {
        self.graph.is_some()
    }

    /// Number of embeddings.
    #[expect(clippy::len_without_is_empty, reason = "no caller needs is_empty")]
    pub fn len(&self) -> usize {
        self.vectors.len()
    }

    /// Finds the k nearest images of each query, best first.
    pub fn nearest(
        &self,
        queries: &[Query],
        k: usize,
        options: SearchOptions,
    ) -> Result<Vec<Vec<Neighbour>>, NearestError> {
        if let Some(threshold) = options.distinct
            && !(-1.0..=1.0).contains(&threshold)
        {
            return Err(NearestError::Query(format!(
                "distinct is a cosine from -1 to 1, got {threshold}"
            )));
        }
        let vectors = query::encode(&self.loaded, &self.vectors, queries)?;
        let values: Vec<Vec<f32>> = vectors.iter().map(|vector| padded(&vector.values)).collect();
        let named: Vec<&[usize]> = vectors.iter().map(|vector| vector.named.as_slice()).collect();
        let k = k.min(self.vectors.len());
        let mut ask = if options.distinct.is_some() { 4 * k } else { k };
        let mut answers: Vec<Vec<Neighbour>> = vec![Vec::new(); queries.len()];
        let mut open: Vec<usize> = (0..queries.len()).collect();
        while !open.is_empty() {
            let now: Vec<Vec<f32>> = open.iter().map(|query| values[*query].clone()).collect();
            let most = open.iter().map(|query| named[*query].len()).max().unwrap_or(0);
            let hits = self.hits(&now, ask + most, options.width)?;
            let all = ask >= self.vectors.len();
            let mut left = Vec::new();
            for (query, mut hits) in open.into_iter().zip(hits) {
                hits.retain(|hit| !named[query].contains(&hit.place));
                let enough = match options.distinct {
                    Some(threshold) => {
                        hits = self.distinct(hits, k, threshold);
                        hits.len() >= k
                    }
                    None => true,
                };
                hits.truncate(k);
                answers[query] =
                    hits.iter().map(|hit| Neighbour { uid: hit.uid, score: hit.score }).collect();
                if !enough && !all {
                    left.push(query);
                }
            }
            open = left;
            ask *= 4;
        }
        Ok(answers)
    }

    fn hits(
        &self,
        queries: &[Vec<f32>],
        k: usize,
        width: Option<usize>,
    ) -> Result<Vec<Vec<Hit>>, NearestError> {
        match (&self.graph, width) {
            (Some((graph, _)), Some(width)) => {
                queries.iter().map(|query| graph.nearest(&self.vectors, query, k, width)).collect()
            }
            _ if queries.len() >= BATCH => Ok(nearest_of_batch(&self.vectors, queries, k)?),
            _ => Ok(queries.iter().map(|query| nearest(&self.vectors, query, k)).collect()),
        }
    }

    /// Keeps the best of each group of similar images, at most k.
    fn distinct(&self, hits: Vec<Hit>, k: usize, threshold: f32) -> Vec<Hit> {
        let mut kept: Vec<Hit> = Vec::new();
        for hit in hits {
            if kept.len() >= k {
                break;
            }
            let row = self.vectors.row(hit.place);
            if kept
                .iter()
                .all(|better| kernel::score_pair(self.vectors.row(better.place), row) < threshold)
            {
                kept.push(hit);
            }
        }
        kept
    }
}
