//! The objective: a weighted sum of terms, computed from a model's outputs and a batch.
//!
//! A *coupled* term needs the outputs of the whole batch at once (contrastive terms). A term *by
//! sample* is a sum over samples or positions. It is divided by a count of the whole batch that is
//! known before anything is computed. So the gradient does not depend on how a batch is split, for
//! any mix of terms.

mod alignment;
mod contrastive;
mod masked;

use std::collections::BTreeMap;

use diptych_schemas::{LossKind, ObjectiveConfig, ObjectiveTerm};
use tch::{Kind, Tensor};

use crate::TrainerError;
use crate::nn::inputs::Inputs;

use contrastive::Contrastive;

pub(crate) use masked::NO_LABEL;

/// Name of the output with the images' unit vectors, `[N, D]`.
pub(crate) const IMAGE_FEATURES: &str = "image_features";
/// Name of the output with the texts' unit vectors, `[N, D]`.
pub(crate) const TEXT_FEATURES: &str = "text_features";
/// Name of the output with the logits of the K masked positions of each text, `[N, K, V]`.
pub(crate) const MLM_LOGITS: &str = "mlm_logits";

/// Name of the extra with the identity of captions, i64 `[N]`: equal numbers for equal captions.
pub(crate) const CAPTIONS: &str = "captions";
/// Name of the extra with the texts after masking, i64 `[N, L]`.
pub(crate) const MASKED_TOKENS: &str = "masked_tokens";
/// Name of the extra with the masked positions of each text, i64 `[N, K]`.
pub(crate) const MASKED_POSITIONS: &str = "masked_positions";
/// Name of the extra with the original tokens at the masked positions, i64 `[N, K]`.
pub(crate) const MASKED_LABELS: &str = "masked_labels";

/// The model's scalars that contrastive terms use.
#[derive(Clone, Copy)]
pub struct Scalars<'a> {
    /// Natural logarithm of the factor on the logits.
    pub logit_scale: &'a Tensor,
    /// Added to the logits, in models that have it.
    pub logit_bias: Option<&'a Tensor>,
}

/// A model's tensors by name, for a batch or a part of it.
pub(crate) type Outputs = BTreeMap<&'static str, Tensor>;

/// The objective of a run, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    config: ObjectiveConfig,
    terms: Vec<(ObjectiveTerm, f64)>,
}

/// Computes CLIP's symmetric cross-entropy: the n-th image belongs to the n-th text of the batch.
///
/// Takes unit vectors `[N, D]` of images and of texts, and the logarithm of the scale. Returns a
/// scalar. Radford et al., "CLIP", 2021, figure 3.
pub fn clip_loss(
    image_nd: &Tensor,
    text_nd: &Tensor,
    logit_scale: &Tensor,
) -> Result<Tensor, TrainerError> {
    let objective = Objective::new(&ObjectiveConfig::default());
    objective.loss(image_nd, text_nd, Scalars { logit_scale, logit_bias: None }, None)
}

fn contrastive(term: ObjectiveTerm) -> Option<LossKind> {
    match term {
        ObjectiveTerm::Clip => Some(LossKind::Clip),
        ObjectiveTerm::Siglip => Some(LossKind::Siglip),
        ObjectiveTerm::Alignment | ObjectiveTerm::Mlm => None,
    }
}

/// Returns the names of the model outputs that a term is computed from.
fn outputs_of(term: ObjectiveTerm) -> &'static [&'static str] {
    match term {
        ObjectiveTerm::Clip | ObjectiveTerm::Siglip | ObjectiveTerm::Alignment => {
            &[IMAGE_FEATURES, TEXT_FEATURES]
        }
        ObjectiveTerm::Mlm => &[MLM_LOGITS],
    }
}

impl Objective {
    pub fn new(config: &ObjectiveConfig) -> Self {
        Self { config: config.clone(), terms: config.weighted() }
    }

