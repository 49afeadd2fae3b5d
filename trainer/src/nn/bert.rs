//! BERT's stack: embeddings of words, positions and token types, then post-norm layers.
//!
//! Devlin et al., "BERT: pre-training of deep bidirectional transformers for language
//! understanding", 2019. Parameters have the names of Hugging Face's `transformers`. Every token
//! attends to all tokens except padding, and all tokens have type 0.

use diptych_schemas::LoraTarget;
use serde_json::json;
use tch::{Kind, Tensor};

use crate::TrainerError;
use crate::nn::activation::Activation;
use crate::nn::block::{LayerNorm, Linear, Mlp, attend, split_heads};
use crate::nn::compare::compare_keys;
use crate::nn::named::Named;
use crate::nn::parameters::{Depth, Init, ParameterList, Role};
use crate::nn::tower::Embedded;

/// The sizes of a stack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BertShape {
    pub(crate) vocabulary: i64,
    pub(crate) positions: i64,
    pub(crate) token_types: i64,
    pub(crate) width: i64,
    pub(crate) heads: i64,
    pub(crate) layers: i64,
    /// Width of the MLP's hidden layer.
    pub(crate) mlp_width: i64,
    pub(crate) activation: Activation,
    pub(crate) layer_norm_eps: f64,
    pub(crate) pad_id: i64,
}

/// The initialisation of BERT's matrices: normal with standard deviation 0.02. Biases start at 0.
pub(crate) const BERT_INIT: Init = Init::Normal(0.02);

impl BertShape {
    /// Describes the sizes in which another stack differs. Returns `None` if there are none.
    pub(crate) fn differences(&self, other: &Self) -> Option<String> {
        let to_json = |shape: &Self| {
            let Self {
                vocabulary,
                positions,
                token_types,
                width,
                heads,
                layers,
                mlp_width,
                activation,
                layer_norm_eps,
                pad_id,
            } = shape;
            json!({
                "activation": format!("{activation:?}"), "heads": heads,
                "layer_norm_eps": layer_norm_eps, "layers": layers, "mlp_width": mlp_width,
                "pad_id": pad_id, "positions": positions, "token_types": token_types,
                "vocab_size": vocabulary, "width": width,
            })
        };
        let mut found = Vec::new();
        compare_keys("", &to_json(self), &to_json(other), &mut found);
        (!found.is_empty()).then(|| found.join(", "))
    }

    pub(crate) fn parameters(&self, list: &mut ParameterList) {
        let (start, zero) = (BERT_INIT, Init::Constant(0.0));
        let &Self { width, mlp_width, .. } = self;
        list.depth(Depth::Embeddings);
        list.below("embeddings.", |list| {
            list.add("word_embeddings.weight", &[self.vocabulary, width], start);
            list.add("position_embeddings.weight", &[self.positions, width], start);
            list.add("token_type_embeddings.weight", &[self.token_types, width], start);
            list.layer_norm("LayerNorm", width);
        });
        for layer in 0..self.layers {
            list.depth(Depth::Layer(layer as u64));
            list.below(&format!("encoder.layer.{layer}."), |list| {
                for (part, target) in [
                    ("query", LoraTarget::Query),
                    ("key", LoraTarget::Key),
                    ("value", LoraTarget::Value),
                ] {
                    list.linear_role(
                        &format!("attention.self.{part}"),
                        [width, width],
                        start,
                        zero,
                        Role::Of(target),
                    );
                }
                let (output, mlp) = (Role::Of(LoraTarget::Output), Role::Of(LoraTarget::Mlp));
                list.linear_role("attention.output.dense", [width, width], start, zero, output);
                list.layer_norm("attention.output.LayerNorm", width);
                list.linear_role("intermediate.dense", [mlp_width, width], start, zero, mlp);
                list.linear_role("output.dense", [width, mlp_width], start, zero, mlp);
                list.layer_norm("output.LayerNorm", width);
            });
        }
    }
}

pub(crate) struct BertStack {
    words: Tensor,
    positions: Tensor,
    token_types: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
    pad_id: i64,
}

struct Layer {
    heads: i64,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: LayerNorm,
    mlp: Mlp,
    norm: LayerNorm,
}

impl BertStack {
    pub(crate) fn new(shape: &BertShape, named: &Named<'_>) -> Result<Self, TrainerError> {
        let embeddings = named.below("embeddings");
        let eps = shape.layer_norm_eps;
        let layer = |number: i64| -> Result<Layer, TrainerError> {
            let layer = named.below(&format!("encoder.layer.{number}"));
            let attention = layer.below("attention");
            Ok(Layer {
                heads: shape.heads,
                query: Linear::new(&attention.below("self.query"))?,
                key: Linear::new(&attention.below("self.key"))?,
                value: Linear::new(&attention.below("self.value"))?,
                output: Linear::new(&attention.below("output.dense"))?,
                attention_norm: LayerNorm::new(&attention.below("output.LayerNorm"), eps)?,
                mlp: Mlp::new(
                    &layer.below("intermediate.dense"),
                    &layer.below("output.dense"),
                    shape.activation,
                )?,
                norm: LayerNorm::new(&layer.below("output.LayerNorm"), eps)?,
            })
        };
        Ok(Self {
            words: embeddings.get("word_embeddings.weight")?,
            positions: embeddings.get("position_embeddings.weight")?,
            token_types: embeddings.get("token_type_embeddings.weight")?,
            norm: LayerNorm::new(&embeddings.below("LayerNorm"), eps)?,
            layers: (0..shape.layers).map(layer).collect::<Result<_, _>>()?,
            pad_id: shape.pad_id,
        })
    }

    /// Embeds tokens, i64 `[N, L]`, and masks those that are padding by their id.
    pub(crate) fn embed(&self, tokens: &Tensor) -> Result<Embedded, TrainerError> {
        let (n, l) = tokens.size2()?;
        let words = Tensor::f_embedding(&self.words, tokens, -1, false, false)?;
        let x = words
            .f_add(&self.token_types.f_select(0, 0)?)?
            .f_add(&self.positions.f_narrow(0, 0, l)?)?;
        let x = self.norm.forward(&x)?; // [N, L, W]
        let padding = tokens.f_eq(self.pad_id)?.f_view([n, 1, 1, l])?;
        let mask = Tensor::f_zeros([n, 1, 1, l], (Kind::Float, tokens.device()))?
            .f_masked_fill(&padding, f64::NEG_INFINITY)?;
        Ok(Embedded { x, mask: Some(mask) })
    }

    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Applies one layer: `[N, L, W]` → `[N, L, W]`.
    pub(crate) fn layer(
        &self,
        number: usize,
        x: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<Tensor, TrainerError> {
        self.layers[number].forward(x, mask)
    }
}

impl Layer {
    fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TrainerError> {
        let [q, k, v] = [&self.query, &self.key, &self.value]
            .map(|part| split_heads(&part.forward(x)?, self.heads));
        let attended = self.output.forward(&attend(&q?, &k?, &v?, mask, false)?)?;
        let x = self.attention_norm.forward(&attended.f_add(x)?)?;
        self.norm.forward(&self.mlp.forward(&x)?.f_add(&x)?)
    }
}
