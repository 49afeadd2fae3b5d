//! Fields of `config.json` that all families share: reading them, and refusing unsupported values.

use serde_json::{Value, json};

use crate::nn::activation::{Activation, mlp_ratio};

/// The keys of a `config.json`, or of one of its groups `text_config` and `vision_config`.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    keys: &'a Value,
    /// Prefix of keys in messages.
    place: &'static str,
}

impl<'a> Fields<'a> {
    /// Selects a group. `place` is its name followed by a point.
    pub(crate) fn group(json: &'a Value, place: &'static str) -> Self {
        Self { keys: &json[place.trim_end_matches('.')], place }
    }

    /// Selects the top level of the file.
    pub(crate) fn top(json: &'a Value) -> Self {
        Self { keys: json, place: "" }
    }

    pub(crate) fn value(&self, key: &str) -> &'a Value {
        &self.keys[key]
    }

    /// Reads a positive integer. Returns transformers' default if it is absent.
    pub(crate) fn integer(&self, key: &str, default: i64) -> Result<i64, String> {
        match self.value(key) {
            Value::Null => Ok(default),
            value => value.as_i64().filter(|n| *n > 0).ok_or_else(|| {
                format!("{}{key} must be a whole number above 0, got {value}", self.place)
            }),
        }
    }

    pub(crate) fn number(&self, key: &str, default: f64) -> Result<f64, String> {
        match self.value(key) {
            Value::Null => Ok(default),
            value => value
                .as_f64()
                .ok_or_else(|| format!("{}{key} must be a number, got {value}", self.place)),
        }
    }

    /// Refuses any value except `ours`.
    pub(crate) fn only(&self, key: &str, ours: &Value) -> Result<(), String> {
        let value = self.value(key);
        let same = match (value.as_f64(), ours.as_f64()) {
            (Some(found), Some(ours)) => (found - ours).abs() < 1e-9,
            _ => value.is_null() || value == ours,
        };
        if same {
            Ok(())
        } else {
            Err(format!("{}{key} = {value} is not supported yet (only {ours} is)", self.place))
        }
    }

    pub(crate) fn activation(&self, default: Activation) -> Result<Activation, String> {
        match self.value("hidden_act") {
            Value::Null => Ok(default),
            value => {
                NAMES.iter().find(|(name, _)| value == name).map(|(_, found)| *found).ok_or_else(
                    || {
                        format!(
                            "{}hidden_act = {value} is not supported yet (only \"gelu\", \
                             \"gelu_pytorch_tanh\" and \"quick_gelu\" are)",
                            self.place
                        )
                    },
                )
            }
        }
    }

    /// Returns the ratio of the MLP's hidden width to the tower's width.
    pub(crate) fn mlp_ratio(&self, width: i64, default: i64) -> Result<f64, String> {
        let hidden = self.integer("intermediate_size", default)?;
        mlp_ratio(width, hidden).ok_or_else(|| {
            format!("{}intermediate_size = {hidden} is not supported yet", self.place)
        })
    }

    /// Reads an image tower as OpenCLIP's `vision_cfg`.
    pub(crate) fn vision(&self, patch_size: i64, eps: f64) -> Result<Value, String> {
        self.only("attention_dropout", &json!(0.0))?;
        self.only("num_channels", &json!(3))?;
        let (width, heads) =
            (self.integer("hidden_size", 768)?, self.integer("num_attention_heads", 12)?);
        if width % heads != 0 {
            return Err(format!(
                "{}hidden_size must be a multiple of num_attention_heads, got {width} and {heads}",
                self.place
            ));
        }
        Ok(json!({
            "image_size": self.integer("image_size", 224)?,
            "patch_size": self.integer("patch_size", patch_size)?,
            "width": width,
            "head_width": width / heads,
            "layers": self.integer("num_hidden_layers", 12)?,
            "mlp_ratio": self.mlp_ratio(width, 3072)?,
            "norm_kwargs": { "eps": self.number("layer_norm_eps", eps)? },
        }))
    }
}

const NAMES: [(&str, Activation); 3] = [
    ("gelu", Activation::Gelu),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("quick_gelu", Activation::QuickGelu),
];

pub(crate) fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
        Activation::QuickGelu => "quick_gelu",
    }
}

/// Returns OpenCLIP's `act_kwargs`.
pub(crate) fn act_kwargs(activation: Activation) -> Value {
    if activation == Activation::GeluTanh { json!({ "approximate": "tanh" }) } else { Value::Null }
}
