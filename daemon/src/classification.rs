//! Zero-shot classification of a selection's images: class names, prompts and the true class of each pair, read once, and the
//! accuracy of a model on them. Used by `eval` and by evaluation while training.

use std::collections::HashMap;
use std::path::Path;

use anyhow::bail;
use diptych_schemas::{SchemaError, Uid};
use diptych_trainer::evaluate::{Predictions, Rows, ZeroShot, classify, ensemble};

use crate::commands::sql::each_text;
use crate::encode::Encoded;
use crate::models::Model;

/// What images are classified by.
pub(crate) struct Classification {
    classes: Vec<String>,
    /// Each with {} for the class name.
    templates: Vec<String>,
    truth: HashMap<Uid, Label>,
}

/// A class number, or a label that is no class.
type Label = Result<usize, String>;

impl Classification {
    pub(crate) fn read(dataset: &Path, classes: &Path, label_column: &str, templates: Option<&Path>) -> anyhow::Result<Self> {
        let classes = read_lines(classes)?;
        // CLIP_benchmark writes {c}.
        let curly = |lines: Vec<String>| lines.into_iter().map(|line| line.replace("{c}", "{}")).collect::<Vec<_>>();
        let lines = templates.map(read_lines).transpose()?.map(curly);
        if let (Some(lines), Some(path)) = (&lines, templates)
            && let Some(bad) = lines.iter().position(|template| !template.contains("{}"))
        {
            bail!("{}, line {}: a prompt needs {{}} where the class name goes", path.display(), bad + 1);
        }
        let truth = read_labels(dataset, label_column, &classes)?;
        Ok(Self { classes, templates: lines.unwrap_or_else(|| vec!["{}".to_owned()]), truth })
    }

    /// Names, in the order of their numbers.
    pub(crate) fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Accuracy on pairs that were encoded by this model.
    pub(crate) fn of(&self, model: &Model, encoded: &Encoded) -> anyhow::Result<ZeroShot> {
        Ok(self.predictions(model, encoded)?.summary())
    }

    /// The same, image by image.
    pub(crate) fn predictions(&self, model: &Model, encoded: &Encoded) -> anyhow::Result<Predictions> {
        let labels = self.labels(encoded)?;
        let dimension = model.encoder.dimension();
        let mut class_rows = Vec::with_capacity(self.classes.len() * dimension);
        for class in &self.classes {
            let prompts: Vec<String> = self.templates.iter().map(|template| template.replace("{}", class)).collect();
            class_rows.extend(ensemble(Rows { values: &model.encode_texts(&prompts)?, dimension })?);
        }
        let (images, classes) = (Rows { values: &encoded.images, dimension }, Rows { values: &class_rows, dimension });
        Ok(classify(images, &labels, classes, model.encoder.logit_scale()?)?)
    }

    /// The class number of each pair.
    pub(crate) fn labels(&self, encoded: &Encoded) -> anyhow::Result<Vec<usize>> {
        let labels = encoded.uids.iter().map(|uid| match self.truth.get(uid) {
            Some(Ok(class)) => Ok(*class),
            Some(Err(label)) => bail!("pair {uid} has the label {label:?}, which is not in the list of classes: add it, or leave those pairs out of the selection"),
            None => bail!("pair {uid} has no label: leave those pairs out of the selection"),
        });
        labels.collect()
    }
}

/// Lines that are not empty.
fn read_lines(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(SchemaError::io(path))?;
    let lines: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.is_empty() {
        bail!("{}: it has no lines", path.display());
    }
    Ok(lines)
}

/// The class number of each pair of the dataset that has a label: from a column with class names, or with their numbers.
fn read_labels(dataset: &Path, label_column: &str, classes: &[String]) -> anyhow::Result<HashMap<Uid, Label>> {
    let numbers: HashMap<&str, usize> = classes.iter().map(String::as_str).zip(0..).collect();
    let named = |label: &str| {
        let number = || label.parse().ok().filter(|number| *number < classes.len());
        numbers.get(label).copied().or_else(number).ok_or_else(|| label.to_owned())
    };
    let mut labels = HashMap::new();
    each_text(dataset, label_column, "the column of labels", |uid, label| {
        labels.insert(uid, named(label));
    })?;
    Ok(labels)
}