    /// Refuses terms that a model cannot compute.
    ///
    /// `family` describes the model to the user, and `given` lists its outputs.
    pub(crate) fn check(&self, family: &str, given: &[&str]) -> Result<(), TrainerError> {
        let computes =
            |term: ObjectiveTerm| outputs_of(term).iter().all(|output| given.contains(output));
        let all = [
            ObjectiveTerm::Clip,
            ObjectiveTerm::Siglip,
            ObjectiveTerm::Alignment,
            ObjectiveTerm::Mlm,
        ];
        let known: Vec<&str> =
            all.into_iter().filter(|term| computes(*term)).map(ObjectiveTerm::name).collect();
        match self.terms.iter().find(|(term, _)| !computes(*term)) {
            None => Ok(()),
            Some((term, _)) => Err(TrainerError::Config {
                place: format!("objective term {}", term.name()),
                message: format!(
                    "the model is {family} and computes only {}; set objective.terms = {{ {} = 1.0 \
                     }}",
                    known.join(", "),
                    known.first().copied().unwrap_or_default()
                ),
            }),
        }
    }

    /// Returns whether any term uses an output.
    pub(crate) fn takes(&self, output: &str) -> bool {
        self.terms.iter().any(|(term, _)| outputs_of(*term).contains(&output))
    }

    pub(crate) fn has_coupled(&self) -> bool {
        self.terms.iter().any(|(term, _)| contrastive(*term).is_some())
    }

    pub(crate) fn has_by_sample(&self) -> bool {
        self.terms.iter().any(|(term, _)| contrastive(*term).is_none())
    }

    /// Computes the weighted sum of the contrastive terms, a scalar.
    ///
    /// Takes unit vectors `[N, D]` of both towers. `caption_n`, i64 `[N]`, holds equal numbers for
    /// equal captions.
    pub fn loss(
        &self,
        image_nd: &Tensor,
        text_nd: &Tensor,
        scalars: Scalars<'_>,
        caption_n: Option<&Tensor>,
    ) -> Result<Tensor, TrainerError> {
        let n = image_nd.size2()?.0;
        let mut sum = Tensor::f_zeros([0; 0], (Kind::Float, image_nd.device()))?;
        for (loss, weight) in
            self.terms.iter().filter_map(|(term, weight)| Some((contrastive(*term)?, *weight)))
        {
            let term = Contrastive { loss, config: &self.config };
            let part = term.part(image_nd, text_nd, scalars, caption_n, 0, n)?;
            sum = sum.f_add(&weighted(&part, weight)?)?;
        }
        Ok(sum)
    }

    /// Computes what a range of rows adds to the means of the terms of embeddings.
    ///
    /// Takes unit vectors `[N, D]` of images and of texts. Terms that are not computed from
    /// embeddings are skipped.
    pub(crate) fn terms_of_pairs(
        &self,
        image_nd: &Tensor,
        text_nd: &Tensor,
        scalars: Scalars<'_>,
        caption_n: Option<&Tensor>,
        (first, rows): (i64, i64),
    ) -> Result<TermSums, TrainerError> {
        let mut sums = TermSums::default();
        for &(name, weight) in &self.terms {
            let part = match (contrastive(name), name) {
                (Some(loss), _) => Contrastive { loss, config: &self.config }
                    .part(image_nd, text_nd, scalars, caption_n, first, rows)?,
                (None, ObjectiveTerm::Alignment) => alignment::sum(
                    &image_nd.f_narrow(0, first, rows)?,
                    &text_nd.f_narrow(0, first, rows)?,
                )?
                .f_div_scalar(image_nd.size2()?.0 as f64)?,
                // The term is not computed from embeddings.
                (None, _) => continue,
            };
            sums.add_term(name, weight, &part)?;
        }
        Ok(sums)
    }

    /// Computes the coupled terms of a whole batch.
    ///
    /// Adds their gradients to those of the outputs, which are leaves, and of the scalars.
    pub(crate) fn coupled(
        &self,
        outputs: &Outputs,
        scalars: Option<Scalars<'_>>,
        inputs: &Inputs,
    ) -> Result<TermSums, TrainerError> {
        let mut sums = TermSums::default();
        let caption_n = inputs.extra(CAPTIONS).map(|captions| &captions.values);
        for &(name, weight) in &self.terms {
            let Some(loss) = contrastive(name) else { continue };
            let (image_nd, text_nd) =
                (output(outputs, IMAGE_FEATURES)?, output(outputs, TEXT_FEATURES)?);
            let scalars = scalars.ok_or_else(|| missing("logit scale"))?;
            let (n, term) = (image_nd.size2()?.0, Contrastive { loss, config: &self.config });
            let rows = term.rows(n);
            for first in (0..n).step_by(rows as usize) {
                let part =
                    term.part(image_nd, text_nd, scalars, caption_n, first, rows.min(n - first))?;
                weighted(&part, weight)?.f_backward()?;
                sums.add_term(name, weight, &part)?;
            }
        }
        Ok(sums)
    }

