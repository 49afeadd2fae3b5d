//! A model's configuration in OpenCLIP's own JSON form, and the built-in ones.
//!
//! Invariant: a key that would change what is computed and that this trainer does not know how to compute is refused by its
//! name. Nothing is silently ignored: a wrong activation or pooling costs weeks.

use std::path::Path;

use diptych_schemas::LossKind;
use serde_json::{Map, Value, json};

use crate::TrainerError;

/// OpenCLIP's mean and standard deviation of red, green and blue (OpenAI's data set), with which pixels are normalised.
pub const IMAGE_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
pub const IMAGE_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// A ViT dual encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// D: dimension of the common space.
    pub embed_dim: i64,
    /// `x·sigmoid(1.702x)` instead of the exact GELU.
    pub quick_gelu: bool,
    /// ln of the factor of the logits at the start.
    pub init_logit_scale: f64,
    /// What is added to the logits at the start, of models that have a logit bias.
    pub init_logit_bias: Option<f64>,
    pub vision: VisionConfig,
    pub text: TextConfig,
}

/// The image tower.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
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
}

impl VisionConfig {
    pub fn heads(&self) -> i64 {
        self.width / self.head_width
    }

    /// Patches along one side.
    pub fn grid(&self) -> i64 {
        self.image_size / self.patch_size
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

/// ln(1/0.07), the start of the logit scale. CLIP, section 2.5.
pub(crate) const LOGIT_SCALE: f64 = 2.659_260_036_932_778;
/// Largest ln of the logit scale: the logits are scaled by 100 at most. CLIP, section 2.5.
pub const LARGEST_LOGIT_SCALE: f64 = 4.605_170_185_988_092;
/// ln 10 and -10, where scale and bias of a sigmoid loss start: most pairs are no pairs. SigLIP, section 3.2.
const SIGMOID_START: (f64, f64) = (std::f64::consts::LN_10, -10.0);

/// Names of the built-in configurations.
pub const BUILT_IN: [&str; 5] = ["demo", "ViT-S-32", "ViT-B-32", "ViT-B-16", "ViT-L-14"];

impl ModelConfig {
    /// A built-in name or a JSON file.
    pub fn named_or_file(text: &str) -> Result<Self, TrainerError> {
        if let Some(config) = Self::built_in(text) {
            return Ok(config);
        }
        let path = Path::new(text);
        if path.extension().is_none_or(|ending| !ending.eq_ignore_ascii_case("json")) {
            return Err(TrainerError::Config {
                place: format!("model {text:?}"),
                message: format!("neither a built-in model ({}) nor a .json file", BUILT_IN.join(", ")),
            });
        }
        Self::read(path)
    }

    /// One of [`BUILT_IN`]. OpenCLIP's values, but for `demo`, which is ours.
    pub fn built_in(name: &str) -> Option<Self> {
        let vit = |embed_dim, (layers, width, patch_size), (text_width, heads)| Self {
            embed_dim,
            quick_gelu: false,
            init_logit_scale: LOGIT_SCALE,
            init_logit_bias: None,
            vision: VisionConfig { image_size: 224, patch_size, width, head_width: 64, layers, mlp_ratio: 4.0 },
            text: TextConfig { context_length: 77, vocab_size: 49408, width: text_width, heads, layers: 12, mlp_ratio: 4.0 },
        };
        Some(match name {
            "ViT-S-32" => vit(384, (12, 384, 32), (384, 6)),
            "ViT-B-32" => vit(512, (12, 768, 32), (512, 8)),
            "ViT-B-16" => vit(512, (12, 768, 16), (512, 8)),
            "ViT-L-14" => vit(768, (24, 1024, 14), (768, 12)),
            "demo" => Self {
                embed_dim: 128,
                quick_gelu: false,
                init_logit_scale: LOGIT_SCALE,
                init_logit_bias: None,
                vision: VisionConfig { image_size: 64, patch_size: 8, width: 128, head_width: 32, layers: 4, mlp_ratio: 4.0 },
                text: TextConfig { context_length: 32, vocab_size: 49408, width: 128, heads: 4, layers: 3, mlp_ratio: 4.0 },
            },
            _ => return None,
        })
    }

    /// Reads a JSON file: a model configuration, or an `open_clip_config.json` that wraps one.
    pub fn read(path: &Path) -> Result<Self, TrainerError> {
        let text = std::fs::read_to_string(path).map_err(TrainerError::io(path))?;
        Self::parse(&text).map_err(|message| TrainerError::Config { place: path.display().to_string(), message })
    }

    /// Parses and checks OpenCLIP's JSON form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("not valid JSON: {error}"))?;
        let object = value.as_object().ok_or("a model configuration is a JSON object")?;
        Self::from_json(object.get("model_cfg").and_then(Value::as_object).unwrap_or(object))
    }

    fn from_json(object: &Map<String, Value>) -> Result<Self, String> {
        let top = Keys { of: "", object };
        let known = ["embed_dim", "quick_gelu", "init_logit_scale", "init_logit_bias", "vision_cfg", "text_cfg"];
        top.refuse_others(&known, NEUTRAL_MODEL)?;
        let vision = Keys { of: "vision_cfg.", object: top.object("vision_cfg")? };
        vision.refuse_others(&["image_size", "patch_size", "width", "head_width", "layers", "mlp_ratio"], NEUTRAL_VISION)?;
        let text = Keys { of: "text_cfg.", object: top.object("text_cfg")? };
        text.refuse_others(&["context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"], NEUTRAL_TEXT)?;
        // Where a key is absent: the defaults of OpenCLIP's CLIPVisionCfg and CLIPTextCfg.
        let config = Self {
            embed_dim: top.integer("embed_dim", None, 1..=16_384)?,
            quick_gelu: top.boolean("quick_gelu")?,
            init_logit_scale: top.number("init_logit_scale", 0.0..=LARGEST_LOGIT_SCALE)?.unwrap_or(LOGIT_SCALE),
            init_logit_bias: top.number("init_logit_bias", -1000.0..=1000.0)?,
            vision: VisionConfig {
                image_size: vision.integer("image_size", Some(224), 1..=4096)?,
                patch_size: vision.integer("patch_size", Some(16), 1..=4096)?,
                width: vision.integer("width", Some(768), 1..=16_384)?,
                head_width: vision.integer("head_width", Some(64), 1..=16_384)?,
                layers: vision.integer("layers", Some(12), 1..=256)?,
                mlp_ratio: vision.ratio("mlp_ratio")?,
            },
            text: TextConfig {
                context_length: text.integer("context_length", Some(77), 3..=8192)?,
                vocab_size: text.integer("vocab_size", Some(49408), 3..=4_000_000)?,
                width: text.integer("width", Some(512), 1..=16_384)?,
                heads: text.integer("heads", Some(8), 1..=1024)?,
                layers: text.integer("layers", Some(12), 1..=256)?,
                mlp_ratio: text.ratio("mlp_ratio")?,
            },
        };
        config.validate()?;
        Ok(config)
    }

    /// What must hold between the numbers.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let (v, t) = (&self.vision, &self.text);
        let divides = |what: &str, whole: i64, by: &str, part: i64| {
            if part > 0 && whole % part == 0 {
                return Ok(());
            }
            Err(format!("{what} must be a multiple of {by}, got {whole} and {part}"))
        };
        divides("vision_cfg.image_size", v.image_size, "vision_cfg.patch_size", v.patch_size)?;
        divides("vision_cfg.width", v.width, "vision_cfg.head_width", v.head_width)?;
        divides("text_cfg.width", t.width, "text_cfg.heads", t.heads)?;
        for (what, width) in [("vision_cfg", v.mlp_width()), ("text_cfg", t.mlp_width())] {
            if width < 1 {
                return Err(format!("{what}.mlp_ratio must give a hidden layer of at least 1, got {width}"));
            }
        }
        Ok(())
    }

