//! A suite: evaluations, each with a weight, that make one score.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config_data::resolve;
use crate::{PairChoice, PathRole, SchemaError, config_keys};

/// What `diptych eval --suite` and `eval.suite` of a training read.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuiteConfig {
    /// In results. Without it: the file's name.
    #[serde(default)]
    pub name: String,
    #[serde(rename = "task")]
    pub tasks: Vec<SuiteTask>,
}

/// One evaluation. Relative paths are relative to the suite's file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SuiteTask {
    /// In results. Without it: the name of the benchmark's folder, of the selection or of the file of examples.
    pub name: String,
    /// Its part of the score, beside the others' weights.
    pub weight: f64,
    /// What is measured, as `diptych eval --task` names it. Without it: what the data is for.
    pub kind: Option<String>,
    /// The figure that counts. Without it: `top1` of classes, `recall@1` (the mean of both directions) of retrieval, the strictest of
    /// compositional tests.
    pub metric: Option<String>,
    /// A folder in CLIP_benchmark's layout.
    pub benchmark: Option<PathBuf>,
    /// A file of SugarCrepe's or Winoground's, with `images`.
    pub compositional: Option<PathBuf>,
    pub images: Option<PathBuf>,
    /// A dataset: all its pairs, or those of a `selection`, of a condition (`where`), or of both.
    pub dataset: Option<PathBuf>,
    pub selection: Option<PathBuf>,
    /// SQL condition over meta and scores.
    #[serde(rename = "where")]
    pub condition: Option<String>,
    /// Class names, one a line. Without it: the labels of `label_column`.
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
    /// Reads and checks a file. Names that it leaves out are filled in, relative paths become relative to its folder.
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
        // Names are parts of metrics' names, where a slash separates.
        let good = |name: &str| !name.is_empty() && !name.contains(['/', '\n']);
        if !good(&self.name) {
            return Err(format!("name = {:?}: a name without a slash", self.name));
        }
        let mut names = HashSet::new();
        for (number, task) in (1..).zip(&self.tasks) {
            let bad = |message: &str| Err(format!("task {number} ({}): {message}", task.name));
            if task.dataset.is_none() && (task.selection.is_some() || task.condition.is_some()) {
                return bad("selection and where want the dataset that they are of");
            }
            let ways =
                [task.benchmark.is_some(), task.compositional.is_some(), task.dataset.is_some()];
            if ways.into_iter().filter(|way| *way).count() != 1 {
                return bad(
                    "give one of benchmark, compositional (with images) and dataset (with selection or where)",
                );
            }
            if task.compositional.is_some() != task.images.is_some() {
                return bad("compositional and images go together");
            }
            if task.classes.is_some() && task.label_column.is_none() {
                return bad("classes wants label_column: the column with each pair's class");
            }
            if !good(&task.name) {
                return bad("give it a name without a slash");
            }
            if !names.insert(&task.name) {
                return bad("another task has this name: give it one of its own");
            }
            if !(task.weight > 0.0 && task.weight.is_finite()) {
                return bad("its weight must be above 0");
            }
        }
        Ok(())
    }

    /// All files and folders that it names.
    pub fn paths(&self) -> Vec<(PathRole, PathBuf)> {
        let mut tasks = self.tasks.clone();
        let named = tasks.iter_mut().flat_map(SuiteTask::paths_mut);
        named.map(|(role, path)| (role, path.clone())).collect()
    }
}

impl SuiteTask {
    /// Which pairs of `dataset` are meant.
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
            "[[task]]\nbenchmark = \"wds/cifar10\"\n[[task]]\nselection = \"held.parquet\"\ndataset = \"d\"\nweight = 2.5\n\
             [[task]]\ncompositional = \"c/add_att.json\"\nimages = \"val\"\nmetric = \"accuracy\"\n",
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
            ("task = []", "at least one"),
            ("[[task]]\nbenchmark = \"a\"\nwieght = 1.0", "did you mean `weight`"),
            (
                "[[task]]\nbenchmark = \"a\"\n[[task]]\nbenchmark = \"b/a\"",
                "task 2 (a): another task has this name",
            ),
            ("[[task]]\nname = \"x\"", "task 1 (x): give one of"),
            ("[[task]]\nbenchmark = \"a\"\nselection = \"b\"\ndataset = \"c\"", "give one of"),
            ("[[task]]\nselection = \"b\"", "want the dataset"),
            ("[[task]]\nwhere = \"b\"", "want the dataset"),
            ("[[task]]\ndataset = \"a\"\nclasses = \"b\"", "label_column"),
            ("[[task]]\ncompositional = \"b\"", "compositional and images"),
            ("[[task]]\nbenchmark = \"a\"\nweight = 0.0", "above 0"),
            ("[[task]]\nname = \"a/b\"\nbenchmark = \"a\"", "without a slash"),
            ("name = \"a/b\"\n[[task]]\nbenchmark = \"a\"", "without a slash"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
