//! A model's configuration: its two towers, its space, and the pixels that it was made for. `read` and `write` are OpenCLIP's
//! JSON form, `built_in` the models that have a name.
//!
//! Invariant: a configuration that exists can be computed. A key that would change what is computed and that this trainer does
//! not know how to compute is refused by its name. Nothing is silently ignored: a wrong activation or pooling costs weeks.

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

/// A dual encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DualEncoderConfig {
    /// D: dimension of the common space.
    pub embed_dim: i64,
    /// `x·sigmoid(1.702x)` instead of the exact GELU.
    pub quick_gelu: bool,
    /// ln of the factor of the logits at the start.
    pub init_logit_scale: f64,
    /// What is added to the logits at the start, of models that have a logit bias.
    pub init_logit_bias: Option<f64>,
    /// Whether names of the text tower begin with `text.` (OpenCLIP's `CustomTextCLIP`).
    pub custom_text: bool,
    pub vision: VisionConfig,
    pub text: TextConfig,
    /// From a decoded image to what the image tower takes.
    pub preprocess: PreprocessConfig,
}

/// The image tower.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of OpenCLIP's that is on or off, independent of the others"
)]
pub struct VisionConfig {
    pub trunk: Trunk,
    /// H = W, in pixels.
    pub image_size: i64,
    /// Side of a patch, in pixels.
    pub patch_size: i64,
    pub width: i64,
    /// Width of one attention head.
    pub head_width: i64,
    pub layers: i64,
    /// Width of the MLP's hidden layer over `width`.
    pub mlp_ratio: f64,
    /// Where the factors of LayerScale start, of towers that have it.
    pub ls_init_value: Option<f64>,
    /// Part of the patches that each training step leaves out of each image. Features of an encoder see all.
    pub patch_dropout: f64,
    /// Pooling by attention of learned queries, before [`pool`](Self::pool) chooses among their answers.
    pub attentional_pool: Option<AttentionalPool>,
    pub pool: ImagePool,
    /// Layer norm after the pooling and not before. Makes a difference where tokens are averaged.
    pub final_ln_after_pool: bool,
    /// Whether there is a layer norm before the blocks.
    pub ln_pre: bool,
    /// Sines and cosines of row and column, never trained, instead of learned positions.
    pub sin_cos_positions: bool,
    pub layer_norm_eps: f64,
    /// The approximation of GELU by tanh instead of the exact one.
    pub gelu_tanh: bool,
}

/// The kinds of image towers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trunk {
    /// OpenCLIP's `VisionTransformer`.
    OpenClip,
    /// SigLIP's, as timm has it: no class token, pooled by a MAP head, no projection. Of the fields below it has the sizes,
    /// epsilon, activation and patch dropout.
    Siglip,
}

/// OpenCLIP's `AttentionalPooler`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionalPool {
    pub queries: i64,
    pub heads: i64,
}

/// Which token of an image becomes its vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePool {
    /// The first: the class token.
    Token,
    /// The mean of all others.
    Average,
}

/// The text tower.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// L: tokens.
    pub context_length: i64,
    pub vocab_size: i64,
    pub width: i64,
    /// Attention heads.
    pub heads: i64,
    pub layers: i64,
    pub mlp_ratio: f64,
    pub ls_init_value: Option<f64>,
    pub pool: TextPool,
    /// Whether a token sees only itself and those before it.
    pub causal: bool,
    /// A learned class token behind the text, which becomes its vector; padding is masked (`embed_cls`, CoCa).
    pub class_token: bool,
    pub projection: TextProjection,
    pub layer_norm_eps: f64,
    pub gelu_tanh: bool,
    /// BERT instead of CLIP's Transformer; pooled at its first token.
    pub bert: Option<Bert>,
    pub tokenizer: TokenizerConfig,
}

impl TextConfig {
    /// How many tokens of each text [N, L] the tower must see. In a causal tower nothing that stands behind the token which becomes a
    /// text's vector can reach it, so features and gradients are the same without that, which mostly is padding.
    pub(crate) fn needed_tokens(&self, tokens: &[i32]) -> usize {
        let length = self.context_length as usize;
        if !self.causal || self.class_token || self.bert.is_some() {
            return length;
        }
        let pooled = |text: &[i32]| match self.pool {
            TextPool::First => 0,
            TextPool::Last => length - 1,
            // Of equal ones the first, as in the tower.
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

/// What BERT has beside the sizes of any text tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bert {
    /// Positions that it knows, at least as many as tokens in a text.
    pub positions: i64,
    pub token_types: i64,
}

/// Which token of a text becomes its vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPool {
    /// The one with the largest id: CLIP's end token.
    Largest,
    First,
    Last,
    /// The first one with this id.
    End(i64),
}

/// From the text tower into the common space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextProjection {
    /// `x @ W`.
    Matrix,
    /// A linear layer with a bias.
    Linear,
    None,
}

impl VisionConfig {
    pub fn heads(&self) -> i64 {
        self.width / self.head_width
    }

    /// Patches along one side. What is left at the edge belongs to none.
    pub fn grid(&self) -> i64 {
        self.image_size / self.patch_size
    }

    /// Patches of an image that a training step looks at: OpenCLIP's max(1, int(P · (1 - p))).
    pub fn kept_patches(&self) -> i64 {
        let patches = self.grid().pow(2);
        ((patches as f64 * (1.0 - self.patch_dropout)) as i64).max(1)
    }

