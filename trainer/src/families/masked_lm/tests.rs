//! Comparison with transformers' `BertForMaskedLM`: its values for a tiny model, in
//! tests/data/bert_mlm, and its names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::config::{MaskedLmConfig, built_in_names};
use super::hugging_face;
use crate::families::weights::Weights;
use crate::families::{Model, ModelConfig, export_hf};
use crate::formats::hugging_face::tokenizer::TokenizerFiles;
use crate::nn::inputs::{Extra, Inputs};
use crate::nn::parameters::ParameterSpec;
use crate::nn::tower::Tower;
use crate::objectives::{MASKED_POSITIONS, MLM_LOGITS};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bert_mlm")
}

fn tensors(name: &str) -> BTreeMap<String, Tensor> {
    Tensor::read_safetensors(data().join(name)).unwrap().into_iter().collect()
}

fn model() -> Model {
    let config = ModelConfig::read(&data().join("bert_mlm.json")).unwrap();
    let weights = Weights::read(&data().join("bert_mlm.safetensors"), Some(&config)).unwrap();
    Model::frozen(&config, weights.tensors.iter().map(Tensor::shallow_clone).collect()).unwrap()
}

fn largest(difference: &Tensor) -> f64 {
    difference.abs().max().double_value(&[])
}

#[test]
fn hidden_states_and_logits_are_berts_within_1e_5() {
    let (model, io) = (model(), tensors("bert_mlm_io.safetensors"));
    let tokens = &io["in.input_ids"];
    let seen = &io["in.attention_mask"];
    assert_eq!(tokens.ne(0).to_kind(Kind::Int64), *seen, "padding is told by its id");
    let inputs = Inputs::new(None, Some(tokens.shallow_clone()));
    let output = model.family().outputs().remove(0);
    let tower: &dyn Tower = output.tower;
    let embedded = tower.embed(&inputs).unwrap();
    let mut states = vec![("out.embeddings", embedded.x.shallow_clone())];
    let mut x = embedded.x;
    for (number, name) in [(0, "out.hidden_1"), (1, "out.last_hidden")] {
        x = tower.block(number, &x, embedded.mask.as_ref()).unwrap();
        states.push((name, x.shallow_clone()));
    }
    states.push(("out.logits", model.output(MLM_LOGITS, &inputs).unwrap()));
    for (name, found) in states {
        // Values at padded positions may differ between correct implementations.
        let difference = largest(&((found - &io[name]) * seen.unsqueeze(-1)));
        assert!(difference < 1e-5, "{name}: {difference}");
    }
}

#[test]
fn logits_at_some_positions_are_those_of_all() {
    let (model, io) = (model(), tensors("bert_mlm_io.safetensors"));
    let inputs = || Inputs::new(None, Some(io["in.input_ids"].shallow_clone()));
    let all = model.output(MLM_LOGITS, &inputs()).unwrap();
    let positions = Extra::padded(&[vec![1, 3], vec![], vec![2], vec![4, 5, 6]], 0).unwrap();
    let some =
        model.output(MLM_LOGITS, &inputs().with(MASKED_POSITIONS, &positions).unwrap()).unwrap();
    assert_eq!(some.size(), [4, 3, 60]);
    for (row, place, position) in [(0, 0, 1), (0, 1, 3), (2, 0, 2), (3, 2, 6)] {
        let difference = largest(&(some.get(row).get(place) - all.get(row).get(position)));
        assert!(difference < 1e-6, "{row} {position}: {difference}");
    }
}

#[test]
fn text_cut_to_what_is_used_has_the_logits_of_the_whole() {
    let (model, io) = (model(), tensors("bert_mlm_io.safetensors"));
    let config = MaskedLmConfig { context_length: 12, ..config() };
    let host: Vec<i32> =
        Vec::try_from(&io["in.input_ids"].to_kind(Kind::Int).flatten(0, -1)).unwrap();
    let first: Vec<i32> = host[..12].to_vec();
    let used = config.needed_tokens(&first);
    assert_eq!(used, 1 + first.iter().rposition(|token| *token != 0).unwrap());
    let padded: Vec<i32> = first.iter().take(7).copied().chain([0; 5]).collect();
    assert_eq!(config.needed_tokens(&padded), 7);
    assert_eq!((config.needed_tokens(&[0; 12]), config.needed_tokens(&[])), (1, 1));
    let logits = |tokens: &[i32]| {
        let tokens = Tensor::from_slice(tokens).view([1, -1]).to_kind(Kind::Int64);
        model.output(MLM_LOGITS, &Inputs::new(None, Some(tokens))).unwrap()
    };
    let difference = largest(&(logits(&padded).narrow(1, 0, 7) - logits(&padded[..7])));
    assert!(difference < 1e-5, "{difference}");
}

