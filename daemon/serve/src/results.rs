//! The best results of each run, for tables that rank runs. Metrics that were read once are not
//! read again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use diptych_schemas::Step;
use diptych_store::{MetricRow, Milliseconds, RunName, Store, StoreError};

/// Number of last steps whose mean is a run's loss.
const RECENT: usize = 100;
/// Prefixes of the names of evaluation results.
const GROUPS: [&str; 4] = ["heldout/", "heldout_ema/", "suite/", "eval/"];

/// The results of all runs that were requested so far.
#[derive(Default)]
pub(crate) struct Results {
    known: Mutex<HashMap<RunName, RunResults>>,
}

/// The results of one run.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunResults {
    /// The last step that was read, and the time at which it was recorded.
    read: Option<(Step, Milliseconds)>,
    /// The last losses, the oldest first.
    losses: VecDeque<f64>,
    /// Best and last values by name.
    pub(crate) figures: BTreeMap<String, Figure>,
}

/// The best and last value of a result over all evaluations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) best: Evaluated,
    pub(crate) last: Evaluated,
    /// The value of guessing, if it was recorded.
    pub(crate) chance: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Evaluated {
    pub(crate) step: Step,
    pub(crate) value: f64,
    /// Number of evaluated pairs, if it was recorded.
    pub(crate) pairs: Option<u64>,
}

impl Results {
    /// Reads the metrics that a run has recorded since the last call.
    pub(crate) fn of(&self, store: &Store, run: &RunName) -> Result<RunResults, StoreError> {
        let known = self.lock().get(run).cloned().unwrap_or_default();
        let mut now = match known.read {
            // A run that went back has recorded this step again, at another time.
            Some((step, time))
                if store.metrics_at(run, step)?.map(|row| row.time) != Some(time) =>
            {
                RunResults::default()
            }
            _ => known,
        };
        let next = now.read.map_or(0, |(step, _)| step.0.saturating_add(1));
        store.each_metric(run, Step(next), Step(u64::MAX), |row| now.take(row))?;
        self.lock().insert(run.clone(), now.clone());
        Ok(now)
    }

