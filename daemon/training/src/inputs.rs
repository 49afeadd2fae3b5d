//! Whether the files and folders that a configuration names are there, before anything is opened: a message that names the key.

use std::path::Path;

use anyhow::bail;
use diptych_schemas::words::nearest;
use diptych_schemas::{TrainConfig, is_url};

/// Fails for the first that is not there.
pub(super) fn check(config: &TrainConfig) -> anyhow::Result<()> {
    let eval = &config.eval;
    let whole = if config.data.mix.is_empty() { "data" } else { "data.mix" };
    for source in config.data.sources() {
        exists(&format!("{whole}.dataset"), &source.dataset, "make it with `diptych ingest`")?;
        exists(&format!("{whole}.selection"), &source.selection, "make it with `diptych select`")?;
    }
    // A name that ends in .json is a file; others may be built in.
    let is_file =
        |path: &&Path| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    let model_file = config.model.config.as_deref().map(Path::new).filter(is_file);
    for (key, path, advice) in [
        ("model.config", model_file, "name a built-in model or a JSON file"),
        (
            "model.tokenizer",
            config.model.tokenizer.as_deref(),
            "name a tokenizer.json or vocab.txt",
        ),
        ("eval.dataset", eval.dataset.as_deref(), "make it with `diptych ingest`"),
        ("eval.selection", eval.selection.as_deref(), "make it with `diptych select`"),
        ("eval.classes", eval.classes.as_deref(), "write one class name a line"),
        (
            "eval.templates",
            eval.templates.as_deref(),
            "write one prompt a line, with {} for the class",
        ),
        ("eval.suite", eval.suite.as_deref(), "name a suite's TOML file"),
    ] {
        if let Some(path) = path {
            exists(key, path, advice)?;
        }
    }
    Ok(())
}

fn exists(key: &str, path: &Path, advice: &str) -> anyhow::Result<()> {
    if is_url(path) || path.exists() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let names: Vec<String> = std::fs::read_dir(parent.unwrap_or(Path::new(".")))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let wanted = path.file_name().unwrap_or_default().to_string_lossy();
    let meant = match nearest(&wanted, names.iter().map(String::as_str)) {
        Some(name) => format!(": did you mean {name}? Otherwise"),
        None => ":".into(),
    };
    bail!("{key}: {} does not exist{meant} {advice}", path.display())
}
