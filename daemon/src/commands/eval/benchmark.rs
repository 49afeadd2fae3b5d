//! CLIP_benchmark's layout of a dataset: tars with `.cls` or `.txt` beside the images, class names and prompts in its folder.
//!
//! What is in the tars becomes a dataset in the state folder. A second evaluation adds nothing to it and reads it from there.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use diptych_pipeline::ingest::{IngestRequest, ingest};
use diptych_schemas::{ContentHash, SchemaError, column};

use crate::commands::ingest::{Attempt, attempt};
use crate::output::{line, thousands};

const CLASS_NAMES: &str = "classnames.txt";
const TEMPLATES: &str = "zeroshot_classification_templates.txt";

/// What such a folder holds.
pub(super) struct Benchmark {
    pub(super) name: String,
    folder: PathBuf,
    /// Captions, and not classes.
    pub(super) is_retrieval: bool,
}

impl Benchmark {
    pub(super) fn read(folder: &Path) -> anyhow::Result<Self> {
        let kind = match std::fs::read_to_string(folder.join("dataset_type.txt")) {
            Ok(kind) => kind.trim().to_lowercase(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "classification".to_owned(),
            Err(error) => return Err(SchemaError::io(folder.join("dataset_type.txt"))(error).into()),
        };
        let is_retrieval = match kind.as_str() {
            "classification" => false,
            "retrieval" => true,
            other => {
                bail!("{}: a dataset of the type {other:?}; what is evaluated is classification and retrieval", folder.display())
            }
        };
        let name = folder.file_name().map_or_else(|| "benchmark".into(), |name| name.to_string_lossy().into_owned());
        Ok(Self { name, folder: folder.to_owned(), is_retrieval })
    }

    pub(super) fn class_names(&self) -> PathBuf {
        self.folder.join(CLASS_NAMES)
    }

    pub(super) fn templates(&self) -> Option<PathBuf> {
        let path = self.folder.join(TEMPLATES);
        path.is_file().then_some(path)
    }

    /// The column of meta with the label: `.cls` takes the caption's place, since such images have no caption.
    pub(super) fn label_column() -> &'static str {
        column::CAPTION
    }

    /// The pairs of a split as a dataset; `None` where there is no such split.
    pub(super) fn split(&self, split: &str, state: &Path) -> anyhow::Result<Option<PathBuf>> {
        let tars = self.folder.join(split);
        if !tars.is_dir() {
            return Ok(None);
        }
        let whole = std::fs::canonicalize(&tars).map_err(SchemaError::io(&tars))?;
        let hash = ContentHash::of(whole.as_os_str().as_encoded_bytes()).to_string();
        let dataset = state.join("benchmarks").join(format!("{}-{split}-{hash:.12}", self.name));
        let pattern = tars.join("*.tar").to_string_lossy().into_owned();
        let ended = attempt(|_, progress| {
            let mut request = IngestRequest::new(vec![pattern], &dataset);
            request.caption_column = (!self.is_retrieval).then(|| "cls".to_owned());
            ingest(&request, progress)
        })
        .with_context(|| format!("reading {}", tars.display()))?;
        match ended {
            Attempt::Done(report) if report.pairs_total > 0 => {
                line(format!("{}: {} pairs in {}", tars.display(), thousands(report.pairs_total), dataset.display()))?;
                Ok(Some(dataset))
            }
            Attempt::Done(_) => {
                bail!("{}: no pair came out of its tars; diptych ledger --dataset {} says why", tars.display(), dataset.display())
            }
            Attempt::Stopped(_) => bail!("stopped while {} was read; the same command goes on from there", tars.display()),
        }
    }
}
