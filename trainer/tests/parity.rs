//! Parity with OpenCLIP: features, loss, gradients, ten training steps, and the Hugging Face
//! layout.
//!
//! The reference values in `tests/data/parity` were made by `tests/reference/make_parity.py`.
//! Larger models are compared too if the test data is present.
#![expect(clippy::unwrap_used, reason = "tests say what is wrong by failing")]

#[path = "common/steps.rs"]
mod steps;

use std::path::Path;

use diptych_schemas::{OptimizerConfig, TrainLoopConfig, WarmupSteps};
use diptych_test_support::{data, needs, parity};
use diptych_trainer::{
    Device, Encoder, ModelConfig, TokenizerFiles, Trainer, TrainerError, TrainerSpec, Weights,
    clip_loss, export_hf, export_openclip,
};
use safetensors::SafeTensors;
use steps::Steps;
use tch::{Kind, Tensor};

/// Reads one tensor of a reference file.
fn tensor(path: &Path, name: &str) -> Tensor {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(name).unwrap();
    let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
    let kind = match view.dtype() {
        safetensors::Dtype::F32 => Kind::Float,
        safetensors::Dtype::I64 => Kind::Int64,
        other => panic!("{other:?}"),
    };
    Tensor::from_data_size(view.data(), &shape, kind)
}

fn names(path: &Path) -> Vec<String> {
    let bytes = std::fs::read(path).unwrap();
    let mut names: Vec<String> =
        SafeTensors::deserialize(&bytes).unwrap().names().into_iter().map(str::to_owned).collect();
    names.sort();
    names
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    Vec::<f32>::try_from(tensor.flatten(0, -1)).unwrap()
}

fn tokens(tensor: &Tensor) -> Vec<i32> {
    Vec::<i32>::try_from(tensor.flatten(0, -1).to_kind(Kind::Int)).unwrap()
}

fn largest(tensor: &Tensor) -> f64 {
    tensor.abs().max().double_value(&[])
}

fn config(folder: &Path, name: &str) -> ModelConfig {
    ModelConfig::read(&folder.join(format!("{name}.json"))).unwrap()
}

/// Both configurations of a folder share these weights.
const WEIGHTS: &str = "tiny_gelu.safetensors";

fn weights(folder: &Path, name: &str) -> Weights {
    Weights::read(&folder.join(WEIGHTS), Some(&config(folder, name))).unwrap()
}

fn spec(model: ModelConfig) -> TrainerSpec {
    let train = TrainLoopConfig { batch_size: 1, ..TrainLoopConfig::default() };
    TrainerSpec { train, total_steps: 10, ..TrainerSpec::new(model) }
}

fn trainer(folder: &Path, name: &str, optimizer: &OptimizerConfig) -> Trainer {
    let mut trainer =
        Trainer::new(&TrainerSpec { optimizer: optimizer.clone(), ..spec(config(folder, name)) })
            .unwrap();
    trainer.set_weights(&weights(folder, name)).unwrap();
    trainer
}

fn assert_features(encoder: &Encoder, io: &Path, what: &str) {
    let images = encoder.encode_normalised(&floats(&tensor(io, "images"))).unwrap();
    let texts = encoder.encode_tokens(&tokens(&tensor(io, "tokens"))).unwrap();
    for (found, name) in [(images, "image_features"), (texts, "text_features")] {
        let expected = tensor(io, name);
        let difference = largest(&(Tensor::from_slice(&found).view_as(&expected) - &expected));
        assert!(difference < 1e-5, "{what} {name}: {difference}");
    }
}

#[test]
fn features_are_openclips_within_1e_5() {
    check_features(&parity());
}

fn check_features(folder: &Path) {
    for name in ["tiny_gelu", "tiny_quickgelu"] {
        let encoder = Encoder::from_weights(&weights(folder, name), Device::CPU).unwrap();
        assert_features(&encoder, &folder.join(format!("{name}_io.safetensors")), name);
    }
}

#[test]
fn loss_is_openclips_within_1e_5_and_gradients_within_1e_4() {
    check_loss_and_gradients(&parity());
}

