//! A masked language model on a dataset's captions: from training to a dual encoder's text tower.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use diptych_test_support::seed;
use diptych_tests::{Work, final_files};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// Small enough for steps of milliseconds. Eight in ten captions fit.
fn bert(vocabulary: usize) -> String {
    json!({
        "model_type": "bert", "vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 32, "context_length": 24,
    })
    .to_string()
}

/// Makes scenes with captions, BERT's vocabulary of them (`vocab.txt`) and a model of that size
/// (`bert.json`).
fn work() -> Work {
    let work = Work::new().with_demo_data(240);
    let captions = work
        .diptych(&["sql", "SELECT caption FROM meta", "--dataset", "data", "--format", "csv"])
        .ok()
        .stdout;
    let words: BTreeSet<String> = captions
        .lines()
        .skip(1)
        .flat_map(|line| {
            line.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase).collect::<Vec<_>>()
        })
        .filter(|word| !word.is_empty())
        .collect();
    assert!(words.len() > 20, "{words:?}");
    // Long words come in two pieces.
    let halves = |word: &String| {
        if word.len() > 5 {
            vec![word[..3].to_owned(), format!("##{}", &word[3..])]
        } else {
            vec![word.clone()]
        }
    };
    let pieces: BTreeSet<String> =
        words.iter().filter(|word| word.is_ascii()).flat_map(halves).collect();
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    let vocabulary: Vec<String> = special.into_iter().chain(pieces).collect();
    work.write("vocab.txt", vocabulary.join("\n") + "\n");
    work.write("bert.json", bert(vocabulary.len()));
    work
}

fn config(name: &str, more: &str) -> String {
    format!(
        "name = \"{name}\"\nstate = \"state\"\nseed = 3\n[data]\ndataset = \"data\"\nselection = \"train.parquet\"\n\
         [model]\nconfig = \"bert.json\"\ntokenizer = \"vocab.txt\"\n[train]\nbatch_size = 16\nepochs = 12\nthreads = 2\n\
         [objective]\nterms = {{ mlm = 1.0 }}\nmask = {{ text = 0.3, whole_words = true }}\n\
         [optimizer]\nlr = 3e-3\nwarmup_steps = 5\n{more}"
    )
}

/// Long enough to learn something.
fn longer(name: &str, more: &str) -> String {
    config(name, more).replace("epochs = 12", "epochs = 40").replace("lr = 3e-3", "lr = 1e-2")
}

/// Returns the tensors of a safetensors file by name.
fn tensors(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let bytes = |entry: &Value| {
        let [from, to] = [0, 1].map(|end| entry["data_offsets"][end].as_u64().unwrap() as usize);
        file[8 + length + from..8 + length + to].to_vec()
    };
    let entries = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    entries.map(|(name, entry)| (name.clone(), bytes(entry))).collect()
}

