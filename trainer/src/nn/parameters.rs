//! The parameters of a model as a list: name, shape, initial values and place in the model.
//!
//! There are no tensors here. Locks, layer-wise learning rates, LoRA and FLOP counts read part,
//! depth and role from this list, and never parse a name.

use diptych_schemas::LoraTarget;

/// The distribution of a parameter's initial values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Init {
    Constant(f64),
    /// Normal with this standard deviation.
    Normal(f64),
    /// Uniform between minus and plus this bound.
    Uniform(f64),
    /// Sines and cosines of the columns and rows of a square grid with this side, after a row of
    /// zeros. Never trained.
    SinCos2d(i64),
}

/// The part of a model that a parameter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    Image,
    Text,
    /// Scalars of the objective, which belong to no tower. They are never locked, and their
    /// gradients are not scaled in fp16.
    Objective,
}

impl Part {
    /// Returns the part's name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Text => "text",
            Self::Objective => "objective",
        }
    }
}

/// The depth of a parameter in its part, counted from the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    Embeddings,
    /// A layer, counted from 0.
    Layer(u64),
    /// The norm after the last layer.
    FinalNorm,
    /// OpenCLIP's attentional pooling, which its locks never unlock.
    Pool,
    /// The end of the part: a projection, a pooling head or a prediction head.
    Head,
}

/// The role of a weight in its layer, which decides whether LoRA may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Other,
    /// Query, key and value in one weight, in this order.
    QueryKeyValue,
    Of(LoraTarget),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ParameterSpec {
    pub(crate) name: String,
    pub(crate) shape: Vec<i64>,
    pub(crate) init: Init,
    pub(crate) part: Part,
    pub(crate) depth: Depth,
    pub(crate) role: Role,
}

impl ParameterSpec {
    pub(crate) fn numel(&self) -> i64 {
        self.shape.iter().product()
    }
}

/// Builds the list. Parameters are added at the part and depth that were set last.
pub(crate) struct ParameterList {
    prefix: String,
    part: Part,
    depth: Depth,
    specs: Vec<ParameterSpec>,
}

impl ParameterList {
    pub(crate) fn new(part: Part) -> Self {
        Self { prefix: String::new(), part, depth: Depth::Embeddings, specs: Vec::new() }
    }

    pub(crate) fn into_specs(self) -> Vec<ParameterSpec> {
        self.specs
    }

    /// Sets the part and depth of the next parameters.
    pub(crate) fn at(&mut self, part: Part, depth: Depth) {
        (self.part, self.depth) = (part, depth);
    }

    /// Sets the depth of the next parameters.
    pub(crate) fn depth(&mut self, depth: Depth) {
        self.depth = depth;
    }

    pub(crate) fn add(&mut self, name: &str, shape: &[i64], init: Init) {
        self.add_role(name, shape, init, Role::Other);
    }

    pub(crate) fn add_role(&mut self, name: &str, shape: &[i64], init: Init, role: Role) {
        let name = format!("{}{name}", self.prefix);
        self.specs.push(ParameterSpec {
            name,
            shape: shape.to_vec(),
            init,
            part: self.part,
            depth: self.depth,
            role,
        });
    }

    /// Calls `fill`, and puts `prefix` before the names of the parameters it adds.
    pub(crate) fn below(&mut self, prefix: &str, fill: impl FnOnce(&mut Self)) {
        let before = self.prefix.len();
        self.prefix.push_str(prefix);
        fill(self);
        self.prefix.truncate(before);
    }

    /// Adds a matrix `[outputs, inputs]` and its bias.
    pub(crate) fn linear(&mut self, name: &str, shape: [i64; 2], weight: Init, bias: Init) {
        self.linear_role(name, shape, weight, bias, Role::Other);
    }

    pub(crate) fn linear_role(
        &mut self,
        name: &str,
        [outputs, inputs]: [i64; 2],
        weight: Init,
        bias: Init,
        role: Role,
    ) {
        self.add_role(&format!("{name}.weight"), &[outputs, inputs], weight, role);
        self.add(&format!("{name}.bias"), &[outputs], bias);
    }

    pub(crate) fn layer_norm(&mut self, name: &str, width: i64) {
        self.add(&format!("{name}.weight"), &[width], Init::Constant(1.0));
        self.add(&format!("{name}.bias"), &[width], Init::Constant(0.0));
    }