fn check_loss_and_gradients(folder: &Path) {
    for name in ["tiny_gelu", "tiny_quickgelu"] {
        let io = folder.join(format!("{name}_io.safetensors"));
        let trainer = trainer(folder, name, &OptimizerConfig::default());
        let model = trainer.model();
        let tokens = tensor(&io, "tokens");
        let image = model.image_features(&tensor(&io, "images")).unwrap();
        let text = model.text_features(&tokens).unwrap();
        let loss = clip_loss(&image, &text, model.parameter("logit_scale").unwrap()).unwrap();
        let difference =
            (loss.double_value(&[]) - tensor(&io, "clip_loss").double_value(&[0])).abs();
        assert!(difference < 1e-5, "{name} loss: {difference}");
        let scale = model.parameter("logit_scale").unwrap().exp().double_value(&[]);
        assert!((scale - tensor(&io, "logit_scale").double_value(&[0])).abs() < 1e-5);

        loss.backward();
        let mut compared = 0;
        for key in names(&io).iter().filter_map(|key| key.strip_prefix("grad.")) {
            let at = model.names().iter().position(|name| name == key).unwrap();
            let mut found = model.parameters()[at].grad();
            if key == "token_embedding.weight" {
                found = found.index_select(0, &tokens.select(0, 0).narrow(0, 0, 8));
            }
            let expected = tensor(&io, &format!("grad.{key}"));
            let relative =
                (&found - &expected).norm().double_value(&[]) / expected.norm().double_value(&[]);
            assert!(relative < 1e-4, "{name} {key}: {relative}");
            compared += 1;
        }
        assert_eq!(compared, 7);
    }
}

#[test]
fn ten_steps_are_openclips_within_1e_3() {
    check_ten_steps(&parity());
}

fn check_ten_steps(folder: &Path) {
    let optimizer = OptimizerConfig {
        lr: 1e-3,
        warmup_steps: WarmupSteps::Steps(4),
        clip_grad_norm: 1.0,
        ..OptimizerConfig::default()
    };
    let mut trainer = trainer(folder, "tiny_gelu", &optimizer);
    let inputs = folder.join("train_trace_inputs.safetensors");
    let (images, tokens) = (tensor(&inputs, "images"), tokens(&tensor(&inputs, "tokens")));
    let trace: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("train_trace.json")).unwrap()).unwrap();
    let trace = trace.as_array().unwrap();
    assert_eq!(trace.len(), 10);
    for (k, row) in trace.iter().enumerate() {
        let found = trainer.step_normalised(&floats(&images.get(k as i64)), &tokens).unwrap();
        assert_eq!(found.step.0, k as u64 + 1);
        for (key, found) in [
            ("lr", found.lr),
            ("loss", found.loss),
            ("grad_norm", found.grad_norm),
            ("logit_scale", found.term("logit_scale").unwrap()),
        ] {
            let expected = row[key].as_f64().unwrap();
            let relative = ((found - expected) / expected).abs();
            assert!(relative < 1e-3, "step {k} {key}: {found}, OpenCLIP {expected}");
        }
    }
    // Tensor by tensor, relative to the distance from the start.
    let last = folder.join("train_trace_final.safetensors");
    for (name, found) in trainer.model().names().iter().zip(trainer.model().parameters()) {
        let (expected, found) = (tensor(&last, name), found.detach());
        let start = tensor(&folder.join(WEIGHTS), name);
        let walked = (&expected - &start).norm().double_value(&[]);
        let apart = (&found - &expected).norm().double_value(&[]);
        assert!(apart < 1e-3 * walked, "{name}: {apart} apart after a way of {walked}");
    }
}

#[test]
fn hugging_face_folder_gives_openclips_features() {
    check_hugging_face_folder(&parity());
}

fn check_hugging_face_folder(folder: &Path) {
    let weights = Weights::read(&folder.join("tiny_quickgelu_hf"), None).unwrap();
    assert_eq!(weights.config, config(folder, "tiny_quickgelu"));
    let encoder = Encoder::from_weights(&weights, Device::CPU).unwrap();
    assert_features(&encoder, &folder.join("tiny_quickgelu_io.safetensors"), "hf");
    // A model has the same hash in either format.
    assert_eq!(weights.hash().unwrap(), self::weights(folder, "tiny_quickgelu").hash().unwrap());
}

