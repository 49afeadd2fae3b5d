//! The configuration of a dual encoder: its towers, its embedding space and its preprocessing.
//!
//! `read` and `write` convert OpenCLIP's JSON form, and `built_in` lists the models that have a
//! name.
//!
//! Invariant: a configuration that exists can be computed. A key that changes the result and is not
//! supported is refused by name. Nothing is silently ignored: a wrong activation or pooling costs
//! weeks.

mod built_in;
mod cost;
pub(crate) mod parameters;
mod read;
mod timm;
mod write;

use std::path::Path;

use diptych_schemas::{LossKind, ObjectiveConfig, ObjectiveTerm};

use crate::TrainerError;
use crate::nn::activation::{Activation, mlp_ratio};
use crate::nn::bert::BertShape;
use crate::nn::compare::compare_keys;
use crate::nn::cost::SampleSize;
use crate::nn::parameters::{ParameterSpec, Part};
use crate::nn::preprocess::{ImageInput, TextInput};

pub(crate) use crate::nn::preprocess::{PreprocessConfig, TokenizerConfig};
pub(crate) use built_in::built_in_names;

/// The configuration of a dual encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DualEncoderConfig {
    /// Dimension of the embedding space, D.
    pub embed_dim: i64,
    /// Whether to use `x·sigmoid(1.702x)` instead of the exact GELU.
    pub quick_gelu: bool,
    /// Initial natural logarithm of the factor on the logits.
    pub init_logit_scale: f64,
    /// Initial bias of the logits, in models that have one.
    pub init_logit_bias: Option<f64>,
    /// Whether names of the text tower begin with `text.` (OpenCLIP's `CustomTextCLIP`).
    pub custom_text: bool,
    pub vision: VisionConfig,
    pub text: TextConfig,
    /// Preprocessing of decoded images.
    pub preprocess: PreprocessConfig,
}

/// The configuration of the image tower.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of OpenCLIP's that is on or off, independent of the others"
)]
pub struct VisionConfig {
    pub trunk: Trunk,
    /// Height and width, in pixels.
    pub image_size: i64,
    /// Side of a patch, in pixels.
    pub patch_size: i64,
    pub width: i64,
    /// Width of one attention head.
    pub head_width: i64,
    pub layers: i64,
    /// Ratio of the MLP's hidden width to `width`.
    pub mlp_ratio: f64,
    /// Initial factors of LayerScale, in towers that have it.
    pub ls_init_value: Option<f64>,
    /// Share of the patches that each training step leaves out of each image. An encoder uses all.
    pub patch_dropout: f64,
    /// Pooling by learned queries with attention, before [`pool`](Self::pool) selects among their
    /// outputs.
    pub attentional_pool: Option<AttentionalPool>,
    pub pool: ImagePool,
    /// Whether the last layer norm comes after the pooling. Matters only if tokens are averaged.
    pub final_ln_after_pool: bool,
    /// Whether there is a layer norm before the blocks.
    pub ln_pre: bool,
    /// Whether positions are fixed sines and cosines of row and column instead of learned.
    pub sin_cos_positions: bool,
    pub layer_norm_eps: f64,
    /// Whether to use GELU's approximation by tanh instead of the exact one.
    pub gelu_tanh: bool,
}

/// The kinds of image towers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trunk {
    /// OpenCLIP's `VisionTransformer`.
    OpenClip,
    /// SigLIP's tower as timm has it: no class token, pooled by a MAP head, no projection. Only the
    /// sizes, epsilon, activation and patch dropout of [`VisionConfig`] apply to it.
    Siglip,
}

/// OpenCLIP's `AttentionalPooler`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionalPool {
    pub queries: i64,
    pub heads: i64,
}

/// The choice of the token that becomes an image's vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePool {
    /// The first, which is the class token.
    Token,
    /// The mean of all others.
    Average,
}

/// The configuration of the text tower.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Number of tokens, L.
    pub context_length: i64,
    pub vocab_size: i64,
    pub width: i64,
    /// Number of attention heads.
    pub heads: i64,
    pub layers: i64,
    pub mlp_ratio: f64,
    pub ls_init_value: Option<f64>,
    pub pool: TextPool,
    /// Whether a token attends only to itself and to earlier tokens.
    pub causal: bool,
    /// Whether a learned class token after the text becomes its vector. Padding is masked then
    /// (`embed_cls`, CoCa).
    pub class_token: bool,
    pub projection: TextProjection,
    pub layer_norm_eps: f64,
    pub gelu_tanh: bool,
    /// BERT instead of CLIP's Transformer, pooled at its first token.
    pub bert: Option<Bert>,
    pub tokenizer: TokenizerConfig,
}

