//! Layers in ONNX's operators: linear layers, norms, activations, attention, blocks and attention
//! pooling.
//!
//! Each function computes the same as the one with that name in `nn/`, over parameters with the
//! same names.

use std::collections::HashMap;

use tch::Tensor;

use super::graph::{Graph, Value, float, int};
use crate::TrainerError;
use crate::nn::activation::Activation;
use crate::nn::parameters::BlockNames;

/// A graph under construction, with the parameters of a model.
pub(crate) struct Builder<'a> {
    pub(crate) graph: Graph,
    pub(crate) parameters: HashMap<String, &'a Tensor>,
}

/// The properties that all blocks of a tower share.
#[derive(Clone, Copy)]
pub(crate) struct Blocks<'a> {
    pub(crate) names: &'static BlockNames,
    pub(crate) prefix: &'a str,
    pub(crate) layers: i64,
    pub(crate) heads: i64,
    pub(crate) width: i64,
    pub(crate) activation: Activation,
    pub(crate) eps: f64,
    pub(crate) scaled: bool,
}

impl Builder<'_> {
    pub(crate) fn tensor(&self, name: &str) -> Result<Tensor, TrainerError> {
        let found = self
            .parameters
            .get(name)
            .ok_or_else(|| TrainerError::Torch(format!("there is no parameter named {name}")))?;
        Ok(found.shallow_clone())
    }

    pub(crate) fn parameter(&mut self, name: &str) -> Result<Value, TrainerError> {
        let tensor = self.tensor(name)?;
        self.graph.weight(name, &tensor)
    }

    /// Computes `x @ weight.T + bias`. `name` is the weight's name in the graph.
    fn linear_of(
        &mut self,
        x: &str,
        name: &str,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Value, TrainerError> {
        let weight =
            self.graph.weight(&format!("{name}.transposed"), &weight.f_transpose(0, 1)?)?;
        let product = self.graph.matmul(x, &weight);
        let Some(bias) = bias else { return Ok(product) };
        let bias = self.graph.weight(&format!("{name}.bias"), bias)?;
        Ok(self.graph.add_up(&product, &bias))
    }

    /// Applies the linear layer with `name.weight` and `name.bias`.
    pub(crate) fn linear(&mut self, x: &str, name: &str) -> Result<Value, TrainerError> {
        let (weight, bias) =
            (self.tensor(&format!("{name}.weight"))?, self.tensor(&format!("{name}.bias"))?);
        self.linear_of(x, name, &weight, Some(&bias))
    }

    pub(crate) fn linear_without_bias(
        &mut self,
        x: &str,
        name: &str,
    ) -> Result<Value, TrainerError> {
        let weight = self.tensor(&format!("{name}.weight"))?;
        self.linear_of(x, name, &weight, None)
    }

    pub(crate) fn layer_norm(
        &mut self,
        x: &str,
        name: &str,
        eps: f64,
    ) -> Result<Value, TrainerError> {
        let (weight, bias) =
            (self.parameter(&format!("{name}.weight"))?, self.parameter(&format!("{name}.bias"))?);
        Ok(self.graph.op(
            "LayerNormalization",
            &[x, &weight, &bias],
            vec![int("axis", -1), float("epsilon", eps)],
        ))
    }

    /// Applies an activation. Built from simpler operators, because ONNX has Gelu only from opset
    /// 20 on.
    fn activation(&mut self, x: &str, activation: Activation) -> Value {
        let g = &mut self.graph;
        let gate = match activation {
            Activation::QuickGelu => {
                let scaled = g.scale(x, 1.702);
                g.op("Sigmoid", &[&scaled], Vec::new())
            }
            Activation::Gelu | Activation::GeluTanh => {
                let bent = if activation == Activation::Gelu {
                    let scaled = g.scale(x, std::f64::consts::FRAC_1_SQRT_2);
                    g.op("Erf", &[&scaled], Vec::new())
                } else {
                    let square = g.mul(x, x);
                    let cube = g.mul(&square, x);
                    let small = g.scale(&cube, 0.044_715);
                    let sum = g.add_up(x, &small);
                    let scaled = g.scale(&sum, (2.0 / std::f64::consts::PI).sqrt());
                    g.op("Tanh", &[&scaled], Vec::new())
                };
                let one = g.number(1.0);
                let sum = g.add_up(&bent, &one);
                g.scale(&sum, 0.5)
            }
        };
        g.mul(x, &gate)
    }

    pub(crate) fn mlp(
        &mut self,
        x: &str,
        [input, output]: [&str; 2],
        activation: Activation,
    ) -> Result<Value, TrainerError> {
        let hidden = self.linear(x, input)?;
        let hidden = self.activation(&hidden, activation);
        self.linear(&hidden, output)
    }

    /// Computes attention of `[N, Q, W]` to keys and values `[N, L, W]`. Returns `[N, Q, W]`.
    ///
    /// `mask` is added to the logits `[N, A, Q, L]`.
    pub(crate) fn attend(
        &mut self,
        [q, k, v]: [&str; 3],
        (heads, width): (i64, i64),
        mask: Option<&str>,
    ) -> Value {
        let g = &mut self.graph;
        let head = width / heads;
        let [q, k, v] = [q, k, v].map(|part| g.reshape(part, &[0, 0, heads, head]));
        let q = g.transpose(&q, &[0, 2, 1, 3]);
        let k = g.transpose(&k, &[0, 2, 3, 1]);
        let v = g.transpose(&v, &[0, 2, 1, 3]);
        let q = g.scale(&q, (head as f64).powf(-0.5));
        let mut logits = g.matmul(&q, &k);
        if let Some(mask) = mask {
            logits = g.add_up(&logits, mask);
        }
        let shares = g.op("Softmax", &[&logits], vec![int("axis", -1)]);
        let mixed = g.matmul(&shares, &v);
        let mixed = g.transpose(&mixed, &[0, 2, 1, 3]);
        g.reshape(&mixed, &[0, 0, width])
    }

    /// Applies pre-norm transformer blocks.
    pub(crate) fn blocks(
        &mut self,
        mut x: Value,
        spec: Blocks<'_>,
        mask: Option<&str>,
    ) -> Result<Value, TrainerError> {
        let names = spec.names;
        for layer in 0..spec.layers {
            let prefix = format!("{}{}.{layer}", spec.prefix, names.list);
            let below = |name: &str| format!("{prefix}.{name}");
            let normed = self.layer_norm(&x, &below(names.ln_1), spec.eps)?;
            let (weight, bias) =
                (self.tensor(&below(names.qkv_weight))?, self.tensor(&below(names.qkv_bias))?);
            let qkv = self.linear_of(&normed, &below(names.qkv_weight), &weight, Some(&bias))?;
            let [q, k, v] =
                self.graph.ops("Split", &[&qkv], vec![int("axis", -1), int("num_outputs", 3)]);
            let mixed = self.attend([&q, &k, &v], (spec.heads, spec.width), mask);
            let attended = self.linear(&mixed, &below(names.attention_out))?;
            x = self.add_branch(&x, attended, names.scale_1.filter(|_| spec.scaled).map(below))?;
            let normed = self.layer_norm(&x, &below(names.ln_2), spec.eps)?;
            let hidden =
                self.mlp(&normed, [&below(names.mlp_in), &below(names.mlp_out)], spec.activation)?;
            x = self.add_branch(&x, hidden, names.scale_2.filter(|_| spec.scaled).map(below))?;
        }
        Ok(x)
    }

    fn add_branch(
        &mut self,
        x: &str,
        branch: Value,
        scale: Option<String>,
    ) -> Result<Value, TrainerError> {
        let branch = match scale {
            None => branch,
            Some(name) => {
                let scale = self.parameter(&name)?;
                self.graph.mul(&branch, &scale)
            }
        };
        Ok(self.graph.add_up(x, &branch))
    }

    /// Applies OpenCLIP's `AttentionalPooler`: `[N, L, W]` → `[N, Q, D]`.
    pub(crate) fn attentional_pool(
        &mut self,
        x: &str,
        prefix: &str,
        heads: i64,
        eps: f64,
    ) -> Result<Value, TrainerError> {
        let attention = format!("{prefix}.attn");
        let together = format!("{attention}.in_proj_weight");
        let weights = if self.parameters.contains_key(&together) {
            self.tensor(&together)?.f_chunk(3, 0)?
        } else {
            ["q", "k", "v"]
                .iter()
                .map(|part| self.tensor(&format!("{attention}.{part}_proj_weight")))
                .collect::<Result<_, _>>()?
        };
        let biases = self.tensor(&format!("{attention}.in_proj_bias"))?.f_chunk(3, 0)?;
        let keys = self.layer_norm(x, &format!("{prefix}.ln_k"), eps)?;
        let query = self.tensor(&format!("{prefix}.query"))?;
        let width = query.size2()?.1;
        let query = self.graph.weight(&format!("{prefix}.query"), &query.f_unsqueeze(0)?)?;
        let query = self.layer_norm(&query, &format!("{prefix}.ln_q"), eps)?;
        let mut parts = Vec::with_capacity(3);
        for (input, (name, (weight, bias))) in [&query, &keys, &keys]
            .into_iter()
            .zip(["q", "k", "v"].into_iter().zip(weights.iter().zip(&biases)))
        {
            parts.push(self.linear_of(
                input,
                &format!("{attention}.{name}"),
                weight,
                Some(bias),
            )?);
        }
        let [q, k, v] = &parts[..] else {
            return Err(TrainerError::Torch(format!("{attention} does not have three parts")));
        };
        let mixed = self.attend([q, k, v], (heads, width), None);
        self.linear(&mixed, &format!("{attention}.out_proj"))
    }

    /// Applies timm's MAP head: `[N, P, W]` → `[N, W]`.
    pub(crate) fn map_head(
        &mut self,
        x: &str,
        prefix: &str,
        (heads, width): (i64, i64),
        (activation, eps): (Activation, f64),
    ) -> Result<Value, TrainerError> {
        let below = |name: &str| format!("{prefix}.{name}");
        let latent = self.parameter(&below("latent"))?;
        let query = self.linear(&latent, &below("q"))?;
        let key_value = self.linear(x, &below("kv"))?;
        let [key, value] =
            self.graph.ops("Split", &[&key_value], vec![int("axis", -1), int("num_outputs", 2)]);
        let mixed = self.attend([&query, &key, &value], (heads, width), None);
        let x = self.linear(&mixed, &below("proj"))?;
        let normed = self.layer_norm(&x, &below("norm"), eps)?;
        let hidden = self.mlp(&normed, [&below("mlp.fc1"), &below("mlp.fc2")], activation)?;
        let x = self.graph.add_up(&x, &hidden);
        Ok(self.graph.select(&x, 0))
    }
}
