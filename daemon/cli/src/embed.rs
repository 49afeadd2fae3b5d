//! Arguments of `diptych embed`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use diptych_schemas::EmbeddingFormat;

use crate::{DatasetArg, ModelArgs, PairsArgs};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych embed --model my-run --dataset data
  diptych embed --model clip-b32 --dataset data --selection train.parquet \\
      --output embeddings --format parquet

Embeddings are kept in the state folder. A second run computes only what is
missing.")]
pub struct EmbedArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub dataset: DatasetArg,
    #[command(flatten)]
    pub pairs: PairsArgs,
    /// Also write the embeddings into this new folder
    #[arg(short, long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
    /// File format in that folder
    #[arg(long, value_enum, default_value_t = EmbeddingFormatArg::Npy, requires = "output")]
    pub format: EmbeddingFormatArg,
    /// Pairs that are encoded at once
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub batch_size: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EmbeddingFormatArg {
    /// For clip-retrieval and autofaiss: img_emb and text_emb (half floats), metadata (Parquet)
    Npy,
    /// pairs_N.parquet with uid, image_path, caption, image_embedding, text_embedding
    Parquet,
    /// These columns as Arrow IPC files (Feather)
    Arrow,
}

impl From<EmbeddingFormatArg> for EmbeddingFormat {
    fn from(format: EmbeddingFormatArg) -> Self {
        match format {
            EmbeddingFormatArg::Npy => Self::Npy,
            EmbeddingFormatArg::Parquet => Self::Parquet,
            EmbeddingFormatArg::Arrow => Self::Arrow,
        }
    }
}
