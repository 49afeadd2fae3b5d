//! Arguments of `diptych config`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych config                    # all keys with their defaults, explained
  diptych config run.toml           # check a file and print all its keys
  diptych config --keys optimizer   # explain a section or a key
  diptych config --model ViT-B-32 > model.json
  diptych config --schema > diptych.schema.json
  diptych config --serve --schema > serve.schema.json

Editors with a TOML language server (taplo, VS Code's Even Better TOML)
complete and check a configuration whose first line is
  #:schema ./diptych.schema.json")]
pub struct ConfigArgs {
    /// Configuration to check and print with all keys [default: one to begin with]
    pub config: Option<PathBuf>,
    /// Explain the keys of a run's configuration: all, those of a section (eval) or one
    /// (eval.selection)
    #[arg(
        long,
        value_name = "SECTION",
        num_args = 0..=1,
        default_missing_value = "",
        conflicts_with_all = ["model", "serve"]
    )]
    pub keys: Option<String>,
    /// Print a built-in model configuration in OpenCLIP's JSON form
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub model: Option<String>,
    /// Print or check the configuration of `diptych serve` instead
    #[arg(long, conflicts_with = "model")]
    pub serve: bool,
    /// Print a JSON Schema of the configuration, for editors
    #[arg(long, conflicts_with_all = ["config", "keys", "model"])]
    pub schema: bool,
}
