//! The request for an evaluation, independent of the command line.

use std::path::PathBuf;

use diptych_pipeline::ingest::IngestProgress;
use diptych_schemas::PairChoice;
use diptych_trainer::evaluate::Bootstrap;

/// An evaluation: its pairs, tasks and settings.
#[derive(Clone, Debug)]
pub struct Request {
    pub subject: Subject,
    /// Without tasks: retrieval, and zero-shot if there are classes. For a benchmark, the task it
    /// is made for.
    pub tasks: Vec<Task>,
    pub settings: EvalSettings,
}

/// The pairs of an evaluation.
#[derive(Clone, Debug)]
pub struct Subject {
    pub source: PairSource,
    /// Columns of meta with further captions of an image: one text, or a JSON list of texts.
    pub more_captions: Vec<String>,
    /// Whether only the exact pair counts as right, and not others with the same caption.
    pub strict_pairs: bool,
    /// A column or an SQL expression whose values form groups.
    pub group_by: Option<String>,
}

/// The source of pairs.
#[derive(Clone, Debug)]
pub enum PairSource {
    Dataset {
        /// A folder, or a URL.
        dataset: PathBuf,
        pairs: PairChoice,
        classes: Option<ClassSource>,
        /// Labelled pairs of this dataset to learn from.
        train_selection: Option<PathBuf>,
    },
    /// A folder in `CLIP_benchmark`'s layout, or with folders by class.
    Benchmark(PathBuf),
}

/// The classes of a dataset's pairs.
#[derive(Clone, Debug)]
pub struct ClassSource {
    /// A file with one class name per line. Without it the classes are the labels of the pairs, and
    /// pairs without a label are left out.
    pub names: Option<PathBuf>,
    /// Column of meta with the true class.
    pub label_column: String,
    /// A file with one prompt per line.
    pub templates: Option<PathBuf>,
}

/// The settings of a measurement.
#[derive(Clone, Debug)]
pub struct EvalSettings {
    /// Number of neighbours that vote.
    pub k: usize,
    /// Temperature T of a neighbour's vote exp(cosine / T), as in DINO. With 0, all votes are
    /// equal.
    pub knn_temperature: f64,
    /// scikit-learn's C of linear probes. Without it linear-probe sweeps, and few-shot uses 0.316.
    pub probe_c: Option<f64>,
    /// Training images per class for few-shot.
    pub shots: Vec<usize>,
    /// Seed of few-shot draws, validation splits and resamples.
    pub seed: u64,
    /// Number of resamples for intervals. 0 for none.
    pub resamples: usize,
    /// Number of pairs encoded at a time.
    pub batch_size: usize,
    /// Number of decoding threads. 0 for one per core.
    pub threads: usize,
}

impl Default for EvalSettings {
    fn default() -> Self {
        let shots = vec![1, 2, 4, 8, 16];
        Self {
            k: 20,
            knn_temperature: 0.07,
            probe_c: None,
            shots,
            seed: 0,
            resamples: 1000,
            batch_size: 64,
            threads: 0,
        }
    }
}

impl EvalSettings {
    /// Returns the settings of intervals.
    pub fn bootstrap(&self) -> Bootstrap {
        Bootstrap { resamples: self.resamples, seed: self.seed, ..Bootstrap::default() }
    }
}

/// A kind of measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Retrieval,
    ZeroShot,
    MultiLabel,
    LinearProbe,
    Knn,
    FewShot,
}

impl Task {
    /// Every task.
    pub const ALL: [Self; 6] = [
        Self::Retrieval,
        Self::ZeroShot,
        Self::MultiLabel,
        Self::LinearProbe,
        Self::Knn,
        Self::FewShot,
    ];

    /// Returns the name that users write.
    pub fn name(self) -> &'static str {
        match self {
            Self::Retrieval => "retrieval",
            Self::ZeroShot => "zero-shot",
            Self::MultiLabel => "multi-label",
            Self::LinearProbe => "linear-probe",
            Self::Knn => "knn",
            Self::FewShot => "few-shot",
        }
    }

    /// Returns the task with a name that users write.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|task| task.name() == name)
    }

    /// Returns whether the task learns from labelled pairs.
    pub fn learns(self) -> bool {
        matches!(self, Self::LinearProbe | Self::Knn | Self::FewShot)
    }
}

/// The caller's control over a running evaluation.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    /// Says whether to continue. Called frequently, at least every tenth of a second during a wait.
    pub go_on: &'a dyn Fn() -> bool,
    /// Called while a benchmark's images are read.
    pub on_ingest: &'a dyn Fn(&IngestProgress),
}

impl Control<'_> {
    /// Never stops, and ignores progress.
    pub const NONE: Control<'static> = Control { go_on: &|| true, on_ingest: &|_| {} };

    /// Fails with [`Stopped`] if a stop is requested.
    pub fn check(&self) -> Result<(), Stopped> {
        if (self.go_on)() { Ok(()) } else { Err(Stopped) }
    }
}

/// The error of an evaluation that was stopped by its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the evaluation was stopped")]
pub struct Stopped;
