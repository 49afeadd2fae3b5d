//! Settings of a run without supervision: checkpoints, evaluation while training, guards and
//! metrics.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::words::did_you_mean;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Save every this many steps; 0: not by steps.
    pub every_steps: u64,
    /// Save at the end of every this many epochs; 0: not by epochs. The end of the run is always
    /// saved.
    pub every_epochs: u64,
    /// Save every this many samples; 0: not by samples.
    pub every_samples: u64,
    /// Save every this many minutes; 0: not by time. Such a checkpoint depends on the clock. So a
    /// run rolls back to one only if none is saved by steps, epochs or samples.
    pub every_minutes: f64,
    /// Number of newest checkpoints that are kept; 0: all.
    pub keep_last: usize,
    /// Number of best checkpoints by `best_metric` that are kept in addition; 0: none. One is saved
    /// after each evaluation that improves the metric. `RUN@best` names the best.
    pub keep_best: usize,
    /// A metric of an evaluation: `heldout/i2t_recall@1`, `heldout/zero_shot_top1`,
    /// `heldout_ema/…`.
    pub best_metric: String,
    /// `max` (larger is better) or `min`.
    pub best_mode: BestMode,
}

/// The score of a suite among a run's metrics.
pub const SUITE_SCORE: &str = "suite/score";

/// The direction in which a metric improves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BestMode {
    Max,
    Min,
}

/// Retrieval and zero-shot classification on held-out pairs while training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// Selection of held-out pairs of the training dataset or of `dataset`. Without it, there is no
    /// such evaluation while training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selection: Option<PathBuf>,
    /// Dataset of `selection`. Default: the training dataset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset: Option<PathBuf>,
    /// Class names, one per line. Adds zero-shot classification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<PathBuf>,
    /// Column of meta with the true class: its name, or its line number in `classes`, counted from
    /// 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
    /// Prompts, one per line, with {} for the class name. Default: the class name alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub templates: Option<PathBuf>,
    /// Evaluate at the end of every this many epochs; 0: not by epochs. The end of the run is
    /// always evaluated.
    pub every_epochs: u64,
    /// Evaluate every this many steps; 0: not by steps.
    pub every_steps: u64,
    /// Evaluate every this many samples; 0: not by samples.
    pub every_samples: u64,
    /// Longest duration of an evaluation while training, in seconds; 0: no limit. When it ends
    /// early, the pairs encoded so far count (at least 32), and their number is recorded. Such a
    /// result does not choose the best checkpoint. The evaluation at the end has no limit.
    pub max_seconds: f64,
    /// A suite (`diptych eval --suite`) that is run while training, recorded as `suite/score` and
    /// `suite/…`. It is also run on the best checkpoint if that has no score yet. The end of the
    /// run is always evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suite: Option<PathBuf>,
    /// Run the suite at the end of every this many epochs; 0: not by epochs.
    pub suite_every_epochs: u64,
    /// Run the suite every this many steps; 0: not by steps.
    pub suite_every_steps: u64,
    /// Longest duration of a suite while training, in seconds; 0: no limit. A suite that ends early
    /// has no score. The suite at the end has no limit.
    pub suite_max_seconds: f64,
}

/// Guards that watch a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GuardConfig {
    /// Consecutive steps with a NaN or infinite loss or gradient, after which the run goes back to
    /// the last good checkpoint.
    pub max_skipped_steps: u64,
    /// Roll-backs without progress after which the run fails. Progress means ten times
    /// max_skipped_steps steps with an update.
    pub max_roll_backs: u64,
    /// Number of steps over which spikes, waiting for data, a constant loss and the logit scale are
    /// judged.
    pub window_steps: u64,
    /// A loss this many standard deviations above the mean of the window before it is a spike; 0:
    /// no warning.
    pub spike_std: f64,
    /// Consecutive steps with a loss within 2% of that of a model that cannot tell pairs apart,
    /// after which a warning is recorded; 0: never.
    pub stuck_steps: u64,
    /// Share of a window's time spent waiting for data, above which a warning names the slowest
    /// stage; 0: never.
    pub data_wait_share: f64,
    /// Minutes without a finished step after which an alarm is raised; 0: never.
    pub stall_minutes: f64,
    /// Action after the alarm: `alarm` (none), `exit` (exit code 5, so that a supervisor restarts
    /// the run) or `abort` (SIGABRT, for a core dump).
    pub stall_action: StallAction,
}

/// The action of a stalled run after its alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StallAction {
    Alarm,
    Exit,
    Abort,
}

/// Destinations of metrics other than the state folder, and how many metrics that folder keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Event files for TensorBoard, in a folder named like the run: `false`, `true` (in
    /// tensorboard/ in the state folder) or a folder.
    pub tensorboard: TensorBoard,
    /// Newest steps for which the state folder keeps all metrics; 0: all steps. About 350 bytes per
    /// step.
    pub keep_raw_steps: u64,
    /// Of older steps, those whose number is a multiple of this are kept, and those with an
    /// evaluation.
    pub keep_one_of: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "metrics.tensorboard must be true, false or the name of a folder")]
