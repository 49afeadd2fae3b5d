//! The text tower: OpenCLIP's Transformer over tokens.

use tch::{Kind, Tensor};

use super::config::{DualEncoderConfig, TextPool, TextProjection};
use crate::TrainerError;
use crate::nn::block::{Block, BlockSpec, LayerNorm, Linear, blocks, project, take, unit_length};
use crate::nn::inputs::Inputs;
use crate::nn::named::Named;
use crate::nn::parameters::OPENCLIP_BLOCKS;
use crate::nn::tower::{Embedded, Tower};

pub(crate) struct TextTower {
    token_embedding: Tensor,
    positional_embedding: Tensor,
    class_token: Option<ClassToken>,
    blocks: Vec<Block>,
    ln_final: LayerNorm,
    causal: bool,
    pool: TextPool,
    projection: Projection,
}

/// CoCa's class token: it follows the text, attends to all of it and becomes its vector.
struct ClassToken {
    embedding: Tensor,
    pad_id: i64,
}

enum Projection {
    Matrix(Tensor),
    Linear(Linear),
    None,
}

impl TextTower {
    pub(crate) fn new(config: &DualEncoderConfig, named: &Named<'_>) -> Result<Self, TrainerError> {
        let t = &config.text;
        let spec = BlockSpec {
            names: &OPENCLIP_BLOCKS,
            layers: t.layers,
            heads: t.heads,
            causal: t.causal,
            activation: config.text_activation(),
            layer_norm_eps: t.layer_norm_eps,
            scaled: t.ls_init_value.is_some(),
        };
        let class_token = || -> Result<ClassToken, TrainerError> {
            Ok(ClassToken {
                embedding: named.get("cls_emb")?,
                pad_id: t.tokenizer.pad_id.unwrap_or(0),
            })
        };
        Ok(Self {
            token_embedding: named.get("token_embedding.weight")?,
            positional_embedding: named.get("positional_embedding")?,
            class_token: t.class_token.then(class_token).transpose()?,
            blocks: blocks(spec, named)?,
            ln_final: LayerNorm::new(&named.below("ln_final"), t.layer_norm_eps)?,
            causal: t.causal,
            pool: if t.class_token { TextPool::Last } else { t.pool },
            projection: match t.projection {
                TextProjection::Matrix => Projection::Matrix(named.product("text_projection")?),
                TextProjection::Linear => {
                    Projection::Linear(Linear::new(&named.below("text_projection"))?)
                }
                TextProjection::None => Projection::None,
            },
        })
    }

    /// Pools the tokens: `[N, L, W]` → `[N, W]`.
    fn pool(&self, x: &Tensor, tokens: &Tensor) -> Result<Tensor, TrainerError> {
        let at = match self.pool {
            TextPool::First => return Ok(x.f_select(1, 0)?),
            TextPool::Last => return Ok(x.f_select(1, -1)?),
            // The end token has the largest id, so argmax finds it.
            TextPool::Largest => tokens.f_argmax(-1, false)?,
            // Of equal values argmax gives the first, so a text without an end is pooled at its
            // first token.
            TextPool::End(id) => tokens.f_eq(id)?.f_to_kind(Kind::Int)?.f_argmax(-1, false)?,
        };
        Ok(take(x, &at.f_unsqueeze(1)?)?.f_select(1, 0)?)
    }
}

impl Tower for TextTower {
    fn embed(&self, inputs: &Inputs) -> Result<Embedded, TrainerError> {
        let tokens = inputs.tokens()?;
        let mut x = Tensor::f_embedding(&self.token_embedding, tokens, -1, false, false)?;
        let mut mask = None;
        if let Some(class) = &self.class_token {
            let (n, _, w) = x.size3()?;
            let class_n1w = class.embedding.f_view([1, 1, w])?.f_expand([n, 1, w], false)?;
            x = Tensor::f_cat(&[&x, &class_n1w], 1)?;
            mask = Some(class.mask(tokens, self.causal)?);
        }
        // Texts may be shorter than the context: see `TextConfig::needed_tokens`.
        let positions = self.positional_embedding.f_narrow(0, 0, x.size3()?.1)?;
        Ok(Embedded { x: x.f_add(&positions)?, mask })
    }

    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn block(
        &self,
        number: usize,
        x: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<Tensor, TrainerError> {
        self.blocks[number].forward(x, mask)
    }

    fn head(&self, x: &Tensor, inputs: &Inputs) -> Result<Tensor, TrainerError> {
        // Layer norm treats each token on its own, so pooling first gives the same result and saves
        // L - 1 of L rows.
        let pooled_nw = self.ln_final.forward(&self.pool(x, inputs.tokens()?)?)?;
        let projected = match &self.projection {
            Projection::Matrix(matrix) => project(&pooled_nw, matrix)?,
            Projection::Linear(linear) => linear.forward(&pooled_nw)?,
            Projection::None => pooled_nw,
        };
        unit_length(&projected)
    }
}

impl ClassToken {
    /// Computes the term for the attention's logits: `[N, 1, L + 1, L + 1]`.
    ///
    /// The mask of the padding is one place too late: position i + 1 is masked if token i is
    /// padding. That is so in OpenCLIP, and therefore in all published weights of CoCa.
    fn mask(&self, tokens: &Tensor, causal: bool) -> Result<Tensor, TrainerError> {
        let (n, l) = tokens.size2()?;
        let device = tokens.device();
        let first = Tensor::f_zeros([n, 1], (Kind::Bool, device))?;
        let masked =
            Tensor::f_cat(&[first, tokens.f_eq(self.pad_id)?], 1)?.f_view([n, 1, 1, l + 1])?;
        let mut masked = masked.f_expand([n, 1, l + 1, l + 1], false)?;
        if causal {
            let later = Tensor::f_ones([l + 1, l + 1], (Kind::Bool, device))?.f_triu(1)?;
            masked = masked.f_logical_or(&later)?;
        }
        Ok(Tensor::f_zeros([n, 1, l + 1, l + 1], (Kind::Float, device))?
            .f_masked_fill(&masked, f64::NEG_INFINITY)?)
    }
}
