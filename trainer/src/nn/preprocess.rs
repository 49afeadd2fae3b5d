//! The preprocessing of a sample: size, filter and normalisation of an image, and the tokenizer of
//! a text.
//!
//! Images follow OpenCLIP's `preprocess_cfg`. A filter that the loader cannot apply exactly as
//! Pillow does is refused by name.

use diptych_pipeline::{EvalResize, Fit, Interpolation};
use serde_json::{Map, Value, json};

/// OpenCLIP's mean of red, green and blue, by which pixels are normalised (from OpenAI's data set).
pub const IMAGE_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// OpenCLIP's standard deviation of red, green and blue (from OpenAI's data set).
pub const IMAGE_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// The form in which a model takes images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageInput {
    /// Height and width, in pixels.
    pub size: i64,
    pub preprocess: PreprocessConfig,
}

/// The form in which a model takes texts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextInput<'a> {
    /// Number of tokens, L.
    pub context_length: i64,
    pub vocab_size: i64,
    pub tokenizer: &'a TokenizerConfig,
}

/// The preprocessing of an image before a tower takes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PreprocessConfig {
    /// Mean of red, green and blue, subtracted from values of 0 to 1.
    pub mean: [f64; 3],
    /// Standard deviation of red, green and blue, by which the difference is divided.
    pub std: [f64; 3],
    /// Resizing in evaluation. Training crops at random, with a bicubic filter.
    pub resize: EvalResize,
}

impl Default for PreprocessConfig {
    /// Returns OpenCLIP's defaults.
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
        let mut json = json!({
            "mean": self.mean, "std": self.std, "interpolation": interpolation,
            "resize_mode": mode,
        });
        if fill != 0 {
            json["fill_color"] = json!(fill);
        }
        json
    }

    /// Reads `preprocess_cfg`. Absent and null keys have OpenCLIP's defaults.
    pub(crate) fn from_json(object: &Map<String, Value>, image_size: i64) -> Result<Self, String> {
        let value = |key: &str| object.get(key).filter(|value| !value.is_null());
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
        if value("mode").is_some_and(|mode| mode != "RGB") {
            return refused("mode", "\"RGB\"");
        }
        let size = json!(image_size);
        if value("size").is_some_and(|found| *found != size && *found != json!([size, size])) {
            return refused("size", &format!("{size}, the image size of the model"));
        }
        let fill = match value("fill_color") {
            None => 0,
            Some(value) => match value.as_u64().and_then(|fill| u8::try_from(fill).ok()) {
                Some(fill) => fill,
                None => return refused("fill_color", "0 to 255"),
            },
        };
        let interpolation = match value("interpolation").map(Value::as_str) {
            None | Some(Some("bicubic")) => Interpolation::Bicubic,
            Some(Some("bilinear")) => Interpolation::Bilinear,
            // In OpenCLIP `random` means bicubic in evaluation, and only timm's training picks a
            // filter at random.
            Some(_) => return refused("interpolation", "\"bicubic\", \"bilinear\""),
        };
        let fit = match value("resize_mode").map(Value::as_str) {
            None | Some(Some("shortest")) => Fit::Shortest,
            Some(Some("squash")) => Fit::Squash,
            Some(Some("longest")) => Fit::Longest { fill },
            Some(_) => return refused("resize_mode", "\"shortest\", \"squash\", \"longest\""),
        };
        Ok(Self {
            mean: channels("preprocess_cfg.mean", value("mean"), IMAGE_MEAN)?,
            std: channels("preprocess_cfg.std", value("std"), IMAGE_STD)?,
            resize: EvalResize { interpolation, fit },
        })
    }
}

/// The tokenizer of texts, and how it pads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// OpenCLIP's `hf_tokenizer_name`. `None` for CLIP's own tokenizer.
    pub name: Option<String>,
    /// Token id after the end of a text. `None` for the tokenizer's own.
    pub pad_id: Option<i64>,
    /// Whether texts are canonicalised first (`tokenizer_kwargs.clean`): lower case, no
    /// punctuation.
    pub canonical: bool,
    /// Whether the token `[SEP]` becomes 0 (`tokenizer_kwargs.strip_sep_token`).
    pub strip_sep_token: bool,
}

/// Reads one number for each of red, green and blue, or one number for all three.
///
/// OpenAI's numbers are often written with fewer digits. Such rounded numbers become the exact
/// ones.
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