    /// OpenCLIP's JSON form, every supported key said.
    pub fn to_json(&self) -> Value {
        let mut json = json!({
            "embed_dim": self.embed_dim,
            "quick_gelu": self.quick_gelu,
            "vision_cfg": {
                "image_size": self.vision.image_size,
                "layers": self.vision.layers,
                "width": self.vision.width,
                "head_width": self.vision.head_width,
                "patch_size": self.vision.patch_size,
                "mlp_ratio": self.vision.mlp_ratio,
            },
            "text_cfg": {
                "context_length": self.text.context_length,
                "vocab_size": self.text.vocab_size,
                "width": self.text.width,
                "heads": self.text.heads,
                "layers": self.text.layers,
                "mlp_ratio": self.text.mlp_ratio,
            },
        });
        // Said where they are not OpenCLIP's own, so that files of models without them stay as they were.
        if self.init_logit_scale != LOGIT_SCALE {
            json["init_logit_scale"] = json!(self.init_logit_scale);
        }
        if let Some(bias) = self.init_logit_bias {
            json["init_logit_bias"] = json!(bias);
        }
        json
    }

    /// The same model with what a loss wants: the sigmoid one a logit bias, and both scalars where the paper starts them, unless the
    /// configuration says where.
    pub fn for_loss(&self, loss: LossKind) -> Self {
        match loss {
            LossKind::Siglip if self.init_logit_bias.is_none() => {
                let scale = if self.init_logit_scale == LOGIT_SCALE { SIGMOID_START.0 } else { self.init_logit_scale };
                Self { init_logit_scale: scale, init_logit_bias: Some(SIGMOID_START.1), ..self.clone() }
            }
            _ => self.clone(),
        }
    }

