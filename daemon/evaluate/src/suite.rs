//! A suite: evaluations whose figures make one score, their weighted mean.
//!
//! DataComp's average over 38 tasks has equal weights.

use std::path::Path;

use anyhow::{Context, bail};
use diptych_embeddings::models::Model;
use diptych_schemas::{ContentHash, SuiteConfig, SuiteTask};
use diptych_trainer::evaluate::{
    Bootstrap, Interval, Predictions, RECALL_AT, Unit, interval, resample, resample_classes,
};
use serde_json::{Value, json};

use super::compositional::{self, Test};
use super::data::EvalData;
use super::figures::figures;
use super::measure::{MeasureOptions, TaskResult, measure};
use super::report::{as_json, difference_interval_text, interval_text};
use super::source::EmbeddingSource;
use super::text::Text;
use crate::request::{ClassSource, Control, EvalSettings, PairSource, Subject, Task as TaskKind};

/// Figures of classification. The first is the default.
const OF_CLASSES: [&str; 3] = ["top1", "top5", "mean_per_class"];

/// Everything that a suite needs except the model. Reading it finds errors in any of its tasks.
pub struct Suite {
    pub name: String,
    tasks: Vec<Task>,
}

struct Task {
    name: String,
    weight: f64,
    metric: String,
    input: TaskInput,
}

enum TaskInput {
    Data(Box<EvalData>),
    Examples(Test),
}

/// The result of a model.
pub struct SuiteScores {
    tasks: Vec<TaskScore>,
    /// Tasks for which there was no time.
    pub left_out: Vec<String>,
    level: f64,
}

struct TaskScore {
    name: String,
    metric: String,
    weight: f64,
    value: f64,
    /// The figure in every resample. Empty without resamples.
    resampled: Vec<f64>,
    /// All main figures, by name.
    figures: Vec<(String, f64)>,
    /// Hash of the pairs that the model saw.
    pairs: ContentHash,
}

impl Suite {
    /// Reads a suite's file and the data of its tasks. Benchmarks are read into the state folder.
    pub fn read(path: &Path, state: &Path, control: Control<'_>) -> anyhow::Result<Self> {
        let config = SuiteConfig::read(path)?;
        let read = |task: &SuiteTask| {
            Task::read(task, state, control)
                .with_context(|| format!("{}, task {}", path.display(), task.name))
        };
        Ok(Self {
            tasks: config.tasks.iter().map(read).collect::<anyhow::Result<_>>()?,
            name: config.name,
        })
    }

    /// Measures the weights of a model, without intervals.
    pub fn score_model(
        &self,
        model: &Model,
        threads: usize,
        go_on: &dyn Fn() -> bool,
    ) -> anyhow::Result<SuiteScores> {
        let settings = EvalSettings { resamples: 0, threads, ..EvalSettings::default() };
        self.run(
            &EmbeddingSource::Model { model, kept: None },
            MeasureOptions { settings: &settings, go_on },
        )
    }

    pub fn run(
        &self,
        towers: &EmbeddingSource<'_>,
        with: MeasureOptions<'_>,
    ) -> anyhow::Result<SuiteScores> {
        let mut scored = SuiteScores {
            tasks: Vec::new(),
            left_out: Vec::new(),
            level: Bootstrap::default().level,
        };
        for (place, task) in (0..).zip(&self.tasks) {
            // Tasks with equally many images must not share their resamples.
            let settings = EvalSettings {
                seed: with.settings.seed.wrapping_add(place),
                ..with.settings.clone()
            };
            let found = if (with.go_on)() {
                task.run(towers, MeasureOptions { settings: &settings, ..with })
                    .with_context(|| format!("task {} of the suite {}", task.name, self.name))?
            } else {
                None
            };
            match found {
                Some(found) => scored.tasks.push(found),
                None => scored.left_out.push(task.name.clone()),
            }
        }
        Ok(scored)
    }
}

