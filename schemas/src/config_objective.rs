//! The part of a training configuration that says which objective is minimised.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The objectives with a short form, `objective.loss`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// Symmetric cross-entropy over the batch (CLIP).
    Clip,
    /// A sigmoid for each image with each text (SigLIP). Adds a logit bias to the model.
    Siglip,
}

/// One term of an objective.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectiveTerm {
    /// Symmetric cross-entropy over the batch (Radford et al., "Learning transferable visual
    /// models", 2021).
    Clip,
    /// A sigmoid for each image with each text (Zhai et al., "Sigmoid loss for language image
    /// pre-training", 2023).
    Siglip,
    /// Squared distance of each image to its own text (Wang and Isola, "Understanding contrastive
    /// representation learning through alignment and uniformity", 2020).
    Alignment,
    /// Cross-entropy of masked tokens (Devlin et al., "BERT", 2019).
    Mlm,
}

impl ObjectiveTerm {
    /// Returns the term's name in a configuration and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clip => "clip",
            Self::Siglip => "siglip",
            Self::Alignment => "alignment",
            Self::Mlm => "mlm",
        }
    }
}

impl From<LossKind> for ObjectiveTerm {
    fn from(loss: LossKind) -> Self {
        match loss {
            LossKind::Clip => Self::Clip,
            LossKind::Siglip => Self::Siglip,
        }
    }
}

/// The training objective: a weighted sum of terms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Written", into = "Written")]
pub struct ObjectiveConfig {
    /// Short form of one term with weight 1. Ignored if there are terms.
    pub loss: LossKind,
    /// The terms whose weighted sum is minimised; empty: `loss`.
    pub terms: BTreeMap<ObjectiveTerm, f64>,
    /// Share of the target that goes to all other pairs; 0: none. For contrastive terms.
    pub label_smoothing: f64,
    /// Whether pairs with the same tokens are left out of each other's negatives. For contrastive
    /// terms.
    pub mask_duplicate_captions: bool,
    /// Rows of the similarity matrix that are computed at once; 0: all. Smaller values save memory
    /// with large batches.
    pub chunk: u64,
    /// Tokens that are masked for the term `mlm`.
    pub mask: MaskConfig,
}

/// Choice of the tokens that are masked. Of the chosen ones 80% become `[MASK]`, 10% another token,
/// and 10% stay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MaskConfig {
    /// Share of the tokens, or words, that is chosen. Usual: 0.15 (BERT) to 0.4.
    pub text: f64,
    /// Whether all pieces of a word are chosen together.
    pub whole_words: bool,
}

impl Default for MaskConfig {
    /// Returns BERT's settings.
    fn default() -> Self {
        Self { text: 0.15, whole_words: false }
    }
}

/// The keys as they are written in a file.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename = "objective")]
struct Written {
    /// clip, or siglip (adds a logit bias to the model). Short for one of the `terms` with weight
    /// 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<LossKind>,
    /// Share of the target that goes to all other pairs; 0: none. For contrastive terms.
    label_smoothing: f64,
    /// Whether pairs with the same tokens are left out of each other's negatives. For contrastive
    /// terms.
    mask_duplicate_captions: bool,
    /// Rows of the similarity matrix that are computed at once; 0: all. Smaller values save memory
    /// with large batches.
    chunk: u64,
    /// Terms whose weighted sum is minimised, instead of `loss`: clip, siglip, alignment, mlm.
    #[serde(skip_serializing_if = "Option::is_none")]
    terms: Option<BTreeMap<ObjectiveTerm, f64>>,
    /// Tokens that are masked for the term mlm.
    #[serde(skip_serializing_if = "Option::is_none")]
    mask: Option<MaskConfig>,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self {
            loss: LossKind::Clip,
            terms: BTreeMap::new(),
            label_smoothing: 0.0,
            mask_duplicate_captions: false,
            chunk: 0,
            mask: MaskConfig::default(),
        }
    }
}

impl TryFrom<Written> for ObjectiveConfig {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { loss, label_smoothing, mask_duplicate_captions, chunk, terms, mask } =
            written;
        if let (Some(loss), Some(_)) = (loss, &terms) {
            let name = ObjectiveTerm::from(loss).name();
            return Err(format!(
                "objective.loss = \"{name}\" is the short form of objective.terms = {{ {name} = \
                 1.0 }}, and objective.terms is set too: choose one"
            ));
        }
        if terms.as_ref().is_some_and(BTreeMap::is_empty) {
            return Err("objective.terms names no term: remove it, or name at least one, as in { \
                        clip = 1.0 }"
                .into());
        }
        let config = Self {
            loss: loss.unwrap_or(LossKind::Clip),
            terms: terms.unwrap_or_default(),
            label_smoothing,
            mask_duplicate_captions,
            chunk,
            mask: mask.unwrap_or_default(),
        };
        if mask.is_some() && !config.has(ObjectiveTerm::Mlm) {
            return Err(
                "objective.mask is set, but no term uses it: add mlm to objective.terms, or remove \
                 objective.mask"
                    .into(),
            );
        }
        Ok(config)
    }
}

