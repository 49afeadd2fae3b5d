//! `diptych train`: trains a run from its configuration.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use diptych_cli::TrainArgs;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::describe;
use diptych_schemas::{TrainConfig, is_url};
use diptych_serve::OwningCommand;
use diptych_store::{JobKind, JobState, RunName, Store};
use diptych_training::live::Live;
use diptych_training::{Options, RunContext, train};

use crate::client::owning::{answer, own};
use crate::commands::train_bar;
use crate::signals::{self, Ending};

pub(crate) fn run(args: &TrainArgs) -> anyhow::Result<Outcome> {
    let config = TrainConfig::read(&args.config)?;
    let stop =
        signals::watch(Ending::InOrder("the step in progress ends, a checkpoint is written"))?;
    let told = Live::channel();
    let bar = if args.no_progress { None } else { train_bar::start(told.subscribe())? };
    let options = Options { stop_after: args.stop_after, log_progress: bar.is_none() };
    let live = Live::new(told);
    let answering = RefCell::new(None);
    let open_store = |state: &Path| {
        let store = own(state, Store::open)?;
        let run = RunName::new(&config.name)?;
        let command = OwningCommand { kind: JobKind::Train, run: Some(run), live: live.clone() };
        *answering.borrow_mut() = answer(&store, &datasets(&config), command);
        tracing::info!("to look at it: diptych ui {}", state.display());
        Ok(store)
    };
    let trained =
        train(&config, options, &RunContext { stop, open_store: &open_store, live: live.clone() });
    if let Some(answering) = answering.take() {
        match &trained {
            Ok(Outcome::Stopped) => answering.ends(
                JobState::Paused,
                Some("stopped with a checkpoint; the same command goes on from there".into()),
            ),
            Ok(_) => answering.ends(JobState::Done, None),
            Err(error) => answering.ends(JobState::Failed, Some(describe(error))),
        }
    }
    drop(live);
    // Nothing is told any more, so the bar ends.
    if let Some(bar) = bar {
        let _ = bar.join();
    }
    trained
}

/// Returns the datasets of a run that are folders.
fn datasets(config: &TrainConfig) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let of_run = config.data.sources().into_iter().map(|source| source.dataset);
    for dataset in of_run.chain(config.eval.dataset.clone()).filter(|path| !is_url(path)) {
        if let Ok(whole) = std::path::absolute(&dataset)
            && !found.contains(&whole)
        {
            found.push(whole);
        }
    }
    found
}