impl Task {
    fn read(task: &SuiteTask, state: &Path, control: Control<'_>) -> anyhow::Result<Self> {
        let (input, known) = match (&task.compositional, &task.images) {
            (Some(file), Some(images)) => {
                if task.kind.is_some() {
                    bail!(
                        "kind applies only to benchmarks and selections, not to a compositional \
                         test"
                    );
                }
                let test = Test::read(file, images)?;
                let known =
                    test.figure_names().iter().rev().map(|name| (*name).to_owned()).collect();
                (TaskInput::Examples(test), known)
            }
            _ => read_data(task, state, control)?,
        };
        let metric = task.metric.clone().unwrap_or_else(|| known[0].clone());
        if !known.contains(&metric) {
            bail!("metric = {metric:?} is unknown; this task has {}", known.join(", "));
        }
        Ok(Self { name: task.name.clone(), weight: task.weight, metric, input })
    }

    /// Runs the task. Returns `None` if it was stopped.
    fn run(
        &self,
        towers: &EmbeddingSource<'_>,
        with: MeasureOptions<'_>,
    ) -> anyhow::Result<Option<TaskScore>> {
        let (metric, bootstrap) = (self.metric.as_str(), with.settings.bootstrap());
        let (figures, (value, resampled), pairs) = match &self.input {
            TaskInput::Examples(test) => {
                let EmbeddingSource::Model { model, .. } = towers else {
                    bail!("a compositional test needs a model, not files of embeddings")
                };
                let tested = compositional::run(
                    model,
                    &[test],
                    Control { go_on: with.go_on, ..Control::NONE },
                )?
                .pop()
                .context("a test was not run")?;
                let place = tested
                    .figures()
                    .iter()
                    .position(|(name, _)| name == metric)
                    .context("no such figure")?;
                (
                    tested.figures(),
                    mean_of(&[tested.units().swap_remove(place)], bootstrap)?,
                    ContentHash::of(b""),
                )
            }
            TaskInput::Data(data) => {
                let Some(mut measured) = measure(towers, data, with)? else { return Ok(None) };
                let result = measured.results.pop().context("nothing was measured")?;
                let counted = match &result {
                    TaskResult::Classes { draws, .. } => {
                        let [predictions] = &draws[..] else {
                            bail!("a suite cannot contain tasks with several draws")
                        };
                        score_classes(predictions, metric, bootstrap)?
                    }
                    TaskResult::Labels { found, .. } => (found.mean, found.resampled.clone()),
                    TaskResult::Pairs { units, .. } => score_pairs(units, metric, bootstrap)?,
                };
                let uids: Vec<u8> = measured.uids.iter().flat_map(|uid| uid.0).collect();
                (figures(&result), counted, ContentHash::of(&uids))
            }
        };
        Ok(Some(TaskScore {
            name: self.name.clone(),
            metric: self.metric.clone(),
            weight: self.weight,
            value,
            resampled,
            figures,
            pairs,
        }))
    }
}

/// Reads the data of a task. Returns the names of its figures, the default first.
fn read_data(
    task: &SuiteTask,
    state: &Path,
    control: Control<'_>,
) -> anyhow::Result<(TaskInput, Vec<String>)> {
    let kind = match (&task.kind, &task.label_column) {
        (Some(kind), _) => Some(TaskKind::named(kind).with_context(|| {
            format!(
                "kind = {kind:?} is unknown; use one of {}",
                TaskKind::ALL.map(TaskKind::name).join(", ")
            )
        })?),
        (None, Some(_)) => Some(TaskKind::ZeroShot),
        (None, None) => None,
    };
    if kind == Some(TaskKind::FewShot) {
        bail!("few-shot has one figure for each number of shots; use linear-probe or knn");
    }
    let classes = task.label_column.clone().map(|label_column| ClassSource {
        names: task.classes.clone(),
        label_column,
        templates: task.templates.clone(),
    });
    let source = match (&task.benchmark, &task.dataset) {
        (Some(folder), _) => PairSource::Benchmark(folder.clone()),
        (None, Some(dataset)) => PairSource::Dataset {
            dataset: dataset.clone(),
            pairs: task.pairs(),
            classes,
            train_selection: task.train_selection.clone(),
        },
        (None, None) => bail!("a task needs dataset or benchmark"),
    };
    let subject = Subject {
        source,
        more_captions: task.more_captions.clone(),
        strict_pairs: task.strict_pairs,
        group_by: None,
    };
    let data = EvalData::read(&subject, kind.as_slice(), state, control)?;
    let known = match data.tasks[..] {
        [TaskKind::Retrieval] => {
            let of = |prefix: &str| RECALL_AT.map(|k| format!("{prefix}recall@{k}"));
            ["", "i2t_", "t2i_"].into_iter().flat_map(of).collect()
        }
        [TaskKind::MultiLabel] => vec!["mean_average_precision".to_owned()],
        _ => OF_CLASSES.map(str::to_owned).to_vec(),
    };
    Ok((TaskInput::Data(Box::new(data)), known))
}

