//! The log of the service: journald with its levels and fields where systemd started it, standard error elsewhere; and beside it the
//! log of each job.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::jobs::Tee;

/// Starts to log. `filter` says what.
pub fn start(filter: EnvFilter) {
    // systemd sets it where standard error is the journal: then there is a better way to it, with levels and fields.
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let standard_error = journal.is_none();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || Tee { standard_error })
        .with_ansi(false)
        .with_target(false);
    tracing_subscriber::registry().with(filter).with(journal).with(lines).init();
}
