//! Checks that the files and folders of a configuration exist, before anything is opened. Messages
//! name the key.

use std::path::Path;

use anyhow::bail;
use diptych_schemas::words::nearest;
use diptych_schemas::{TrainConfig, is_url};

/// Checks all paths. Fails for the first that does not exist.
pub(super) fn check(config: &TrainConfig) -> anyhow::Result<()> {
    let eval = &config.eval;
    let whole = if config.data.mix.is_empty() { "data" } else { "data.mix" };
    for source in config.data.sources() {
        exists(&format!("{whole}.dataset"), &source.dataset, "create it with `diptych ingest`")?;
        exists(
            &format!("{whole}.selection"),
            &source.selection,
            "create it with `diptych split` or `diptych select`",
        )?;
    }
    for (key, path, advice) in [
        ("model.config", config.model.config_file(), "set it to a built-in model or a JSON file"),
        (
            "model.tokenizer",
            config.model.tokenizer.as_deref(),
            "set it to a tokenizer.json or vocab.txt",
        ),
        ("eval.dataset", eval.dataset.as_deref(), "create it with `diptych ingest`"),
        (
            "eval.selection",
            eval.selection.as_deref(),
            "create it with `diptych split` or `diptych select`",
        ),
        ("eval.classes", eval.classes.as_deref(), "write one class name per line"),
        (
            "eval.templates",
            eval.templates.as_deref(),
            "write one prompt per line, with {} for the class",
        ),
        ("eval.suite", eval.suite.as_deref(), "set it to the TOML file of a suite"),
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
    let missing = path.file_name().unwrap_or_default().to_string_lossy();
    let meant = match nearest(&missing, names.iter().map(String::as_str)) {
        Some(name) => format!("; did you mean {name}? Otherwise"),
        None => ";".into(),
    };
    bail!("{key}: {} does not exist{meant} {advice}", path.display())
}
