//! What happens to a sample before a model sees it: size, filter and normalisation of an image (OpenCLIP's `preprocess_cfg`), and what
//! makes tokens of a text.
//!
//! A filter that the loader does not do as Pillow does it is refused by name.

use diptych_pipeline::{EvalResize, Fit, Interpolation};
use serde_json::{Map, Value, json};

/// OpenCLIP's mean and standard deviation of red, green and blue (OpenAI's data set), with which pixels are normalised.
pub const IMAGE_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
pub const IMAGE_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// What a model takes of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageInput {
    /// H = W, in pixels.
    pub size: i64,
    pub preprocess: PreprocessConfig,
}

/// What a model takes of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextInput<'a> {
    /// L: tokens.
    pub context_length: i64,
    pub vocab_size: i64,
    pub tokenizer: &'a TokenizerConfig,
}

/// What happens to an image before a tower sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PreprocessConfig {
    /// Of red, green and blue, subtracted from values of 0 to 1.
    pub mean: [f64; 3],
    /// Of red, green and blue, by which is divided then.
    pub std: [f64; 3],
    /// In evaluation. Training crops at random, with bicubic.
    pub resize: EvalResize,
}

impl Default for PreprocessConfig {
    /// OpenCLIP's.
    fn default() -> Self {
        Self { mean: IMAGE_MEAN, std: IMAGE_STD, resize: EvalResize::default() }
    }
}

impl PreprocessConfig {
    /// Inception's normalisation, squashed: OpenCLIP's `_slpcfg`.
    pub(crate) const SIGLIP: Self = Self {
        mean: [0.5; 3],
        std: [0.5; 3],
        resize: EvalResize { interpolation: Interpolation::Bicubic, fit: Fit::Squash },
    };

    /// ImageNet's normalisation, bilinear, squashed: OpenCLIP's `_apcfg`.
    pub(crate) const CLIPA: Self = Self {
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
        resize: EvalResize { interpolation: Interpolation::Bilinear, fit: Fit::Squash },
    };

    pub(crate) fn to_json(self) -> Value {
        let interpolation = self.resize.interpolation.name();
        let (mode, fill) = match self.resize.fit {
            Fit::Shortest => ("shortest", 0),
            Fit::Squash => ("squash", 0),
            Fit::Longest { fill } => ("longest", fill),
        };
        let mut json = json!({ "mean": self.mean, "std": self.std, "interpolation": interpolation, "resize_mode": mode });
        if fill != 0 {
            json["fill_color"] = json!(fill);
        }
        json
    }

    /// Absent and null keys have OpenCLIP's defaults.
    pub(crate) fn from_json(object: &Map<String, Value>, image_size: i64) -> Result<Self, String> {
        let said = |key: &str| object.get(key).filter(|value| !value.is_null());
        let refused = |key: &str, supported: &str| {
            Err(format!(
                "preprocess_cfg.{key} = {} is not supported yet (supported: {supported})",
                object[key]
            ))
        };
        let known = ["mean", "std", "interpolation", "resize_mode", "fill_color", "size", "mode"];
        if let Some(other) = object.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(format!(
                "preprocess_cfg.{other} is not supported yet; the supported keys here are {}",
                known.join(", ")
            ));
        }
        if said("mode").is_some_and(|mode| mode != "RGB") {
            return refused("mode", "\"RGB\"");
        }
        let size = json!(image_size);
        if said("size").is_some_and(|found| *found != size && *found != json!([size, size])) {
            return refused("size", &format!("{size}, the image size of the model"));
        }
        let fill = match said("fill_color") {
            None => 0,
            Some(value) => match value.as_u64().and_then(|fill| u8::try_from(fill).ok()) {
                Some(fill) => fill,
                None => return refused("fill_color", "0 to 255"),
            },
        };
        let interpolation = match said("interpolation").map(Value::as_str) {
            None | Some(Some("bicubic")) => Interpolation::Bicubic,
            Some(Some("bilinear")) => Interpolation::Bilinear,
            // Evaluation is bicubic there, and only the training of timm is random.
            Some(_) => return refused("interpolation", "\"bicubic\", \"bilinear\""),
        };
        let fit = match said("resize_mode").map(Value::as_str) {
            None | Some(Some("shortest")) => Fit::Shortest,
            Some(Some("squash")) => Fit::Squash,
            Some(Some("longest")) => Fit::Longest { fill },
            Some(_) => return refused("resize_mode", "\"shortest\", \"squash\", \"longest\""),
        };
        Ok(Self {
            mean: channels("preprocess_cfg.mean", said("mean"), IMAGE_MEAN)?,
            std: channels("preprocess_cfg.std", said("std"), IMAGE_STD)?,
            resize: EvalResize { interpolation, fit },
        })
    }
}

/// What makes tokens of a text, and how they are padded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// OpenCLIP's `hf_tokenizer_name`; none: CLIP's own.
    pub name: Option<String>,
    /// Id behind the end of a text; none: as the tokenizer says.
    pub pad_id: Option<i64>,
    /// Whether texts are canonicalised first (`tokenizer_kwargs.clean`): no punctuation, lower case.
    pub canonical: bool,
    /// Whether the token `[SEP]` becomes 0 (`tokenizer_kwargs.strip_sep_token`).
    pub strip_sep_token: bool,
}

/// One number for each of red, green and blue, or one for all. Those of OpenAI are often written with fewer digits; then they
/// are taken as they are meant.
pub(crate) fn channels(
    what: &str,
    found: Option<&Value>,
    usual: [f64; 3],
) -> Result<[f64; 3], String> {
    let numbers: Vec<f64> = match found {
        None => return Ok(usual),
        Some(Value::Array(values)) => values.iter().filter_map(Value::as_f64).collect(),
        Some(value) => value.as_f64().into_iter().flat_map(|one| [one; 3]).collect(),
    };
    let usable = |numbers: &[f64; 3]| {
        numbers.iter().all(|n| n.is_finite()) && (!what.ends_with("std") || !numbers.contains(&0.0))
    };
    let numbers: [f64; 3] = numbers.try_into().ok().filter(usable).ok_or_else(|| {
        format!("{what} must be three numbers, got {}", found.unwrap_or(&Value::Null))
    })?;
    let close = numbers.iter().zip(usual).all(|(found, usual)| (found - usual).abs() < 1e-6);
    Ok(if close { usual } else { numbers })
}
