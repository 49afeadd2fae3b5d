//! Arguments of `diptych reference`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub struct ReferenceArgs {
    /// Folder of the pages, which are written again
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
}
