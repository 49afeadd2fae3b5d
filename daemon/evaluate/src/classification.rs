//! Zero-shot classification of a selection's images.
//!
//! Class names, prompts and the true class of each pair are read once. Used by `eval` and by
//! evaluation during training.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::bail;
use diptych_embeddings::encode::Encoded;
use diptych_embeddings::models::Model;
use diptych_embeddings::values::for_each_text;
use diptych_pipeline::Selection;
use diptych_schemas::words::thousands;
use diptych_schemas::{SchemaError, Uid};
use diptych_trainer::TrainerError;
use diptych_trainer::evaluate::{
    AveragePrecision, Bootstrap, GoOn, Predictions, Rows, ZeroShot, average_precision, classify,
    ensemble,
};
use serde_json::Value;

/// Largest number of labels that an error lists.
const LISTED: usize = 20;
/// Largest number of labels of a column that are taken for classes.
const MOST_LABELS: usize = 50_000;
/// The description of a column of labels in errors.
const COLUMN: &str = "the column of labels";

/// The classes, prompts and true labels of a classification.
pub struct Classification {
    classes: Vec<String>,
    /// Prompts, each with {} for the class name.
    templates: Vec<String>,
    truth: HashMap<Uid, Label>,
}

/// The source of class names.
pub enum Classes {
    /// A file with one name per line. `labels` are the column's own labels, if it does not use the
    /// names.
    File {
        names: PathBuf,
        labels: Option<Vec<String>>,
    },
    Named(Vec<String>),
    /// The labels of these pairs.
    LabelsOf(HashSet<Uid>),
}

impl Classes {
    /// Returns a file whose lines, or their numbers, are the labels.
    pub fn listed_in(path: &Path) -> Self {
        Self::File { names: path.to_owned(), labels: None }
    }

    /// Returns the labels of the pairs of selections.
    pub fn labels_of<'a>(selections: impl IntoIterator<Item = &'a Selection>) -> Self {
        Self::LabelsOf(selections.into_iter().flat_map(|of| of.uids.iter().copied()).collect())
    }
}

/// Class numbers, or a label that is not a class.
type Label = Result<Vec<usize>, String>;

impl Classification {
    pub fn read(
        dataset: &Path,
        classes: &Classes,
        label_column: &str,
        templates: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let (classes, labels) = match classes {
            Classes::File { names, labels } => {
                let lines = read_lines(names)?;
                if let Some(labels) = labels.as_ref().filter(|labels| labels.len() != lines.len()) {
                    bail!(
                        "{} has {} lines, but there are {} folders by class",
                        names.display(),
                        lines.len(),
                        labels.len()
                    );
                }
                (lines, labels.clone())
            }
            Classes::Named(names) => (names.clone(), None),
            Classes::LabelsOf(pairs) => (labels_there_are(dataset, label_column, pairs)?, None),
        };
        // CLIP_benchmark writes {c}.
        let curly = |lines: Vec<String>| {
            lines.into_iter().map(|line| line.replace("{c}", "{}")).collect::<Vec<_>>()
        };
        let lines = templates.map(read_lines).transpose()?.map(curly);
        if let (Some(lines), Some(path)) = (&lines, templates)
            && let Some(bad) = lines.iter().position(|template| !template.contains("{}"))
        {
            bail!(
                "{}, line {}: a prompt needs {{}} in the place of the class name",
                path.display(),
                bad + 1
            );
        }
        let truth = read_labels(dataset, label_column, labels.as_deref().unwrap_or(&classes))?;
        Ok(Self { classes, templates: lines.unwrap_or_else(|| vec!["{}".to_owned()]), truth })
    }

    /// Returns the names in the order of their numbers.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Computes the accuracy on pairs that this model encoded.
    pub fn accuracy(
        &self,
        model: &Model,
        encoded: &Encoded,
        go_on: GoOn<'_>,
    ) -> anyhow::Result<ZeroShot> {
        Ok(self.predictions(model, encoded, go_on)?.summary())
    }

    /// Classifies each image of pairs that this model encoded.
    pub fn predictions(
        &self,
        model: &Model,
        encoded: &Encoded,
        go_on: GoOn<'_>,
    ) -> anyhow::Result<Predictions> {
        let labels = self.labels(encoded)?;
        let dimension = model.encoder.dimension();
        let (images, classes) =
            (Rows { values: &encoded.images, dimension }, self.rows(model, go_on)?);
        Ok(classify(
            images,
            &labels,
            Rows { values: &classes, dimension },
            model.encoder.logit_scale()?,
        )?)
    }

    /// Computes the classes' vectors, `[C, D]`.
    fn rows(&self, model: &Model, go_on: GoOn<'_>) -> anyhow::Result<Vec<f32>> {
        let dimension = model.encoder.dimension();
        let mut class_rows = Vec::with_capacity(self.classes.len() * dimension);
        for class in &self.classes {
            if !go_on() {
                return Err(TrainerError::Stopped.into());
            }
            let prompts: Vec<String> =
                self.templates.iter().map(|template| template.replace("{}", class)).collect();
            class_rows
                .extend(ensemble(Rows { values: &model.encode_texts(&prompts)?, dimension })?);
        }
        Ok(class_rows)
    }

