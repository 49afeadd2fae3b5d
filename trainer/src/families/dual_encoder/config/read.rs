//! Parses and checks OpenCLIP's JSON form.

use serde_json::{Map, Value};

use super::{
    AttentionalPool, Bert, DualEncoderConfig, ImagePool, LARGEST_LOGIT_SCALE, LAYER_NORM_EPS,
    LOGIT_SCALE, ONLY_VITS, PreprocessConfig, TextConfig, TextPool, TextProjection,
    TokenizerConfig, Trunk, VisionConfig, timm,
};

impl DualEncoderConfig {
    /// Parses and checks OpenCLIP's JSON form.
    ///
    /// Absent keys have the defaults of OpenCLIP's `CLIPVisionCfg` and `CLIPTextCfg`. The error
    /// names the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| format!("not valid JSON: {error}"))?;
        let object = value.as_object().ok_or("a model configuration must be a JSON object")?;
        let Some(model) = object.get("model_cfg").and_then(Value::as_object) else {
            return Self::from_json(object, None);
        };
        let preprocess = match object.get("preprocess_cfg") {
            None | Some(Value::Null) => None,
            Some(value) => Some(
                value
                    .as_object()
                    .ok_or_else(|| format!("preprocess_cfg must be an object, got {value}"))?,
            ),
        };
        Self::from_json(model, preprocess)
    }

    fn from_json(
        object: &Map<String, Value>,
        preprocess: Option<&Map<String, Value>>,
    ) -> Result<Self, String> {
        let top = Keys { of: "", object };
        top.refuse_others(MODEL_KEYS, NEUTRAL_MODEL)?;
        let vision = vision(&Keys { of: "vision_cfg.", object: top.object("vision_cfg")? })?;
        let config = Self {
            preprocess: preprocess
                .map(|object| PreprocessConfig::from_json(object, vision.image_size))
                .transpose()?
                .unwrap_or_default(),
            embed_dim: top.integer("embed_dim", None, 1..=16_384)?,
            quick_gelu: top.boolean("quick_gelu")?,
            init_logit_scale: top
                .number("init_logit_scale", 0.0..=LARGEST_LOGIT_SCALE)?
                .unwrap_or(LOGIT_SCALE),
            init_logit_bias: top.number("init_logit_bias", -1000.0..=1000.0)?,
            custom_text: top.boolean("custom_text")?,
            vision,
            text: text(&Keys { of: "text_cfg.", object: top.object("text_cfg")? })?,
        };
        config.validate()?;
        Ok(config)
    }
}

fn vision(keys: &Keys<'_>) -> Result<VisionConfig, String> {
    if let Some(layers) = keys.object.get("layers").and_then(Value::as_array) {
        let layers: Vec<String> = layers.iter().map(Value::to_string).collect();
        return Err(format!(
            "the image tower is a ResNet (vision_cfg.layers is a list, {}), which is not supported \
             yet. {ONLY_VITS}",
            layers.join(" + ")
        ));
    }
    if let Some(name) = keys.object.get("timm_model_name").filter(|name| !name.is_null()) {
        return timm_vision(keys, name);
    }
    let trunk =
        keys.choice("trunk", &[("openclip", Trunk::OpenClip), ("siglip", Trunk::Siglip)])?;
    match trunk {
        Trunk::OpenClip => keys.refuse_others(VISION_KEYS, NEUTRAL_VISION)?,
        Trunk::Siglip => keys.refuse_others(SIGLIP_KEYS, NEUTRAL_VISION)?,
    }
    let attentional_pool = AttentionalPool {
        queries: keys.integer("attn_pooler_queries", Some(256), 1..=65_536)?,
        heads: keys.integer("attn_pooler_heads", Some(8), 1..=1024)?,
    };
    Ok(VisionConfig {
        trunk,
        image_size: keys.integer("image_size", Some(224), 1..=4096)?,
        patch_size: keys.integer("patch_size", Some(16), 1..=4096)?,
        width: keys.integer("width", Some(768), 1..=16_384)?,
        head_width: keys.integer("head_width", Some(64), 1..=16_384)?,
        layers: keys.integer("layers", Some(12), 1..=256)?,
        mlp_ratio: keys.ratio("mlp_ratio")?,
        ls_init_value: keys.number("ls_init_value", -1e6..=1e6)?,
        patch_dropout: keys.number("patch_dropout", 0.0..=0.999)?.unwrap_or(0.0),
        attentional_pool: keys.boolean("attentional_pool")?.then_some(attentional_pool),
        pool: keys
            .choice("pool_type", &[("tok", ImagePool::Token), ("avg", ImagePool::Average)])?,
        final_ln_after_pool: keys.boolean("final_ln_after_pool")?,
        ln_pre: trunk == Trunk::OpenClip && !keys.boolean("no_ln_pre")?,
        sin_cos_positions: keys
            .choice("pos_embed_type", &[("learnable", false), ("sin_cos_2d", true)])?,
        layer_norm_eps: keys.layer_norm_eps()?,
        gelu_tanh: keys.gelu_tanh()?,
    })
}

