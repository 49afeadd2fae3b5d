//! `diptych train`: a run from its configuration.

use diptych_cli::TrainArgs;
use diptych_schemas::TrainConfig;
use diptych_schemas::outcome::Outcome;
use diptych_training::{Caller, Options, live::Live, train};

use crate::signals::{self, Ending};

pub(crate) fn run(args: &TrainArgs) -> anyhow::Result<Outcome> {
    let config = TrainConfig::read(&args.config)?;
    let stop = signals::watch(Ending::InOrder("the step in progress ends, a checkpoint is written"))?;
    let options = Options { stop_after: args.stop_after, progress: !args.no_progress };
    train(&config, options, &Caller { stop, store: None, live: Live::default() })
}