pub enum TensorBoard {
    Wanted(bool),
    Folder(PathBuf),
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { tensorboard: TensorBoard::default(), keep_raw_steps: 1_000_000, keep_one_of: 100 }
    }
}

impl MetricsConfig {
    pub(crate) fn validate(&self) -> Result<(), String> {
        check(self.keep_one_of >= 1, || {
            "metrics.keep_one_of must be at least 1 (1: keep every step)".into()
        })
    }
}

impl Default for TensorBoard {
    fn default() -> Self {
        Self::Wanted(false)
    }
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            every_steps: 1000,
            every_epochs: 1,
            every_samples: 0,
            every_minutes: 0.0,
            keep_last: 3,
            keep_best: 0,
            best_metric: "heldout/i2t_recall@1".into(),
            best_mode: BestMode::Max,
        }
    }
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            max_skipped_steps: 5,
            max_roll_backs: 3,
            window_steps: 100,
            spike_std: 6.0,
            stuck_steps: 1000,
            data_wait_share: 0.2,
            stall_minutes: 30.0,
            stall_action: StallAction::Alarm,
        }
    }
}

/// Returns whether something that happens every `every` samples is due after a step from `before`
/// to `after` samples.
pub fn due_by_samples(every: u64, before: u64, after: u64) -> bool {
    every > 0 && after / every > before / every
}

fn check(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}

impl CheckpointConfig {
    pub(crate) fn validate(&self, eval: &EvalConfig, averages: bool) -> Result<(), String> {
        check(self.every_minutes >= 0.0 && self.every_minutes.is_finite(), || {
            format!("checkpoint.every_minutes must be at least 0, got {}", self.every_minutes)
        })?;
        if self.keep_best == 0 {
            return Ok(());
        }
        check(eval.selection.is_some() || eval.suite.is_some(), || {
            "checkpoint.keep_best is set, but neither eval.selection nor eval.suite is: set one of \
             them, which decides what is best"
                .into()
        })?;
        let known = eval.metrics(averages);
        check(known.contains(&self.best_metric), || {
            format!(
                "checkpoint.best_metric = {:?}: no such metric is recorded{}. Known metrics: {}",
                self.best_metric,
                did_you_mean(&self.best_metric, known.iter().map(String::as_str)),
                known.join(", ")
            )
        })
    }
}

impl EvalConfig {
    /// Returns the names of the metrics that an evaluation records and that can choose the best
    /// checkpoint.
    pub fn metrics(&self, averages: bool) -> Vec<String> {
        let mut names = Vec::new();
        if self.suite.is_some() {
            names.push(SUITE_SCORE.to_owned());
        }
        if self.selection.is_none() {
            return names;
        }
        for group in ["heldout", "heldout_ema"].into_iter().take(1 + usize::from(averages)) {
            for direction in ["i2t", "t2i"] {
                names.extend([1, 5, 10].map(|k| format!("{group}/{direction}_recall@{k}")));
            }
            names.push(format!("{group}/loss"));
            if self.classes.is_some() {
                names.extend(
                    ["top1", "top5", "mean_per_class"]
                        .map(|name| format!("{group}/zero_shot_{name}")),
                );
            }
        }
        names
    }

    pub(crate) fn validate(&self, mixed: bool) -> Result<(), String> {
        check(self.max_seconds >= 0.0 && self.max_seconds.is_finite(), || {
            format!("eval.max_seconds must be at least 0 (0: no limit), got {}", self.max_seconds)
        })?;
        check(self.suite_max_seconds >= 0.0 && self.suite_max_seconds.is_finite(), || {
            format!(
                "eval.suite_max_seconds must be at least 0 (0: no limit), got {}",
                self.suite_max_seconds
            )
        })?;
        let schedule = self.suite_every_epochs > 0
            || self.suite_every_steps > 0
            || self.suite_max_seconds > 0.0;
        check(self.suite.is_some() || !schedule, || {
            "eval.suite_every_epochs, suite_every_steps or suite_max_seconds is set, but \
             eval.suite is not: set it to the suite's file"
                .into()
        })?;
        let set = [
            ("dataset", self.dataset.is_some()),
            ("every_epochs", self.every_epochs > 0),
            ("every_steps", self.every_steps > 0),
            ("every_samples", self.every_samples > 0),
            ("classes", self.classes.is_some()),
        ];
        for (key, is_set) in set {
            check(self.selection.is_some() || !is_set, || {
                format!(
                    "eval.{key} is set, but eval.selection is not: set it to the held-out \
                     selection, or remove eval.{key}"
                )
            })?;
        }
        check(self.selection.is_none() || self.dataset.is_some() || !mixed, || {
            "eval.dataset is missing: with data.mix, set it to the dataset of eval.selection".into()
        })?;
        check(self.classes.is_some() == self.label_column.is_some(), || {
            "eval.classes and eval.label_column belong together: set both or none".into()
        })?;
        check(self.templates.is_none() || self.classes.is_some(), || {
            "eval.templates is set, but eval.classes is not: set it to the list of classes, or \
             remove eval.templates"
                .into()
        })
    }
}

