//! `diptych config`: prints, explains or checks a configuration, or prints its JSON Schema.

use diptych_cli::ConfigArgs;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::{ServeConfig, TrainConfig, commented, explained, serve_schema, train_schema};
use diptych_trainer::ModelConfig;

use crate::output::line;

/// A configuration with only the keys that have no default.
const FIRST: &str = "\
name = \"my-run\"
[data]
dataset = \"data\"
selection = \"train.parquet\"
[model]
config = \"ViT-B-32\"
[eval]
selection = \"heldout.parquet\"
";

pub(crate) fn run(args: ConfigArgs) -> anyhow::Result<Outcome> {
    if let Some(name) = args.model {
        line(format!("{:#}", ModelConfig::named_or_file(&name)?.to_file_json()))?;
        return Ok(Outcome::Done);
    }
    if args.schema {
        let schema = if args.serve { serve_schema() } else { train_schema() };
        line(serde_json::to_string_pretty(&schema)?)?;
        return Ok(Outcome::Done);
    }
    if args.serve {
        let config =
            args.config.as_deref().map_or_else(|| Ok(ServeConfig::default()), ServeConfig::read)?;
        line(config.to_toml().trim_end())?;
        return Ok(Outcome::Done);
    }
    let config = match args.config {
        Some(path) => TrainConfig::read(&path)?,
        None => TrainConfig::parse(FIRST).map_err(anyhow::Error::msg)?,
    };
    if let Some(wanted) = &args.keys {
        let wanted = Some(wanted.as_str()).filter(|wanted| !wanted.is_empty());
        let text = explained(&config, wanted).map_err(anyhow::Error::msg)?;
        line(text.trim_end())?;
        return Ok(Outcome::Done);
    }
    line(commented(&config).trim_end())?;
    Ok(Outcome::Done)
}
