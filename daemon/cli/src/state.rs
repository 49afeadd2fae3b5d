//! Arguments of the verbs that maintain a state folder.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych doctor                # checks the installation
  diptych doctor state --fix    # repairs a state folder
  diptych doctor data           # reads every file of a dataset to its end

Exit code 1 means that problems were found.")]
pub struct DoctorArgs {
    /// A state folder, also while it is in use (but not with --fix), or a dataset folder. Without
    /// it: the installation
    #[arg(value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
    /// Repair a state folder: rebuild a damaged store from what can be read, take checkpoints back
    /// from their folders, forget missing ones, move damaged ones aside, delete *.incomplete.
    /// Nothing else is deleted
    #[arg(long, requires = "folder")]
    pub fix: bool,
    /// Form of the table about the installation
    #[arg(long, value_enum, default_value = "table", conflicts_with = "folder")]
    pub format: DoctorFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DoctorFormat {
    /// A table for the terminal
    Table,
    /// One JSON object
    Json,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych backup state /backup/state
  cp -r state/checkpoints /backup/state/

Runs, metrics and embeddings are copied. Checkpoints are not: each is complete
by itself, so any tool can copy STATE/checkpoints. 'diptych doctor TO' checks
the copy.")]
pub struct BackupArgs {
    /// State folder, also while it is in use. Jobs continue meanwhile
    pub state: PathBuf,
    /// State folder to write; must not exist yet. A running service must be allowed to write there
    pub to: PathBuf,
}