fn score_classes(
    predictions: &Predictions,
    metric: &str,
    bootstrap: Bootstrap,
) -> anyhow::Result<(f64, Vec<f64>)> {
    let hits = |k| predictions.hits(k).into_iter().map(Unit::from).collect();
    match metric {
        "top1" => mean_of(&[hits(1)], bootstrap),
        "top5" => mean_of(&[hits(5)], bootstrap),
        _ => Ok((
            predictions.summary().mean_per_class,
            resample_classes(&predictions.labels, &predictions.hits(1), bootstrap),
        )),
    }
}

/// Computes a recall. `units` are those of [`TaskResult::Pairs`].
fn score_pairs(
    units: &[Vec<Unit>],
    metric: &str,
    bootstrap: Bootstrap,
) -> anyhow::Result<(f64, Vec<f64>)> {
    let (_, k) = metric.rsplit_once('@').context("no recall")?;
    let at = RECALL_AT.iter().position(|known| known.to_string() == k).context("no such recall")?;
    let both = [at, at + RECALL_AT.len()];
    let columns = if metric.starts_with("i2t") {
        &both[..1]
    } else if metric.starts_with("t2i") {
        &both[1..]
    } else {
        &both[..]
    };
    mean_of(&columns.iter().map(|place| units[*place].clone()).collect::<Vec<_>>(), bootstrap)
}

/// Computes the mean of columns' shares, as measured and in every resample.
fn mean_of(columns: &[Vec<Unit>], bootstrap: Bootstrap) -> anyhow::Result<(f64, Vec<f64>)> {
    let part = |column: &Vec<Unit>| {
        let (hits, of) =
            column.iter().fold((0.0, 0.0), |(hits, of), unit| (hits + unit.hits, of + unit.of));
        hits / of
    };
    let value = columns.iter().map(part).sum::<f64>() / columns.len() as f64;
    let resampled = resample(columns, bootstrap)?;
    let mean = |round: usize| {
        resampled.iter().map(|column| column[round]).sum::<f64>() / columns.len() as f64
    };
    Ok((value, (0..bootstrap.resamples).map(mean).collect()))
}

impl SuiteScores {
    /// Returns the number of finished tasks.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// Returns the weighted mean of the figures. `None` if a task was left out, because the mean
    /// would differ.
    pub fn score(&self) -> Option<f64> {
        self.left_out.is_empty().then(|| self.weighted(|task| task.value))
    }

    fn weighted(&self, of: impl Fn(&TaskScore) -> f64) -> f64 {
        let weights: f64 = self.tasks.iter().map(|task| task.weight).sum();
        self.tasks.iter().map(|task| task.weight * of(task)).sum::<f64>() / weights
    }

    /// Returns the score in every resample.
    fn resampled(&self) -> Vec<f64> {
        let rounds = self.tasks.iter().map(|task| task.resampled.len()).min().unwrap_or(0);
        (0..rounds).map(|round| self.weighted(|task| task.resampled[round])).collect()
    }