/// Reads an image tower that OpenCLIP takes from timm.
fn timm_vision(keys: &Keys<'_>, name: &Value) -> Result<VisionConfig, String> {
    let refused = |what: String| {
        Err(format!("vision_cfg.{what} is not supported yet (only SigLIP's, vit_*_siglip_*, are)"))
    };
    let Some(mut trunk) = name.as_str().and_then(timm::trunk) else {
        return refused(format!("timm_model_name = {name}"));
    };
    keys.refuse_others(TIMM_KEYS, NEUTRAL_VISION)?;
    for (key, ours) in [("timm_pool", "map"), ("timm_proj", "none")] {
        let found = keys.object.get(key).unwrap_or(&Value::Null);
        if found != ours {
            return refused(format!("{key} = {found}"));
        }
    }
    let image_size = keys.integer("image_size", Some(224), 1..=4096)?;
    if image_size != trunk.image_size {
        return Err(format!(
            "vision_cfg.image_size must be {} for {name}, got {image_size}",
            trunk.image_size
        ));
    }
    trunk.patch_dropout = keys.number("patch_dropout", 0.0..=0.999)?.unwrap_or(0.0);
    Ok(trunk)
}

fn text(keys: &Keys<'_>) -> Result<TextConfig, String> {
    keys.refuse_others(TEXT_KEYS, NEUTRAL_TEXT)?;
    let vocab_size = keys.integer("vocab_size", Some(49408), 3..=4_000_000)?;
    let end = keys.integer("eos_id", Some(2), 0..=vocab_size - 1)?;
    let pools = [
        ("argmax", TextPool::Largest),
        ("first", TextPool::First),
        ("last", TextPool::Last),
        ("eos", TextPool::End(end)),
    ];
    let class_token = keys.boolean("embed_cls")?;
    let bert = bert(keys)?;
    let projection = match (
        keys.choice("proj_type", &[("linear", true), ("none", false)])?,
        keys.boolean("proj_bias")?,
    ) {
        (true, true) => TextProjection::Linear,
        (true, false) => TextProjection::Matrix,
        (false, _) => TextProjection::None,
    };
    Ok(TextConfig {
        context_length: keys.integer("context_length", Some(77), 3..=8192)?,
        vocab_size,
        width: keys.integer("width", Some(512), 1..=16_384)?,
        heads: keys.integer("heads", Some(8), 1..=1024)?,
        layers: keys.integer("layers", Some(12), 1..=256)?,
        mlp_ratio: keys.ratio("mlp_ratio")?,
        ls_init_value: keys.number("ls_init_value", -1e6..=1e6)?,
        pool: if bert.is_some() { TextPool::First } else { keys.choice("pool_type", &pools)? },
        causal: !keys.boolean("no_causal_mask")?,
        class_token,
        projection,
        layer_norm_eps: keys.layer_norm_eps()?,
        gelu_tanh: keys.gelu_tanh()?,
        bert,
        tokenizer: tokenizer(keys, vocab_size, class_token)?,
    })
}

/// Reads `text_cfg.bert`, a key of ours. OpenCLIP names such a tower by a model on the Hugging Face
/// hub.
fn bert(keys: &Keys<'_>) -> Result<Option<Bert>, String> {
    let Some(value) = keys.object.get("bert").filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let object =
        value.as_object().ok_or_else(|| format!("text_cfg.bert must be an object, got {value}"))?;
    let inner = Keys { of: "text_cfg.bert.", object };
    inner.refuse_others(&["positions", "token_types"], &[])?;
    let foreign = ["eos_id", "embed_cls", "proj_type", "proj_bias", "ls_init_value"];
    if let Some(key) = foreign.iter().find(|key| keys.object.contains_key(**key)) {
        return Err(format!("text_cfg.{key} cannot be combined with text_cfg.bert"));
    }
    if keys.object.get("pool_type").is_some_and(|pool| pool != "first") {
        return Err("text_cfg.pool_type must be \"first\" with text_cfg.bert".into());
    }
    Ok(Some(Bert {
        positions: inner.integer("positions", Some(512), 1..=65_536)?,
        token_types: inner.integer("token_types", Some(2), 1..=65_536)?,
    }))
}

