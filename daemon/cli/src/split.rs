//! Arguments of `diptych split`.

use std::path::PathBuf;

use clap::Args;

use super::{DatasetArg, MemoryArg, PairsArgs};

/// How much is held out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeldOutArg {
    /// Part of the pairs, in (0, 1).
    Share(f64),
    Pairs(u64),
}

#[derive(Debug, Args)]
#[command(after_help = "\
  diptych split --heldout 1% --dataset data              writes train.parquet and heldout.parquet
  diptych dedup --dataset data --by sha256,phash,caption --output unique.parquet --groups groups.parquet
  diptych split --heldout 1% --groups groups.parquet --dataset data
  diptych split --heldout 5000 --by src_author --dataset data

A side follows from a hash, so that a pair keeps its side when the dataset grows, as long as a share is held out and not a number. A group
of more pairs than are to be held out is always trained on.")]
pub struct SplitArgs {
    /// How much is held out: a share of the pairs, as in 1%, or a number of pairs, as in 5000
    #[arg(long, value_name = "SHARE|N", value_parser = held_out)]
    pub heldout: HeldOutArg,
    /// Keep pairs of a group on the same side: a Parquet file with columns uid and group, as `diptych dedup --groups` writes it
    #[arg(long, value_name = "FILE", conflicts_with = "by")]
    pub groups: Option<PathBuf>,
    /// Keep pairs with the same value on the same side: a column of meta, a score, or an SQL expression over them
    #[arg(long, value_name = "SQL")]
    pub by: Option<String>,
    #[command(flatten)]
    pub dataset: DatasetArg,
    #[command(flatten)]
    pub pairs: PairsArgs,
    /// Folder for train.parquet and heldout.parquet, which are replaced where they are there
    #[arg(short, long, value_name = "FOLDER", default_value = ".")]
    pub output: PathBuf,
    /// Another number is another split
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
        "a share of the pairs between 0% and 100%, as in 1%, or a number of pairs, as in 5000"
            .into()
    })
}
