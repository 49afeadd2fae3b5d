//! `diptych train`: a run from its configuration.

use diptych_cli::TrainArgs;
use diptych_schemas::TrainConfig;
use diptych_schemas::outcome::Outcome;
use diptych_training::live::Live;
use diptych_training::{Options, RunContext, train};

use crate::commands::train_bar;
use crate::signals::{self, Ending};

pub(crate) fn run(args: &TrainArgs) -> anyhow::Result<Outcome> {
    let config = TrainConfig::read(&args.config)?;
    let stop =
        signals::watch(Ending::InOrder("the step in progress ends, a checkpoint is written"))?;
    let told = Live::channel();
    let bar = if args.no_progress { None } else { train_bar::start(told.subscribe())? };
    let options = Options { stop_after: args.stop_after, log_progress: bar.is_none() };
    let trained = train(&config, options, &RunContext { stop, store: None, live: Live::new(told) });
    // Nothing is told any more, so the bar ends.
    if let Some(bar) = bar {
        let _ = bar.join();
    }
    trained
}
