//! Datasets for evaluation in foreign layouts: CLIP_benchmark's tars, and folders by class.
//!
//! CLIP_benchmark's tars have `.cls`, `.npy` or `.txt` next to the images, and class names and
//! prompts in their folder. Folders by class are those of torchvision's `ImageFolder`. The images
//! become a dataset in the state folder, from which a second evaluation reads them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use diptych_pipeline::ingest::{Captions, IngestError, IngestRequest, ingest};
use diptych_schemas::words::thousands;
use diptych_schemas::{ContentHash, SchemaError, column};

use crate::request::{Control, Stopped};

const CLASS_NAMES: &str = "classnames.txt";
const TEMPLATES: &str = "zeroshot_classification_templates.txt";

/// The kind of annotation of the images.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// One class per image.
    Classes,
    /// Any number of classes per image.
    ManyClasses,
    Captions,
}

/// The content of a benchmark folder.
pub(crate) struct Benchmark {
    pub name: String,
    folder: PathBuf,
    pub kind: Kind,
    /// Names of the folders by class, sorted. Their positions are the classes' numbers. `None` for
    /// tars.
    pub folders: Option<Vec<String>>,
}

impl Benchmark {
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        let kind = match std::fs::read_to_string(folder.join("dataset_type.txt")) {
            Ok(kind) => kind.trim().to_lowercase(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                "classification".to_owned()
            }
            Err(error) => {
                return Err(SchemaError::io(folder.join("dataset_type.txt"))(error).into());
            }
        };
        let kind = match kind.as_str() {
            "classification" => Kind::Classes,
            "multilabel" => Kind::ManyClasses,
            "retrieval" => Kind::Captions,
            other => {
                let known = "classification, multilabel and retrieval";
                bail!(
                    "{}: the dataset has the type {other:?}; supported types are {known}",
                    folder.display()
                )
            }
        };
        let name = folder
            .file_name()
            .map_or_else(|| "benchmark".into(), |name| name.to_string_lossy().into_owned());
        let mut benchmark = Self { name, folder: folder.to_owned(), kind, folders: None };
        let test = benchmark.place("test");
        if tars_in(&test)?.is_empty() {
            let classes = subfolders(&test)?;
            benchmark.folders = (!classes.is_empty()).then_some(classes);
        }
        Ok(benchmark)
    }

    /// Returns the folder of a split. With folders by class, the test split may be `val` or the
    /// folder itself.
    fn place(&self, split: &str) -> PathBuf {
        let place = |name: &str| self.folder.join(name);
        let is_there = |name: &str| place(name).is_dir();
        match split {
            "test" if is_there("test") => place("test"),
            "test" if is_there("val") => place("val"),
            "test" if !is_there("train") => self.folder.clone(),
            _ => place(split),
        }
    }

    /// Returns the file of class names, one per line. `None` if the folders by class give the
    /// names.
    pub(crate) fn class_names(&self) -> Option<PathBuf> {
        let path = self.folder.join(CLASS_NAMES);
        (self.folders.is_none() || path.is_file()).then_some(path)
    }

    pub(crate) fn templates(&self) -> Option<PathBuf> {
        let path = self.folder.join(TEMPLATES);
        path.is_file().then_some(path)
    }

    /// Returns the column of meta with the label.
    ///
    /// `.cls` and `.npy` take the caption's place, since such images have no caption.
    pub(crate) fn label_column() -> &'static str {
        column::CAPTION
    }

    /// Reads the pairs of a split into a dataset in the state folder. Returns `None` if there is no
    /// such split.
    ///
    /// Fails with [`Stopped`] if `control` says so. The next call continues from there.
    pub(crate) fn split(
        &self,
        split: &str,
        state: &Path,
        control: Control<'_>,
    ) -> anyhow::Result<Option<PathBuf>> {
        let tars = self.place(split);
        if !tars.is_dir() || (self.folders.is_none() && tars_in(&tars)?.is_empty()) {
            return Ok(None);
        }
        let whole = std::fs::canonicalize(&tars).map_err(SchemaError::io(&tars))?;
        let hash = ContentHash::of(whole.as_os_str().as_encoded_bytes()).to_string();
        let dataset = state.join("benchmarks").join(format!("{}-{split}-{hash:.12}", self.name));
        let sources = if self.folders.is_some() { vec![tars.clone()] } else { tars_in(&tars)? };
        let sources = sources.iter().map(|source| source.to_string_lossy().into_owned());
        let mut request = IngestRequest::new(sources.collect(), &dataset);
        if self.folders.is_some() {
            request.captions = Captions::Folder;
        } else {
            request.caption_column = match self.kind {
                Kind::Classes => Some("cls".to_owned()),
                Kind::ManyClasses => Some("npy".to_owned()),
                Kind::Captions => None,
            };
        }
        let ingested = ingest(&request, &mut |progress| {
            (control.on_ingest)(progress);
            if (control.go_on)() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        let report = match ingested {
            Err(IngestError::Stopped { .. }) => return Err(Stopped.into()),
            other => other.with_context(|| format!("cannot read {}", tars.display()))?,
        };
        if report.pairs_total == 0 {
            bail!(
                "{}: no pair could be read; see why with `diptych ledger --dataset {}`",
                tars.display(),
                dataset.display()
            );
        }
        tracing::info!(
            "{}: {} pairs in {}",
            tars.display(),
            thousands(report.pairs_total),
            dataset.display()
        );
        Ok(Some(dataset))
    }
}

/// Lists the tars of a folder, sorted. A folder that does not exist has none.
///
/// They are listed one by one, because in a pattern the folder's own name could have a special
/// meaning.
fn tars_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut tars = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(SchemaError::io(folder))? {
        let path = entry.map_err(SchemaError::io(folder))?.path();
        if path.extension().is_some_and(|ending| ending == "tar") {
            tars.push(path);
        }
    }
    tars.sort_unstable();
    Ok(tars)
}

/// Lists the names of folders in a folder, sorted by bytes as `ImageFolder` does.
fn subfolders(folder: &Path) -> anyhow::Result<Vec<String>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(SchemaError::io(folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