fn tokenizer(
    keys: &Keys<'_>,
    vocab_size: i64,
    class_token: bool,
) -> Result<TokenizerConfig, String> {
    let name = match keys.object.get("hf_tokenizer_name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) if name.is_empty() => None,
        Some(Value::String(name)) => Some(name.clone()),
        Some(other) => {
            return Err(format!("{}hf_tokenizer_name must be a name, got {other}", keys.of));
        }
    };
    // OpenCLIP masks padding by this id if there is a class token, and CLIP's own tokenizer pads
    // with it.
    let pad_id = match keys.object.get("pad_id") {
        None if name.is_some() && !class_token => None,
        _ => Some(keys.integer("pad_id", Some(0), 0..=vocab_size - 1)?),
    };
    let none = Map::new();
    let arguments = match keys.object.get("tokenizer_kwargs") {
        None | Some(Value::Null) => &none,
        Some(value) => value
            .as_object()
            .ok_or_else(|| format!("text_cfg.tokenizer_kwargs must be an object, got {value}"))?,
    };
    let arguments = Keys { of: "text_cfg.tokenizer_kwargs.", object: arguments };
    arguments.refuse_others(&["clean", "strip_sep_token"], &[])?;
    let canonical = arguments.choice("clean", &[("whitespace", false), ("canonicalize", true)])?;
    Ok(TokenizerConfig {
        name,
        pad_id,
        canonical,
        strip_sep_token: arguments.boolean("strip_sep_token")?,
    })
}

const MODEL_KEYS: &[&str] = &[
    "embed_dim",
    "quick_gelu",
    "init_logit_scale",
    "init_logit_bias",
    "custom_text",
    "vision_cfg",
    "text_cfg",
];

const VISION_KEYS: &[&str] = &[
    "image_size",
    "patch_size",
    "width",
    "head_width",
    "layers",
    "mlp_ratio",
    "ls_init_value",
    "patch_dropout",
    "attentional_pool",
    "attn_pooler_queries",
    "attn_pooler_heads",
    "pool_type",
    "final_ln_after_pool",
    "no_ln_pre",
    "pos_embed_type",
    "norm_kwargs",
    "act_kwargs",
    "trunk",
];

const SIGLIP_KEYS: &[&str] = &[
    "image_size",
    "patch_size",
    "width",
    "head_width",
    "layers",
    "mlp_ratio",
    "patch_dropout",
    "norm_kwargs",
    "act_kwargs",
    "trunk",
];

const TIMM_KEYS: &[&str] = &[
    "image_size",
    "patch_dropout",
    "timm_model_name",
    "timm_model_pretrained",
    "timm_pool",
    "timm_proj",
];

const TEXT_KEYS: &[&str] = &[
    "context_length",
    "vocab_size",
    "width",
    "heads",
    "layers",
    "mlp_ratio",
    "ls_init_value",
    "pool_type",
    "eos_id",
    "no_causal_mask",
    "embed_cls",
    "pad_id",
    "proj_type",
    "proj_bias",
    "hf_tokenizer_name",
    "tokenizer_kwargs",
    "norm_kwargs",
    "act_kwargs",
    "bert",
];

/// OpenCLIP's keys that are accepted only with their default value, which is what this trainer
/// computes. For null the default is null too.
const NEUTRAL_MODEL: &[(&str, &str)] =
    &[("nonscalar_logit_scale", "false"), ("multimodal_cfg", "null"), ("output_dict", "false")];

const NEUTRAL_BLOCK: &[(&str, &str)] = &[
    ("output_tokens", "false"),
    ("block_type", "null"),
    ("qk_norm", "false"),
    ("scaled_cosine_attn", "false"),
    ("scale_heads", "false"),
    ("scale_attn_inner", "false"),
    ("scale_attn", "false"),
    ("scale_fc", "false"),
];

const NEUTRAL_VISION: &[(&str, &str)] = &[
    ("timm_model_name", "null"),
    ("timm_proj_bias", "false"),
    ("timm_drop", "0.0"),
    ("timm_drop_path", "null"),
];

const NEUTRAL_TEXT: &[(&str, &str)] =
    &[("tokenizer_mode", "null"), ("final_ln_after_pool", "false"), ("hf_model_name", "null")];

