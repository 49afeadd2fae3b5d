//! A suite: weighted evaluations that give one score.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config_data::resolve;
use crate::{PairChoice, PathRole, SchemaError, config_keys};

/// The suite that `diptych eval --suite` and `eval.suite` of a training read.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuiteConfig {
    /// Name in results. Default: the file's name.
    #[serde(default)]
    pub name: String,
    #[serde(rename = "task")]
    pub tasks: Vec<SuiteTask>,
}

/// One evaluation. Relative paths are relative to the suite's file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SuiteTask {
    /// Name in results. Default: the name of the benchmark's folder, of the selection, of the
    /// dataset or of the file of examples.
    pub name: String,
    /// Share of the score, relative to the other weights.
    pub weight: f64,
    /// The kind of task, as `diptych eval --task` names it. Default: derived from the data.
    pub kind: Option<String>,
    /// The metric that counts. Default: `top1` for classification, `recall@1` (the mean of both
    /// directions) for retrieval, the strictest one for compositional tests.
    pub metric: Option<String>,
    /// A folder in CLIP_benchmark's layout.
    pub benchmark: Option<PathBuf>,
    /// A file in the format of SugarCrepe or Winoground. Needs `images`.
    pub compositional: Option<PathBuf>,
    pub images: Option<PathBuf>,
    /// A dataset: all its pairs, or those of a `selection`, of a condition (`where`), or of both.
    pub dataset: Option<PathBuf>,
    pub selection: Option<PathBuf>,
    /// SQL condition over meta and scores.
    #[serde(rename = "where")]
    pub condition: Option<String>,
    /// Class names, one per line. Default: the labels of `label_column`.
    pub classes: Option<PathBuf>,
    pub label_column: Option<String>,
    pub templates: Option<PathBuf>,
    pub train_selection: Option<PathBuf>,
    pub more_captions: Vec<String>,
    pub strict_pairs: bool,
}

impl Default for SuiteTask {
    fn default() -> Self {
        Self {
            name: String::new(),
            weight: 1.0,
            kind: None,
            metric: None,
            benchmark: None,
            compositional: None,
            images: None,
            dataset: None,
            selection: None,
            condition: None,
            classes: None,
            label_column: None,
            templates: None,
            train_selection: None,
            more_captions: Vec::new(),
            strict_pairs: false,
        }
    }
}

impl SuiteConfig {
    /// Reads and checks a file. Fills in missing names, and makes relative paths relative to the
    /// file's folder.
    pub fn read(path: &Path) -> Result<Self, SchemaError> {
        let text = std::fs::read_to_string(path).map_err(SchemaError::io(path))?;
        let bad = |message| SchemaError::Config { path: path.to_owned(), message };
        let mut suite: Self = config_keys::parse(&text).map_err(bad)?;
        let stem = |path: &Path| {
            path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
        };
        if suite.name.is_empty() {
            suite.name = stem(path);
        }
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        for task in &mut suite.tasks {
            if task.name.is_empty() {
                let named = [&task.benchmark, &task.compositional, &task.selection, &task.dataset]
                    .into_iter()
                    .flatten()
                    .next();
                task.name = named.map_or_else(String::new, |path| stem(path));
            }
            for (role, path) in task.paths_mut() {
                *path = resolve(role, path, folder);
            }
        }
        suite.validate().map_err(bad)?;
        Ok(suite)
    }

    fn validate(&self) -> Result<(), String> {
        if self.tasks.is_empty() {
            return Err("a suite needs at least one [[task]]".into());
        }
        // Names become parts of metric names, where a slash separates.
        let good = |name: &str| !name.is_empty() && !name.contains(['/', '\n']);
        if !good(&self.name) {
            return Err(format!("name must not be empty or contain a slash, got {:?}", self.name));
        }
        let mut names = HashSet::new();
        for (number, task) in (1..).zip(&self.tasks) {
            let bad = |message: &str| Err(format!("task {number} ({}): {message}", task.name));
            if task.dataset.is_none() && (task.selection.is_some() || task.condition.is_some()) {
                return bad("selection and where need dataset: name the dataset that they belong \
                            to");
            }
            let ways =
                [task.benchmark.is_some(), task.compositional.is_some(), task.dataset.is_some()];
            if ways.into_iter().filter(|way| *way).count() != 1 {
                return bad(
                    "set exactly one of benchmark, compositional (with images) and dataset (with \
                     selection or where)",
                );
            }
            if task.compositional.is_some() != task.images.is_some() {
                return bad("compositional and images belong together: set both or none");
            }
            if task.classes.is_some() && task.label_column.is_none() {
                return bad("classes needs label_column: name the column with each pair's class");
            }
            if !good(&task.name) {
                return bad("give it a name without a slash");
            }
            if !names.insert(&task.name) {
                return bad("another task has this name: set a different name");
            }
            if !(task.weight > 0.0 && task.weight.is_finite()) {
                return bad("its weight must be above 0");
            }
        }
        Ok(())
    }

