//! Arguments of the verbs that an installation runs: `diptych completions` and `diptych man`.

use std::path::PathBuf;

use clap::Args;

use crate::Shell;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych completions bash > \\
      ~/.local/share/bash-completion/completions/diptych
  diptych completions zsh > ~/.zfunc/_diptych
      # with fpath+=~/.zfunc before compinit in ~/.zshrc
  diptych completions fish > ~/.config/fish/completions/diptych.fish")]
pub struct CompletionsArgs {
    /// Name of the shell
    #[arg(value_enum)]
    pub shell: Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych man /usr/local/share/man/man1")]
pub struct ManArgs {
    /// Folder for diptych.1 and one page for each verb; made where it is missing
    pub folder: PathBuf,
}