    /// Computes what some of the samples add to the terms by sample.
    ///
    /// Adds the gradients to those of the outputs, which are leaves.
    pub(crate) fn by_sample(
        &self,
        outputs: &Outputs,
        inputs: &Inputs,
    ) -> Result<TermSums, TrainerError> {
        let mut sums = TermSums::default();
        for &(name, weight) in &self.terms {
            let part = match name {
                ObjectiveTerm::Clip | ObjectiveTerm::Siglip => continue,
                ObjectiveTerm::Alignment => {
                    let sum = alignment::sum(
                        output(outputs, IMAGE_FEATURES)?,
                        output(outputs, TEXT_FEATURES)?,
                    )?;
                    sum.f_div_scalar(inputs.samples_of_batch().max(1) as f64)?
                }
                ObjectiveTerm::Mlm => {
                    let labels = inputs.require(MASKED_LABELS)?;
                    let count = labels.total.max(1.0);
                    let (loss, right) = masked::sums(output(outputs, MLM_LOGITS)?, labels)?;
                    sums.add("accuracy/mlm", &right.f_div_scalar(count)?)?;
                    loss.f_div_scalar(count)?
                }
            };
            // If nothing in the part learns, there is no graph to go back through.
            if part.requires_grad() {
                weighted(&part, weight)?.f_backward()?;
            }
            sums.add_term(name, weight, &part)?;
        }
        Ok(sums)
    }

    /// Returns the count that the terms by sample divide by: masked positions, or samples.
    pub(crate) fn counted(inputs: &Inputs) -> f64 {
        inputs.extra(MASKED_LABELS).map_or(inputs.samples() as f64, |labels| labels.total)
    }

    /// Returns the weighted sum and the reported figures by name.
    ///
    /// Each term's own value is a figure only if there are several terms.
    pub(crate) fn figures(
        &self,
        sums: &TermSums,
    ) -> Result<(Tensor, Vec<(String, Tensor)>), TrainerError> {
        let total = sums.total.as_ref().ok_or_else(|| missing("terms"))?.shallow_clone();
        let several = self.terms.len() > 1;
        let kept = sums.figures.iter().filter(|(name, _)| several || !name.starts_with("loss/"));
        Ok((total, kept.map(|(name, value)| (name.clone(), value.shallow_clone())).collect()))
    }
}

fn weighted(loss: &Tensor, weight: f64) -> Result<Tensor, TrainerError> {
    if weight == 1.0 { Ok(loss.shallow_clone()) } else { Ok(loss.f_mul_scalar(weight)?) }
}

fn output<'a>(outputs: &'a Outputs, name: &str) -> Result<&'a Tensor, TrainerError> {
    outputs.get(name).ok_or_else(|| missing(name))
}

fn missing(what: &str) -> TrainerError {
    TrainerError::Torch(format!("the model gives no {what}"))
}

/// Values of terms, f32 scalars on the device without a graph, summed over the parts of a batch.
#[derive(Debug, Default)]
pub(crate) struct TermSums {
    /// The weighted sum.
    total: Option<Tensor>,
    /// By name, in the order in which they were added.
    figures: Vec<(String, Tensor)>,
}

impl TermSums {
    fn add_term(
        &mut self,
        term: ObjectiveTerm,
        weight: f64,
        part: &Tensor,
    ) -> Result<(), TrainerError> {
        let part = part.f_detach()?;
        self.add(&format!("loss/{}", term.name()), &part)?;
        let part = weighted(&part, weight)?;
        self.total = Some(match &self.total {
            Some(total) => total.f_add(&part)?,
            None => part,
        });
        Ok(())
    }

    fn add(&mut self, name: &str, part: &Tensor) -> Result<(), TrainerError> {
        match self.figures.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum = sum.f_add(part)?,
            None => self.figures.push((name.to_owned(), part.shallow_clone())),
        }
        Ok(())
    }

    /// Adds the values of another part of the batch, or of the other kind of terms.
    pub(crate) fn merge(&mut self, other: Self) -> Result<(), TrainerError> {
        for (name, value) in &other.figures {
            self.add(name, value)?;
        }
        self.total = match (self.total.take(), other.total) {
            (Some(a), Some(b)) => Some(a.f_add(&b)?),
            (a, b) => a.or(b),
        };
        Ok(())
    }
}
