//! `diptych ingest`: sources to a dataset.

use anyhow::Context;
use diptych_pipeline::ingest::{IngestRequest, ingest};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::IngestArgs;
use crate::exit::Outcome;
use crate::output::{line, thousands};

const MIB: u64 = 1 << 20;

pub(crate) fn run(args: IngestArgs) -> anyhow::Result<Outcome> {
    let request = IngestRequest {
        sources: args.sources,
        dataset: args.dataset.dataset.clone(),
        caption_column: args.caption_column,
        image_column: args.image_column,
        max_pixels: args.max_pixels,
        max_image_bytes: args.max_image_mib.saturating_mul(MIB),
        row_group_bytes: args.row_group_mib.saturating_mul(MIB),
        shard_bytes: args.shard_mib.saturating_mul(MIB),
        phash: args.phash,
        threads: 0,
    };
    let bar = ProgressBar::new(0).with_style(
        ProgressStyle::with_template("{spinner} source {pos}/{len}  {msg}  {elapsed}").context("progress template")?,
    );
    let report = ingest(request, &mut |progress| {
        bar.set_length(progress.sources as u64);
        bar.set_position(progress.sources_done as u64);
        bar.set_message(format!("{} pairs, {} to the ledger", thousands(progress.pairs), thousands(progress.ledger_rows)));
        std::ops::ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let report = report?;
    Ok(Outcome::Done)
}