impl TextConfig {
    /// Returns how many tokens of each text the tower needs, given texts `[N, L]`.
    ///
    /// In a causal tower, tokens after the pooled one cannot influence it. Features and gradients
    /// are the same without them, and most of them are padding.
    pub(crate) fn needed_tokens(&self, tokens: &[i32]) -> usize {
        let length = self.context_length as usize;
        if !self.causal || self.class_token || self.bert.is_some() {
            return length;
        }
        let pooled = |text: &[i32]| match self.pool {
            TextPool::First => 0,
            TextPool::Last => length - 1,
            // Of equal tokens the first counts, as in the tower.
            TextPool::Largest => text
                .iter()
                .max()
                .and_then(|most| text.iter().position(|token| token == most))
                .unwrap_or(0),
            TextPool::End(id) => text.iter().position(|token| i64::from(*token) == id).unwrap_or(0),
        };
        1 + tokens.chunks_exact(length).map(pooled).max().unwrap_or(length - 1)
    }
}

/// The sizes that BERT has in addition to those of any text tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bert {
    /// Number of positions, at least the number of tokens in a text.
    pub positions: i64,
    pub token_types: i64,
}

/// The choice of the token that becomes a text's vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPool {
    /// The token with the largest id: CLIP's end token.
    Largest,
    First,
    Last,
    /// The first token with this id.
    End(i64),
}

/// The projection of the text tower into the embedding space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextProjection {
    /// A matrix product, `x @ W`.
    Matrix,
    /// A linear layer with a bias.
    Linear,
    None,
}

impl VisionConfig {
    pub fn heads(&self) -> i64 {
        self.width / self.head_width
    }

    /// Returns the number of patches along one side. Pixels left over at the edge belong to none.
    pub fn grid(&self) -> i64 {
        self.image_size / self.patch_size
    }

    /// Returns the number of patches that a training step uses: OpenCLIP's max(1, int(P · (1 -
    /// p))).
    pub fn kept_patches(&self) -> i64 {
        let patches = self.grid().pow(2);
        ((patches as f64 * (1.0 - self.patch_dropout)) as i64).max(1)
    }

    /// Returns the width of the MLP's hidden layer.
    pub fn mlp_width(&self) -> i64 {
        (self.width as f64 * self.mlp_ratio) as i64
    }
}

impl TextConfig {
    /// Returns the width of the MLP's hidden layer.
    pub fn mlp_width(&self) -> i64 {
        (self.width as f64 * self.mlp_ratio) as i64
    }
}

/// The explanation that refusals of convolutional towers end with.
pub(crate) const ONLY_VITS: &str = "Diptych trains ViT towers; use a model such as ViT-B-32";
/// ln(1/0.07), the initial logit scale. CLIP, section 2.5.
pub(crate) const LOGIT_SCALE: f64 = 2.659_260_036_932_778;
/// The largest natural logarithm of the logit scale, for a factor of 100. CLIP, section 2.5.
pub const LARGEST_LOGIT_SCALE: f64 = 4.605_170_185_988_092;
/// ln 10 and -10, the initial scale and bias of a sigmoid loss, in which most pairs are negative.
/// SigLIP, section 3.2.
const SIGMOID_START: (f64, f64) = (std::f64::consts::LN_10, -10.0);
/// PyTorch's default epsilon of a layer norm.
pub(crate) const LAYER_NORM_EPS: f64 = 1e-5;

impl DualEncoderConfig {
    /// Reads a JSON file: a model configuration, or an `open_clip_config.json` that contains one.
    pub(crate) fn read(path: &Path) -> Result<Self, TrainerError> {
        let text = std::fs::read_to_string(path).map_err(TrainerError::io(path))?;
        Self::parse(&text)
            .map_err(|message| TrainerError::Config { place: path.display().to_string(), message })
    }

    pub(crate) fn parameters(&self) -> Vec<ParameterSpec> {
        parameters::parameters(self)
    }

    #[expect(clippy::unnecessary_wraps, reason = "every family answers")]
    pub(crate) fn images(&self) -> Option<ImageInput> {
        Some(ImageInput { size: self.vision.image_size, preprocess: self.preprocess })
    }

