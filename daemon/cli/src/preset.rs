//! Arguments of `diptych preset`, and of `diptych select --preset`.

use clap::Args;

/// A filter and its parameters.
#[derive(Debug, Args)]
pub struct PresetArg {
    /// Choose by this filter; `diptych preset` lists the filters
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    pub preset: Option<String>,
    /// Set a parameter of the filter: KEY=SQL, or KEY=@FILE with numbers in the file
    #[arg(long, value_name = "KEY=SQL", requires = "preset")]
    pub set: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych preset                    # lists the filters
  diptych preset datacomp-basic     # prints the SQL, to copy and edit
  diptych select --preset datacomp-basic --dataset data --output basic.parquet")]
pub struct PresetArgs {
    /// Filter to print as SQL [default: list all filters and their parameters]
    pub name: Option<String>,
    /// Set a parameter of the filter: KEY=SQL, or KEY=@FILE with numbers in the file
    #[arg(long, value_name = "KEY=SQL", requires = "name")]
    pub set: Vec<String>,
}
