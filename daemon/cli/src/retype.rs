//! Arguments of `diptych retype`.

use clap::Args;

use crate::shared::DatasetArg;

#[derive(Debug, Args)]
pub struct RetypeArgs {
    #[command(flatten)]
    pub dataset: DatasetArg,
    /// Columns to look at. Without it: all that are text
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    pub columns: Vec<String>,
}
