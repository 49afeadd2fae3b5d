//! Models that stay loaded between questions, with the hash by which the store knows their embeddings.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use diptych_schemas::{ContentHash, ModelRef};

use crate::models::{self, Model};

/// Models that are kept; of more, the one that was not asked for longest goes.
const KEPT: usize = 2;

/// A model that several threads may use, one at a time.
pub struct Loaded {
    model: Mutex<Model>,
    producer: ContentHash,
}

impl Loaded {
    pub fn new(model: Model) -> anyhow::Result<Self> {
        let producer = model.encoder.hash()?;
        Ok(Self { model: Mutex::new(model), producer })
    }

    /// Names its embeddings.
    pub fn producer(&self) -> ContentHash {
        self.producer
    }

    pub fn lock(&self) -> MutexGuard<'_, Model> {
        // Encoding changes nothing in it, so a panic leaves nothing half-done.
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct LoadedModel {
    path: PathBuf,
    loaded: Arc<Loaded>,
}

/// The last models that were asked for, newest last. Clones share them.
#[derive(Clone, Default)]
pub struct Models {
    kept: Arc<Mutex<Vec<LoadedModel>>>,
    /// Whether folders and files anywhere may be named, and not only runs of the state folder.
    anywhere: bool,
}

impl Models {
    /// For who may name any path.
    pub fn anywhere() -> Self {
        Self { anywhere: true, ..Self::default() }
    }

    /// The model that a name means now, of a state folder: a run's newest checkpoint is another one later. It blocks, for
    /// seconds where weights are read. On the CPU: one text is encoded sooner than a GPU is woken up.
    pub fn get(&self, name: &str, state: &Path) -> anyhow::Result<Arc<Loaded>> {
        let (name, state) = (name.to_owned(), state.to_owned());
        let named =
            ModelRef { name, config: None, ema: false, state, device: "cpu".into(), threads: 0 };
        let resolve = || {
            if self.anywhere { models::resolve(&named) } else { models::resolve_run(&named) }
        };
        models::read_resolved(resolve, |path| self.load(path, &named))
    }

    fn load(&self, path: &Path, named: &ModelRef) -> anyhow::Result<Arc<Loaded>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known =
            kept.iter().position(|kept| kept.path == path).map(|place| kept.remove(place).loaded);
        let load = || {
            let name = path
                .to_str()
                .with_context(|| format!("{} is no UTF-8", path.display()))?
                .to_owned();
            Loaded::new(models::load(&ModelRef { name, ..named.clone() })?).map(Arc::new)
        };
        let loaded = known.map_or_else(load, Ok)?;
        kept.push(LoadedModel { path: path.to_owned(), loaded: Arc::clone(&loaded) });
        if kept.len() > KEPT {
            kept.remove(0);
        }
        Ok(loaded)
    }
}
