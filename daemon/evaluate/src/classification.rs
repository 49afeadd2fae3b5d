//! Zero-shot classification of a selection's images: class names, prompts and the true class of each pair, read once, and the
//! accuracy of a model on them. Used by `eval` and by evaluation while training.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::bail;
use diptych_embeddings::encode::Encoded;
use diptych_embeddings::models::Model;
use diptych_embeddings::values::each_text;
use diptych_schemas::{SchemaError, Uid};
use diptych_trainer::TrainerError;
use diptych_trainer::evaluate::{
    AveragePrecision, Bootstrap, GoOn, Predictions, Rows, ZeroShot, average_precision, classify,
    ensemble,
};
use serde_json::Value;

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
}

impl Classes {
    /// A file whose lines, or their numbers, are the labels.
    pub fn listed_in(path: &Path) -> Self {
        Self::File { names: path.to_owned(), labels: None }
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
        // Before the prompts, so that a label that is none is said at once.
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
        let (images, classes) =
            (Rows { values: &encoded.images, dimension }, self.rows(model, go_on)?);
        let labels = encoded
            .uids
            .iter()
            .map(|uid| self.label(*uid).cloned())
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(average_precision(images, &labels, Rows { values: &classes, dimension }, bootstrap)?)
    }

    /// The class number of each pair.
    pub fn labels(&self, encoded: &Encoded) -> anyhow::Result<Vec<usize>> {
        let one = |uid: &Uid| match self.label(*uid)?[..] {
            [class] => Ok(class),
            ref classes => bail!(
                "pair {uid} has {} classes: where images have several, ask for multi-label",
                classes.len()
            ),
        };
        encoded.uids.iter().map(one).collect()
    }

    fn label(&self, uid: Uid) -> anyhow::Result<&Vec<usize>> {
        match self.truth.get(&uid) {
            Some(Ok(classes)) => Ok(classes),
            Some(Err(label)) => bail!(
                "pair {uid} has the label {label:?}, which is not in the list of classes: add it, or leave those pairs out of the selection"
            ),
            None => bail!("pair {uid} has no label: leave those pairs out of the selection"),
        }
    }
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
    each_text(dataset, label_column, "the column of labels", |uid, label| {
        let list = if label.starts_with('[') {
            serde_json::from_str::<Vec<Value>>(label).ok()
        } else {
            None
        };
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let found = match list {
            Some(list) => list.iter().map(|value| named(&text(value))).collect(),
            None => named(label).map(|class| vec![class]),
        };
        labels.insert(uid, found);
    })?;
    Ok(labels)
}