#[test]
fn masked_language_model_learns_captions_is_exported_and_becomes_a_text_tower() {
    let work = work();
    work.write(
        "run.toml",
        longer("bert", "[metrics]\ntensorboard = true\n[eval]\nselection = \"heldout.parquet\"\nevery_epochs = 10\n"),
    );
    let said = work.diptych(&["train", "run.toml", "--no-progress"]).ok().stderr;
    assert!(!said.contains("scale"), "there is no logit scale: {said}");
    let state = ["--state", "state"];
    let mean = |name: &str, part: &str| -> f64 {
        let query = format!(
            "SELECT avg(value) FROM metrics WHERE run = 'bert' AND name = '{name}' AND {part}"
        );
        work.sql(&state, &query).parse().unwrap()
    };
    let last: u64 = work.sql(&state, "SELECT max(step) FROM metrics").parse().unwrap();
    let (first_loss, last_loss) =
        (mean("loss", "step <= 5"), mean("loss", &format!("step > {}", last - 5)));
    assert!(last_loss < 0.6 * first_loss, "from {first_loss} to {last_loss}");
    assert!(mean("accuracy/mlm", &format!("step > {}", last - 5)) > 0.3);
    assert_eq!(
        work.sql(
            &state,
            "SELECT count(*) FROM metrics WHERE name = 'logit_scale' OR name LIKE 'loss/%'"
        ),
        "0"
    );
    // All evaluations use the same masks, so the loss of held-out captions falls with the training
    // loss.
    let held_out = |order: &str| -> f64 {
        let query = format!(
            "SELECT value FROM metrics WHERE run = 'bert' AND name = 'heldout/loss' ORDER BY step {order} LIMIT 1"
        );
        work.sql(&state, &query).parse().unwrap()
    };
    assert!(
        held_out("DESC") < 0.95 * held_out("ASC"),
        "{} and {}",
        held_out("ASC"),
        held_out("DESC")
    );
    assert!(said.contains("accuracy/mlm"), "{said}");
    // No image was read: none could be unusable, although some of the scenes' files are damaged.
    assert_eq!(work.sql(&state, "SELECT skipped FROM runs"), "0");

    work.diptych(&[
        "export", "--model", "bert", "--state", "state", "--format", "hf", "--output", "hf",
    ])
    .ok();
    let written: Value = serde_json::from_str(&work.read("hf/config.json")).unwrap();
    assert_eq!(
        (&written["architectures"][0], &written["model_type"]),
        (&json!("BertForMaskedLM"), &json!("bert"))
    );
    let checkpoint = std::fs::read_dir(work.path("state/checkpoints/bert"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .max()
        .unwrap();
    assert!(
        tensors(&work.path("hf/model.safetensors"))
            == tensors(&checkpoint.join("model.safetensors"))
    );
    // What is exported can be trained on.
    work.write(
        "again.toml",
        longer("again", "").replace("tokenizer =", "weights = \"hf\"\ntokenizer ="),
    );
    work.diptych(&["train", "again.toml", "--no-progress", "--stop-after", "1"]).ended_with(4);
    let again: f64 = work
        .sql(&state, "SELECT value FROM metrics WHERE run = 'again' AND name = 'loss'")
        .parse()
        .unwrap();
    assert!(again < 0.7 * first_loss, "{again} beside {first_loss}");

    // A dual encoder whose text tower is that stack: locked, but for its projection, it keeps it.
    let sizes: Value = serde_json::from_str(&work.read("bert.json")).unwrap();
    let dual = json!({
        "embed_dim": 16, "custom_text": true,
        "vision_cfg": { "image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8 },
        "text_cfg": {
            "context_length": 24, "vocab_size": sizes["vocab_size"], "width": 32, "heads": 4, "layers": 2, "mlp_ratio": 2.0,
            "bert": { "positions": 32, "token_types": 2 }, "no_causal_mask": true, "hf_tokenizer_name": "vocab.txt", "pad_id": 0,
            "norm_kwargs": { "eps": 1e-12 },
        },
    });
    work.write("dual.json", dual.to_string());
    let dual_config = |name: &str, weights: &str| {
        format!(
            "name = \"{name}\"\nstate = \"state\"\n[data]\ndataset = \"data\"\nselection = \"train.parquet\"\n[model]\n\
             config = \"dual.json\"\nweights = {{ {weights} }}\ntokenizer = \"vocab.txt\"\n[train]\nbatch_size = 16\nepochs = 1\nthreads = 2\n\
             [train.lock]\ntext = true\ntext_unlocked_layers = 1\n"
        )
    };
    work.write("dual.toml", dual_config("dual", "text = \"hf\""));
    let said = work.diptych(&["train", "dual.toml", "--no-progress"]).ok().stderr;
    assert!(said.contains(" hf"), "the weights of the text tower are not named: {said}");
    let of_dual = std::fs::read_dir(work.path("state/checkpoints/dual"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .max()
        .unwrap();
    let (of_dual, of_bert) =
        (tensors(&of_dual.join("model.safetensors")), tensors(&work.path("hf/model.safetensors")));
    let mut compared = 0;
    for (name, bytes) in of_bert.iter().filter(|(name, _)| name.starts_with("bert.")) {
        let there = name.replacen("bert.", "text.transformer.", 1);
        assert!(of_dual[&there] == *bytes, "{there}");
        compared += 1;
    }
    assert_eq!(compared, 5 + 2 * 16);
    // Both towers, from two places; and towers that are not there.
    work.write(
        "both.toml",
        dual_config("both", "image = \"state/checkpoints/dual\", text = \"hf\"").replace(
            "state/checkpoints/dual",
            &std::fs::read_dir(work.path("state/checkpoints/dual"))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .max()
                .unwrap()
                .to_string_lossy(),
        ),
    );
    work.diptych(&["train", "both.toml", "--no-progress", "--stop-after", "1"]).ended_with(4);
    work.write("wrong.toml", dual_config("wrong", "image = \"hf\""));
    work.diptych(&["train", "wrong.toml", "--no-progress"])
        .fails(1, "image_tower_of_a_language_model");
    work.write("dual.json", dual.to_string().replace("\"layers\":2", "\"layers\":1"));
    work.write("other.toml", dual_config("other", "text = \"hf\""));
    work.diptych(&["train", "other.toml", "--no-progress"])
        .fails(1, "tower_of_another_shape")
        .names(&["layers"]);
}

#[test]
fn masked_language_model_killed_at_random_ends_with_the_same_weights_bit_for_bit() {
    let work = work();
    let often = "[checkpoint]\nevery_steps = 4\nevery_epochs = 0\nkeep_last = 2\n";
    let start = Instant::now();
    work.write("quiet.toml", config("quiet", often));
    work.diptych(&["train", "quiet.toml", "--no-progress"]).ok();
    let whole = start.elapsed();
    work.write("killed.toml", config("killed", often));
    let mut random = StdRng::seed_from_u64(seed());
    let mut kills = 0;
    while kills < 6 {
        let mut child = work.start(&["train", "killed.toml", "--no-progress"]);
        let deadline = Instant::now() + whole.mul_f64(0.15 + 0.5 * random.random::<f64>());
        while Instant::now() < deadline && !child.has_ended() {
            std::thread::sleep(Duration::from_millis(2));
        }
        if child.has_ended() {
            break;
        }
        child.kill();
        kills += 1;
    }
    assert!(kills > 0, "the run ended before it could be killed");
    work.diptych(&["train", "killed.toml", "--no-progress"]).ok();
    assert!(
        final_files(&work, "state", "quiet") == final_files(&work, "state", "killed"),
        "the weights differ"
    );
}

#[test]
fn what_a_masked_language_model_is_not_for_is_refused_in_words() {
    let work = work();
    work.write("run.toml", config("bert", ""));
    work.diptych(&["train", "run.toml", "--no-progress", "--stop-after", "1"]).ended_with(4);
    for call in [
        &["eval", "--model", "bert", "--dataset", "data", "--selection", "heldout.parquet"][..],
        &["embed", "--model", "bert", "--dataset", "data", "--selection", "heldout.parquet"],
        &[
            "search",
            "a red circle",
            "--model",
            "bert",
            "--dataset",
            "data",
            "--selection",
            "heldout.parquet",
        ],
        &["export", "--model", "bert", "--format", "openclip", "--output", "out"],
    ] {
        work.diptych(&[call, &["--state", "state"][..]].concat()).fails(1, "language_model");
    }
    let onnx = ["export", "--model", "bert", "--format", "onnx", "--output", "out"];
    work.diptych(&[&onnx, &["--state", "state"][..]].concat()).fails(1, "language_model_to_onnx");
    for (more, message) in [
        (
            "[eval]\nselection = \"heldout.parquet\"\n[checkpoint]\nkeep_best = 1\nbest_metric = \"heldout/i2t_recall@1\"\n",
            "best_metric_of_a_language_model",
        ),
        ("[train.lock]\nimage = true\n", "lock_of_a_missing_tower"),
    ] {
        work.write("refused.toml", config("refused", more));
        work.diptych(&["train", "refused.toml", "--no-progress"]).fails(1, message);
    }
    for (from, to, message) in [
        ("terms = { mlm = 1.0 }", "terms = { clip = 1.0 }", "mask_without_its_term"),
        (
            "terms = { mlm = 1.0 }\nmask = { text = 0.3, whole_words = true }",
            "loss = \"siglip\"",
            "term_of_another_family",
        ),
        ("tokenizer = \"vocab.txt\"", "", "no_tokenizer"),
    ] {
        work.write("refused.toml", config("refused", "").replace(from, to));
        work.diptych(&["train", "refused.toml", "--no-progress"]).fails(1, message);
    }
    // A tokenizer without a token for what is masked.
    let without = work.read("vocab.txt").replace("[MASK]\n", "unmasked\n");
    work.write("vocab.txt", without);
    work.write("refused.toml", config("refused", ""));
    work.diptych(&["train", "refused.toml", "--no-progress"])
        .fails(1, "tokenizer_without_a_mask")
        .names(&["[MASK]", "model.tokenizer"]);

    work.diptych(&["config", "--model", "nothing"])
        .fails(1, "unknown_model")
        .names(&["bert-base", "ViT-B-32"]);
    let listed = work.diptych(&["config", "--model", "bert-base"]).ok().stdout;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed["model_type"], &listed["hidden_size"]), (&json!("bert"), &json!(768)));
}
