//! Weights of other tools come in and go out unchanged. Unsuitable ones are refused by name.

use std::path::Path;

use diptych_test_support::parity;
use diptych_tests::{Work, final_files, project, tiny_config};
use serde_json::Value;

/// Returns names, shapes and bytes of a safetensors file, independent of their order in the file.
fn tensors(path: &Path) -> std::collections::BTreeMap<String, (String, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
    let header: serde_json::Map<String, Value> = serde_json::from_slice(header).unwrap();
    let at = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
    let tensors =
        header.into_iter().filter(|(name, _)| name != "__metadata__").map(|(name, value)| {
            let (from, to) = (at(&value["data_offsets"][0]), at(&value["data_offsets"][1]));
            (name, (format!("{} {}", value["dtype"], value["shape"]), data[from..to].to_vec()))
        });
    tensors.collect()
}

/// The weights of both reference models.
const WEIGHTS: &str = "tiny_gelu.safetensors";

/// Writes the reference model as an OpenCLIP folder.
fn openclip_folder(work: &Work) {
    let parity = parity();
    let model: Value =
        serde_json::from_str(&std::fs::read_to_string(parity.join("tiny_quickgelu.json")).unwrap())
            .unwrap();
    let config = serde_json::json!({
        "model_cfg": model,
        "preprocess_cfg": { "mean": [0.481_454_66, 0.457_827_5, 0.408_210_73], "std": [0.268_629_54, 0.261_302_58, 0.275_777_11] },
    });
    work.write("reference/open_clip_config.json", config.to_string());
    for (from, to) in
        [(WEIGHTS, "open_clip_model.safetensors"), ("tokenizer.json", "tokenizer.json")]
    {
        work.write(&format!("reference/{to}"), std::fs::read(parity.join(from)).unwrap());
    }
}

#[test]
fn reference_model_exported_for_hugging_face_is_hugging_faces_own() {
    let parity = parity();
    let work = Work::new();
    openclip_folder(&work);
    work.diptych(&["export", "--model", "reference", "--format", "hf", "--output", "hf"]).ok();

    let expected = tensors(&parity.join("tiny_quickgelu_hf/model.safetensors"));
    assert!(tensors(&work.path("hf/model.safetensors")) == expected, "tensors differ");
    let ours: Value = serde_json::from_str(&work.read("hf/config.json")).unwrap();
    let theirs: Value = serde_json::from_str(
        &std::fs::read_to_string(parity.join("tiny_quickgelu_hf/config.json")).unwrap(),
    )
    .unwrap();
    for tower in ["text_config", "vision_config"] {
        for key in [
            "hidden_act",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "layer_norm_eps",
            "projection_dim",
        ] {
            assert_eq!(ours[tower][key], theirs[tower][key], "{tower}.{key}");
        }
    }
    for name in [
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "merges.txt",
    ] {
        assert!(work.path("hf").join(name).is_file(), "{name}");
    }

    // As ONNX graphs, from a file of weights alone.
    let options = [
        "--model-config",
        "reference/open_clip_config.json",
        "--format",
        "onnx",
        "--output",
        "onnx",
    ];
    work.diptych(
        &[&["export", "--model", "reference/open_clip_model.safetensors"][..], &options].concat(),
    )
    .ok();
    for name in [
        "onnx/model.onnx",
        "onnx/vision_model.onnx",
        "onnx/text_model.onnx",
        "config.json",
        "preprocessor_config.json",
    ] {
        assert!(work.path("onnx").join(name).is_file(), "{name}");
    }

    // And back: the same weights as an OpenCLIP folder.
    work.diptych(&["export", "--model", "hf", "--format", "openclip", "--output", "back"]).ok();
    assert!(
        tensors(&work.path("back/open_clip_model.safetensors")) == tensors(&parity.join(WEIGHTS))
    );
    // A folder that is there is not overwritten.
    work.diptych(&["export", "--model", "hf", "--format", "openclip", "--output", "back"])
        .fails(1, "output_is_there")
        .names(&["back"]);
}

#[test]
fn both_formats_of_the_reference_model_evaluate_alike() {
    let work = Work::new().with_demo_data(120);
    openclip_folder(&work);
    let hf = parity().join("tiny_quickgelu_hf");
    let eval = |model: &str| {
        let ran = work
            .diptych(&[
                "eval",
                "--model",
                model,
                "--dataset",
                "data",
                "--selection",
                "train.parquet",
            ])
            .ok();
        ran.stdout
    };
    assert_eq!(eval("reference"), eval(hf.to_str().unwrap()));
}

#[test]
fn wrong_activation_is_refused_and_not_trained_with() {
    let work = Work::new().with_demo_data(60);
    openclip_folder(&work);
    work.write("gelu.json", std::fs::read(parity().join("tiny_gelu.json")).unwrap());
    let config = tiny_config("run", 1, "").replace(
        "\"tiny.json\"",
        "\"gelu.json\"\nweights = \"reference\"\ntokenizer = \"reference/tokenizer.json\"",
    );
    work.write("run.toml", config);
    work.diptych(&["train", "run.toml"])
        .fails(1, "config_with_another_activation")
        .names(&["reference", "quick_gelu"]);
}

/// Returns a configuration with this `[model]` section.
fn fine_tune(name: &str, model: &str) -> String {
    tiny_config(name, 1, "").replace("config = \"tiny.json\"", model)
}

