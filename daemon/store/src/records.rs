//! The records that the store keeps of runs, checkpoints, events, jobs and steps. Data only.

use std::fmt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use diptych_schemas::{ContentHash, SampleIndex, Step};
use serde::{Deserialize, Serialize};

use super::error::StoreError;

/// Milliseconds since 1970, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Milliseconds(pub i64);

impl Milliseconds {
    pub fn now() -> Self {
        // A clock before 1970 is wrong, but no reason to stop a run.
        Self(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as i64))
    }
}

/// The name of a run, which identifies it in a state folder. It has 1 to 100 letters, digits, `-`,
/// `_` or `.`, and does not start with `.`. So it is safe as the name of a folder and as part of a
/// key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunName(String);

impl RunName {
    pub fn new(name: &str) -> Result<Self, StoreError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let valid =
            (1..=100).contains(&name.len()) && name.chars().all(plain) && !name.starts_with('.');
        if valid { Ok(Self(name.to_owned())) } else { Err(StoreError::RunName(name.to_owned())) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the prefix of this run's keys. The final zero, which no name contains, keeps `a`
    /// apart from `ab`.
    pub(super) fn key(&self) -> Vec<u8> {
        let mut key = self.0.as_bytes().to_vec();
        key.push(0);
        key
    }

    /// Returns [`RunName::key`] followed by a step.
    pub(super) fn step_key(&self, step: Step) -> Vec<u8> {
        let mut key = self.key();
        key.extend(step.0.to_be_bytes());
        key
    }
}

impl fmt::Display for RunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RunName {
    type Error = StoreError;

    fn try_from(name: String) -> Result<Self, StoreError> {
        Self::new(&name)
    }
}

impl From<RunName> for String {
    fn from(name: RunName) -> Self {
        name.0
    }
}

/// The state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    Running,
    /// Stopped on request. It can be resumed.
    Stopped,
    Failed,
    Finished,
}

impl RunState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Finished => "finished",
        }
    }
}

/// A run and its progress. See [`diptych_schemas::runs_schema`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    pub run: RunName,
    pub state: RunState,
    /// Completed steps.
    pub step: Step,
    pub total_steps: Step,
    /// Position in the stream of samples after `step`.
    pub samples: SampleIndex,
    /// Samples left out because their image was unusable.
    pub skipped: u64,
    pub started: Milliseconds,
    pub updated: Milliseconds,
    /// The model's name.
    pub model: String,
    /// Number of the model's parameters. Runs of earlier versions have 0 here, and empty texts in
    /// the two fields below.
    #[serde(default)]
    pub parameters: u64,
    /// The device that it trains on.
    #[serde(default)]
    pub device: String,
    /// The machine's name.
    #[serde(default)]
    pub host: String,
    pub config_hash: ContentHash,
    pub selection_hash: ContentHash,
    pub dataset_hash: ContentHash,
    pub tokenizer_hash: ContentHash,
    /// Version of diptych.
    pub version: String,
    /// The configuration, as TOML.
    pub config: String,
    /// Why it failed or stopped.
    pub message: Option<String>,
}

/// A checkpoint that exists. See [`diptych_schemas::checkpoints_schema`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointRecord {
    pub run: RunName,
    pub step: Step,
    /// Position in the stream of samples where a resumed run continues.
    pub samples: SampleIndex,
    pub epoch: f64,
    pub time: Milliseconds,
    /// Its folder.
    pub path: PathBuf,
    pub weights_hash: ContentHash,
    /// Size of all its files.
    pub bytes: u64,
    /// The text of the folder's `manifest.json`, so that the folder can be compared with what was
    /// acknowledged.
    pub manifest: String,
}

/// The kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    SkippedStep,
    RollBack,
    LossSpike,
    LossStuck,
    DataWait,
    LogitScale,
    CheckpointFailed,
    /// The store could not be written for a while.
    StoreFailed,
    Stall,
    /// The training loss falls while the loss of held-out pairs rises.
    Overfitting,
}

/// An observation of a guard. See [`diptych_schemas::events_schema`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    pub run: RunName,
    pub step: Step,
    pub samples: SampleIndex,
    pub time: Milliseconds,
    pub kind: EventKind,
    pub message: String,
}

/// The kind of a job: the command that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    Train,
    Embed,
    Ingest,
    Score,
    Select,
    Dedup,
    Eval,
    Export,
}

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Queued,
    Running,
    /// Asked to pause. It continues when it is resumed.
    Pausing,
    Paused,
    /// Asked to stop for good.
    Cancelling,
    Cancelled,
    Done,
    Failed,
}

impl JobKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Embed => "embed",
            Self::Ingest => "ingest",
            Self::Score => "score",
            Self::Select => "select",
            Self::Dedup => "dedup",
            Self::Eval => "eval",
            Self::Export => "export",
        }
    }
}

impl JobState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// Whether the job stays in this state unless it is asked to change.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Cancelled | Self::Done | Self::Failed)
    }
}

/// A job of the service and its progress. See [`diptych_schemas::jobs_schema`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its number: from 1, in the order of submission.
    pub id: u64,
    pub kind: JobKind,
    pub state: JobState,
    /// The highest starts first; of equals, the oldest.
    pub priority: i64,
    /// Jobs that must be done before it starts.
    pub after: Vec<u64>,
    /// The run that it trains.
    pub run: Option<RunName>,
    /// For a training: its configuration, as TOML with absolute paths.
    pub config: Option<String>,
    /// For all other kinds: the arguments of the command, as after `diptych KIND`.
    pub args: Vec<String>,
    /// The folder that relative paths in them refer to.
    pub folder: PathBuf,
    /// Number of tries since it last made progress.
    pub attempt: u32,
    /// Time of the next try, if it failed.
    pub not_before: Option<Milliseconds>,
    /// Step of its run's newest checkpoint when it was last started.
    pub step_at_start: u64,
    pub created: Milliseconds,
    pub started: Option<Milliseconds>,
    pub ended: Option<Milliseconds>,
    /// Version of diptych that last started it.
    pub version: String,
    pub message: Option<String>,
}

/// The metrics of one step. See [`diptych_schemas::metrics_schema`].
#[derive(Clone, Debug, PartialEq)]
pub struct MetricRow {
    pub step: Step,
    pub samples: SampleIndex,
    pub time: Milliseconds,
    /// Names and values.
    pub values: Vec<(String, f64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_folder_or_run_into_another_key_are_refused() {
        for name in ["", ".", "../a", "a/b", "a\0b", "ä", &"a".repeat(101)] {
            assert!(RunName::new(name).is_err(), "{name:?}");
            assert!(serde_json::from_value::<RunName>(name.into()).is_err());
        }
        for name in ["a", "demo-1_b.2", &"a".repeat(100)] {
            assert_eq!(RunName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn the_text_form_of_a_kind_is_its_serialized_form() {
        use EventKind::{
            CheckpointFailed, DataWait, LogitScale, LossSpike, LossStuck, Overfitting, RollBack,
            SkippedStep, Stall, StoreFailed,
        };
        for kind in [
            SkippedStep,
            RollBack,
            LossSpike,
            LossStuck,
            DataWait,
            LogitScale,
            CheckpointFailed,
            StoreFailed,
            Stall,
            Overfitting,
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    #[test]
    fn the_text_form_of_a_state_is_its_serialized_form() {
        for state in [RunState::Running, RunState::Stopped, RunState::Failed, RunState::Finished] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
