//! Arguments of `diptych ingest` and `diptych demo-data`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::{DatasetArg, DownloadArgs, ListArgs};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych ingest 'pairs/*.tar' more.parquet --dataset data
  diptych ingest urls.csv --url-column link --dataset data
  diptych ingest photos/ --captions folder --dataset data

A second run adds only what is new. Inputs that do not become a pair go to the
ledger with the reason: 'diptych ledger --dataset data' shows them.")]
pub struct IngestArgs {
    /// Files, folders, glob patterns or URLs, in any mix
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<String>,
    #[command(flatten)]
    pub dataset: DatasetArg,
    /// Column or JSON field with the caption [default: the first of caption, text, title,
    /// description, alt, prompt and others, in any case]
    #[arg(long, value_name = "NAME")]
    pub caption_column: Option<String>,
    /// Column with the image as bytes, path or base64 [default: the first of image, jpg, png,
    /// webp, file_name, path, image_path and others]
    #[arg(long, value_name = "NAME")]
    pub image_column: Option<String>,
    /// Column with the URL of the image, which is downloaded [default: url or image_url, if there
    /// is no column with images]
    #[arg(long, value_name = "NAME", conflicts_with = "image_column")]
    pub url_column: Option<String>,
    /// Which captions to take where an image has several
    #[arg(long, value_enum, default_value = "first")]
    pub captions: CaptionsChoice,
    #[command(flatten)]
    pub lists: ListArgs,
    /// Cut the names of tar members at the last dot (a.b.jpg has the key a.b), not at the first as
    /// WebDataset does
    #[arg(long)]
    pub dotted_keys: bool,
    /// Largest width × height in pixels. Larger images go to the ledger
    #[arg(long, default_value_t = diptych_schemas::MAX_PIXELS, value_name = "N")]
    pub max_pixels: u64,
    /// Largest image file in MiB
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub max_image_mib: u64,
    /// Size of a row group of images in MiB
    #[arg(long, default_value_t = 96, value_name = "N")]
    pub row_group_mib: u64,
    /// Size of a shard in MiB
    #[arg(long, default_value_t = 768, value_name = "N")]
    pub shard_mib: u64,
    /// Decode every image now. Damaged images go to the dataset's ledger, and not later to the
    /// ledger of a run
    #[arg(long)]
    pub verify: bool,
    /// Decode every image and fill the column phash (a 64-bit perceptual hash). Without it, only
    /// headers are read
    #[arg(long)]
    pub phash: bool,
    #[command(flatten)]
    pub download: DownloadArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum CaptionsChoice {
    /// The first caption that is not empty
    First,
    /// The first caption, and the others in the columns caption_2, caption_3, …
    AllColumns,
    /// The first caption; for an image without a text file, the name of its subfolder
    Folder,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych demo-data scenes
  diptych ingest 'scenes/*.tar' 'scenes/*.parquet' scenes/folder \\
      --dataset data --phash

The folder also holds SQL files, class names and prompts. Some inputs are
damaged on purpose.")]
pub struct DemoDataArgs {
    /// Folder to write; must not exist yet
    pub output: PathBuf,
    /// Pairs to draw, not counting the damaged ones
    #[arg(long, default_value_t = 4500)]
    pub scenes: u32,
    /// Seed of the drawing
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}
