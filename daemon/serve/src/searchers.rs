//! Embeddings that stay in memory between searches, each with its model and, once requested, its
//! approximate index.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, TryLockError};
use std::time::Instant;

use diptych_embeddings::nearest::{GraphSpec, Models, NearestError, Searcher};
use diptych_schemas::ContentHash;
use diptych_store::Store;

/// Number of models whose embeddings stay in memory.
const KEPT: usize = 2;
/// Most bytes of one model's embeddings.
const MEMORY_BYTES: u64 = 4 << 30;

/// Embeddings in memory, the most recently used last.
#[derive(Default)]
pub(crate) struct Searchers {
    pub models: Models,
    kept: Mutex<Vec<Searchable>>,
}

/// The embeddings of one model.
#[derive(Clone)]
pub(crate) struct Searchable {
    pub(crate) producer: ContentHash,
    searcher: Arc<RwLock<Searcher>>,
    /// Whether a thread is building the approximate index.
    builds: Arc<AtomicBool>,
}

impl Searchers {
    /// Returns the embeddings of a model, including those that were added since they were read.
    pub(crate) fn get(&self, store: &Store, model: &str) -> Result<Searchable, NearestError> {
        let loaded = self.models.get(model, store.folder())?;
        let producer = loaded.producer();
        let known = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let place = kept.iter().position(|other| other.producer == producer);
            place.map(|place| {
                let entry = kept.remove(place);
                kept.push(entry.clone());
                entry
            })
        };
        if let Some(known) = known {
            // While others search or an index is built, use the embeddings that were read before.
            match known.searcher.try_write() {
                Ok(mut searcher) => drop(searcher.refresh()?),
                Err(TryLockError::Poisoned(poisoned)) => drop(poisoned.into_inner().refresh()?),
                Err(TryLockError::WouldBlock) => {}
            }
            return Ok(known);
        }
        // Read without the lock, so that other models can be searched meanwhile. If two threads
        // read the same model, one copy is kept.
        let searcher = Arc::new(RwLock::new(Searcher::open(store, loaded, MEMORY_BYTES)?));
        let entry = Searchable { producer, searcher, builds: Arc::default() };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|other| other.producer != producer);
        kept.push(entry.clone());
        if kept.len() > KEPT {
            kept.remove(0);
        }
        Ok(entry)
    }
}

impl Searchable {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Searcher> {
        self.searcher.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the approximate index exists. If not, a thread of low priority starts to build it.
    pub(crate) fn has_index(&self) -> bool {
        if self.read().has_graph() {
            return true;
        }
        if self.builds.swap(true, Ordering::Relaxed) {
            return false;
        }
        let kept = self.clone();
        let build = move || {
            // On Linux this applies to this thread and to those that it starts.
            let _ = rustix::process::nice(crate::QUERY_NICENESS);
            let (began, spec) = (Instant::now(), GraphSpec::default());
            let built = kept.read().graph_of(spec);
            match built {
                Ok(graph) => {
                    kept.searcher
                        .write()
                        .unwrap_or_else(PoisonError::into_inner)
                        .take_graph(graph, spec);
                    tracing::info!(
                        "the approximate index of {} was built in {:.1} s",
                        kept.producer,
                        began.elapsed().as_secs_f64()
                    );
                }
                Err(error) => tracing::error!(
                    "cannot build the approximate index of {}: {error}",
                    kept.producer
                ),
            }
            kept.builds.store(false, Ordering::Relaxed);
        };
        if let Err(error) = std::thread::Builder::new().name("index".into()).spawn(build) {
            tracing::error!("cannot build the approximate index: {error}");
            self.builds.store(false, Ordering::Relaxed);
        }
        false
    }
}