    /// Returns all files and folders of the suite.
    pub fn paths(&self) -> Vec<(PathRole, PathBuf)> {
        let mut tasks = self.tasks.clone();
        let named = tasks.iter_mut().flat_map(SuiteTask::paths_mut);
        named.map(|(role, path)| (role, path.clone())).collect()
    }
}

impl SuiteTask {
    /// Returns the chosen pairs of `dataset`.
    pub fn pairs(&self) -> PairChoice {
        PairChoice { selection: self.selection.clone(), condition: self.condition.clone() }
    }

    fn paths_mut(&mut self) -> Vec<(PathRole, &mut PathBuf)> {
        let Self {
            benchmark,
            compositional,
            images,
            dataset,
            selection,
            classes,
            templates,
            train_selection,
            ..
        } = self;
        let read =
            [benchmark, compositional, images, selection, classes, templates, train_selection];
        let read = read.into_iter().flatten().map(|path| (PathRole::Read, path));
        read.chain(dataset.iter_mut().map(|path| (PathRole::Dataset, path))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SuiteConfig, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        crate::durable::write(&path, text.as_bytes()).unwrap();
        let read = SuiteConfig::read(&path).map_err(|error| error.to_string());
        read.map(|mut suite| {
            for (_, path) in suite.tasks.iter_mut().flat_map(SuiteTask::paths_mut) {
                *path = path.strip_prefix(folder.path()).unwrap().to_owned();
            }
            suite
        })
    }

    #[test]
    fn names_and_weights_that_are_left_out_are_filled_in() {
        let suite = read(
            "[[task]]\nbenchmark = \"wds/cifar10\"\n[[task]]\nselection = \
             \"held.parquet\"\ndataset = \"d\"\nweight = 2.5\n\
             [[task]]\ncompositional = \"c/add_att.json\"\nimages = \"val\"\nmetric = \
             \"accuracy\"\n",
        )
        .unwrap();
        assert_eq!(suite.name, "mine");
        let found: Vec<_> =
            suite.tasks.iter().map(|task| (task.name.as_str(), task.weight)).collect();
        assert_eq!(found, [("cifar10", 1.0), ("held", 2.5), ("add_att", 1.0)]);
        let paths = [
            (PathRole::Read, "wds/cifar10"),
            (PathRole::Read, "held.parquet"),
            (PathRole::Dataset, "d"),
            (PathRole::Read, "c/add_att.json"),
            (PathRole::Read, "val"),
        ];
        assert_eq!(suite.paths(), paths.map(|(role, path)| (role, PathBuf::from(path))));
    }

    #[test]
    fn what_cannot_be_meant_is_said_with_its_task() {
        for (text, expected) in [
            ("", "task is missing"),
            ("task = []", "[[task]]"),
            ("[[task]]\nbenchmark = \"a\"\nwieght = 1.0", "did you mean `weight`"),
            ("[[task]]\nbenchmark = \"a\"\n[[task]]\nbenchmark = \"b/a\"", "task 2 (a)"),
            ("[[task]]\nname = \"x\"", "task 1 (x)"),
            ("[[task]]\nbenchmark = \"a\"\nselection = \"b\"\ndataset = \"c\"", "compositional"),
            ("[[task]]\nselection = \"b\"", "dataset"),
            ("[[task]]\nwhere = \"b\"", "dataset"),
            ("[[task]]\ndataset = \"a\"\nclasses = \"b\"", "label_column"),
            ("[[task]]\ncompositional = \"b\"", "images"),
            ("[[task]]\nbenchmark = \"a\"\nweight = 0.0", "above 0"),
            ("[[task]]\nname = \"a/b\"\nbenchmark = \"a\"", "a/b"),
            ("name = \"a/b\"\n[[task]]\nbenchmark = \"a\"", "a/b"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