#[test]
fn export_to_hugging_face_is_the_reference_tensor_for_tensor() {
    check_export_to_hugging_face(&parity());
}

fn check_export_to_hugging_face(folder: &Path) {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("hf");
    let tokenizer = TokenizerFiles {
        tokenizer_json: "{}".into(),
        vocab: [("b".to_owned(), 1), ("a".to_owned(), 0)].into(),
        merges: vec![("a".into(), "b".into())],
    };
    export_hf(&weights(folder, "tiny_quickgelu"), &tokenizer, &out).unwrap();

    let reference = folder.join("tiny_quickgelu_hf");
    let (ours, theirs) = (out.join("model.safetensors"), reference.join("model.safetensors"));
    assert_eq!(names(&ours), names(&theirs));
    let (our_bytes, their_bytes) = (std::fs::read(&ours).unwrap(), std::fs::read(&theirs).unwrap());
    let (our_file, their_file) = (
        SafeTensors::deserialize(&our_bytes).unwrap(),
        SafeTensors::deserialize(&their_bytes).unwrap(),
    );
    for name in names(&theirs) {
        let (ours, theirs) = (our_file.tensor(&name).unwrap(), their_file.tensor(&name).unwrap());
        assert_eq!(ours.shape(), theirs.shape(), "{name}");
        assert_eq!(ours.dtype(), theirs.dtype(), "{name}");
        assert!(ours.data() == theirs.data(), "{name} differs");
    }
    let metadata = SafeTensors::read_metadata(&our_bytes).unwrap().1;
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");

    let read = |folder: &Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
    };
    let (ours, theirs) = (read(&out), read(&reference));
    for (key, value) in theirs.as_object().unwrap() {
        // Names the program that wrote it.
        if key != "transformers_version" {
            assert_eq!(&ours[key], value, "{key}");
        }
    }
    assert_eq!(std::fs::read_to_string(out.join("merges.txt")).unwrap(), "#version: 0.2\na b\n");
    let vocab: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("vocab.json")).unwrap()).unwrap();
    assert_eq!(vocab, serde_json::json!({"a": 0, "b": 1}));
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "preprocessor_config.json",
    ] {
        assert!(out.join(name).is_file(), "{name}");
    }
}

#[test]
fn exports_come_back_exactly() {
    check_exports_come_back(&parity());
}

fn check_exports_come_back(folder: &Path) {
    let scratch = tempfile::tempdir().unwrap();
    for name in ["tiny_gelu", "tiny_quickgelu"] {
        let weights = weights(folder, name);
        let (openclip, hf) = (
            scratch.path().join(format!("{name}-openclip")),
            scratch.path().join(format!("{name}-hf")),
        );
        export_openclip(&weights, "{}", &openclip).unwrap();
        export_hf(&weights, &TokenizerFiles::default(), &hf).unwrap();
        for out in [&openclip, &hf] {
            let back = Weights::read(out, None).unwrap();
            assert_eq!(back.config, weights.config);
            assert_eq!(back.hash().unwrap(), weights.hash().unwrap(), "{}", out.display());
        }
        // The tensors of OpenCLIP's own file, under its own names.
        let ours = std::fs::read(openclip.join("open_clip_model.safetensors")).unwrap();
        let theirs = std::fs::read(folder.join(WEIGHTS)).unwrap();
        let (ours, theirs) =
            (SafeTensors::deserialize(&ours).unwrap(), SafeTensors::deserialize(&theirs).unwrap());
        assert_eq!(ours.len(), theirs.len());
        for (name, theirs) in theirs.iter() {
            assert!(ours.tensor(name).unwrap().data() == theirs.data(), "{name} differs");
        }
        let error = export_openclip(&weights, "{}", &openclip).unwrap_err();
        assert!(error.to_string().contains(&openclip.display().to_string()));
    }
}

