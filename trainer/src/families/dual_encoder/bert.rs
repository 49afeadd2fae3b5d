//! The text tower of Chinese-CLIP: BERT, whose blocks normalise after each branch. Names are those of OpenCLIP's `HFTextEncoder`.
//!
//! All tokens see all others but padding; the first one becomes the text's vector; all tokens are of type 0.

use tch::{Kind, Tensor};

use super::Named;
use crate::TrainerError;
use crate::families::dual_encoder::config::ModelConfig;
use crate::nn::block::{LayerNorm, Linear, Mlp, attend, project, split_heads};
use crate::nn::tower::{Embedded, Seen, Tower};

pub(crate) struct BertTower {
    words: Tensor,
    positions: Tensor,
    token_types: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
    pad_id: i64,
    /// [D, W].
    projection: Tensor,
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

impl BertTower {
    pub(crate) fn new(config: &ModelConfig, named: &Named<'_>) -> Result<Self, TrainerError> {
        let t = &config.text;
        let bert = named.below("transformer");
        let embeddings = bert.below("embeddings");
        let layer = |number: i64| -> Result<Layer, TrainerError> {
            let layer = bert.below(&format!("encoder.layer.{number}"));
            let attention = layer.below("attention");
            Ok(Layer {
                heads: t.heads,
                query: Linear::new(&attention.below("self.query"))?,
                key: Linear::new(&attention.below("self.key"))?,
                value: Linear::new(&attention.below("self.value"))?,
                output: Linear::new(&attention.below("output.dense"))?,
                attention_norm: LayerNorm::new(&attention.below("output.LayerNorm"), t.layer_norm_eps)?,
                mlp: Mlp::new(&layer.below("intermediate.dense"), &layer.below("output.dense"), config.text_activation())?,
                norm: LayerNorm::new(&layer.below("output.LayerNorm"), t.layer_norm_eps)?,
            })
        };
        Ok(Self {
            words: embeddings.get("word_embeddings.weight")?,
            positions: embeddings.get("position_embeddings.weight")?,
            token_types: embeddings.get("token_type_embeddings.weight")?,
            norm: LayerNorm::new(&embeddings.below("LayerNorm"), t.layer_norm_eps)?,
            layers: (0..t.layers).map(layer).collect::<Result<_, _>>()?,
            pad_id: t.tokenizer.pad_id.unwrap_or(0),
            projection: named.product("proj.weight")?,
        })
    }
}

impl Tower for BertTower {
    fn embed(&self, Seen { values: tokens, .. }: Seen<'_>) -> Result<Embedded, TrainerError> {
        let (n, l) = tokens.size2()?;
        let words = Tensor::f_embedding(&self.words, tokens, -1, false, false)?;
        let x = words.f_add(&self.token_types.f_select(0, 0)?)?.f_add(&self.positions.f_narrow(0, 0, l)?)?;
        let x = self.norm.forward(&x)?; // [N, L, W]
        let padding = tokens.f_eq(self.pad_id)?.f_view([n, 1, 1, l])?;
        let mask = Tensor::f_zeros([n, 1, 1, l], (Kind::Float, tokens.device()))?.f_masked_fill(&padding, f64::NEG_INFINITY)?;
        Ok(Embedded { x, mask: Some(mask) })
    }

    fn blocks(&self) -> usize {
        self.layers.len()
    }

    fn block(&self, number: usize, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TrainerError> {
        self.layers[number].forward(x, mask)
    }

    fn head(&self, x: &Tensor, _: Seen<'_>) -> Result<Tensor, TrainerError> {
        project(&x.f_select(1, 0)?, &self.projection.f_transpose(0, 1)?)
    }
}

impl Layer {
    fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TrainerError> {
        let [q, k, v] = [&self.query, &self.key, &self.value].map(|part| split_heads(&part.forward(x)?, self.heads));
        let attended = self.output.forward(&attend(&q?, &k?, &v?, mask, false)?)?;
        let x = self.attention_norm.forward(&attended.f_add(x)?)?;
        self.norm.forward(&self.mlp.forward(&x)?.f_add(&x)?)
    }
}
