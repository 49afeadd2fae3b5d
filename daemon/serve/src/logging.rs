//! Logging of the service. Under systemd it goes to journald with levels and fields, otherwise to
//! standard error. Each job also has a log of its own.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::jobs::Tee;

/// Starts logging. `filter` chooses the events.
pub fn start(filter: EnvFilter) {
    // systemd sets this variable if standard error is the journal. Then there is a better way to
    // the journal, with levels and fields.
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let standard_error = journal.is_none();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || Tee { standard_error })
        .with_ansi(false)
        .with_target(false);
    tracing_subscriber::registry().with(filter).with(journal).with(lines).init();
}