impl GuardConfig {
    pub(crate) fn validate(&self) -> Result<(), String> {
        check(self.max_skipped_steps >= 1, || "guard.max_skipped_steps must be at least 1".into())?;
        check(self.max_roll_backs >= 1, || "guard.max_roll_backs must be at least 1".into())?;
        check(self.window_steps >= 2, || {
            format!("guard.window_steps must be at least 2, got {}", self.window_steps)
        })?;
        check(self.spike_std >= 0.0, || {
            format!("guard.spike_std must be at least 0 (0: off), got {}", self.spike_std)
        })?;
        check((0.0..1.0).contains(&self.data_wait_share), || {
            format!(
                "guard.data_wait_share must be in [0, 1) (0: off), got {}",
                self.data_wait_share
            )
        })?;
        check(self.stall_minutes >= 0.0 && self.stall_minutes.is_finite(), || {
            format!("guard.stall_minutes must be at least 0 (0: off), got {}", self.stall_minutes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TrainConfig;

    fn parse(add: &str) -> Result<TrainConfig, String> {
        let smallest = "name = \"a\"\n[data]\ndataset = \"d\"\nselection = \
            \"s.parquet\"\n[model]\nconfig = \"demo\"\n";
        TrainConfig::parse(&format!("{smallest}{add}"))
    }

    #[test]
    fn contradictions_are_refused() {
        for (add, says) in [
            ("[checkpoint]\nkeep_best = 1\n", "eval.selection"),
            (
                "[checkpoint]\nkeep_best = 1\nbest_metric = \"loss\"\n[eval]\nselection = \"h\"\n",
                "heldout/t2i_recall@10",
            ),
            (
                "[checkpoint]\nkeep_best = 1\nbest_metric = \
                 \"heldout_ema/i2t_recall@1\"\n[eval]\nselection = \"h\"\n",
                "best_metric",
            ),
            ("[checkpoint]\nbest_mode = \"most\"\n", "max or min"),
            ("[checkpoint]\nevery_minutes = -1.0\n", "checkpoint.every_minutes"),
            ("[eval]\nselection = \"h\"\nclasses = \"c\"\n", "eval.label_column"),
            ("[eval]\nevery_steps = 3\n", "eval.selection"),
            ("[eval]\nsuite_every_steps = 3\n", "eval.suite"),
            ("[eval]\nsuite = \"s\"\nsuite_max_seconds = -1.0\n", "eval.suite_max_seconds"),
            ("[checkpoint]\nkeep_best = 1\n[eval]\nsuite = \"s\"\n", "suite/score"),
            ("[guard]\nmax_skipped_steps = 0\n", "guard.max_skipped_steps"),
            ("[guard]\ndata_wait_share = 20.0\n", "guard.data_wait_share"),
            ("[guard]\nstall_action = \"reboot\"\n", "exit"),
            ("[metrics]\nkeep_one_of = 0\n", "metrics.keep_one_of"),
            ("[metrics]\ntensorboard = 3\n", "true, false or the name of a folder"),
        ] {
            let error = parse(add).unwrap_err();
            assert!(error.contains(says), "{add}: {error}");
        }
    }

    #[test]
    fn tensorboard_is_wanted_or_a_folder_and_none_of_this_is_part_of_the_weights() {
        let config = parse("[metrics]\ntensorboard = true\n[guard]\nwindow_steps = 7\n").unwrap();
        assert_eq!(config.metrics.tensorboard, TensorBoard::Wanted(true));
        let named =
            parse("[metrics]\ntensorboard = \"board\"\n[checkpoint]\nevery_minutes = 2.5\n")
                .unwrap();
        assert_eq!(named.metrics.tensorboard, TensorBoard::Folder("board".into()));
        assert_eq!(TrainConfig::parse(&named.to_toml()).unwrap(), named);
        assert_eq!(config.training_hash(), named.training_hash());
        let suite = parse("[eval]\nsuite = \"s\"\nsuite_every_steps = 3\n").unwrap();
        assert_eq!(config.training_hash(), suite.training_hash());
        let thinned = parse("[metrics]\nkeep_raw_steps = 7\nkeep_one_of = 3\n").unwrap();
        assert_eq!(config.training_hash(), thinned.training_hash());
    }

    #[test]
    fn samples_make_something_due_when_a_multiple_of_them_is_passed() {
        let at = |places: &[u64]| {
            places.windows(2).map(|pair| due_by_samples(100, pair[0], pair[1])).collect::<Vec<_>>()
        };
        assert_eq!(at(&[0, 64, 128, 192, 256, 300]), [false, true, false, true, true]);
        assert!(!due_by_samples(0, 0, 1000));
    }
}
