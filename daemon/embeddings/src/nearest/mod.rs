//! Nearest neighbours among stored embeddings of images: by text, by image, by uid, by sums of them.
//!
//! [`Searcher::open`] reads a producer's embeddings into memory (2·D + 16 bytes a row, within a limit), [`Searcher::nearest`]
//! asks, [`Searcher::refresh`] takes in what was embedded since. Answers are exact and do not depend on threads, processor or
//! how many queries are asked at once, unless the approximate index is asked for. `sql` has the same as a table function.
//! All of it blocks and computes: call it where blocking is allowed, never on tokio's workers.
//! On a GPU nothing is searched yet: the matrix product is libtorch's on the CPU.

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
pub use loaded::{Loaded, Models};
pub use query::{Query, QueryTerm};
pub use sql::{NearestRead, PlanNearest, plan_of, register};
pub use vectors::Vectors;

use diptych_store::{Modality, Store, StoreError};

/// An image that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    pub uid: Uid,
    /// Cosine.
    pub score: f32,
}

/// How to search.
#[derive(Clone, Copy, Debug, Default)]
pub struct SearchOptions {
    /// Leaves out what is at least so near (cosine) to something better.
    pub distinct: Option<f32>,
    /// Asks the approximate index, which looks at so many candidates. Exact where there is none.
    pub width: Option<usize>,
}

/// The embeddings of one model's images, and the model. Any number of threads may ask at once.
pub struct Searcher {
    store: Store,
    loaded: Arc<Loaded>,
    vectors: Vectors,
    graph: Option<(Graph, GraphSpec)>,
}

impl Searcher {
    /// All images that the model has embedded, in at most `limit` bytes.
    pub fn open(store: &Store, loaded: Arc<Loaded>, limit: u64) -> Result<Self, NearestError> {
        let vectors = Vectors::read(store, loaded.producer(), Modality::Image, limit);
        Self::over(store, loaded, vectors)
    }

    /// Those of these pairs; equal scores in their order.
    pub fn open_some(
        store: &Store,
        loaded: Arc<Loaded>,
        uids: &[Uid],
        limit: u64,
    ) -> Result<Self, NearestError> {
        let vectors = Vectors::read_some(store, loaded.producer(), Modality::Image, uids, limit);
        Self::over(store, loaded, vectors)
    }

    fn over(
        store: &Store,
        loaded: Arc<Loaded>,
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

    /// Takes in what was embedded since, into the index too. Returns how many embeddings there are now.
    pub fn refresh(&mut self) -> Result<usize, NearestError> {
        let same = self.vectors.refresh(&self.store)?;
        match &mut self.graph {
            Some((graph, _)) if same => graph.grow(&self.vectors)?,
            Some((graph, spec)) => *graph = Graph::build(&self.vectors, *spec)?,
            None => {}
        }
        Ok(self.vectors.len())
    }

    /// Builds the approximate index: as much memory again and more, and minutes for each million.
    pub fn build_graph(&mut self, spec: GraphSpec) -> Result<(), NearestError> {
        let graph = self.graph_of(spec)?;
        self.take_graph(graph, spec);
        Ok(())
    }

    /// The same in two parts, so that others may ask while it is built.
    pub fn graph_of(&self, spec: GraphSpec) -> Result<Graph, NearestError> {
        Graph::build(&self.vectors, spec)
    }

    /// Takes a graph of these vectors over.
    pub fn take_graph(&mut self, graph: Graph, spec: GraphSpec) {
        self.graph = Some((graph, spec));
    }

    pub fn has_graph(&self) -> bool {
        self.graph.is_some()
    }

    /// Embeddings that are searched.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks whether there is none")]
    pub fn len(&self) -> usize {
        self.vectors.len()
    }

    /// The k nearest to each query, best first.
    pub fn nearest(
        &self,
        queries: &[Query],
        k: usize,
        options: SearchOptions,
    ) -> Result<Vec<Vec<Found>>, NearestError> {
        if let Some(threshold) = options.distinct
            && !(-1.0..=1.0).contains(&threshold)
        {
            return Err(NearestError::Query(format!(
                "results are told apart by a cosine, from -1 to 1, not by {threshold}"
            )));
        }
        let vectors = query::encode(&self.loaded, &self.vectors, queries)?;
        let values: Vec<Vec<f32>> = vectors.iter().map(|vector| padded(&vector.values)).collect();
        let named: Vec<&[usize]> = vectors.iter().map(|vector| vector.named.as_slice()).collect();
        let k = k.min(self.vectors.len());
        let mut ask = if options.distinct.is_some() { 4 * k } else { k };
        let mut answers: Vec<Vec<Found>> = vec![Vec::new(); queries.len()];
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
                    hits.iter().map(|hit| Found { uid: hit.uid, score: hit.score }).collect();
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

    /// Of each group of images that are alike, the best one; at most k.
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
