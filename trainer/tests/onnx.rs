//! ONNX exports, run by onnxruntime from pip: compared with our features and with those of the
//! libraries that define the models.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests say what is wrong by failing; what they write need not outlive a crash"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use diptych_test_support::{needs, parity};
use diptych_trainer::{
    Device, Encoder, LARGEST_EMBEDDED, ModelConfig, TextPool, TokenizerFiles, Weights, export_onnx,
};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

/// Models of tests/data: every kind of tower, pooling and activation. The last two are folders.
const MODELS: [&str; 7] = [
    "openclip_average",
    "openclip_coca",
    "openclip_pooler",
    "openclip_end",
    "openclip_siglip",
    "hf_siglip",
    "hf_chinese_clip",
];
const LIMIT: f32 = 1e-4;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn read(name: &str) -> Weights {
    let folder = data();
    if name.starts_with("hf_") {
        return Weights::read(&folder.join(name), None).unwrap();
    }
    let config = ModelConfig::read(&folder.join(format!("{name}.json"))).unwrap();
    Weights::read(&folder.join(format!("{name}.safetensors")), Some(&config)).unwrap()
}

fn tensor(path: &Path, name: &str) -> Tensor {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(name).unwrap();
    let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
    let kind = if view.dtype() == safetensors::Dtype::I64 { Kind::Int64 } else { Kind::Float };
    Tensor::from_data_size(view.data(), &shape, kind)
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    Vec::<f32>::try_from(tensor.flatten(0, -1)).unwrap()
}

fn integers(tensor: &Tensor) -> Vec<i64> {
    Vec::<i64>::try_from(tensor.flatten(0, -1)).unwrap()
}

fn given(tensor: &Tensor) -> Value {
    if tensor.kind() == Kind::Int64 {
        json!({ "type": "int64", "shape": tensor.size(), "values": integers(tensor) })
    } else {
        json!({ "type": "float32", "shape": tensor.size(), "values": floats(tensor) })
    }
}

/// Makes the mask that a model's tokenizer would return: 0 for padding, if the model was trained to
/// ignore it.
fn attention_mask(config: &ModelConfig, tokens: &Tensor) -> Tensor {
    let t = &config.dual_encoder().unwrap().text;
    if t.bert.is_some() || t.class_token {
        return tokens.ne(t.tokenizer.pad_id.unwrap_or(0)).to_kind(Kind::Int64);
    }
    if !t.causal {
        return tokens.ones_like();
    }
    let end = match t.pool {
        TextPool::End(id) => tokens.eq(id).to_kind(Kind::Int).argmax(1, true),
        _ => tokens.argmax(1, true),
    };
    Tensor::arange(tokens.size()[1], (Kind::Int64, tch::Device::Cpu))
        .unsqueeze(0)
        .le_tensor(&end)
        .to_kind(Kind::Int64)
}

/// Runs onnxruntime. The set-up (`trainer/setup/setup.py`) chose a Python and fetched the package.
fn run(folder: &Path, runs: &[Value]) -> Vec<Value> {
    let [python, packages] =
        ["DIPTYCH_ONNX_PYTHON", "DIPTYCH_ONNX_PACKAGES"].map(|name| std::env::var(name).unwrap());
    let inputs = folder.join("inputs.json");
    std::fs::write(&inputs, serde_json::to_vec(runs).unwrap()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run_onnx.py");
    let output = Command::new(python)
        .arg(script)
        .arg(folder)
        .arg(&inputs)
        .env("PYTHONPATH", packages)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}: {}",
        folder.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn assert_close(found: &Value, expected: &[f32], what: &str) {
    let found: Vec<f32> =
        found.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < LIMIT, "{what}: {difference}");
}