    /// Adds pre-norm blocks.
    pub(crate) fn blocks(&mut self, names: &BlockNames, layers: i64, shape: BlockShape) {
        for layer in 0..layers {
            self.depth(Depth::Layer(layer as u64));
            self.below(&format!("{}.{layer}.", names.list), |list| list.block(names, shape));
        }
    }

    fn block(&mut self, names: &BlockNames, shape: BlockShape) {
        let BlockShape { width, mlp_width, .. } = shape;
        let zero = Init::Constant(0.0);
        let (output, mlp) = (Role::Of(LoraTarget::Output), Role::Of(LoraTarget::Mlp));
        self.layer_norm(names.ln_1, width);
        self.add_role(
            names.qkv_weight,
            &[3 * width, width],
            shape.attention_in,
            Role::QueryKeyValue,
        );
        self.add(names.qkv_bias, &[3 * width], zero);
        self.linear_role(names.attention_out, [width, width], shape.attention_out, zero, output);
        self.layer_scale(names.scale_1, shape);
        self.layer_norm(names.ln_2, width);
        self.linear_role(
            names.mlp_in,
            [mlp_width, width],
            shape.mlp_in,
            shape.mlp_bias.unwrap_or(default_linear(width)),
            mlp,
        );
        self.linear_role(
            names.mlp_out,
            [width, mlp_width],
            shape.mlp_out,
            shape.mlp_bias.unwrap_or(default_linear(mlp_width)),
            mlp,
        );
        self.layer_scale(names.scale_2, shape);
    }

    fn layer_scale(&mut self, name: Option<&str>, shape: BlockShape) {
        if let (Some(name), Some(start)) = (name, shape.scale) {
            self.add(name, &[shape.width], Init::Constant(start));
        }
    }
}

/// Returns PyTorch's default for the weight and bias of a layer with this many inputs.
///
/// It is Kaiming's uniform distribution with a = √5.
pub(crate) fn default_linear(inputs: i64) -> Init {
    Init::Uniform((inputs as f64).powf(-0.5))
}

/// Returns Xavier's uniform distribution.
pub(crate) fn xavier(inputs: i64, outputs: i64) -> Init {
    Init::Uniform((6.0 / (inputs + outputs) as f64).sqrt())
}

/// The sizes of a pre-norm block and the initial values of its matrices.
#[derive(Clone, Copy)]
pub(crate) struct BlockShape {
    pub(crate) width: i64,
    pub(crate) mlp_width: i64,
    /// Initial value of LayerScale.
    pub(crate) scale: Option<f64>,
    pub(crate) attention_in: Init,
    pub(crate) attention_out: Init,
    pub(crate) mlp_in: Init,
    pub(crate) mlp_out: Init,
    /// `None` for PyTorch's default.
    pub(crate) mlp_bias: Option<Init>,
}

/// The names of the parts of a pre-norm block.
pub(crate) struct BlockNames {
    /// Name of the list of blocks.
    pub(crate) list: &'static str,
    pub(crate) ln_1: &'static str,
    pub(crate) qkv_weight: &'static str,
    pub(crate) qkv_bias: &'static str,
    pub(crate) attention_out: &'static str,
    /// Name of LayerScale's factors.
    pub(crate) scale_1: Option<&'static str>,
    pub(crate) ln_2: &'static str,
    pub(crate) mlp_in: &'static str,
    pub(crate) mlp_out: &'static str,
    pub(crate) scale_2: Option<&'static str>,
}

pub(crate) const OPENCLIP_BLOCKS: BlockNames = BlockNames {
    list: "transformer.resblocks",
    ln_1: "ln_1",
    qkv_weight: "attn.in_proj_weight",
    qkv_bias: "attn.in_proj_bias",
    attention_out: "attn.out_proj",
    scale_1: Some("ls_1.gamma"),
    ln_2: "ln_2",
    mlp_in: "mlp.c_fc",
    mlp_out: "mlp.c_proj",
    scale_2: Some("ls_2.gamma"),
};

pub(crate) const TIMM_BLOCKS: BlockNames = BlockNames {
    list: "blocks",
    ln_1: "norm1",
    qkv_weight: "attn.qkv.weight",
    qkv_bias: "attn.qkv.bias",
    attention_out: "attn.proj",
    scale_1: None,
    ln_2: "norm2",
    mlp_in: "mlp.fc1",
    mlp_out: "mlp.fc2",
    scale_2: None,
};
