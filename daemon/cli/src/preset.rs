//! Arguments of `diptych preset`, and of `diptych select --preset`.

use clap::Args;

/// A filter, and what is set in it.
#[derive(Debug, Args)]
pub struct PresetArg {
    /// Run this filter: `diptych preset` lists them
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    pub preset: Option<String>,
    /// Set something in the filter, as KEY=SQL or KEY=@FILE with numbers in it
    #[arg(long, value_name = "KEY=SQL", requires = "preset")]
    pub set: Vec<String>,
}

#[derive(Debug, Args)]
pub struct PresetArgs {
    /// The filter whose SQL is printed. Without it: all filters and what can be set in them
    pub name: Option<String>,
    /// Set something in the filter, as KEY=SQL or KEY=@FILE with numbers in it
    #[arg(long, value_name = "KEY=SQL", requires = "name")]
    pub set: Vec<String>,
}
