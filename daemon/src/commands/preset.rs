//! `diptych preset`: prints filters as SQL.

use anyhow::{Context, bail};
use diptych_cli::PresetArgs;
use diptych_pipeline::presets::{PRESETS, preset};
use diptych_schemas::SchemaError;
use diptych_schemas::outcome::Outcome;

use crate::output::line;

pub(crate) fn run(args: &PresetArgs) -> anyhow::Result<Outcome> {
    match &args.name {
        Some(name) => line(preset_sql(name, &args.set)?.trim_end())?,
        None => list()?,
    }
    Ok(Outcome::Done)
}

/// Returns the SQL of a filter with its parameters.
pub(crate) fn preset_sql(name: &str, set: &[String]) -> anyhow::Result<String> {
    let set = set.iter().map(|set| parse(set)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(preset(name)?.sql(&set)?)
}

fn parse(set: &str) -> anyhow::Result<(String, String)> {
    let (key, value) =
        set.split_once('=').with_context(|| format!("--set {set}: expected KEY=SQL"))?;
    let value = match value.strip_prefix('@') {
        None => value.to_owned(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(SchemaError::io(path))?;
            let items: Vec<&str> = text
                .split(|char: char| char.is_whitespace() || char == ',')
                .filter(|item| !item.is_empty())
                .collect();
            if let Some(other) = items.iter().find(|item| item.parse::<f64>().is_err()) {
                bail!("--set {set}: {path} contains {other:?}; only numbers are allowed");
            }
            items.join(", ")
        }
    };
    Ok((key.trim().to_owned(), value))
}

fn list() -> anyhow::Result<()> {
    for preset in &PRESETS {
        line(format!("{}\n    {}", preset.name, preset.title()))?;
        for parameter in preset.parameters() {
            let default = parameter.default.map_or_else(|| "…".to_owned(), str::to_owned);
            line(
                format!("    --set {}={default}    {}", parameter.key, parameter.meaning)
                    .trim_end(),
            )?;
        }
    }
    line(
        "\n`diptych preset NAME` prints the SQL.\n`diptych select --preset NAME --dataset data \
         --output some.parquet` runs it.",
    )?;
    Ok(())
}
