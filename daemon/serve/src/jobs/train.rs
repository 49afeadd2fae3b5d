//! A training as a job: in this process, over the service's store.

use diptych_schemas::outcome::Outcome;
use diptych_store::{JobRecord, Store};
use diptych_training::{Options, RunContext, train};

use super::machine::End;
use super::{Handle, paths};

pub(super) fn run(job: &JobRecord, store: &Store, handle: &Handle) -> anyhow::Result<End> {
    let mut config =
        paths::config(job.config.as_deref(), &job.folder).map_err(anyhow::Error::msg)?;
    store.folder().clone_into(&mut config.state);
    let context = RunContext {
        stop: handle.stop.clone(),
        store: Some(store.clone()),
        live: handle.live.clone(),
    };
    Ok(match train(&config, Options { stop_after: None, log_progress: true }, &context)? {
        Outcome::Stopped => End::Stopped,
        Outcome::Done | Outcome::SourceUnreadable | Outcome::ProblemsFound => {
            End::Done { note: None }
        }
    })
}