    /// The keys in which another configuration differs, in words; nothing where the two are the same model.
    pub fn differences(&self, other: &Self) -> Option<String> {
        // Where scalars start makes no other model; whether there is a bias does.
        let compared = |config: &Self| {
            let mut json = Self { init_logit_scale: LOGIT_SCALE, init_logit_bias: None, ..config.clone() }.to_json();
            json["logit_bias"] = json!(config.init_logit_bias.is_some());
            json
        };
        let (ours, theirs) = (compared(self), compared(other));
        let mut found = Vec::new();
        for (key, value) in ours.as_object().into_iter().flatten() {
            match (value.as_object(), &theirs[key]) {
                (Some(group), other) => found.extend(
                    group
                        .iter()
                        .filter(|(k, v)| *v != &other[k.as_str()])
                        .map(|(k, v)| format!("{key}.{k} is {v} and {}", other[k.as_str()])),
                ),
                (None, other) if value != other => found.push(format!("{key} is {value} and {other}")),
                _ => {}
            }
        }
        (!found.is_empty()).then(|| found.join(", "))
    }
}

/// Keys of OpenCLIP that are accepted at the one value (its default) that computes what this trainer computes; any other
/// value is refused. Where the value is null, the key's default is null as well.
const NEUTRAL_MODEL: &[(&str, &str)] =
    &[("custom_text", "false"), ("nonscalar_logit_scale", "false"), ("multimodal_cfg", "null"), ("output_dict", "false")];

const NEUTRAL_BLOCK: &[(&str, &str)] = &[
    ("ls_init_value", "null"),
    ("final_ln_after_pool", "false"),
    ("output_tokens", "false"),
    ("act_kwargs", "null"),
    ("norm_kwargs", "null"),
    ("block_type", "null"),
    ("qk_norm", "false"),
    ("scaled_cosine_attn", "false"),
    ("scale_heads", "false"),
    ("scale_attn_inner", "false"),
    ("scale_attn", "false"),
    ("scale_fc", "false"),
];

const NEUTRAL_VISION: &[(&str, &str)] = &[
    ("patch_dropout", "0.0"),
    ("attentional_pool", "false"),
    ("no_ln_pre", "false"),
    ("pos_embed_type", "\"learnable\""),
    ("pool_type", "\"tok\""),
    ("timm_model_name", "null"),
];

