//! Arguments of `diptych select`.

use std::path::PathBuf;

use clap::Args;

use crate::sql::named_file;
use crate::{DatasetArg, MemoryArg, PresetArg};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych select \"least(width, height) >= 200\" --dataset data \\
      --output large.parquet
  diptych select --preset datacomp-basic --dataset data --output basic.parquet
  diptych select \"SELECT uid, 2.0 AS weight FROM meta WHERE format = 'png'\" \\
      --dataset data --output png.parquet")]
pub struct SelectArgs {
    /// A query with a column uid (and weight, if wanted), or a condition over meta and scores, as
    /// in "width > 64". Without a query, --file, --preset and --uids: all pairs
    #[arg(conflicts_with = "preset", value_name = "SQL")]
    pub query: Option<String>,
    /// Read the query from this file
    #[arg(short, long, conflicts_with = "query", value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub preset: PresetArg,
    /// Choose the pairs of a list in DataComp's form (.npy of u8,u8). A query sees them as the
    /// table uid_list
    #[arg(long, value_name = "FILE")]
    pub uids: Option<PathBuf>,
    /// Column of meta with the uids that the list means, as hexadecimal text [default: uid]
    #[arg(
        long,
        value_name = "NAME",
        requires = "uids",
        conflicts_with_all = ["query", "file", "preset"]
    )]
    pub uid_column: Option<String>,
    #[command(flatten)]
    pub dataset: DatasetArg,
    /// Choose only among the pairs of this selection. They keep their weights where the query
    /// gives none
    #[arg(short, long, value_name = "FILE")]
    pub selection: Option<PathBuf>,
    /// Query this file as a table, as in unique=unique.parquet with … JOIN unique USING (uid); may
    /// be repeated
    #[arg(long = "table", value_name = "NAME=FILE", value_parser = named_file)]
    pub tables: Vec<(String, PathBuf)>,
    /// State folder, for queries over embeddings
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    /// Selection to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Do not remember it as the last selection of the dataset
    #[arg(long, hide = true)]
    pub unremembered: bool,
    #[command(flatten)]
    pub memory: MemoryArg,
}
