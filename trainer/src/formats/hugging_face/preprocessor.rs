//! `preprocessor_config.json`: the model's preprocessing as transformers' image processors describe
//! it.

use diptych_pipeline::{EvalResize, Fit, Interpolation};
use serde_json::{Value, json};

use crate::nn::preprocess::{PreprocessConfig, channels};

/// Pillow's number of the bilinear filter.
const BILINEAR: i64 = 2;
/// Pillow's number of the bicubic filter.
const BICUBIC: i64 = 3;

/// Describes the preprocessing. `kind` is the image processor of the model's class.
pub(crate) fn to_json(config: PreprocessConfig, size: i64, kind: &str) -> Result<Value, String> {
    let resample = match config.resize.interpolation {
        Interpolation::Bicubic => BICUBIC,
        Interpolation::Bilinear => BILINEAR,
    };
    let square = json!({ "height": size, "width": size });
    let mut json = json!({
        "do_convert_rgb": true,
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": config.mean,
        "image_processor_type": kind,
        "image_std": config.std,
        "resample": resample,
        "rescale_factor": 1.0 / 255.0,
    });
    match config.resize.fit {
        Fit::Shortest => {
            json["size"] = json!({ "shortest_edge": size });
            json["do_center_crop"] = json!(true);
            json["crop_size"] = square;
        }
        Fit::Squash => {
            json["size"] = square;
            json["do_center_crop"] = json!(false);
        }
        Fit::Longest { .. } => {
            return Err("preprocess_cfg.resize_mode = \"longest\" has no equivalent in Hugging \
                        Face's image processors"
                .into());
        }
    }
    Ok(json)
}

pub(crate) fn from_json(
    json: &Value,
    image_size: i64,
    usual: PreprocessConfig,
) -> Result<PreprocessConfig, String> {
    let interpolation = match &json["resample"] {
        Value::Null => Interpolation::Bicubic,
        value if *value == BICUBIC => Interpolation::Bicubic,
        value if *value == BILINEAR => Interpolation::Bilinear,
        value => {
            return Err(format!(
                "resample = {value} is not supported yet (only {BICUBIC}, bicubic, and {BILINEAR}, \
                 bilinear, are)"
            ));
        }
    };
    for key in ["do_resize", "do_normalize", "do_rescale"] {
        if json[key] == false {
            return Err(format!("{key} = false is not supported yet"));
        }
    }
    if json["rescale_factor"].as_f64().is_some_and(|factor| (factor * 255.0 - 1.0).abs() > 1e-4) {
        return Err(format!(
            "rescale_factor = {} is not supported yet (only 1/255 is)",
            json["rescale_factor"]
        ));
    }
    let differs = |side: &Value| !side.is_null() && side.as_i64() != Some(image_size);
    let refused = |key: &str| {
        Err(format!(
            "{key} = {} is not supported yet; the model takes {image_size} pixels",
            json[key]
        ))
    };
    let size = &json["size"];
    // Old files hold a number, newer ones an object.
    let shortest = if size.is_object() { &size["shortest_edge"] } else { size };
    if [shortest, &size["height"], &size["width"]].into_iter().any(differs) {
        return refused("size");
    }
    let crops = json["do_center_crop"]
        .as_bool()
        .unwrap_or(usual.resize.fit == Fit::Shortest && size.get("height").is_none());
    let crop = &json["crop_size"];
    let sides =
        if crop.is_object() { [&crop["height"], &crop["width"]] } else { [crop, &Value::Null] };
    if crops && sides.into_iter().any(differs) {
        return refused("crop_size");
    }
    let squashes = size.get("height").is_some() || (!size.is_null() && !size.is_object() && !crops);
    let fit = match (crops, squashes || (size.is_null() && usual.resize.fit == Fit::Squash)) {
        (_, true) => Fit::Squash,
        (true, false) => Fit::Shortest,
        (false, false) => {
            return Err(
                "do_center_crop = false is not supported yet if size is the shortest edge".into()
            );
        }
    };
    let value = |key: &str| Some(&json[key]).filter(|value| !value.is_null());
    Ok(PreprocessConfig {
        mean: channels("image_mean", value("image_mean"), usual.mean)?,
        std: channels("image_std", value("image_std"), usual.std)?,
        resize: EvalResize { interpolation, fit },
    })
}