const NEUTRAL_TEXT: &[(&str, &str)] = &[
    ("hf_tokenizer_name", "null"),
    ("tokenizer_mode", "null"),
    ("tokenizer_kwargs", "null"),
    ("embed_cls", "false"),
    ("pad_id", "0"),
    ("no_causal_mask", "false"),
    ("pool_type", "\"argmax\""),
    ("proj_bias", "false"),
    ("proj_type", "\"linear\""),
    ("hf_model_name", "null"),
];

/// One JSON object and its place in the file.
struct Keys<'a> {
    of: &'static str,
    object: &'a Map<String, Value>,
}

impl Keys<'_> {
    fn refuse_others(&self, known: &[&str], neutral: &[(&str, &str)]) -> Result<(), String> {
        let shared = if self.of.is_empty() { &[] } else { NEUTRAL_BLOCK };
        for (key, value) in self.object {
            if known.contains(&key.as_str()) {
                continue;
            }
            match neutral.iter().chain(shared).find(|(name, _)| name == key) {
                Some((_, default)) if same(value, default) => {}
                Some((_, default)) => {
                    return Err(format!("{}{key} = {value} is not supported yet (only {default} is)", self.of));
                }
                None => {
                    return Err(format!(
                        "{}{key} is not supported yet; the supported keys here are {}",
                        self.of,
                        known.join(", ")
                    ));
                }
            }
        }
        Ok(())
    }

    fn object(&self, key: &str) -> Result<&Map<String, Value>, String> {
        self.object
            .get(key)
            .and_then(Value::as_object)
            .ok_or_else(|| format!("{key} is missing: a model configuration has embed_dim, vision_cfg and text_cfg"))
    }

    fn integer(&self, key: &str, default: Option<i64>, range: std::ops::RangeInclusive<i64>) -> Result<i64, String> {
        let value = match (self.object.get(key), default) {
            (Some(value), _) => value.as_i64().ok_or_else(|| {
                format!("{}{key} must be one whole number, got {value} (other forms are not supported yet)", self.of)
            })?,
            (None, Some(default)) => default,
            (None, None) => return Err(format!("{}{key} is missing", self.of)),
        };
        if !range.contains(&value) {
            return Err(format!("{}{key} must be {} to {}, got {value}", self.of, range.start(), range.end()));
        }
        Ok(value)
    }

    /// A number, or none where the key is absent or null.
    fn number(&self, key: &str, range: std::ops::RangeInclusive<f64>) -> Result<Option<f64>, String> {
        let Some(value) = self.object.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        let number = value.as_f64().filter(|number| range.contains(number));
        let told = || format!("{}{key} must be a number from {} to {}, got {value}", self.of, range.start(), range.end());
        number.map(Some).ok_or_else(told)
    }

    fn ratio(&self, key: &str) -> Result<f64, String> {
        let Some(value) = self.object.get(key) else { return Ok(4.0) };
        let ratio = value.as_f64().unwrap_or(f64::NAN);
        if !(ratio > 0.0 && ratio <= 64.0) {
            return Err(format!("{}{key} must be above 0 and at most 64, got {value}", self.of));
        }
        Ok(ratio)
    }

    fn boolean(&self, key: &str) -> Result<bool, String> {
        match self.object.get(key) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| format!("{}{key} must be true or false, got {value}", self.of)),
        }
    }
}

