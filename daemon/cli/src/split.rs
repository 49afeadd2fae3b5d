//! Arguments of `diptych split`.

use std::path::PathBuf;

use clap::Args;

use super::{DatasetArg, MemoryArg, PairsArgs};

/// The part of the pairs that is held out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeldOutArg {
    /// A share of the pairs, in (0, 1).
    Share(f64),
    /// A number of pairs.
    Pairs(u64),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych split --heldout 1% --dataset data
  diptych split --heldout 1% --groups groups.parquet --dataset data
  diptych split --heldout 5000 --by src_author --dataset data

It writes train.parquet and heldout.parquet. With a share, a pair stays on its
side when the dataset grows; with a number, it may not. A group with more
pairs than are held out goes to the training side.")]
pub struct SplitArgs {
    /// Held-out part: a share of the pairs, as in 1%, or a number of pairs, as in 5000
    #[arg(long, value_name = "SHARE|N", value_parser = held_out)]
    pub heldout: HeldOutArg,
    /// Keep the pairs of a group on one side: a Parquet file with the columns uid and group, as
    /// `diptych dedup --groups` writes it
    #[arg(long, value_name = "FILE", conflicts_with = "by")]
    pub groups: Option<PathBuf>,
    /// Keep pairs with an equal value on one side: a column of meta, a score or an SQL expression
    #[arg(long, value_name = "SQL")]
    pub by: Option<String>,
    #[command(flatten)]
    pub dataset: DatasetArg,
    #[command(flatten)]
    pub pairs: PairsArgs,
    /// Folder for train.parquet and heldout.parquet, which replace existing files
    #[arg(short, long, value_name = "FOLDER", default_value = ".")]
    pub output: PathBuf,
    /// Seed of the split
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub memory: MemoryArg,
}

fn held_out(text: &str) -> Result<HeldOutArg, String> {
    let share = |number: &str, of: f64| {
        let share = number.trim().parse::<f64>().ok()? / of;
        (share > 0.0 && share < 1.0).then_some(HeldOutArg::Share(share))
    };
    let found = match text.strip_suffix('%') {
        Some(percent) => share(percent, 100.0),
        None if text.contains('.') => share(text, 1.0),
        None => text.parse().ok().filter(|pairs| *pairs > 0).map(HeldOutArg::Pairs),
    };
    found.ok_or_else(|| {
        "expected a share between 0% and 100%, as in 1%, or a number of pairs, as in 5000".into()
    })
}
