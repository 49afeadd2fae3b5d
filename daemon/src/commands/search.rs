//! `diptych search`: finds the images nearest to a text, an image, a pair or a sum of them. Prints
//! a list and makes a contact sheet.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use diptych_cli::{IndexArg, SearchArgs};
use diptych_embeddings::embed::subset;
use diptych_embeddings::encode::EncodeSpec;
use diptych_embeddings::models::{self, Model};
use diptych_embeddings::nearest::{
    GraphSpec, Neighbour, Query, QueryTerm, SearchOptions, Searcher, SharedModel,
};
use diptych_embeddings::pairs::{chosen_pairs, name_of_pairs};
use diptych_pages::pictures::{SheetItem, query_sheet};
use diptych_pipeline::sql::default_memory;
use diptych_pipeline::{EvalResize, EvalSpec, Fit, Selection, eval_batches};
use diptych_schemas::outcome::Outcome;
use diptych_schemas::{LoaderConfig, SchemaError, Uid};
use diptych_store::{JobState, Owner, Store};

use crate::client::owning::own;
use crate::commands::embed::{answer_while_embedding, embed_with_bar};
use crate::output::{line, one_line};

/// Side of an image in the contact sheet, in pixels.
const SHEET_IMAGE: u32 = 160;

pub(crate) fn run(args: &SearchArgs) -> anyhow::Result<Outcome> {
    if args.k == 0 {
        bail!("-k must be at least 1");
    }
    let queries = queries(args)?;
    let selection = chosen_pairs(&args.dataset.dataset, &args.pairs.choice())?;
    let model = models::load(&args.model.model_ref())?;
    let store = store_to_search(&args.model.run_on.state)?;
    // A copy is nobody's but this call's.
    let answering =
        if store.is_copy() { None } else { answer_while_embedding(&store, &args.dataset.dataset) };
    let spec =
        EncodeSpec { batch_size: args.batch_size.max(1), threads: args.model.run_on.threads };
    embed_with_bar(&store, &model, &args.dataset.dataset, &selection, spec)?;

    let loaded = Arc::new(SharedModel::new(model)?);
    let mut searcher =
        Searcher::open_some(&store, Arc::clone(&loaded), &selection.uids, default_memory() as u64)?;
    let mut options = SearchOptions { distinct: args.distinct, width: None };
    if args.index == IndexArg::Hnsw {
        searcher.build_graph(GraphSpec::default())?;
        options.width = Some(args.ef as usize);
    }
    let (titles, queries): (Vec<String>, Vec<Query>) = queries.into_iter().unzip();
    let answers = searcher.nearest(&queries, args.k, options)?;

    let mut sheet = Vec::new();
    for (title, found) in titles.into_iter().zip(answers) {
        line(&title)?;
        let items = pictures(&loaded.lock(), &args.dataset.dataset, &selection, &found)?;
        for (rank, (Neighbour { uid, score }, item)) in found.iter().zip(&items).enumerate() {
            line(format!("  {:>3}  {score:.3}  {uid}  {}", rank + 1, one_line(&item.caption)))?;
        }
        sheet.push((title, items));
    }
    if let Some(path) = &args.sheet {
        query_sheet(
            &format!(
                "{} in {}",
                args.model.model,
                name_of_pairs(&args.dataset.dataset, &args.pairs.choice())
            ),
            &sheet,
            path,
        )?;
        line(format!("contact sheet: {}", path.display()))?;
    }
    if let Some(answering) = answering {
        answering.ends(JobState::Done, None);
    }
    Ok(Outcome::Done)
}

/// Opens the store of a state folder to add missing embeddings and search. If another process owns
/// it, a copy is opened, and new embeddings are not kept.
fn store_to_search(state: &Path) -> anyhow::Result<Store> {
    match own(state, Store::open_undamaged) {
        Err(error) => {
            let Some(owner) = Owner::current(state) else { return Err(error) };
            tracing::info!(
                "{} is in use by process {} (`{}`): searching a copy. New embeddings are not kept",
                state.display(),
                owner.pid,
                owner.command
            );
            Ok(Store::open_scratch(state)?)
        }
        opened => opened,
    }
}

/// Returns the queries with their titles: images, pairs, texts.
fn queries(args: &SearchArgs) -> anyhow::Result<Vec<(String, Query)>> {
    let mut queries = Vec::new();
    for path in &args.images {
        let bytes = std::fs::read(path).map_err(SchemaError::io(path))?;
        queries.push((
            format!("images like {}", path.display()),
            Query::from(QueryTerm::Image(bytes)),
        ));
    }
    queries.extend(
        args.uids
            .iter()
            .map(|uid| (format!("images like {uid}"), Query::from(QueryTerm::Uid(*uid)))),
    );
    queries.extend(
        args.texts.iter().map(|text| (text.clone(), Query::from(QueryTerm::Text(text.clone())))),
    );
    if args.together {
        let (titles, queries_of_all): (Vec<_>, Vec<_>) = queries.into_iter().unzip();
        let parts = queries_of_all.into_iter().flat_map(|query| query.parts).collect();
        queries = vec![(titles.join(" + "), Query { parts })];
    }
    for (title, query) in &mut queries {
        for text in &args.without {
            *title += " - ";
            *title += text;
            query.parts.push((-1.0, QueryTerm::Text(text.clone())));
        }
    }
    Ok(queries)
}

/// Reads the images and captions of the results, in their order.
fn pictures(
    model: &Model,
    dataset: &Path,
    selection: &Selection,
    found: &[Neighbour],
) -> anyhow::Result<Vec<SheetItem>> {
    // The loader reads in the order of the dataset; the ranks are put back after it.
    let wanted: HashSet<Uid> = found.iter().map(|found| found.uid).collect();
    let rows: Vec<usize> =
        (0..selection.len()).filter(|row| wanted.contains(&selection.uids[*row])).collect();
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let batches = eval_batches(EvalSpec {
        dataset: dataset.to_owned(),
        selection: Arc::new(subset(selection, &rows)),
        tokenizer: Arc::clone(&model.tokenizer),
        image_size: SHEET_IMAGE,
        // The whole picture, on the white of its card.
        resize: EvalResize { fit: Fit::Longest { fill: 255 }, ..EvalResize::default() },
        context_length: model.context_length(),
        batch_size: rows.len(),
        config: LoaderConfig { threads: 1, ..LoaderConfig::default() },
    })?;
    let mut items = HashMap::new();
    for batch in batches {
        let batch = batch?;
        let bytes = (SHEET_IMAGE * SHEET_IMAGE * 3) as usize;
        for ((uid, caption), pixels) in
            batch.uids.iter().zip(&batch.captions).zip(batch.images.chunks_exact(bytes))
        {
            let item = SheetItem {
                width: SHEET_IMAGE,
                height: SHEET_IMAGE,
                pixels: pixels.to_vec(),
                caption: caption.clone(),
                score: None,
            };
            items.insert(*uid, item);
        }
    }
    let ranked = found.iter().map(|Neighbour { uid, score }| {
        let item = items
            .remove(uid)
            .with_context(|| format!("the image of pair {uid} cannot be read any more"))?;
        Ok(SheetItem { score: Some(*score), ..item })
    });
    ranked.collect()
}