/// Widths of 128 and 64, three layers, 64 × 64 pixels, CLIP's whole vocabulary.
#[needs(data)]
#[test]
fn larger_models_are_openclips_too() {
    let folder = data("parity");
    check_features(&folder);
    check_loss_and_gradients(&folder);
    check_ten_steps(&folder);
    check_hugging_face_folder(&folder);
    check_export_to_hugging_face(&folder);
    check_exports_come_back(&folder);
}

/// Asserts that weights or their configuration are refused, with the names and values that do not
/// match.
fn assert_refused(error: &TrainerError, names: &[&str]) {
    assert!(
        matches!(error, TrainerError::Weights { .. } | TrainerError::Config { .. }),
        "{error:?}"
    );
    let message = error.to_string();
    assert!(names.iter().all(|name| message.contains(name)), "{names:?} are not in: {message}");
}

#[test]
fn wrong_activation_is_refused() {
    let folder = parity();
    let gelu = config(&folder, "tiny_gelu");
    let error = Weights::read(&folder.join("tiny_quickgelu_hf"), Some(&gelu)).err().unwrap();
    assert_refused(&error, &["quick_gelu", "false", "true"]);
    let mut trainer = Trainer::new(&spec(gelu)).unwrap();
    let error = trainer.set_weights(&weights(&folder, "tiny_quickgelu")).unwrap_err();
    assert_refused(&error, &["quick_gelu"]);
}

#[test]
fn hugging_face_folders_that_we_cannot_compute_are_refused_by_name() {
    let folder = parity();
    let scratch = tempfile::tempdir().unwrap();
    let reference = folder.join("tiny_quickgelu_hf");
    std::os::unix::fs::symlink(
        reference.join("model.safetensors"),
        scratch.path().join("model.safetensors"),
    )
    .unwrap();
    let text = std::fs::read_to_string(reference.join("config.json")).unwrap();
    for (from, to, names) in [
        ("\"model_type\": \"clip\"", "\"model_type\": \"blip\"", ["model_type", "\"blip\""]),
        ("quick_gelu", "gelu_new", ["hidden_act", "\"gelu_new\""]),
        ("\"layer_norm_eps\": 1e-05", "\"layer_norm_eps\": 2.0", ["norm_kwargs.eps", "2.0"]),
        ("\"eos_token_id\": 99", "\"eos_token_id\": 7", ["eos_token_id", "7"]),
        (
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 3",
            ["24 tensors", "visual.transformer.resblocks.2.ln_1.weight"],
        ),
        (
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 1",
            ["32 tensors", "text_model.encoder.layers.1"],
        ),
        ("\"patch_size\": 4", "\"patch_size\": 2", ["visual.conv1.weight", "[32, 3, 2, 2]"]),
    ] {
        let changed = text.replace(from, to);
        assert_ne!(changed, text, "{from}");
        diptych_schemas::durable::write(&scratch.path().join("config.json"), changed.as_bytes())
            .unwrap();
        assert_refused(&Weights::read(scratch.path(), None).err().unwrap(), &names);
    }
    let one = text.replacen("quick_gelu", "gelu", 1);
    diptych_schemas::durable::write(&scratch.path().join("config.json"), one.as_bytes()).unwrap();
    assert_refused(
        &Weights::read(scratch.path(), None).err().unwrap(),
        &["text_config.hidden_act", "vision_config.hidden_act"],
    );
}

#[test]
fn files_that_are_no_weights_are_refused_in_words() {
    let scratch = tempfile::tempdir().unwrap();
    let error = |path: &Path| Weights::read(path, None).err().unwrap().to_string();
    assert!(error(scratch.path()).contains("manifest.json"));
    assert!(error(&scratch.path().join("absent")).contains("absent"));
    let bare = scratch.path().join("bare.safetensors");
    diptych_schemas::durable::write(&bare, b"not weights").unwrap();
    assert!(error(&bare).contains("--model-config"));
    let error =
        Weights::read(&bare, ModelConfig::built_in("demo").as_ref()).err().unwrap().to_string();
    assert!(error.contains("bare.safetensors"), "{error}");
}
