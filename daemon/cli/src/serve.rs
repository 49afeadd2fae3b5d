//! Arguments of the service and its helpers: `diptych serve`, `diptych ui`, `diptych token`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use diptych_schemas::Scope;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych serve --state state --dataset data    # on loopback, for this machine
  diptych serve /etc/diptych/diptych.toml       # as the systemd unit does
  diptych config --serve                        # all keys and their defaults

Ctrl-C or SIGTERM: the jobs save their work, then the service ends. SIGHUP: it
reads tokens, folders, datasets and limits again.")]
pub struct ServeArgs {
    /// Configuration in TOML [default: the defaults]
    pub config: Option<PathBuf>,
    /// State folder, instead of the configuration's
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    /// ADDRESS:PORT or unix:PATH, instead of the configuration's
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// A dataset to serve, in addition to the configuration's; may be repeated
    #[arg(long, value_name = "FOLDER")]
    pub dataset: Vec<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych ui                           # everything in this folder
  diptych ui state                     # one state folder, also during training
  diptych ui --no-open --port 8724     # only print the address

The page is for users of this machine and needs no token. When a command wants
to write to the state folder, the page gives way and shows what the command
does. Ctrl-C ends the page and nothing else.")]
pub struct UiArgs {
    /// A state folder, a dataset, or a folder that contains some
    #[arg(default_value = ".")]
    pub folder: PathBuf,
    /// Port on loopback [default: a free one]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub port: u16,
    /// Do not open the browser
    #[arg(long)]
    pub no_open: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych token grafana --scope read
  diptych token ci --scope submit --file tokens.toml

It prints the token once. The file keeps only its hash.")]
pub struct TokenArgs {
    /// Name of the token in the file: its owner or its use
    pub name: String,
    /// Rights of the token
    #[arg(long, value_enum, default_value = "read")]
    pub scope: ScopeArg,
    /// File of tokens, which auth.tokens of the service's configuration names
    #[arg(long, value_name = "FILE", default_value = "/etc/diptych/tokens.toml")]
    pub file: PathBuf,
}

/// The rights of a token. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScopeArg {
    /// Look at everything: runs, datasets, SQL, search
    Read,
    /// Submit and control jobs
    Submit,
    /// Back up the state, reload the configuration
    Admin,
}

impl From<ScopeArg> for Scope {
    fn from(scope: ScopeArg) -> Self {
        match scope {
            ScopeArg::Read => Self::Read,
            ScopeArg::Submit => Self::Submit,
            ScopeArg::Admin => Self::Admin,
        }
    }
}
