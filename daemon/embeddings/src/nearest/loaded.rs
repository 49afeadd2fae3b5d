//! Models that stay loaded between queries, with the hash that identifies their stored embeddings.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use diptych_schemas::{ContentHash, ModelRef};

use crate::models::{self, Model};

/// Loaded models at most. The least recently used one is dropped.
const CAPACITY: usize = 2;

/// A model that several threads share, one at a time.
pub struct SharedModel {
    model: Mutex<Model>,
    producer: ContentHash,
}

impl SharedModel {
    pub fn new(model: Model) -> anyhow::Result<Self> {
        let producer = model.encoder.hash()?;
        Ok(Self { model: Mutex::new(model), producer })
    }

    /// Returns the hash that identifies the model's embeddings.
    pub fn producer(&self) -> ContentHash {
        self.producer
    }

    pub fn lock(&self) -> MutexGuard<'_, Model> {
        // Encoding changes nothing in the model, so a panic leaves nothing half-done.
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct CachedModel {
    path: PathBuf,
    loaded: Arc<SharedModel>,
}

/// The most recently used models, newest last. Clones share them.
#[derive(Clone, Default)]
pub struct Models {
    kept: Arc<Mutex<Vec<CachedModel>>>,
    /// Whether a name may be any path, and not only a run of the state folder.
    anywhere: bool,
}

impl Models {
    /// Returns a cache that loads models from any path.
    pub fn anywhere() -> Self {
        Self { anywhere: true, ..Self::default() }
    }

    /// Returns the model that a name means now in a state folder.
    ///
    /// A run's newest checkpoint changes over time. The call blocks for seconds if it reads
    /// weights. The model runs on the CPU, which encodes one text sooner than a GPU is initialized.
    pub fn get(&self, name: &str, state: &Path) -> anyhow::Result<Arc<SharedModel>> {
        let (name, state) = (name.to_owned(), state.to_owned());
        let named =
            ModelRef { name, config: None, ema: false, state, device: "cpu".into(), threads: 0 };
        let resolve = || {
            if self.anywhere { models::resolve(&named) } else { models::resolve_run(&named) }
        };
        models::read_resolved(resolve, |path| self.load(path, &named))
    }

    fn load(&self, path: &Path, named: &ModelRef) -> anyhow::Result<Arc<SharedModel>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known =
            kept.iter().position(|kept| kept.path == path).map(|place| kept.remove(place).loaded);
        let load = || {
            let name = path
                .to_str()
                .with_context(|| format!("{} is not valid UTF-8", path.display()))?
                .to_owned();
            SharedModel::new(models::load(&ModelRef { name, ..named.clone() })?).map(Arc::new)
        };
        let loaded = known.map_or_else(load, Ok)?;
        kept.push(CachedModel { path: path.to_owned(), loaded: Arc::clone(&loaded) });
        if kept.len() > CAPACITY {
            kept.remove(0);
        }
        Ok(loaded)
    }
}
