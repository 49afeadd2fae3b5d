//! A training as a job. It runs in this process, with the service's store.

use diptych_schemas::TrainConfig;
use diptych_schemas::outcome::Outcome;
use diptych_store::Store;
use diptych_training::{Options, RunContext, train};

use super::RunningJob;
use super::machine::JobOutcome;

/// Runs a training whose paths have been checked. Its state folder is the service's, whatever the
/// configuration says.
pub(super) fn run(
    mut config: TrainConfig,
    store: &Store,
    handle: &RunningJob,
) -> anyhow::Result<JobOutcome> {
    store.folder().clone_into(&mut config.state);
    let context = RunContext {
        stop: handle.stop.clone(),
        open_store: &|_| Ok(store.clone()),
        live: handle.live.clone(),
    };
    Ok(match train(&config, Options { stop_after: None, log_progress: true }, &context)? {
        Outcome::Stopped => JobOutcome::Stopped,
        Outcome::Done | Outcome::SourceUnreadable | Outcome::ProblemsFound => {
            JobOutcome::Done { note: None }
        }
    })
}
