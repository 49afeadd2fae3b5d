//! Measures one model on all tasks. Encodes the data once, and returns answers for each image
//! instead of figures.

use anyhow::{Context, bail};
use diptych_embeddings::encode::{EncodeSpec, Encoded};
use diptych_schemas::Uid;
use diptych_trainer::TrainerError;
use diptych_trainer::evaluate::{
    AveragePrecision, Geometry, Labelled, Predictions, Retrieval, Rows, Unit, Vote, few_shot, fit,
    geometry, nearest, split, sweep,
};
use serde_json::{Value, json};

use super::data::{EvalData, Train};
use super::source::EmbeddingSource;
use crate::request::{EvalSettings, Task};
use crate::retrieval::distinct_captions;

/// Number of draws for each number of shots.
const DRAWS: u64 = 3;
/// C of few-shot probes, as in CLIP's own example of a linear probe.
const FEW_SHOT_C: f64 = 0.316;
/// Share of the training pairs on which the sweep is measured.
const HELD_PART: f64 = 0.2;
/// Number of pairs for the geometry, which takes all distances between them.
const GEOMETRY_PAIRS: usize = 5000;

/// The answers of a model.
pub struct Measured {
    pub uids: Vec<Uid>,
    pub distinct_captions: usize,
    pub geometry: Option<Geometry>,
    pub results: Vec<TaskResult>,
}

pub enum TaskResult {
    Classes {
        /// `zero_shot`, `knn`, `linear_probe`, `few_shot_4`.
        name: String,
        /// One, or for few-shot one for each draw of training images.
        draws: Vec<Predictions>,
        /// Settings and intermediate results of the task.
        details: Value,
    },
    /// Several classes per image.
    Labels { images: usize, found: AveragePrecision },
    Pairs {
        retrieval: Retrieval,
        /// By image: recall of texts at each k, then of images.
        units: Vec<Vec<Unit>>,
        /// The pair that represents each image.
        image_uids: Vec<Uid>,
    },
}

/// The settings of a measurement, and a callback that says whether to continue.
#[derive(Clone, Copy)]
pub struct MeasureOptions<'a> {
    pub settings: &'a EvalSettings,
    pub go_on: &'a dyn Fn() -> bool,
}

impl MeasureOptions<'_> {
    fn spec(&self) -> EncodeSpec {
        EncodeSpec { batch_size: self.settings.batch_size.max(1), threads: self.settings.threads }
    }
}

/// Measures a model. Returns `None` if it was stopped.
pub fn measure(
    towers: &EmbeddingSource<'_>,
    data: &EvalData,
    with: MeasureOptions<'_>,
) -> anyhow::Result<Option<Measured>> {
    match measure_all(towers, data, with) {
        Err(error) if matches!(error.downcast_ref(), Some(TrainerError::Stopped)) => Ok(None),
        other => other,
    }
}

fn measure_all(
    towers: &EmbeddingSource<'_>,
    data: &EvalData,
    with: MeasureOptions<'_>,
) -> anyhow::Result<Option<Measured>> {
    let settings = with.settings;
    let Some(encoded) = towers.encode(&data.dataset, &data.selection, with.spec(), with.go_on)?
    else {
        return Ok(None);
    };
    if encoded.uids.is_empty() {
        bail!("{}: none of its {} images could be decoded", data.name, data.selection.len());
    }
    let dimension = towers.dimension();
    let images = match &data.train {
        Some(train) if data.tasks.iter().any(|task| task.learns()) => {
            let Some(images) = LabelledImages::encode(towers, train, data, &encoded, with)? else {
                return Ok(None);
            };
            Some(images)
        }
        _ => None,
    };
    let images = || images.as_ref().context("there are no pairs to learn from");
    let mut results = Vec::new();
    for task in &data.tasks {
        if !(with.go_on)() {
            return Ok(None);
        }
        match task {
            Task::Retrieval => {
                let captioned = data.captioned(towers, &encoded)?;
                let ranks = captioned.ranks(dimension, with.go_on)?;
                let retrieval = ranks.summary(&captioned.image_groups, &captioned.text_groups);
                let units = captioned.units(&ranks);
                let image_uids =
                    captioned.first_rows.iter().map(|row| encoded.uids[*row]).collect();
                results.push(TaskResult::Pairs { retrieval, units, image_uids });
            }
            Task::ZeroShot => {
                let classification =
                    data.classification.as_ref().context("there are no classes")?;
                let draws = vec![towers.classify(classification, &encoded, with.go_on)?];
                results.push(TaskResult::Classes {
                    name: "zero_shot".into(),
                    draws,
                    details: json!({}),
                });
            }
            Task::MultiLabel => {
                let classification =
                    data.classification.as_ref().context("there are no classes")?;
                let found =
                    towers.precision(classification, &encoded, settings.bootstrap(), with.go_on)?;
                results.push(TaskResult::Labels { images: encoded.uids.len(), found });
            }
            Task::Knn => results.push(images()?.neighbours(with)?),
            Task::LinearProbe => results.push(images()?.probe(with)?),
            Task::FewShot => {
                for shots in &settings.shots {
                    results.push(images()?.few(*shots, with)?);
                }
            }
        }
    }
    let first = encoded.uids.len().min(GEOMETRY_PAIRS) * dimension;
    // Captions that are class names say nothing about pairs.
    let has_pairs = data.tasks.contains(&Task::Retrieval) && first >= 2 * dimension;
    let rows = |values| Rows { values, dimension };
    let geometry = has_pairs
        .then(|| geometry(rows(&encoded.images[..first]), rows(&encoded.texts[..first])))
        .transpose()?;
    Ok(Some(Measured {
        distinct_captions: distinct_captions(&encoded),
        uids: encoded.uids,
        geometry,
        results,
    }))
}

