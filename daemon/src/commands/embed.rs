//! `diptych embed`: the embeddings of a selection, kept in the state folder.

use anyhow::Context;
use diptych_cli::EmbedArgs;
use diptych_embeddings::embed::{Embedded, embed};
use diptych_embeddings::encode::EncodeSpec;
use diptych_embeddings::files;
use diptych_embeddings::models::{self, Model};
use diptych_embeddings::pairs::chosen_pairs;
use diptych_pipeline::Selection;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::thousands;
use diptych_store::Store;
use indicatif::{ProgressBar, ProgressStyle};

use crate::output::{bars, line};

pub(crate) fn run(args: &EmbedArgs) -> anyhow::Result<Outcome> {
    let selection = chosen_pairs(&args.dataset.dataset, &args.pairs.choice())?;
    let model = models::load(&args.model.model_ref())?;
    let store = Store::open_undamaged(&args.model.run_on.state)?;
    let spec =
        EncodeSpec { batch_size: args.batch_size.max(1), threads: args.model.run_on.threads };
    let embedded = embed_with_bar(&store, &model, &args.dataset.dataset, &selection, spec)?;
    line(format!(
        "{} of {} pairs embedded now, {} dimensions, producer {:.12}",
        thousands(embedded.added as u64),
        thousands(selection.len() as u64),
        model.encoder.dimension(),
        embedded.producer.to_string()
    ))?;
    if let Some(folder) = &args.output {
        let request = files::Request {
            producer: embedded.producer,
            dataset: &args.dataset.dataset,
            uids: &selection.uids,
            format: args.format.into(),
        };
        let written = files::write(&store, &request, folder)?;
        line(format!(
            "{}: {} rows in {} files of each kind",
            folder.display(),
            thousands(written.rows as u64),
            written.files
        ))?;
    }
    Ok(Outcome::Done)
}

/// Embeds what is missing, with a progress bar.
pub(crate) fn embed_with_bar(
    store: &Store,
    model: &Model,
    dataset: &std::path::Path,
    selection: &Selection,
    spec: EncodeSpec,
) -> anyhow::Result<Embedded> {
    let style = ProgressStyle::with_template(
        "embedding [{bar:30}] {pos}/{len} pairs  {per_sec}  ETA {eta}",
    )
    .context("progress template")?;
    let bar = bars()
        .add(ProgressBar::new(selection.len() as u64).with_style(style.progress_chars("=> ")));
    let embedded = embed(store, model, dataset, selection, spec, &mut |pairs| {
        bar.inc(pairs as u64);
        true
    });
    bar.finish_and_clear();
    embedded
}