/// A JSON object and its place in the file.
struct Keys<'a> {
    of: &'static str,
    object: &'a Map<String, Value>,
}

impl Keys<'_> {
    fn refuse_others(&self, known: &[&str], neutral: &[(&str, &str)]) -> Result<(), String> {
        let shared =
            if matches!(self.of, "vision_cfg." | "text_cfg.") { NEUTRAL_BLOCK } else { &[] };
        for (key, value) in self.object {
            if known.contains(&key.as_str()) {
                continue;
            }
            match neutral.iter().chain(shared).find(|(name, _)| name == key) {
                Some((_, default)) if same(value, default) => {}
                Some((_, default)) => {
                    return Err(format!(
                        "{}{key} = {value} is not supported yet (only {default} is)",
                        self.of
                    ));
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
        self.object.get(key).and_then(Value::as_object).ok_or_else(|| {
            format!(
                "{key} is missing; a model configuration has embed_dim, vision_cfg and text_cfg"
            )
        })
    }

    fn integer(
        &self,
        key: &str,
        default: Option<i64>,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<i64, String> {
        let value = match (self.object.get(key), default) {
            (Some(value), _) => value.as_i64().ok_or_else(|| {
                format!(
                    "{}{key} must be one whole number, got {value} (other forms are not supported \
                     yet)",
                    self.of
                )
            })?,
            (None, Some(default)) => default,
            (None, None) => return Err(format!("{}{key} is missing", self.of)),
        };
        if !range.contains(&value) {
            return Err(format!(
                "{}{key} must be {} to {}, got {value}",
                self.of,
                range.start(),
                range.end()
            ));
        }
        Ok(value)
    }

    /// Reads a number. Returns `None` if the key is absent or null.
    fn number(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<f64>,
    ) -> Result<Option<f64>, String> {
        let Some(value) = self.object.get(key).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let number = value.as_f64().filter(|number| range.contains(number));
        let out_of_range = || {
            format!(
                "{}{key} must be a number from {} to {}, got {value}",
                self.of,
                range.start(),
                range.end()
            )
        };
        number.map(Some).ok_or_else(out_of_range)
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
            Some(value) => value.as_bool().ok_or_else(|| {
                format!("{}{key} = {value} is not supported yet (only true and false are)", self.of)
            }),
        }
    }

    /// Reads one of several words. Returns the first choice if the key is absent.
    fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<T, String> {
        let found = match self.object.get(key) {
            None => choices.first(),
            Some(value) => choices.iter().find(|(word, _)| value == word),
        };
        let words =
            || choices.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let value = self.object.get(key).unwrap_or(&Value::Null);
            format!("{}{key} = {value} is not supported yet (supported: {})", self.of, words())
        })
    }

    /// Reads an object with the arguments of one of OpenCLIP's layers. Returns `None` if it is
    /// absent or null.
    fn arguments(&self, key: &str, known: &str) -> Result<Option<&Value>, String> {
        let Some(value) = self.object.get(key).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let object = value
            .as_object()
            .ok_or_else(|| format!("{}{key} must be an object, got {value}", self.of))?;
        if let Some(other) = object.keys().find(|name| *name != known) {
            return Err(format!("{}{key}.{other} is not supported yet (only {known} is)", self.of));
        }
        Ok(object.get(known))
    }

    fn layer_norm_eps(&self) -> Result<f64, String> {
        match self.arguments("norm_kwargs", "eps")? {
            None => Ok(LAYER_NORM_EPS),
            Some(value) => {
                value.as_f64().filter(|eps| (0.0..=1.0).contains(eps)).ok_or_else(|| {
                    format!("{}norm_kwargs.eps must be a number from 0 to 1, got {value}", self.of)
                })
            }
        }
    }

    fn gelu_tanh(&self) -> Result<bool, String> {
        match self.arguments("act_kwargs", "approximate")? {
            None => Ok(false),
            Some(value) if value == "none" => Ok(false),
            Some(value) if value == "tanh" => Ok(true),
            Some(value) => Err(format!(
                "{}act_kwargs.approximate = {value} is not supported yet (supported: \"none\", \
                 \"tanh\")",
                self.of
            )),
        }
    }
}

fn same(value: &Value, default: &str) -> bool {
    let default: Value = serde_json::from_str(default).unwrap_or_default();
    match (value.as_f64(), default.as_f64()) {
        // serde_json distinguishes 0 from 0.0.
        (Some(value), Some(default)) => value == default,
        _ => *value == default,
    }
}
