//! `diptych embed`: computes the embeddings of a selection and keeps them in the state folder.

use std::path::Path;

use anyhow::Context;
use diptych_cli::EmbedArgs;
use diptych_embeddings::embed::{Embedded, embed};
use diptych_embeddings::encode::EncodeSpec;
use diptych_embeddings::files;
use diptych_embeddings::models::{self, Model};
use diptych_embeddings::pairs::chosen_pairs;
use diptych_pipeline::Selection;
use diptych_schemas::is_url;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::thousands;
use diptych_serve::{Answering, OwningCommand};
use diptych_store::{JobKind, JobState, Store};
use diptych_training::live::Live;
use indicatif::{ProgressBar, ProgressStyle};

use crate::client::owning::{answer, own};
use crate::output::{bars, line};

pub(crate) fn run(args: &EmbedArgs) -> anyhow::Result<Outcome> {
    let selection = chosen_pairs(&args.dataset.dataset, &args.pairs.choice())?;
    let model = models::load(&args.model.model_ref())?;
    let store = own(&args.model.run_on.state, Store::open_undamaged)?;
    let answering = answer_while_embedding(&store, &args.dataset.dataset);
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
    if let Some(answering) = answering {
        answering.ends(JobState::Done, None);
    }
    Ok(Outcome::Done)
}

/// Answers readers of the state folder while embeddings are computed.
pub(crate) fn answer_while_embedding(store: &Store, dataset: &Path) -> Option<Answering> {
    let datasets: Vec<_> = std::path::absolute(dataset).ok().into_iter().collect();
    let command = OwningCommand { kind: JobKind::Embed, run: None, live: Live::default() };
    answer(store, if is_url(dataset) { &[] } else { &datasets }, command)
}

/// Computes missing embeddings, with a progress bar.
pub(crate) fn embed_with_bar(
    store: &Store,
    model: &Model,
    dataset: &Path,
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
