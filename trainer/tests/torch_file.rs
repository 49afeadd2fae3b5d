//! Files of `torch.save` (`data/torch`, made by `reference/make_torch_files.py`) give the weights
//! that torch wrote, or an error.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests say what is wrong by failing; what they write need not outlive a crash"
)]

use std::path::{Path, PathBuf};

use diptych_schemas::ContentHash;
use diptych_trainer::{ModelConfig, Origin, Weights};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/torch")
}

fn config() -> ModelConfig {
    ModelConfig::read(&data().join("model.json")).unwrap()
}

fn file(name: &str) -> Weights {
    Weights::read(&data().join(name), Some(&config())).unwrap()
}

fn folder(name: &str) -> Weights {
    Weights::read(&data().join(name), None).unwrap()
}

fn hash(weights: &Weights) -> ContentHash {
    weights.hash().unwrap()
}

#[test]
fn bin_and_safetensors_of_the_same_weights_have_the_same_hash() {
    let expected = hash(&folder("openclip_safetensors"));
    let bin = folder("openclip_bin");
    assert_eq!((hash(&bin), bin.origin), (expected, Origin::OpenClipFolder));
    // A state dict alone, a training checkpoint with its optimizer, and tensors that are views of
    // larger storages.
    for name in ["openclip_bin/open_clip_pytorch_model.bin", "epoch_7.pt", "views.bin"] {
        let found = file(name);
        assert_eq!((hash(&found), found.origin), (expected, Origin::OpenClipFile), "{name}");
    }

    let (bin, safetensors) = (folder("hf_bin"), folder("hf_safetensors"));
    assert_eq!((hash(&bin), bin.origin), (hash(&safetensors), Origin::HuggingFaceFolder));
    assert_ne!(hash(&bin), expected);
}

/// Writes a safetensors file with some of the tensors, under other names.
fn renamed(from: &Path, to: &Path, keep: impl Fn(usize) -> bool, name: impl Fn(&str) -> String) {
    let bytes = std::fs::read(from).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = file.iter().collect();
    tensors.sort_by_key(|(name, _)| *name);
    let tensors = tensors.into_iter().enumerate().filter(|(number, _)| keep(*number));
    let tensors: Vec<_> = tensors.map(|(_, (old, view))| (name(old), view)).collect();
    std::fs::write(to, safetensors::serialize(tensors, None).unwrap()).unwrap();
}

#[test]
fn wrapped_names_and_sharded_files_are_read_in_every_format() {
    let folder_of_test = tempfile::tempdir().unwrap();
    let to = folder_of_test.path();
    let whole = data().join("openclip_safetensors/open_clip_model.safetensors");
    let expected = hash(&folder("openclip_safetensors"));
    for prefix in ["_orig_mod.", "module.", "module._orig_mod."] {
        let path = to.join("wrapped.safetensors");
        renamed(&whole, &path, |_| true, |name| format!("{prefix}{name}"));
        assert_eq!(hash(&Weights::read(&path, Some(&config())).unwrap()), expected, "{prefix}");
    }

    // A Hugging Face folder in two shards, compiled.
    let source = data().join("hf_safetensors");
    std::fs::copy(source.join("config.json"), to.join("config.json")).unwrap();
    let mut map = serde_json::Map::new();
    for shard in 0..2 {
        let name = format!("model-0000{}-of-00002.safetensors", shard + 1);
        renamed(
            &source.join("model.safetensors"),
            &to.join(&name),
            |number| number % 2 == shard,
            |tensor| format!("_orig_mod.{tensor}"),
        );
        map.insert(format!("_orig_mod.{shard}"), name.into());
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    std::fs::write(to.join("model.safetensors.index.json"), index.to_string()).unwrap();
    let sharded = Weights::read(to, None).unwrap();
    assert_eq!(hash(&sharded), hash(&folder("hf_safetensors")));

    for (map, says) in [
        (serde_json::json!({ "a": "../config.json" }), "../config.json"),
        (serde_json::json!({ "a": 3 }), "weight_map"),
        (serde_json::json!({ "a": "gone.safetensors" }), "gone.safetensors"),
    ] {
        let index = serde_json::json!({ "weight_map": map });
        std::fs::write(to.join("model.safetensors.index.json"), index.to_string()).unwrap();
        let error = Weights::read(to, None).err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn half_precision_is_widened_exactly() {
    for name in ["half", "bfloat16"] {
        let (bin, safetensors) =
            (file(&format!("{name}.bin")), file(&format!("{name}.safetensors")));
        assert_eq!(hash(&bin), hash(&safetensors), "{name}");
        assert_ne!(hash(&bin), hash(&folder("openclip_bin")), "{name}");
    }
}

#[test]
fn files_that_cannot_be_read_are_refused_by_name() {
    for (name, says) in [
        ("command.bin", "posix.system"),
        ("before_1_6.bin", "before 1.6"),
        ("protocol_4.bin", "protocol 4"),
        ("module.bin", "torch.nn.modules.linear.Linear"),
        ("double.bin", "float64"),
        ("expanded.bin", "tensor visual.proj: shape [8, 4], strides [0, 0] and offset 0"),
        ("tied.bin", "tensor ln_final.bias: shape [8], strides [1] and offset 0"),
        ("extra.bin", "extra is a number"),
        ("list.bin", "a list"),
        ("torchscript.pt", "TorchScript"),
    ] {
        let path = data().join("refused").join(name);
        let error = Weights::read(&path, Some(&config())).err().unwrap().to_string();
        assert!(error.contains(name) && error.contains(says), "{error}");
    }
    // Reading command.bin in Python would create this file.
    assert!(!Path::new("a-pickle-was-run").exists());
}

#[test]
fn weights_that_do_not_fit_the_model_are_refused_by_name() {
    let other = ModelConfig::built_in("demo");
    let error =
        Weights::read(&data().join("epoch_7.pt"), other.as_ref()).err().unwrap().to_string();
    assert!(
        ["epoch_7.pt", "positional_embedding", "[6, 8]", "[32, 128]"]
            .iter()
            .all(|part| error.contains(part)),
        "{error}"
    );
    let error = Weights::read(&data().join("epoch_7.pt"), None).err().unwrap().to_string();
    assert!(error.contains("--model-config"), "{error}");
}

#[test]
fn damaged_files_are_the_same_weights_or_an_error_that_names_the_file() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("damaged.bin");
    let (config, bytes) = (config(), std::fs::read(data().join("half.bin")).unwrap());
    let expected = hash(&file("half.bin"));
    let mut refused = 0;
    let mut outcome = |bytes: &[u8], what: &dyn Fn() -> String| {
        std::fs::write(&path, bytes).unwrap();
        match Weights::read(&path, Some(&config)) {
            // Flags, dates and padding do not affect the weights.
            Ok(weights) => assert_eq!(hash(&weights), expected, "{}", what()),
            Err(error) => {
                assert!(error.to_string().contains("damaged.bin"), "{}: {error}", what());
                refused += 1;
            }
        }
    };
    for length in (0..bytes.len()).step_by(211) {
        outcome(&bytes[..length], &|| format!("cut to {length}"));
    }
    for place in (0..bytes.len()).step_by(13) {
        let mut damaged = bytes.clone();
        // Covers each bit in turn.
        damaged[place] ^= 1 << (place % 8);
        outcome(&damaged, &|| format!("bit {} of byte {place}", place % 8));
    }
    // More than half of such a small file is numbers, names and lengths.
    assert!(refused > bytes.len() / 26, "{refused}");
}