impl From<ObjectiveConfig> for Written {
    /// Leaves out later keys that are not set. So the text of an older configuration, and its hash,
    /// stays unchanged.
    fn from(config: ObjectiveConfig) -> Self {
        let uses_mask = config.has(ObjectiveTerm::Mlm);
        let ObjectiveConfig { loss, terms, label_smoothing, mask_duplicate_captions, chunk, mask } =
            config;
        Self {
            loss: terms.is_empty().then_some(loss),
            label_smoothing,
            mask_duplicate_captions,
            chunk,
            terms: (!terms.is_empty()).then_some(terms),
            mask: uses_mask.then_some(mask),
        }
    }
}

impl ObjectiveConfig {
    /// Creates an objective of one term with weight 1.
    pub fn of(term: ObjectiveTerm) -> Self {
        Self { terms: BTreeMap::from([(term, 1.0)]), ..Self::default() }
    }

    /// Returns the terms and their weights in a fixed order.
    pub fn weighted(&self) -> Vec<(ObjectiveTerm, f64)> {
        if self.terms.is_empty() {
            return vec![(self.loss.into(), 1.0)];
        }
        self.terms.iter().map(|(term, weight)| (*term, *weight)).collect()
    }

    pub fn has(&self, wanted: ObjectiveTerm) -> bool {
        self.weighted().iter().any(|(term, _)| *term == wanted)
    }

    pub(crate) fn validate(&self) -> Result<(), String> {
        let check = |holds: bool, message: String| if holds { Ok(()) } else { Err(message) };
        for (term, weight) in &self.terms {
            let name = term.name();
            check(
                *weight > 0.0 && weight.is_finite(),
                format!(
                    "objective.terms.{name} must be above 0, got {weight}. Remove the term if it \
                     should not count"
                ),
            )?;
        }
        let smoothing = self.label_smoothing;
        check(
            (0.0..1.0).contains(&smoothing),
            format!("objective.label_smoothing must be in [0, 1), got {smoothing}"),
        )?;
        check(
            smoothing == 0.0 || !self.mask_duplicate_captions || !self.has(ObjectiveTerm::Clip),
            "objective.label_smoothing gives part of the target to pairs that \
             objective.mask_duplicate_captions leaves out: remove one of the two"
                .into(),
        )?;
        let contrastive = self.has(ObjectiveTerm::Clip) || self.has(ObjectiveTerm::Siglip);
        for (key, given) in [
            ("label_smoothing", smoothing > 0.0),
            ("mask_duplicate_captions", self.mask_duplicate_captions),
            ("chunk", self.chunk > 0),
        ] {
            check(
                contrastive || !given,
                format!(
                    "objective.{key} applies to contrastive terms (clip, siglip), but \
                     objective.terms has none: remove it"
                ),
            )?;
        }
        let share = self.mask.text;
        check(
            share > 0.0 && share < 1.0,
            format!("objective.mask.text must be above 0 and below 1, got {share}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ObjectiveConfig, String> {
        let config: ObjectiveConfig =
            toml::from_str(text).map_err(|error| error.message().to_owned())?;
        config.validate()?;
        Ok(config)
    }

    #[test]
    fn short_form_and_terms_say_the_same() {
        assert_eq!(parse("").unwrap().weighted(), [(ObjectiveTerm::Clip, 1.0)]);
        assert_eq!(parse("loss = \"siglip\"").unwrap().weighted(), [(ObjectiveTerm::Siglip, 1.0)]);
        let mixed = parse("terms = { siglip = 0.5, clip = 2.0 }").unwrap();
        assert_eq!(mixed.weighted(), [(ObjectiveTerm::Clip, 2.0), (ObjectiveTerm::Siglip, 0.5)]);
        let masked =
            parse("terms = { mlm = 1.0 }\nmask = { text = 0.4, whole_words = true }").unwrap();
        assert_eq!(masked.mask, MaskConfig { text: 0.4, whole_words: true });
        for config in [parse("loss = \"siglip\"").unwrap(), mixed, masked] {
            assert_eq!(parse(&toml::to_string(&config).unwrap()).unwrap(), config);
        }
    }

    #[test]
    fn text_of_a_configuration_without_terms_is_what_it_was_before_there_were_any() {
        let text =
            "loss = \"clip\"\nlabel_smoothing = 0.0\nmask_duplicate_captions = false\nchunk = 0\n";
        assert_eq!(toml::to_string(&ObjectiveConfig::default()).unwrap(), text);
    }

    #[test]
    fn contradictions_are_refused() {
        for (text, says) in [
            ("loss = \"clip\"\nterms = { clip = 1.0 }", "choose one"),
            ("terms = {}", "names no term"),
            ("terms = { clip = 0.0 }", "objective.terms.clip"),
            ("terms = { clip = -1.0 }", "objective.terms.clip"),
            ("terms = { itm = 1.0 }", "mlm"),
            ("mask = { text = 0.4 }", "objective.mask"),
            ("terms = { mlm = 1.0 }\nmask = { text = 1.5 }", "objective.mask.text"),
            ("terms = { mlm = 1.0 }\nlabel_smoothing = 0.1", "objective.label_smoothing"),
            ("terms = { mlm = 1.0 }\nchunk = 4", "objective.chunk"),
            (
                "terms = { clip = 1.0, siglip = 1.0 }\nlabel_smoothing = \
                 0.1\nmask_duplicate_captions = true",
                "label_smoothing",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
