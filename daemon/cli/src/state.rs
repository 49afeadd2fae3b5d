//! Arguments of the commands that care for a state folder.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// State folder, which nobody else may use meanwhile; or a dataset folder, of which every file is read to its end
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Mend what can be mended: begin a damaged store anew with what can still be read, take checkpoints back from their folders,
    /// forget those that are gone, move damaged ones aside, delete what is called *.incomplete. Nothing else is deleted
    #[arg(long)]
    pub fix: bool,
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// State folder. Where a service owns it, the service is asked and its runs go on
    pub state: PathBuf,
    /// The new state folder; must not exist yet, and lies below the folders of the service that is asked. `diptych doctor TO` checks it. Checkpoint folders are not copied: each is whole by itself,
    /// so any tool can copy STATE/checkpoints beside it
    pub to: PathBuf,
}
