//! `diptych synthetic-meta`: makes rows without images, to measure curation.

use diptych_cli::SyntheticMetaArgs;
use diptych_pipeline::write_synthetic_dataset;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::thousands;

use crate::output::line;

pub(crate) fn run(args: &SyntheticMetaArgs) -> anyhow::Result<Outcome> {
    let manifest = write_synthetic_dataset(&args.output, args.rows, args.seed)?;
    line(format!(
        "{}: {} rows in {} shards",
        args.output.display(),
        thousands(manifest.pairs),
        manifest.shards.len()
    ))?;
    Ok(Outcome::Done)
}
