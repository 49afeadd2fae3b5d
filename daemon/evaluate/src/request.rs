//! What an evaluation is asked for, without a command line.

use std::path::PathBuf;

use diptych_pipeline::ingest::IngestProgress;
use diptych_schemas::PairChoice;
use diptych_trainer::evaluate::Bootstrap;

/// One evaluation: on which pairs, which tasks, and how they are measured.
#[derive(Clone, Debug)]
pub struct Request {
    pub subject: Subject,
    /// Without any: retrieval, and zero-shot where classes are named; of a benchmark, what it is for.
    pub tasks: Vec<Task>,
    pub settings: Settings,
}

/// The pairs that are evaluated on.
#[derive(Clone, Debug)]
pub struct Subject {
    pub source: PairSource,
    /// Columns of meta with further captions of an image: one text, or a JSON list of texts.
    pub more_captions: Vec<String>,
    /// Whether only the very pair counts as right, and not others with the same caption.
    pub strict_pairs: bool,
    /// A column or an SQL expression whose values make groups.
    pub group_by: Option<String>,
}

/// Where the pairs come from.
#[derive(Clone, Debug)]
pub enum PairSource {
    Dataset {
        /// A folder, or a URL.
        dataset: PathBuf,
        pairs: PairChoice,
        classes: Option<ClassSource>,
        /// Labelled pairs of the same dataset to learn from.
        train_selection: Option<PathBuf>,
    },
    /// A folder in `CLIP_benchmark`'s layout, or with folders by class.
    Benchmark(PathBuf),
}

/// The classes of a dataset's pairs.
#[derive(Clone, Debug)]
pub struct ClassSource {
    /// A file with one class name a line. Without it: the labels that the pairs have, and pairs without a label are left out.
    pub names: Option<PathBuf>,
    /// Column of meta with the true class.
    pub label_column: String,
    /// A file with one prompt a line.
    pub templates: Option<PathBuf>,
}

/// How it is measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Neighbours that vote.
    pub k: usize,
    /// A neighbour's vote weighs exp(cosine / this), as in DINO; 0: one vote each.
    pub knn_temperature: f64,
    /// scikit-learn's C of linear probes; without it, linear-probe sweeps and few-shot takes 0.316.
    pub probe_c: Option<f64>,
    /// Training images a class for few-shot.
    pub shots: Vec<usize>,
    /// Seed of few-shot draws, validation splits and resamples.
    pub seed: u64,
    /// Resamples of the images for intervals; 0: no intervals.
    pub resamples: usize,
    /// Pairs that are encoded at a time.
    pub batch_size: usize,
    /// Decoding threads; 0: one for each core.
    pub threads: usize,
}

impl Default for Settings {
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

impl Settings {
    /// How intervals are made.
    pub fn bootstrap(&self) -> Bootstrap {
        Bootstrap { resamples: self.resamples, seed: self.seed, ..Bootstrap::default() }
    }
}

/// What is measured.
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

    /// The name that users write.
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

    /// The task of a name that users write.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|task| task.name() == name)
    }

    /// Whether it learns from labelled pairs.
    pub fn learns(self) -> bool {
        matches!(self, Self::LinearProbe | Self::Knn | Self::FewShot)
    }
}

/// How the caller steers an evaluation while it works.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    /// Asked again and again, at least every tenth of a second while it waits.
    pub go_on: &'a dyn Fn() -> bool,
    /// Called while a benchmark's images are read.
    pub on_ingest: &'a dyn Fn(&IngestProgress),
}

impl Control<'_> {
    /// Lets it run to its end, unseen.
    pub const NONE: Control<'static> = Control { go_on: &|| true, on_ingest: &|_| {} };

    /// Fails with [`Stopped`] where it was asked to stop.
    pub fn check(&self) -> Result<(), Stopped> {
        if (self.go_on)() { Ok(()) } else { Err(Stopped) }
    }
}

/// The caller asked an evaluation to stop before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the evaluation was stopped")]
pub struct Stopped;