    /// Computes the average precision of every class, for images with several classes.
    pub fn precision(
        &self,
        model: &Model,
        encoded: &Encoded,
        bootstrap: Bootstrap,
        go_on: GoOn<'_>,
    ) -> anyhow::Result<AveragePrecision> {
        let dimension = model.encoder.dimension();
        self.check(&encoded.uids)?;
        let (images, classes) =
            (Rows { values: &encoded.images, dimension }, self.rows(model, go_on)?);
        let labels: Vec<Vec<usize>> =
            encoded.uids.iter().map(|uid| self.label(*uid).to_vec()).collect();
        Ok(average_precision(images, &labels, Rows { values: &classes, dimension }, bootstrap)?)
    }

    /// Returns the class number of each pair. Fails if a pair has several.
    pub fn labels(&self, encoded: &Encoded) -> anyhow::Result<Vec<usize>> {
        self.check(&encoded.uids)?;
        let one = |uid: &Uid| match *self.label(*uid) {
            [class] => Ok(class),
            ref classes => bail!(
                "pair {uid} has {} classes; use the task multi-label for images with several \
                 classes",
                classes.len()
            ),
        };
        encoded.uids.iter().map(one).collect()
    }

    /// Returns whether a pair has a label, whether or not it is one of the classes.
    pub fn has_label(&self, uid: Uid) -> bool {
        self.truth.contains_key(&uid)
    }

    /// Refuses pairs without a label, or with a label that is not a class. The error lists the
    /// labels.
    pub fn check(&self, uids: &[Uid]) -> anyhow::Result<()> {
        let (mut foreign, mut without): (BTreeMap<&str, u64>, u64) = (BTreeMap::new(), 0);
        for uid in uids {
            match self.truth.get(uid) {
                Some(Ok(_)) => {}
                Some(Err(label)) => *foreign.entry(label).or_default() += 1,
                None => without += 1,
            }
        }
        let mut problems = Vec::new();
        if !foreign.is_empty() {
            let pairs = foreign.values().sum();
            let mut labels: Vec<(&str, u64)> = foreign.into_iter().collect();
            labels.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            let more = labels.len().saturating_sub(LISTED);
            let listed: Vec<String> = labels
                .iter()
                .take(LISTED)
                .map(|(label, count)| format!("{label:?} ({})", thousands(*count)))
                .collect();
            let more = if more > 0 {
                format!(" and {} more", thousands(more as u64))
            } else {
                String::new()
            };
            problems.push(format!(
                "{} pairs have labels that are not in the list of classes: {}{more}",
                thousands(pairs),
                listed.join(", ")
            ));
        }
        if without > 0 {
            problems.push(format!("{} pairs have no label", thousands(without)));
        }
        if problems.is_empty() {
            return Ok(());
        }
        bail!(
            "{}. Add the labels to the list, exclude these pairs (--where, or another selection), \
             or omit the list to use all labels as classes",
            problems.join("; ")
        )
    }

    /// Returns the classes of a pair. Empty if it has no label of the list.
    fn label(&self, uid: Uid) -> &[usize] {
        self.truth.get(&uid).and_then(|label| label.as_ref().ok()).map_or(&[], Vec::as_slice)
    }
}

/// Collects all labels that some of these pairs have, in alphabetical order.
fn labels_there_are(
    dataset: &Path,
    label_column: &str,
    pairs: &HashSet<Uid>,
) -> anyhow::Result<Vec<String>> {
    let mut found = BTreeSet::new();
    for_each_text(dataset, label_column, COLUMN, |uid, label| {
        if pairs.contains(&uid) && !label.trim().is_empty() && found.len() <= MOST_LABELS {
            found.extend(labels_in(label));
        }
    })?;
    match found.len() {
        0 | 1 => bail!(
            "the column {label_column} has {} for these pairs, but at least two classes are \
             needed; use another column, or list the classes",
            if found.is_empty() { "no label" } else { "only one label" }
        ),
        n if n > MOST_LABELS => bail!(
            "the column {label_column} has more than {} different values; use a column of labels, \
             or list the classes",
            thousands(MOST_LABELS as u64)
        ),
        _ => Ok(found.into_iter().collect()),
    }
}

/// Returns the labels of a value: itself, or those of a JSON list.
fn labels_in(value: &str) -> Vec<String> {
    let list =
        if value.starts_with('[') { serde_json::from_str::<Vec<Value>>(value).ok() } else { None };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    list.map_or_else(|| vec![value.to_owned()], |list| list.iter().map(text).collect())
}

/// Reads the lines of a file that are not empty.
fn read_lines(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(SchemaError::io(path))?;
    let lines: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.is_empty() {
        bail!("{} has no lines", path.display());
    }
    Ok(lines)
}

/// Reads the class numbers of each labelled pair of the dataset.
///
/// The column holds a class name or its number, or a JSON list of them.
fn read_labels(
    dataset: &Path,
    label_column: &str,
    classes: &[String],
) -> anyhow::Result<HashMap<Uid, Label>> {
    let numbers: HashMap<&str, usize> = classes.iter().map(String::as_str).zip(0..).collect();
    let named = |label: &str| {
        let number = || label.parse().ok().filter(|number| *number < classes.len());
        numbers.get(label).copied().or_else(number).ok_or_else(|| label.to_owned())
    };
    let mut labels = HashMap::new();
    for_each_text(dataset, label_column, COLUMN, |uid, label| {
        if label.trim().is_empty() {
            return;
        }
        labels.insert(uid, labels_in(label).iter().map(|label| named(label)).collect());
    })?;
    Ok(labels)
}