/// Exports, runs batches of several sizes, and compares with the library's features and ours.
fn check(weights: &Weights, io: &Path, largest_embedded: usize) {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("exported");
    export_onnx(weights, &TokenizerFiles::default(), &folder, largest_embedded).unwrap();
    assert_eq!(folder.join("onnx/model.onnx_data").exists(), largest_embedded == 0);

    let (images, tokens) = (tensor(io, "images"), tensor(io, "tokens"));
    let mask = attention_mask(&weights.config, &tokens);
    let (image, text) = (tensor(io, "image_features"), tensor(io, "text_features"));
    let several = tokens.size()[0].min(3);
    let texts = |count: i64| {
        json!({ "input_ids": given(&tokens.narrow(0, 0, count)),
            "attention_mask": given(&mask.narrow(0, 0, count)) })
    };
    let mut runs = Vec::new();
    for count in [1, several, tokens.size()[0]] {
        let mut both = texts(count);
        both["pixel_values"] = given(&images.narrow(0, 0, count.min(images.size()[0])));
        runs.push(json!({ "file": "model", "inputs": both }));
    }
    // One tower alone, and different numbers of images and texts.
    runs.push(json!({ "file": "vision_model",
        "inputs": { "pixel_values": given(&images.narrow(0, 0, 1)) } }));
    runs.push(json!({ "file": "text_model", "inputs": texts(several) }));
    let mut both = texts(several);
    both["pixel_values"] = given(&images.narrow(0, 0, 1));
    runs.push(json!({ "file": "model", "inputs": both }));
    let answers = run(&folder, &runs);

    let encoder = Encoder::from_weights(weights, Device::CPU).unwrap();
    for (run, answer) in runs.iter().zip(&answers) {
        let what = format!("{} {}", weights.path.display(), run["file"]);
        if let Some(pixels) = run["inputs"].get("pixel_values") {
            let count = pixels["shape"][0].as_i64().unwrap();
            assert_close(&answer["image_embeds"], &floats(&image.narrow(0, 0, count)), &what);
            let ours = encoder.encode_normalised(&floats(&images.narrow(0, 0, count))).unwrap();
            assert_close(&answer["image_embeds"], &ours, &what);
        }
        if let Some(ids) = run["inputs"].get("input_ids") {
            let count = ids["shape"][0].as_i64().unwrap();
            assert_close(&answer["text_embeds"], &floats(&text.narrow(0, 0, count)), &what);
            let ids = tokens.narrow(0, 0, count).to_kind(Kind::Int).flatten(0, -1);
            let ours = encoder.encode_tokens(&Vec::<i32>::try_from(ids).unwrap()).unwrap();
            assert_close(&answer["text_embeds"], &ours, &what);
        }
    }
}

#[needs(onnxruntime)]
#[test]
fn every_kind_of_model_has_the_librarys_features_in_onnxruntime() {
    for name in MODELS {
        check(&read(name), &data().join(format!("{name}_io.safetensors")), LARGEST_EMBEDDED);
    }
}

#[needs(onnxruntime)]
#[test]
fn reference_models_have_openclips_features_in_onnxruntime_with_weights_inside_and_outside() {
    let parity = parity();
    for (name, largest_embedded) in [("tiny_gelu", LARGEST_EMBEDDED), ("tiny_quickgelu", 0)] {
        let config = ModelConfig::read(&parity.join(format!("{name}.json"))).unwrap();
        let weights = Weights::read(&parity.join("tiny_gelu.safetensors"), Some(&config)).unwrap();
        check(&weights, &parity.join(format!("{name}_io.safetensors")), largest_embedded);
    }
}

#[needs(onnxruntime)]
#[test]
fn texts_of_a_causal_tower_and_of_bert_may_be_shorter_than_the_longest() {
    for name in ["openclip_end", "hf_chinese_clip"] {
        let weights = read(name);
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("exported");
        export_onnx(&weights, &TokenizerFiles::default(), &folder, LARGEST_EMBEDDED).unwrap();
        let io = data().join(format!("{name}_io.safetensors"));
        let (tokens, features) =
            (tensor(&io, "tokens").narrow(0, 0, 1), tensor(&io, "text_features").narrow(0, 0, 1));
        // The first text without its padding.
        let pad = weights.dual_encoder().unwrap().text.tokenizer.pad_id.unwrap_or(0);
        let length = integers(&tokens).iter().rposition(|&id| id != pad).unwrap() as i64 + 1;
        let short = tokens.narrow(1, 0, length);
        assert!(length < tokens.size()[1], "{name} has no padding");
        let inputs =
            json!({ "input_ids": given(&short), "attention_mask": given(&short.ones_like()) });
        let answers = run(&folder, &[json!({ "file": "text_model", "inputs": inputs })]);
        assert_close(&answers[0]["text_embeds"], &floats(&features), name);
    }
}