    /// Returns everything that is recorded, by name: `score`, and `TASK/…`.
    pub fn figures(&self) -> Vec<(String, f64)> {
        let of = |task: &TaskScore| {
            let named = task
                .figures
                .iter()
                .map(|(figure, value)| (format!("{}/{figure}", task.name), *value));
            named.collect::<Vec<_>>()
        };
        let score = self.score().map(|score| ("score".to_owned(), score));
        score.into_iter().chain(self.tasks.iter().flat_map(of)).collect()
    }

    /// Writes the result to `out`, compared with another model's, and returns it as JSON.
    pub fn report(
        &self,
        name: &str,
        other: Option<&Self>,
        out: &mut Text,
    ) -> anyhow::Result<Value> {
        let of = |values: &[f64]| (!values.is_empty()).then(|| interval(values, self.level));
        let row = |name: &str, metric: &str, value: f64, at: Option<Interval>, weight: &str| {
            format!(
                "  {name:<28} {metric:<16} {value:>7.3}   {:<16} {weight:>7}",
                at.map(interval_text).unwrap_or_default()
            )
        };
        out.line(format!("\nsuite {name}, {} tasks", self.tasks.len() + self.left_out.len()));
        out.line(format!(
            "  {:<28} {:<16} {:>7}   {:<16} {:>7}",
            "task", "figure", "value", "95%", "weight"
        ));
        let mut tasks = Vec::new();
        for task in &self.tasks {
            let within = of(&task.resampled);
            out.line(row(&task.name, &task.metric, task.value, within, &task.weight.to_string()));
            let mut json = json!({ "task": task.name, "metric": task.metric, "value": task.value,
            "weight": task.weight });
            json["interval"] = json!(within.map(as_json));
            json["figures"] = task
                .figures
                .iter()
                .map(|(name, value)| (name.clone(), json!(value)))
                .collect::<serde_json::Map<_, _>>()
                .into();
            if let Some(theirs) =
                other.and_then(|other| other.tasks.iter().find(|theirs| theirs.name == task.name))
            {
                if theirs.pairs != task.pairs {
                    bail!(
                        "--compare: the two models did not see the same pairs in the task {}",
                        task.name
                    );
                }
                let within = interval_of_difference(&task.resampled, &theirs.resampled, self.level);
                json["compared"] = compared_as_json(task.value, theirs.value, within);
            }
            tasks.push(json);
        }
        for name in &self.left_out {
            out.line(format!("  {name:<28} left out, no time remained"));
        }
        let mut json = json!({ "suite": name, "tasks": tasks, "left_out": self.left_out,
        "score": self.score() });
        let Some(score) = self.score() else {
            out.line("  no score, because tasks were left out; increase --max-seconds");
            return Ok(json);
        };
        let resampled = self.resampled();
        out.line(row("score", "mean by weight", score, of(&resampled), ""));
        json["interval"] = json!(of(&resampled).map(as_json));
        if let Some((other, theirs)) = other.and_then(|other| Some((other, other.score()?))) {
            let within = interval_of_difference(&resampled, &other.resampled(), self.level);
            let difference = score - theirs;
            out.line(format!(
                "  compared: score {theirs:.3}, difference {difference:+.3}{}",
                difference_interval_text(within.as_ref())
            ));
            json["compared"] = compared_as_json(score, theirs, within);
        }
        Ok(json)
    }
}

/// Returns the interval of the difference of two figures, from shared resamples. `None` without
/// resamples.
fn interval_of_difference(ours: &[f64], theirs: &[f64], level: f64) -> Option<Interval> {
    let differences: Vec<f64> =
        ours.iter().zip(theirs).map(|(ours, theirs)| ours - theirs).collect();
    (!differences.is_empty()).then(|| interval(&differences, level))
}

fn compared_as_json(ours: f64, theirs: f64, within: Option<Interval>) -> Value {
    json!({ "value": theirs, "difference": ours - theirs,
    "difference_interval": within.map(as_json) })
}