/// Training and test images with their classes.
struct LabelledImages {
    dimension: usize,
    classes: usize,
    names: Vec<String>,
    train: (Vec<f32>, Vec<usize>),
    test: (Vec<f32>, Vec<usize>),
}

impl LabelledImages {
    fn encode(
        towers: &EmbeddingSource<'_>,
        train: &Train,
        data: &EvalData,
        test: &Encoded,
        with: MeasureOptions<'_>,
    ) -> anyhow::Result<Option<Self>> {
        let classification = data.classification.as_ref().context("there are no classes")?;
        let encoded = towers.encode(&train.dataset, &train.selection, with.spec(), with.go_on)?;
        let Some(encoded) = encoded else { return Ok(None) };
        let labels = train.classification.labels(&encoded)?;
        Ok(Some(Self {
            dimension: towers.dimension(),
            classes: classification.classes().len(),
            names: classification.classes().to_vec(),
            train: (encoded.images, labels),
            test: (test.images.clone(), classification.labels(test)?),
        }))
    }

    fn labelled<'a>(&self, (values, labels): &'a (Vec<f32>, Vec<usize>)) -> Labelled<'a> {
        Labelled { rows: Rows { values, dimension: self.dimension }, labels }
    }

    /// Returns some of the training images.
    fn some(&self, rows: &[usize]) -> (Vec<f32>, Vec<usize>) {
        let values = rows
            .iter()
            .flat_map(|row| self.train.0[row * self.dimension..][..self.dimension].iter().copied());
        (values.collect(), rows.iter().map(|row| self.train.1[*row]).collect())
    }

    fn neighbours(&self, with: MeasureOptions<'_>) -> anyhow::Result<TaskResult> {
        let settings = with.settings;
        let temperature = settings.knn_temperature;
        let vote = if temperature > 0.0 { Vote::Weighted { temperature } } else { Vote::Majority };
        let predictions = nearest(
            self.labelled(&self.train),
            self.labelled(&self.test),
            self.classes,
            settings.k,
            vote,
            with.go_on,
        )?;
        let details = json!({
            "k": settings.k, "temperature": temperature, "train_images": self.train.1.len(),
        });
        Ok(TaskResult::Classes { name: "knn".into(), draws: vec![predictions], details })
    }

    fn probe(&self, with: MeasureOptions<'_>) -> anyhow::Result<TaskResult> {
        let settings = with.settings;
        let mut details = json!({ "train_images": self.train.1.len() });
        let c = if let Some(c) = settings.probe_c {
            c
        } else {
            let (learned, held) = split(&self.train.1, self.classes, HELD_PART, settings.seed)?;
            if held.is_empty() {
                bail!(
                    "the training pairs have too few images per class for a validation split; pass \
                     --probe-c"
                );
            }
            let found = sweep(
                self.labelled(&self.some(&learned)),
                self.labelled(&self.some(&held)),
                self.classes,
                with.go_on,
            )?;
            details["sweep"] = found
                .tried
                .iter()
                .map(|(c, top1)| json!({ "c": c, "validation_top1": top1 }))
                .collect();
            found.c
        };
        let probe = fit(self.labelled(&self.train), self.classes, c, with.go_on)?;
        details["c"] = json!(c);
        details["train_loss"] = json!(probe.loss);
        details["iterations"] = json!(probe.iterations);
        let predictions = probe.classify(self.labelled(&self.test))?;
        Ok(TaskResult::Classes { name: "linear_probe".into(), draws: vec![predictions], details })
    }

    fn few(&self, shots: usize, with: MeasureOptions<'_>) -> anyhow::Result<TaskResult> {
        let settings = with.settings;
        let c = settings.probe_c.unwrap_or(FEW_SHOT_C);
        for (class, name) in self.names.iter().enumerate() {
            let images = self.train.1.iter().filter(|label| **label == class).count();
            if images < shots {
                bail!(
                    "few-shot needs {shots} training images per class, but the class {name:?} has \
                     {images}; pass smaller --shots"
                );
            }
        }
        let mut draws = Vec::new();
        for draw in 0..DRAWS {
            let rows = few_shot(&self.train.1, self.classes, shots, settings.seed + draw)?;
            draws.push(
                fit(self.labelled(&self.some(&rows)), self.classes, c, with.go_on)?
                    .classify(self.labelled(&self.test))?,
            );
        }
        let top1: Vec<f64> = draws.iter().map(|draw| draw.summary().top1).collect();
        let details = json!({ "shots": shots, "c": c, "top1_of_draws": top1 });
        Ok(TaskResult::Classes { name: format!("few_shot_{shots}"), draws, details })
    }
}