fn config() -> MaskedLmConfig {
    let text = std::fs::read_to_string(data().join("bert_mlm.json")).unwrap();
    MaskedLmConfig::from_json(&serde_json::from_str(&text).unwrap()).unwrap()
}

#[test]
fn built_in_models_have_berts_sizes_and_survive_their_json_form() {
    for name in built_in_names() {
        let config = ModelConfig::built_in(&name).unwrap();
        assert_eq!(
            ModelConfig::parse(&config.to_file_json().to_string()).unwrap(),
            config,
            "{name}"
        );
    }
    // The sum of the sizes of the parameters of transformers' BertForMaskedLM for
    // bert-base-uncased, tied ones counted once.
    let base = ModelConfig::built_in("bert-base").unwrap();
    assert_eq!(base.parameters().iter().map(ParameterSpec::numel).sum::<i64>(), 109_514_298);
}

#[test]
fn what_is_not_bert_is_refused_by_its_key() {
    let text = std::fs::read_to_string(data().join("bert_mlm.json")).unwrap();
    let refused = |key: &str, value: serde_json::Value| {
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json[key] = value;
        ModelConfig::parse(&json.to_string()).unwrap_err()
    };
    for (key, value) in [
        ("is_decoder", serde_json::json!(true)),
        ("position_embedding_type", serde_json::json!("relative_key")),
        ("tie_word_embeddings", serde_json::json!(false)),
        ("hidden_act", serde_json::json!("relu")),
        ("num_attention_heads", serde_json::json!(5)),
        ("pad_token_id", serde_json::json!(60)),
        ("context_length", serde_json::json!(17)),
    ] {
        let said = refused(key, value);
        assert!(said.contains(key), "{key}: {said}");
    }
}

#[test]
fn exports_are_read_again_and_published_files_too() {
    let scratch = tempfile::tempdir().unwrap();
    let model_config = ModelConfig::read(&data().join("bert_mlm.json")).unwrap();
    let weights = Weights::read(&data().join("bert_mlm.safetensors"), Some(&model_config)).unwrap();
    let folder = scratch.path().join("exported");
    export_hf(
        &weights,
        &TokenizerFiles { tokenizer_json: "{}".into(), ..TokenizerFiles::default() },
        &folder,
    )
    .unwrap();
    let back = Weights::read(&folder, None).unwrap();
    assert_eq!(back.hash().unwrap(), weights.hash().unwrap());

    // As TensorFlow's checkpoints were converted: other names, a pooler, a second head, and tied
    // tensors twice.
    let mut old: Vec<(String, Tensor)> = weights
        .named()
        .map(|(name, tensor)| {
            let name = name
                .replace("LayerNorm.weight", "LayerNorm.gamma")
                .replace("LayerNorm.bias", "LayerNorm.beta");
            (name, tensor.shallow_clone())
        })
        .collect();
    let float = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, Device::Cpu));
    old.push(("bert.pooler.dense.weight".into(), float(&[32, 32])));
    old.push(("cls.seq_relationship.weight".into(), float(&[2, 32])));
    let words = weights
        .named()
        .find(|(name, _)| name.ends_with("word_embeddings.weight"))
        .unwrap()
        .1
        .copy();
    old.push(("cls.predictions.decoder.weight".into(), words));
    Tensor::write_safetensors(&old, folder.join("model.safetensors")).unwrap();
    assert_eq!(Weights::read(&folder, None).unwrap().hash().unwrap(), weights.hash().unwrap());

    let changed = old.pop().unwrap().1 + 1.0;
    old.push(("cls.predictions.decoder.weight".into(), changed));
    Tensor::write_safetensors(&old, folder.join("model.safetensors")).unwrap();
    let said = hugging_face::import(&folder).err().unwrap().to_string();
    assert!(said.contains("cls.predictions.decoder.weight"), "{said}");
}
