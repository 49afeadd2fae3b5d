//! Compares each family of models with the library that defines it: features, names, round trips.
//!
//! The small random models of tests/data were made by tests/reference/make_models.py with
//! open_clip, timm and transformers.
#![expect(clippy::unwrap_used, reason = "tests say what is wrong by failing")]

#[path = "common/steps.rs"]
mod steps;

use std::path::{Path, PathBuf};

use diptych_pipeline::{EvalResize, Fit, Interpolation};
use diptych_schemas::{OptimizerConfig, Precision, TrainLoopConfig, WarmupSteps};
use diptych_trainer::{
    Device, DualEncoderConfig, Encoder, ModelConfig, PreprocessConfig, TokenizerFiles, Trainer,
    TrainerSpec, Weights, built_in_names, export_hf, export_openclip,
};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use steps::Steps;
use tch::{Kind, Tensor};

const OPENCLIP: [&str; 5] =
    ["openclip_average", "openclip_coca", "openclip_pooler", "openclip_end", "openclip_siglip"];
const HUGGING_FACE: [&str; 2] = ["hf_siglip", "hf_chinese_clip"];

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn config(name: &str) -> ModelConfig {
    ModelConfig::read(&data().join(format!("{name}.json"))).unwrap()
}

/// Reads the weights of one of the models of tests/data.
fn weights(name: &str) -> Weights {
    if name.starts_with("hf_") {
        return Weights::read(&data().join(name), None).unwrap();
    }
    Weights::read(&data().join(format!("{name}.safetensors")), Some(&config(name))).unwrap()
}

fn tensor(path: &Path, name: &str) -> Tensor {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(name).unwrap();
    let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
    let kind = if view.dtype() == safetensors::Dtype::I64 { Kind::Int64 } else { Kind::Float };
    Tensor::from_data_size(view.data(), &shape, kind)
}

fn largest_difference(found: &[f32], expected: &Tensor) -> f64 {
    (Tensor::from_slice(found).view_as(expected) - expected).abs().max().double_value(&[])
}

fn assert_same_tensors(ours: &Path, theirs: &Path) {
    let (ours, theirs) = (std::fs::read(ours).unwrap(), std::fs::read(theirs).unwrap());
    let (ours, theirs) =
        (SafeTensors::deserialize(&ours).unwrap(), SafeTensors::deserialize(&theirs).unwrap());
    let mut names = [ours.names(), theirs.names()];
    for names in &mut names {
        names.sort_unstable();
    }
    assert_eq!(names[0], names[1]);
    for (name, theirs) in theirs.iter() {
        let ours = ours.tensor(name).unwrap();
        assert_eq!((ours.shape(), ours.dtype()), (theirs.shape(), theirs.dtype()), "{name}");
        assert!(ours.data() == theirs.data(), "{name} differs");
    }
}

fn error<T>(result: Result<T, diptych_trainer::TrainerError>) -> String {
    result.err().unwrap().to_string()
}

#[test]
fn features_are_the_librarys_within_2e_6() {
    for name in OPENCLIP.iter().chain(&HUGGING_FACE) {
        let encoder = Encoder::from_weights(&weights(name), Device::CPU).unwrap();
        let io = data().join(format!("{name}_io.safetensors"));
        let images = Vec::<f32>::try_from(tensor(&io, "images").flatten(0, -1)).unwrap();
        let tokens =
            Vec::<i32>::try_from(tensor(&io, "tokens").flatten(0, -1).to_kind(Kind::Int)).unwrap();
        for (key, found) in [
            ("image_features", encoder.encode_normalised(&images).unwrap()),
            ("text_features", encoder.encode_tokens(&tokens).unwrap()),
        ] {
            let difference = largest_difference(&found, &tensor(&io, key));
            // Tight enough to notice an epsilon of 1e-5 instead of 1e-6.
            assert!(difference < 2e-6, "{name} {key}: {difference}");
        }
    }
}

#[test]
fn openclips_files_come_back_exactly_and_with_its_tensors() {
    let scratch = tempfile::tempdir().unwrap();
    for name in OPENCLIP.iter().filter(|name| **name != "openclip_siglip") {
        let mut weights = weights(name);
        weights.config.dual_encoder_mut().unwrap().preprocess = PreprocessConfig {
            mean: [0.1, 0.2, 0.3],
            std: [0.5, 0.6, 0.7],
            resize: EvalResize {
                interpolation: Interpolation::Bilinear,
                fit: Fit::Longest { fill: 127 },
            },
        };
        let out = scratch.path().join(name);
        export_openclip(&weights, "{}", &out).unwrap();
        let back = Weights::read(&out, None).unwrap();
        assert_eq!(back.config, weights.config);
        assert_eq!(back.hash().unwrap(), weights.hash().unwrap());
        assert_same_tensors(
            &out.join("open_clip_model.safetensors"),
            &data().join(format!("{name}.safetensors")),
        );
    }
}