    /// Forgets a run because results were added to a step that may have been read already.
    pub(crate) fn forget(&self, run: &RunName) {
        self.lock().remove(run);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RunName, RunResults>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunResults {
    /// Returns the mean of the last losses.
    pub(crate) fn loss(&self) -> Option<f64> {
        let count = self.losses.len();
        (count > 0).then(|| self.losses.iter().sum::<f64>() / count as f64)
    }

    fn take(&mut self, row: &MetricRow) {
        self.read = Some((row.step, row.time));
        let recorded = |name: &str| {
            row.values.iter().find(|(other, _)| other == name).map(|(_, value)| *value)
        };
        for (name, value) in &row.values {
            if name == "loss" {
                self.losses.push_back(*value);
                if self.losses.len() > RECENT {
                    self.losses.pop_front();
                }
            }
            let Some((group, figure)) = figure_of(name) else { continue };
            let pairs = recorded(&format!("{group}/pairs")).map(|pairs| pairs as u64);
            let last = Evaluated { step: row.step, value: *value, pairs };
            let chance =
                chance_name(figure).and_then(|chance| recorded(&format!("{group}/{chance}")));
            let known =
                self.figures.entry(name.clone()).or_insert(Figure { best: last, last, chance });
            known.last = last;
            known.chance = chance.or(known.chance);
            let better = if less_is_better(name) {
                last.value < known.best.value
            } else {
                last.value > known.best.value
            };
            if better {
                known.best = last;
            }
        }
    }
}

impl Evaluated {
    /// Returns the 95% interval of a result that is a share of its pairs.
    pub(crate) fn interval(&self, name: &str) -> Option<diptych_trainer::evaluate::Interval> {
        let pairs = usize::try_from(self.pairs?).ok().filter(|pairs| *pairs > 0)?;
        is_part(name).then(|| diptych_trainer::evaluate::wilson(self.value, pairs))
    }
}

/// Splits the name of a result by which runs can be ranked into group and name.
fn figure_of(name: &str) -> Option<(&str, &str)> {
    let (group, figure) = name.rsplit_once('/')?;
    let known = GROUPS.iter().any(|group| name.starts_with(group));
    let constant =
        matches!(figure, "pairs" | "tasks" | "loss_batch_size") || figure.contains("chance_");
    (known && !constant).then_some((group, figure))
}

/// Returns the name of the metric that holds the value of guessing.
fn chance_name(figure: &str) -> Option<&'static str> {
    match figure {
        "i2t_recall@1" | "t2i_recall@1" => Some("chance_i2t_recall@1"),
        "zero_shot_top1" => Some("zero_shot_chance_top1"),
        _ => None,
    }
}

/// Whether smaller values are better.
pub(crate) fn less_is_better(name: &str) -> bool {
    name.contains("loss") || name.contains("perplexity")
}

/// Whether a result is the share of pairs for which something holds.
fn is_part(name: &str) -> bool {
    name.contains("recall@") || name.ends_with("top1") || name.ends_with("top5")
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_schemas::SampleIndex;

    fn row(step: u64, time: i64, values: &[(&str, f64)]) -> MetricRow {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        MetricRow { step: Step(step), samples: SampleIndex(step), time: Milliseconds(time), values }
    }

    #[test]
    fn best_is_the_best_and_goes_on_where_it_was_read_to() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (run, results) = (RunName::new("run").unwrap(), Results::default());
        let evaluated = |recall: f64, loss: f64| {
            vec![
                ("loss", 1.0),
                ("heldout/i2t_recall@1", recall),
                ("heldout/loss", loss),
                ("heldout/pairs", 100.0),
                ("heldout/chance_i2t_recall@1", 0.01),
                ("accuracy/mlm", 1.0),
            ]
        };
        store
            .append_metrics(&run, &[row(1, 1, &[("loss", 3.0)]), row(2, 2, &evaluated(0.5, 2.0))])
            .unwrap();
        store.append_metrics(&run, &[row(3, 3, &evaluated(0.4, 1.5))]).unwrap();
        let found = results.of(&store, &run).unwrap();
        let names: Vec<&str> = found.figures.keys().map(String::as_str).collect();
        assert_eq!(names, ["heldout/i2t_recall@1", "heldout/loss"]);
        let recall = found.figures["heldout/i2t_recall@1"];
        assert_eq!((recall.best.step, recall.best.value), (Step(2), 0.5));
        assert_eq!(
            (recall.last.step, recall.last.value, recall.chance),
            (Step(3), 0.4, Some(0.01))
        );
        // Wilson's interval for 50 of 100, as in published tables.
        let within = recall.best.interval("heldout/i2t_recall@1").unwrap();
        assert!((within.low - 0.4038).abs() < 1e-4 && (within.high - 0.5962).abs() < 1e-4);
        let loss = found.figures["heldout/loss"];
        assert_eq!((loss.best.value, loss.best.interval("heldout/loss")), (1.5, None));
        assert!((found.loss().unwrap() - 5.0 / 3.0).abs() < 1e-12);

        store.append_metrics(&run, &[row(4, 4, &evaluated(0.6, 1.4))]).unwrap();
        assert_eq!(
            results.of(&store, &run).unwrap().figures["heldout/i2t_recall@1"].best.step,
            Step(4)
        );
    }

    #[test]
    fn run_that_went_back_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (run, results) = (RunName::new("run").unwrap(), Results::default());
        let recall = |step, time, value| row(step, time, &[("heldout/i2t_recall@1", value)]);
        store.append_metrics(&run, &[recall(1, 1, 0.1), recall(2, 2, 0.9)]).unwrap();
        assert_eq!(
            results.of(&store, &run).unwrap().figures["heldout/i2t_recall@1"].best.value,
            0.9
        );
        store.truncate_metrics(&run, Step(1)).unwrap();
        store.append_metrics(&run, &[recall(2, 5, 0.2), recall(3, 6, 0.3)]).unwrap();
        assert_eq!(
            results.of(&store, &run).unwrap().figures["heldout/i2t_recall@1"].best.value,
            0.3
        );
        store
            .add_metrics(&run, Step(1), SampleIndex(1), vec![("eval/i2t_recall@1".into(), 0.7)])
            .unwrap();
        results.forget(&run);
        assert!(results.of(&store, &run).unwrap().figures.contains_key("eval/i2t_recall@1"));
    }
}
