//! Arguments of `diptych retype`.

use clap::Args;

use crate::shared::DatasetArg;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych retype --dataset data
  diptych retype --dataset data --columns punsafe,similarity

For datasets of versions that kept every column of CSV and TSV as text.")]
pub struct RetypeArgs {
    #[command(flatten)]
    pub dataset: DatasetArg,
    /// Columns to convert [default: all text columns]
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    pub columns: Vec<String>,
}
