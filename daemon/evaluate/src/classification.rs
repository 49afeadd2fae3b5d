//! Zero-shot classification of a selection's images: class names, prompts and the true class of each pair, read once, and the
//! accuracy of a model on them. Used by `eval` and by evaluation while training.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::bail;
use diptych_embeddings::encode::Encoded;
use diptych_embeddings::models::Model;
use diptych_embeddings::values::each_text;
use diptych_pipeline::Selection;
use diptych_schemas::words::thousands;
use diptych_schemas::{SchemaError, Uid};
use diptych_trainer::TrainerError;
use diptych_trainer::evaluate::{
    AveragePrecision, Bootstrap, GoOn, Predictions, Rows, ZeroShot, average_precision, classify,
    ensemble,
};
use serde_json::Value;

/// Labels that an error lists.
const LISTED: usize = 20;
/// Labels of a column that are taken for classes.
const MOST_LABELS: usize = 50_000;
/// What a column of labels is called in an error.
const COLUMN: &str = "the column of labels";

/// What images are classified by.
pub struct Classification {
    classes: Vec<String>,
    /// Each with {} for the class name.
    templates: Vec<String>,
    truth: HashMap<Uid, Label>,
}

/// Where the names of classes come from.
pub enum Classes {
    /// A file with one a line; `labels` are what the column calls them, where it does not call them by name.
    File {
        names: PathBuf,
        labels: Option<Vec<String>>,
    },
    Named(Vec<String>),
    /// The labels that these pairs have.
    LabelsOf(HashSet<Uid>),
}

impl Classes {
    /// A file whose lines, or their numbers, are the labels.
    pub fn listed_in(path: &Path) -> Self {
        Self::File { names: path.to_owned(), labels: None }
    }

    /// The labels of the pairs of selections.
    pub fn labels_of<'a>(selections: impl IntoIterator<Item = &'a Selection>) -> Self {
        Self::LabelsOf(selections.into_iter().flat_map(|of| of.uids.iter().copied()).collect())
    }
}

/// Class numbers, or a label that is no class.
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
                        "{}: it has {} lines, and there are {} folders by class",
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
                "{}, line {}: a prompt needs {{}} where the class name goes",
                path.display(),
                bad + 1
            );
        }
        let truth = read_labels(dataset, label_column, labels.as_deref().unwrap_or(&classes))?;
        Ok(Self { classes, templates: lines.unwrap_or_else(|| vec!["{}".to_owned()]), truth })
    }

    /// Names, in the order of their numbers.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Accuracy on pairs that were encoded by this model.
    pub fn of(
        &self,
        model: &Model,
        encoded: &Encoded,
        go_on: GoOn<'_>,
    ) -> anyhow::Result<ZeroShot> {
        Ok(self.predictions(model, encoded, go_on)?.summary())
    }

    /// The same, image by image.
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

    /// The classes' vectors, [C, D].
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

    /// Average precision of every class, where images have several.
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

    /// The class number of each pair.
    pub fn labels(&self, encoded: &Encoded) -> anyhow::Result<Vec<usize>> {
        self.check(&encoded.uids)?;
        let one = |uid: &Uid| match *self.label(*uid) {
            [class] => Ok(class),
            ref classes => bail!(
                "pair {uid} has {} classes: where images have several, ask for multi-label",
                classes.len()
            ),
        };
        encoded.uids.iter().map(one).collect()
    }

    /// Whether a pair has a label, be it one of the classes or not.
    pub fn has_label(&self, uid: Uid) -> bool {
        self.truth.contains_key(&uid)
    }

    /// Refuses pairs whose label is none of the classes, or that have none, in words that name all of them.
    pub fn check(&self, uids: &[Uid]) -> anyhow::Result<()> {
        let (mut foreign, mut without): (BTreeMap<&str, u64>, u64) = (BTreeMap::new(), 0);
        for uid in uids {
            match self.truth.get(uid) {
                Some(Ok(_)) => {}
                Some(Err(label)) => *foreign.entry(label).or_default() += 1,
                None => without += 1,
            }
        }
        let mut said = Vec::new();
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
            said.push(format!(
                "{} pairs have labels that are not in the list of classes: {}{more}",
                thousands(pairs),
                listed.join(", ")
            ));
        }
        if without > 0 {
            said.push(format!("{} pairs have no label", thousands(without)));
        }
        if said.is_empty() {
            return Ok(());
        }
        bail!(
            "{}. Add them to the list, leave those pairs out (--where, or another selection), or leave out the list: then the classes are \
             the labels that there are",
            said.join("; ")
        )
    }

    /// The classes of a pair; none where it has no label of the list.
    fn label(&self, uid: Uid) -> &[usize] {
        self.truth.get(&uid).and_then(|label| label.as_ref().ok()).map_or(&[], Vec::as_slice)
    }
}

/// All labels that some of these pairs have, in the order of the alphabet.
fn labels_there_are(
    dataset: &Path,
    label_column: &str,
    pairs: &HashSet<Uid>,
) -> anyhow::Result<Vec<String>> {
    let mut found = BTreeSet::new();
    each_text(dataset, label_column, COLUMN, |uid, label| {
        if pairs.contains(&uid) && !label.trim().is_empty() && found.len() <= MOST_LABELS {
            found.extend(labels_in(label));
        }
    })?;
    match found.len() {
        0 | 1 => bail!(
            "the column {label_column} has {} of these pairs, and classes are two at least: name another one, or list the classes",
            if found.is_empty() { "no label" } else { "only one label" }
        ),
        n if n > MOST_LABELS => bail!(
            "the column {label_column} has more than {} different values: name a column of labels, or list the classes",
            thousands(MOST_LABELS as u64)
        ),
        _ => Ok(found.into_iter().collect()),
    }
}

/// The labels of a value: itself, or those of a JSON list.
fn labels_in(value: &str) -> Vec<String> {
    let list =
        if value.starts_with('[') { serde_json::from_str::<Vec<Value>>(value).ok() } else { None };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    list.map_or_else(|| vec![value.to_owned()], |list| list.iter().map(text).collect())
}

/// Lines that are not empty.
fn read_lines(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(SchemaError::io(path))?;
    let lines: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.is_empty() {
        bail!("{}: it has no lines", path.display());
    }
    Ok(lines)
}

/// The class numbers of each pair of the dataset that has a label: from a column with a class name or its number, or a JSON list of
/// them.
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
    each_text(dataset, label_column, COLUMN, |uid, label| {
        if label.trim().is_empty() {
            return;
        }
        labels.insert(uid, labels_in(label).iter().map(|label| named(label)).collect());
    })?;
    Ok(labels)
}
