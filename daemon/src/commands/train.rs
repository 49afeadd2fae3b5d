//! `diptych train`: a run from its configuration.

use diptych_schemas::TrainConfig;

use diptych_cli::TrainArgs;
use diptych_schemas::outcome::Outcome;
use diptych_training::{self, Options};

pub(crate) fn run(args: &TrainArgs) -> anyhow::Result<Outcome> {
    let config = TrainConfig::read(&args.config)?;
    training::train(&config, Options { stop_after: args.stop_after, progress: !args.no_progress })
}