#[test]
fn hugging_faces_folders_come_back_exactly_and_with_its_tensors() {
    let scratch = tempfile::tempdir().unwrap();
    let tokenizer = TokenizerFiles { tokenizer_json: "{}".into(), ..TokenizerFiles::default() };
    for name in HUGGING_FACE {
        let weights = weights(name);
        let out = scratch.path().join(name);
        export_hf(&weights, &tokenizer, &out).unwrap();
        let back = Weights::read(&out, None).unwrap();
        // Only the tokenizer's name, which is a note, differs.
        assert_eq!(back.config.differences(&weights.config), None);
        assert_eq!(back.hash().unwrap(), weights.hash().unwrap());
        assert_same_tensors(
            &out.join("model.safetensors"),
            &data().join(name).join("model.safetensors"),
        );
        let read = |folder: &Path| -> Value {
            serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
        };
        let (ours, theirs) = (read(&out), read(&data().join(name)));
        for group in ["text_config", "vision_config"] {
            for (key, value) in theirs[group].as_object().unwrap() {
                // SigLIP and BERT ignore these keys, and the projection of the image tower is the
                // model's.
                if !["bos_token_id", "eos_token_id"].contains(&key.as_str())
                    && (group, key.as_str()) != ("vision_config", "projection_dim")
                {
                    assert_eq!(&ours[group][key], value, "{name} {group}.{key}");
                }
            }
        }
    }
}

#[test]
fn openclips_siglip_goes_to_hugging_face_and_back() {
    let scratch = tempfile::tempdir().unwrap();
    // Hugging Face pads as the configuration says, while OpenCLIP leaves it to the tokenizer. The
    // trunk's hidden layer is rounded down.
    let weights = weights("openclip_siglip");
    let out = scratch.path().join("hf");
    let tokenizer = TokenizerFiles { tokenizer_json: "{}".into(), ..TokenizerFiles::default() };
    export_hf(&weights, &tokenizer, &out).unwrap();
    let json: Value =
        serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(json["vision_config"]["hidden_act"], "gelu");
    let back = Weights::read(&out, None).unwrap();
    let encoder = Encoder::from_weights(&back, Device::CPU).unwrap();
    let io = data().join("openclip_siglip_io.safetensors");
    let images = Vec::<f32>::try_from(tensor(&io, "images").flatten(0, -1)).unwrap();
    let difference = largest_difference(
        &encoder.encode_normalised(&images).unwrap(),
        &tensor(&io, "image_features"),
    );
    assert!(difference < 2e-6, "{difference}");
}

#[test]
fn forms_that_cannot_hold_a_model_refuse_it_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let to_openclip = |name: &str| error(export_openclip(&weights(name), "{}", &out));
    assert!(to_openclip("hf_siglip").contains("timm"));
    assert!(to_openclip("hf_chinese_clip").contains("hf_model_name"));
    let to_hf = |name: &str| error(export_hf(&weights(name), &TokenizerFiles::default(), &out));
    let said = to_hf("openclip_average");
    for key in
        ["vision_cfg.ls_init_value", "vision_cfg.no_ln_pre", "text_cfg.proj_bias", "custom_text"]
    {
        assert!(said.contains(key), "{said}");
    }
    assert!(to_hf("openclip_end").contains("logit bias"));
    assert!(!out.exists());
}

#[test]
fn weights_of_another_activation_or_shape_are_refused_by_name() {
    let read = |change: &dyn Fn(&mut DualEncoderConfig), name: &str| {
        let mut config = if name.starts_with("hf_") { weights(name).config } else { config(name) };
        change(config.dual_encoder_mut().unwrap());
        let path = if name.starts_with("hf_") {
            data().join(name)
        } else {
            data().join(format!("{name}.safetensors"))
        };
        error(Weights::read(&path, Some(&config)))
    };
    let said = read(&|config| config.vision.gelu_tanh = false, "hf_siglip");
    assert!(said.contains("vision_cfg.act_kwargs"), "{said}");
    let said = read(&|config| config.preprocess = PreprocessConfig::default(), "hf_siglip");
    assert!(said.contains("preprocess_cfg.resize_mode"), "{said}");
    let said = read(&|config| config.vision.ls_init_value = None, "openclip_average");
    assert!(said.contains("visual.transformer.resblocks.0.ls_1.gamma"), "{said}");
    let said = read(&|config| config.custom_text = false, "openclip_average");
    assert!(said.contains(": text."), "{said}");
    let said = read(&|config| config.text.context_length = 9, "openclip_end");
    assert!(
        ["positional_embedding", "[7, 16]", "[9, 16]"].iter().all(|part| said.contains(part)),
        "{said}"
    );
}