    /// Width of the MLP's hidden layer.
    pub fn mlp_width(&self) -> i64 {
        (self.width as f64 * self.mlp_ratio) as i64
    }
}

impl TextConfig {
    /// Width of the MLP's hidden layer.
    pub fn mlp_width(&self) -> i64 {
        (self.width as f64 * self.mlp_ratio) as i64
    }
}

/// What is said of convolutional towers.
pub(crate) const ONLY_VITS: &str = "Diptych trains ViT towers: use a model such as ViT-B-32";
/// ln(1/0.07), the start of the logit scale. CLIP, section 2.5.
pub(crate) const LOGIT_SCALE: f64 = 2.659_260_036_932_778;
/// Largest ln of the logit scale: the logits are scaled by 100 at most. CLIP, section 2.5.
pub const LARGEST_LOGIT_SCALE: f64 = 4.605_170_185_988_092;
/// ln 10 and -10, where scale and bias of a sigmoid loss start: most pairs are no pairs. SigLIP, section 3.2.
const SIGMOID_START: (f64, f64) = (std::f64::consts::LN_10, -10.0);
/// PyTorch's default for a layer norm.
pub(crate) const LAYER_NORM_EPS: f64 = 1e-5;

impl DualEncoderConfig {
    /// Reads a JSON file: a model configuration, or an `open_clip_config.json` that wraps one.
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

    /// How many tokens of each text [N, L] must be seen.
    pub(crate) fn needed_tokens(&self, tokens: &[i32]) -> usize {
        self.text.needed_tokens(tokens)
    }

    /// Patches of an image, and how many of them a training step looks at, where it leaves some out.
    pub(crate) fn dropped_patches(&self) -> Option<(i64, i64)> {
        (self.vision.patch_dropout > 0.0)
            .then(|| (self.vision.grid().pow(2), self.vision.kept_patches()))
    }

    /// Floating-point operations of one pair's forward pass in training, by part.
    pub(crate) fn cost(&self, specs: &[ParameterSpec], size: SampleSize) -> Vec<(Part, f64)> {
        let kept = self.vision.kept_patches();
        vec![
            (Part::Image, cost::image(self, specs, kept)),
            (Part::Text, cost::text(self, specs, size.tokens)),
        ]
    }

    /// The model that an objective trains.
    pub(crate) fn for_objective(&self, objective: &ObjectiveConfig) -> Self {
        let has_sigmoids =
            objective.weighted().iter().any(|(term, _)| *term == ObjectiveTerm::Siglip);
        self.for_loss(if has_sigmoids { LossKind::Siglip } else { LossKind::Clip })
    }

    /// In what two configurations of one model train otherwise.
    pub(crate) fn training_differences(&self, other: &Self) -> Option<String> {
        let [ours, theirs] = [self, other].map(|config| config.vision.patch_dropout);
        (ours != theirs).then(|| format!("vision_cfg.patch_dropout is {ours}, not {theirs}"))
    }

    /// Sizes of the stack of a text tower that is BERT.
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

    /// The text tower's stack where it is BERT's: what its names begin with, and its sizes.
    pub(crate) fn bert_stack(&self, part: Part) -> Option<(&'static str, BertShape)> {
        let bert = self.text.bert.filter(|_| part == Part::Text)?;
        Some(("text.transformer.", self.bert_shape(bert)))
    }

    /// Whether timm has a name for the image tower.
    pub(crate) fn named_by_timm(&self) -> bool {
        timm::name(&self.vision).is_some()
    }

    pub(crate) fn vision_activation(&self) -> Activation {
        // timm's towers do not know quick_gelu.
        activation(self.quick_gelu && self.vision.trunk == Trunk::OpenClip, self.vision.gelu_tanh)
    }

    pub(crate) fn text_activation(&self) -> Activation {
        activation(self.quick_gelu && self.text.bert.is_none(), self.text.gelu_tanh)
    }

    /// What must hold between the values.
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
                return Err("vision_cfg.attn_pooler_queries must be at least 2 where vision_cfg.pool_type is \"avg\", which leaves the first one out".into());
            }
        }
        if v.sin_cos_positions {
            divides("vision_cfg.width", v.width, "4 (pos_embed_type is \"sin_cos_2d\")", 4)?;
        }
        if v.trunk == Trunk::Siglip && v.width != self.embed_dim {
            return Err(format!(
                "a SigLIP image tower has no projection, so its width must be embed_dim, got {} and {}",
                v.width, self.embed_dim
            ));
        }
        if let Some(bert) = t.bert {
            if bert.positions < t.context_length {
                return Err(format!(
                    "text_cfg.bert.positions must be at least text_cfg.context_length, got {} and {}",
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
                "act_kwargs belongs to GELU, and quick_gelu is true: say one of them".into()
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

    /// The same model with what a loss wants: the sigmoid one a logit bias, and both scalars where the paper starts them, unless the
    /// configuration says where.
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

    /// The keys in which another configuration differs, in words; nothing where the two are the same model.
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

    /// The keys in which another configuration's tower differs, its way into the common space included.
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

    /// What makes another model: where values start does not, whether there are any does.
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
        // Only a tower that masks padding knows its id; the rest is the tokenizer's.
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