    #[expect(clippy::unnecessary_wraps, reason = "every family answers")]
    pub(crate) fn texts(&self) -> Option<TextInput<'_>> {
        let TextConfig { context_length, vocab_size, tokenizer, .. } = &self.text;
        Some(TextInput { context_length: *context_length, vocab_size: *vocab_size, tokenizer })
    }

    /// Returns how many tokens of each text the model needs, given texts `[N, L]`.
    pub(crate) fn needed_tokens(&self, tokens: &[i32]) -> usize {
        self.text.needed_tokens(tokens)
    }

    /// Returns the patches of an image and how many of them a training step uses.
    ///
    /// Returns `None` if it uses all of them.
    pub(crate) fn dropped_patches(&self) -> Option<(i64, i64)> {
        (self.vision.patch_dropout > 0.0)
            .then(|| (self.vision.grid().pow(2), self.vision.kept_patches()))
    }

    /// Counts the floating-point operations of one pair's forward pass in training, by part.
    pub(crate) fn cost(&self, specs: &[ParameterSpec], size: SampleSize) -> Vec<(Part, f64)> {
        let kept = self.vision.kept_patches();
        vec![
            (Part::Image, cost::image(self, specs, kept)),
            (Part::Text, cost::text(self, specs, size.tokens)),
        ]
    }

    /// Returns the model that an objective trains.
    pub(crate) fn for_objective(&self, objective: &ObjectiveConfig) -> Self {
        let has_sigmoids =
            objective.weighted().iter().any(|(term, _)| *term == ObjectiveTerm::Siglip);
        self.for_loss(if has_sigmoids { LossKind::Siglip } else { LossKind::Clip })
    }

    /// Describes settings in which the same model trains differently. Returns `None` if there are
    /// none.
    pub(crate) fn training_differences(&self, other: &Self) -> Option<String> {
        let [ours, theirs] = [self, other].map(|config| config.vision.patch_dropout);
        (ours != theirs).then(|| format!("vision_cfg.patch_dropout is {ours}, not {theirs}"))
    }

    /// Returns the sizes of the stack of a BERT text tower.
    pub(crate) fn bert_shape(&self, bert: Bert) -> BertShape {
        let t = &self.text;
        BertShape {
            vocabulary: t.vocab_size,
            positions: bert.positions,
            token_types: bert.token_types,
            width: t.width,
            heads: t.heads,
            layers: t.layers,
            mlp_width: t.mlp_width(),
            activation: self.text_activation(),
            layer_norm_eps: t.layer_norm_eps,
            pad_id: t.tokenizer.pad_id.unwrap_or(0),
        }
    }

    /// Returns the prefix of the names and the sizes of the text tower's BERT stack, if it has one.
    pub(crate) fn bert_stack(&self, part: Part) -> Option<(&'static str, BertShape)> {
        let bert = self.text.bert.filter(|_| part == Part::Text)?;
        Some(("text.transformer.", self.bert_shape(bert)))
    }

    /// Returns whether timm has a name for the image tower.
    pub(crate) fn named_by_timm(&self) -> bool {
        timm::name(&self.vision).is_some()
    }

    pub(crate) fn vision_activation(&self) -> Activation {
        // timm's towers ignore quick_gelu.
        activation(self.quick_gelu && self.vision.trunk == Trunk::OpenClip, self.vision.gelu_tanh)
    }

    pub(crate) fn text_activation(&self) -> Activation {
        activation(self.quick_gelu && self.text.bert.is_none(), self.text.gelu_tanh)
    }

    /// Checks the conditions between the values.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let (v, t) = (&self.vision, &self.text);
        let divides = |what: &str, whole: i64, by: &str, part: i64| {
            if part > 0 && whole % part == 0 {
                return Ok(());
            }
            Err(format!("{what} must be a multiple of {by}, got {whole} and {part}"))
        };
        divides("vision_cfg.width", v.width, "vision_cfg.head_width", v.head_width)?;
        divides("text_cfg.width", t.width, "text_cfg.heads", t.heads)?;
        if v.patch_size > v.image_size {
            return Err(format!(
                "vision_cfg.patch_size must be at most vision_cfg.image_size, got {} and {}",
                v.patch_size, v.image_size
            ));
        }
        for (what, width) in [("vision_cfg", v.mlp_width()), ("text_cfg", t.mlp_width())] {
            if width < 1 {
                return Err(format!(
                    "{what}.mlp_ratio must give a hidden layer of at least 1, got {width}"
                ));
            }
        }
        if let Some(pool) = v.attentional_pool {
            divides("embed_dim", self.embed_dim, "vision_cfg.attn_pooler_heads", pool.heads)?;
            if v.pool == ImagePool::Average && pool.queries < 2 {
                return Err("vision_cfg.attn_pooler_queries must be at least 2 if \
                            vision_cfg.pool_type is \"avg\", which leaves the first query out"
                    .into());
            }
        }
        if v.sin_cos_positions {
            divides("vision_cfg.width", v.width, "4 (pos_embed_type is \"sin_cos_2d\")", 4)?;
        }
        if v.trunk == Trunk::Siglip && v.width != self.embed_dim {
            return Err(format!(
                "a SigLIP image tower has no projection, so its width must be embed_dim, got {} \
                 and {}",
                v.width, self.embed_dim
            ));
        }
        if let Some(bert) = t.bert {
            if bert.positions < t.context_length {
                return Err(format!(
                    "text_cfg.bert.positions must be at least text_cfg.context_length, got {} and \
                     {}",
                    bert.positions, t.context_length
                ));
            }
            if !self.custom_text {
                return Err("text_cfg.bert needs custom_text = true".into());
            }
        }
        let quick = [v.trunk == Trunk::OpenClip && v.gelu_tanh, t.bert.is_none() && t.gelu_tanh];
        if self.quick_gelu && quick.contains(&true) {
            return Err(
                "act_kwargs sets GELU's form and cannot be combined with quick_gelu = true; remove \
                 one of them".into()
            );
        }
        if t.class_token && !self.custom_text {
            return Err("text_cfg.embed_cls needs custom_text = true".into());
        }
        if t.projection == TextProjection::None && t.width != self.embed_dim {
            return Err(format!(
                "text_cfg.proj_type = \"none\" needs text_cfg.width = embed_dim, got {} and {}",
                t.width, self.embed_dim
            ));
        }
        Ok(())
    }

    /// Returns the model that a loss trains.
    ///
    /// The sigmoid loss adds a logit bias, and starts both scalars as its paper does. Values of the
    /// configuration take precedence.
    pub(crate) fn for_loss(&self, loss: LossKind) -> Self {
        match loss {
            LossKind::Siglip if self.init_logit_bias.is_none() => {
                let scale = if self.init_logit_scale == LOGIT_SCALE {
                    SIGMOID_START.0
                } else {
                    self.init_logit_scale
                };
                Self {
                    init_logit_scale: scale,
                    init_logit_bias: Some(SIGMOID_START.1),
                    ..self.clone()
                }
            }
            _ => self.clone(),
        }
    }

    /// Lists the keys in which another configuration describes a different model.
    ///
    /// Returns `None` if both are the same model.
    pub fn differences(&self, other: &Self) -> Option<String> {
        let (ours, theirs) = (self.compared().to_json(), other.compared().to_json());
        let bias = |config: &Self| config.init_logit_bias.is_some();
        let mut found = Vec::new();
        if bias(self) != bias(other) {
            found.push(format!("logit_bias is {} and {}", bias(self), bias(other)));
        }
        compare_keys("", &ours, &theirs, &mut found);
        compare_keys(
            "preprocess_cfg",
            &self.preprocess.to_json(),
            &other.preprocess.to_json(),
            &mut found,
        );
        (!found.is_empty()).then(|| found.join(", "))
    }

    /// Lists the keys in which another configuration's tower or its projection differs.
    pub(crate) fn tower_differences(&self, other: &Self, part: Part) -> Option<String> {
        let group = if part == Part::Image { "vision_cfg" } else { "text_cfg" };
        let (ours, theirs) = (self.compared().to_json(), other.compared().to_json());
        let mut found = Vec::new();
        for key in ["embed_dim", "quick_gelu", "custom_text", group] {
            if part == Part::Text || key != "custom_text" {
                compare_keys(key, &ours[key], &theirs[key], &mut found);
            }
        }
        if part == Part::Image {
            compare_keys(
                "preprocess_cfg",
                &self.preprocess.to_json(),
                &other.preprocess.to_json(),
                &mut found,
            );
        }
        (!found.is_empty()).then(|| found.join(", "))
    }

    /// Returns the configuration without settings that do not change the model.
    ///
    /// Initial values do not change it, but whether there are such parameters does.
    fn compared(&self) -> Self {
        let mut config =
            Self { init_logit_scale: LOGIT_SCALE, init_logit_bias: None, ..self.clone() };
        config.vision.patch_dropout = 0.0;
        config.vision.mlp_ratio = mlp_ratio(config.vision.width, config.vision.mlp_width())
            .unwrap_or(config.vision.mlp_ratio);
        config.text.mlp_ratio =
            mlp_ratio(config.text.width, config.text.mlp_width()).unwrap_or(config.text.mlp_ratio);
        for start in [&mut config.vision.ls_init_value, &mut config.text.ls_init_value] {
            *start = start.map(|_| 1.0);
        }
        // Only a tower that masks padding uses its id; all else belongs to the tokenizer.
        let masks = config.text.class_token || config.text.bert.is_some();
        let pad_id = config.text.tokenizer.pad_id.filter(|_| masks).or(Some(0));
        config.text.tokenizer = TokenizerConfig { pad_id, ..TokenizerConfig::default() };
        config
    }
}

fn activation(quick_gelu: bool, tanh: bool) -> Activation {
    match (quick_gelu, tanh) {
        (true, _) => Activation::QuickGelu,
        (false, true) => Activation::GeluTanh,
        (false, false) => Activation::Gelu,
    }
}

#[cfg(test)]
mod tests;