#[test]
fn fixed_positions_start_as_openclips() {
    use diptych_trainer::Model;
    let config = config("openclip_average");
    let model = Model::random(&config, 0, tch::Device::Cpu).unwrap();
    let at = model.names().iter().position(|name| name == "visual.positional_embedding").unwrap();
    assert!(!model.parameters()[at].requires_grad());
    let expected =
        tensor(&data().join("openclip_average.safetensors"), "visual.positional_embedding");
    let difference = (&model.parameters()[at] - expected).abs().max().double_value(&[]);
    assert!(difference < 1e-6, "{difference}");
}

#[test]
fn every_kind_of_tower_trains_all_that_is_trained() {
    let families = OPENCLIP.iter().chain(&HUGGING_FACE);
    for (name, precision) in
        families.flat_map(|name| [(name, Precision::Fp32), (name, Precision::Bf16)])
    {
        let spec = TrainerSpec {
            optimizer: OptimizerConfig {
                warmup_steps: WarmupSteps::Steps(0),
                ..OptimizerConfig::default()
            },
            train: TrainLoopConfig {
                batch_size: 3,
                micro_batch_size: 2,
                precision,
                ..TrainLoopConfig::default()
            },
            total_steps: 4,
            ..TrainerSpec::new(weights(name).config)
        };
        let mut trainer = Trainer::new(&spec).unwrap();
        let before: Vec<Tensor> =
            trainer.model().parameters().iter().map(|p| p.detach().copy()).collect();
        let io = data().join(format!("{name}_io.safetensors"));
        let images = Vec::<f32>::try_from(tensor(&io, "images").flatten(0, -1)).unwrap();
        let tokens =
            Vec::<i32>::try_from(tensor(&io, "tokens").flatten(0, -1).to_kind(Kind::Int)).unwrap();
        let losses: Vec<f64> =
            (0..4).map(|_| trainer.step_normalised(&images, &tokens).unwrap().loss).collect();
        assert!(losses.iter().all(|loss| loss.is_finite()), "{name}: {losses:?}");
        for ((parameter, before), called) in
            trainer.model().parameters().iter().zip(&before).zip(trainer.model().names())
        {
            // CLIP's loss has no bias.
            if called != "logit_bias" {
                assert_eq!(
                    parameter.detach() != *before,
                    parameter.requires_grad(),
                    "{name} {called}"
                );
            }
        }
    }
}

