//! Arguments of the commands that care for a state folder.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// State folder, also while it is in use, unless it is to be mended; or a dataset folder, of which every file is read to its end
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Mend what can be mended: begin a damaged store anew with what can still be read, take checkpoints back from their folders,
    /// forget those that are gone, move damaged ones aside, delete what is called *.incomplete. Nothing else is deleted
    #[arg(long)]
    pub fix: bool,
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// State folder, also while it is in use: a service is asked, and what runs goes on
    pub state: PathBuf,
    /// The new state folder; must not exist yet, and where a service is asked, lies below its folders. `diptych doctor TO` checks it. Checkpoint folders are not copied: each is whole by itself,
    /// so any tool can copy STATE/checkpoints beside it
    pub to: PathBuf,
}