fn same(value: &Value, default: &str) -> bool {
    let default: Value = serde_json::from_str(default).unwrap_or_default();
    match (value.as_f64(), default.as_f64()) {
        // 0 and 0.0 are two values to serde_json.
        (Some(value), Some(default)) => value == default,
        _ => *value == default,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B32: &str = r#"{"embed_dim": 512, "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}}"#;

    #[test]
    fn openclips_own_file_gives_the_built_in_model() {
        assert_eq!(ModelConfig::parse(B32).unwrap(), ModelConfig::built_in("ViT-B-32").unwrap());
        let wrapped = format!(r#"{{"model_cfg": {B32}, "preprocess_cfg": {{}}}}"#);
        assert_eq!(ModelConfig::parse(&wrapped).unwrap(), ModelConfig::built_in("ViT-B-32").unwrap());
    }

    #[test]
    fn built_in_models_are_valid_and_survive_their_json_form() {
        for name in BUILT_IN {
            let config = ModelConfig::built_in(name).unwrap();
            assert_eq!(ModelConfig::parse(&config.to_json().to_string()).unwrap(), config, "{name}");
        }
    }

    #[test]
    fn keys_that_change_the_computation_are_refused_by_name() {
        for (from, to, says) in [
            (
                r#""layers": 12, "width": 768"#,
                r#""layers": 12, "width": 768, "timm_model_name": "vit""#,
                "vision_cfg.timm_model_name",
            ),
            (
                r#""layers": 12, "width": 768"#,
                r#""layers": 12, "width": 768, "patch_dropout": 0.5"#,
                "vision_cfg.patch_dropout = 0.5",
            ),
            (r#""layers": 12, "width": 768"#, r#""layers": 12, "width": 768, "pool_type": "avg""#, "vision_cfg.pool_type"),
            (r#""layers": 12, "width": 768"#, r#""layers": [3, 4, 6, 3], "width": 768"#, "vision_cfg.layers"),
            (r#""heads": 8"#, r#""heads": 8, "hf_model_name": "xlm""#, "text_cfg.hf_model_name"),
            (r#""heads": 8"#, r#""heads": 8, "no_causal_mask": true"#, "text_cfg.no_causal_mask"),
            (r#""embed_dim": 512"#, r#""embed_dim": 512, "custom_text": true"#, "custom_text"),
            (r#""embed_dim": 512"#, r#""embed_dim": 512, "brand_new": 1"#, "brand_new is not supported yet"),
        ] {
            let text = B32.replace(from, to);
            assert_ne!(text, B32);
            let error = ModelConfig::parse(&text).unwrap_err();
            assert!(error.contains(says) && error.contains("not supported yet"), "{error}");
        }
    }

    #[test]
    fn neutral_values_of_such_keys_are_accepted() {
        let text = B32.replace(r#""heads": 8"#, r#""heads": 8, "pool_type": "argmax", "ls_init_value": null"#).replace(
            r#""patch_size": 32"#,
            r#""patch_size": 32, "patch_dropout": 0, "no_ln_pre": false, "attentional_pool": false"#,
        );
        assert_eq!(ModelConfig::parse(&text).unwrap(), ModelConfig::built_in("ViT-B-32").unwrap());
    }

    #[test]
    fn numbers_that_do_not_fit_each_other_are_refused() {
        for (from, to, says) in [
            (r#""patch_size": 32"#, r#""patch_size": 33"#, "vision_cfg.image_size must be a multiple"),
            (r#""width": 768"#, r#""width": 770"#, "vision_cfg.width must be a multiple"),
            (r#""heads": 8"#, r#""heads": 7"#, "text_cfg.width must be a multiple"),
            (r#""heads": 8"#, r#""heads": 0"#, "text_cfg.heads must be 1 to"),
            (r#""embed_dim": 512"#, r#""embed_dim": 99999999999"#, "embed_dim must be 1 to"),
            (r#""embed_dim": 512,"#, "", "embed_dim is missing"),
        ] {
            let error = ModelConfig::parse(&B32.replace(from, to)).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn differences_name_the_keys() {
        let a = ModelConfig::built_in("ViT-B-32").unwrap();
        let mut b = a.clone();
        assert_eq!(a.differences(&b), None);
        b.quick_gelu = true;
        b.text.heads = 4;
        let said = a.differences(&b).unwrap();
        assert!(said.contains("quick_gelu is false and true") && said.contains("text_cfg.heads is 8 and 4"), "{said}");
    }
}