#[test]
fn preprocessing_travels_in_every_form_and_what_the_loader_cannot_do_is_refused() {
    let model = config("openclip_end").dual_encoder().unwrap().to_json();
    let read = |preprocess: Value| {
        DualEncoderConfig::parse(
            &json!({"model_cfg": model, "preprocess_cfg": preprocess}).to_string(),
        )
    };
    let squashed = read(json!({"mean": [0.5, 0.5, 0.5], "std": 0.5, "interpolation": "bilinear",
        "resize_mode": "squash", "size": [16, 16]}));
    let squashed = squashed.unwrap();
    let resize = EvalResize { interpolation: Interpolation::Bilinear, fit: Fit::Squash };
    assert_eq!(squashed.preprocess, PreprocessConfig { mean: [0.5; 3], std: [0.5; 3], resize });
    assert_eq!(DualEncoderConfig::parse(&squashed.to_file_json().to_string()).unwrap(), squashed);
    for (bad, says) in [
        (json!({"interpolation": "random"}), "interpolation = \"random\""),
        (json!({"resize_mode": "stretch"}), "resize_mode = \"stretch\""),
        (json!({"size": 224}), "size = 224"),
        (json!({"fill_color": 300}), "fill_color = 300"),
        (json!({"mode": "L"}), "mode = \"L\""),
        (json!({"std": [0.5, 0.0, 0.5]}), "preprocess_cfg.std"),
    ] {
        let said = read(bad).unwrap_err();
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn hugging_faces_image_processors_are_understood_or_refused() {
    let scratch = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::os::unix::fs::symlink(data().join("hf_siglip").join(name), scratch.path().join(name))
            .unwrap();
    }
    let read = |json: Value| {
        diptych_schemas::durable::write(
            &scratch.path().join("preprocessor_config.json"),
            json.to_string().as_bytes(),
        )
        .unwrap();
        Weights::read(scratch.path(), None)
            .map(|weights| weights.dual_encoder().unwrap().preprocess)
    };
    let square = json!({"height": 16, "width": 16});
    let bicubic = |fit| EvalResize { interpolation: Interpolation::Bicubic, fit };
    for (json, resize) in [
        (json!({}), bicubic(Fit::Squash)),
        (json!({"size": square, "resample": 3}), bicubic(Fit::Squash)),
        (
            json!({"size": {"shortest_edge": 16}, "crop_size": square, "do_center_crop": true}),
            bicubic(Fit::Shortest),
        ),
        (json!({"size": 16, "do_center_crop": false}), bicubic(Fit::Squash)),
        (
            json!({"size": square, "resample": 2}),
            EvalResize { interpolation: Interpolation::Bilinear, fit: Fit::Squash },
        ),
    ] {
        assert_eq!(read(json.clone()).unwrap().resize, resize, "{json}");
    }
    for (json, says) in [
        (json!({"resample": 1}), "resample = 1"),
        (json!({"size": {"height": 32, "width": 32}}), "16 pixels"),
        (json!({"do_normalize": false}), "do_normalize = false"),
        (json!({"rescale_factor": 1.0}), "rescale_factor = 1.0"),
        (json!({"size": {"shortest_edge": 16}, "do_center_crop": false}), "do_center_crop = false"),
    ] {
        let said = error(read(json));
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn built_in_siglip_is_openclips() {
    let config = DualEncoderConfig::built_in("ViT-SO400M-14-SigLIP-384").unwrap();
    assert_eq!(
        (config.vision.image_size, config.vision.grid(), config.vision.mlp_width()),
        (384, 27, 4304)
    );
    assert_eq!((config.preprocess.mean, config.preprocess.resize.fit), ([0.5; 3], Fit::Squash));
    assert_eq!(config.text.tokenizer.pad_id, Some(1));
    // In OpenCLIP's keys.
    let json = config.to_json();
    assert_eq!(json["vision_cfg"]["timm_model_name"], "vit_so400m_patch14_siglip_384");
    assert_eq!(json["text_cfg"]["tokenizer_kwargs"]["clean"], "canonicalize");
    for name in built_in_names() {
        let config = ModelConfig::built_in(&name).unwrap();
        assert_eq!(
            ModelConfig::parse(&config.to_file_json().to_string()).unwrap(),
            config,
            "{name}"
        );
    }
}

/// Writes exports for check_families.py and check_masked_lm.py, in which the libraries' own loaders
/// read them.
///
/// Run with `DIPTYCH_EXPORTS=FOLDER cargo test … -- --ignored`.
#[test]
#[ignore = "writes files for trainer/tests/check_families.py"]
fn exports_for_the_libraries_own_loaders() {
    let folder = PathBuf::from(std::env::var_os("DIPTYCH_EXPORTS").unwrap());
    let tokenizer = TokenizerFiles { tokenizer_json: "{}".into(), ..TokenizerFiles::default() };
    for name in OPENCLIP.iter().filter(|name| **name != "openclip_siglip") {
        export_openclip(&weights(name), "{}", &folder.join(name)).unwrap();
    }
    for name in HUGGING_FACE.iter().chain(&["openclip_siglip"]) {
        export_hf(&weights(name), &tokenizer, &folder.join(format!("{name}_as_hf"))).unwrap();
    }
    let bert = data().join("bert_mlm");
    let model = ModelConfig::read(&bert.join("bert_mlm.json")).unwrap();
    let weights = Weights::read(&bert.join("bert_mlm.safetensors"), Some(&model)).unwrap();
    export_hf(&weights, &tokenizer, &folder.join("bert_mlm")).unwrap();
    // A complete model under its own name, because timm's own sizes are too large for tests/data.
    let config = DualEncoderConfig::built_in("ViT-B-32-SigLIP2-256").unwrap();
    let small = DualEncoderConfig {
        text: diptych_trainer::TextConfig { vocab_size: 64, layers: 1, ..config.text.clone() },
        ..config
    };
    let small = ModelConfig::from(small);
    let model = diptych_trainer::Model::random(&small, 0, tch::Device::Cpu).unwrap();
    let named: Vec<(String, Tensor)> =
        model.names().iter().cloned().zip(model.parameters().iter().map(Tensor::detach)).collect();
    let file = folder.join("siglip.safetensors");
    Tensor::write_safetensors(&named, &file).unwrap();
    export_openclip(
        &Weights::read(&file, Some(&small)).unwrap(),
        "{}",
        &folder.join("openclip_siglip_b32"),
    )
    .unwrap();
}