#[test]
fn weights_say_which_model_they_are_of_with_its_tokenizer_and_pixels() {
    let work = Work::new().with_demo_data(160);
    openclip_folder(&work);
    work.diptych(&["export", "--model", "reference", "--format", "hf", "--output", "models/clip"])
        .ok();
    let train = |name: &str, model: &str| {
        work.write(&format!("{name}.toml"), fine_tune(name, model));
        work.diptych(&["train", &format!("{name}.toml")])
    };
    // The same weights, named in every way, train to the same.
    let ways = [
        ("openclip", "weights = \"reference\""),
        ("hf", "weights = \"models/clip\""),
        ("both", "config = \"models/clip/config.json\"\nweights = \"reference\""),
        ("folder", "config = \"models/clip\"\nweights = \"models/clip\""),
    ];
    for (name, model) in ways {
        train(name, model).ok();
        assert!(
            final_files(&work, "state", name) == final_files(&work, "state", "openclip"),
            "{name} differs"
        );
        let last = std::fs::read_dir(work.path(&format!("state/checkpoints/{name}"))).unwrap();
        let last = last.map(|entry| entry.unwrap().path()).max().unwrap();
        let read = |name: &str| std::fs::read_to_string(last.join(name)).unwrap();
        assert!(read("model_config.json").contains("quick_gelu"), "{name}");
        let tokens = |text: &str| {
            let json: Value = serde_json::from_str(text).unwrap();
            json["model"]["vocab"].as_object().unwrap().len()
        };
        let own = tokens(&read("tokenizer.json"));
        assert_eq!(own, tokens(&work.read("reference/tokenizer.json")), "{name}");
    }
    // The book's recipe with smaller sizes.
    let page = project().join("daemon/docs/tutorials/fine-tune.md");
    let page = std::fs::read_to_string(page).unwrap();
    let recipe = page.split("```").find(|block| block.contains("name = \"fine-tuned\"")).unwrap();
    let recipe = recipe.strip_prefix("toml\n").unwrap();
    let small = recipe.replace("epochs = 5", "epochs = 1\nbatch_size = 16\nthreads = 2");
    assert_ne!(recipe, small);
    work.write("recipe.toml", small);
    work.diptych(&["train", "recipe.toml"]).ok();
    let curve =
        "SELECT count(*) FROM metrics WHERE run = 'fine-tuned' AND name = 'heldout/i2t_recall@1'";
    assert_ne!(work.sql(&["--state", "state"], curve), "0");

    // Runs and their checkpoints are such weights too. A run continues after its first weights were
    // deleted.
    train("again", "weights = \"hf\"").ok();
    work.diptych(&["sql", "SELECT model FROM runs WHERE run = 'again'", "--state", "state"]).ok();
    train("first", "weights = \"openclip@1\"")
        .fails(1, "weights_of_a_missing_step")
        .names(&["openclip"]);
    work.write(
        "long.toml",
        fine_tune("long", "weights = \"models/clip\"").replace("epochs = 1", "epochs = 3"),
    );
    work.diptych(&["train", "long.toml", "--stop-after", "2"]).ended_with(4);
    std::fs::remove_dir_all(work.path("models")).unwrap();
    work.diptych(&["train", "long.toml"]).ok();

    train("other", "config = \"tiny.json\"\nweights = \"reference\"")
        .fails(1, "config_of_another_model")
        .names(&["model.config", "reference", "vision_cfg"]);
    train("bare", "weights = \"reference/open_clip_model.safetensors\"")
        .fails(1, "weights_without_a_config")
        .names(&["model.config", "open_clip_model.safetensors"]);
    train("none", "").fails(1, "no_model").names(&["model.config", "model.weights"]);
    train("gone", "weights = \"no-such\"").fails(1, "no_such_weights").names(&["no-such"]);
}

#[test]
fn changes_of_low_rank_go_out_as_one_with_the_weights_that_stayed() {
    let work = Work::new().with_demo_data(120);
    work.write("base.toml", tiny_config("base", 1, ""));
    work.diptych(&["train", "base.toml"]).ok();
    work.diptych(&["export", "--model", "base", "--format", "openclip", "--output", "began"]).ok();
    for name in ["whole", "parts"] {
        // The folder says the model.
        let config = tiny_config(name, 2, "[lora]\nrank = 4\n")
            .replace("config = \"tiny.json\"", "weights = \"began\"");
        work.write(&format!("{name}.toml"), config);
    }
    work.diptych(&["train", "whole.toml"]).ok();
    work.diptych(&["train", "parts.toml", "--stop-after", "5"]).ended_with(4);
    work.diptych(&["train", "parts.toml"]).ok();
    assert!(
        final_files(&work, "state", "whole") == final_files(&work, "state", "parts"),
        "the weights differ"
    );

    for format in ["openclip", "hf"] {
        work.diptych(&["export", "--model", "whole", "--format", format, "--output", format]).ok();
    }
    let eval = |model: &str| {
        let ran = work
            .diptych(&[
                "eval",
                "--model",
                model,
                "--dataset",
                "data",
                "--selection",
                "heldout.parquet",
            ])
            .ok();
        ran.stdout
    };
    let of_run = eval("whole");
    assert_eq!((eval("openclip"), eval("hf")), (of_run.clone(), of_run.clone()));
    assert_ne!(eval("began"), of_run);

    let [began, ended] = ["began", "openclip"]
        .map(|folder| tensors(&work.path(folder).join("open_clip_model.safetensors")));
    assert!(began.keys().eq(ended.keys()), "nothing of the changes themselves is in it");
    let changed: Vec<&str> = began
        .iter()
        .filter(|(name, tensor)| ended[*name] != **tensor)
        .map(|(name, _)| &**name)
        .collect();
    assert!(changed.contains(&"visual.transformer.resblocks.0.attn.in_proj_weight"), "{changed:?}");
    assert!(
        !changed.contains(&"visual.conv1.weight") && !changed.contains(&"token_embedding.weight"),
        "{changed:?}"
    );
}
