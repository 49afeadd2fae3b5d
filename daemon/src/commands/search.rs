//! `diptych search`: the images nearest to a text or to an image, as a list and as a contact sheet.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use diptych_pipeline::{EvalResize, EvalSpec, Selection, decode, eval_batches, eval_transform};
use diptych_schemas::{LoaderConfig, MAX_PIXELS, SchemaError};

use crate::cli::SearchArgs;
use crate::commands::embed::embed_with_bar;
use crate::embedding::{Index, subset};
use crate::encode::EncodeSpec;
use crate::exit::Outcome;
use crate::models::{self, Model};
use crate::output::line;
use crate::pictures::{SheetItem, query_sheet};
use crate::store::Store;

/// Side of an image in the contact sheet, in pixels.
const SHEET_IMAGE: u32 = 160;

pub(crate) fn run(args: &SearchArgs) -> anyhow::Result<Outcome> {
    if args.k == 0 {
        bail!("-k must be at least 1");
    }
    let selection = Selection::read(&args.selection)?;
    let model = models::load(&args.model)?;
    let mut queries = Vec::new();
    if let Some(path) = &args.image {
        queries.push((format!("images like {}", path.display()), encode_image_file(&model, path)?));
    }
    let rows = model.encode_texts(&args.texts)?;
    for (text, row) in args.texts.iter().zip(rows.chunks_exact(model.encoder.dimension())) {
        queries.push((text.clone(), row.to_vec()));
    }

    let store = Store::open(&args.model.run_on.state)?;
    let spec = EncodeSpec { batch_size: args.batch_size.max(1), threads: args.model.run_on.threads };
    let embedded = embed_with_bar(&store, &model, &args.dataset.dataset, &selection, spec)?;
    let index = Index::read(&store, embedded.producer, &selection, model.encoder.dimension())?;

    let mut sheet = Vec::new();
    for (title, query) in &queries {
        line(title)?;
        let found = index.nearest(query, args.k)?;
        let items = pictures(&model, &args.dataset.dataset, &selection, &found)?;
        for (rank, ((row, score), item)) in found.iter().zip(&items).enumerate() {
            line(format!("  {:>3}  {score:.3}  {}  {}", rank + 1, selection.uids[*row], item.caption))?;
        }
        sheet.push((title.clone(), items));
    }
    if let Some(path) = &args.sheet {
        query_sheet(&format!("{} in {}", args.model.model, args.selection.display()), &sheet, path)?;
        line(format!("contact sheet: {}", path.display()))?;
    }
    Ok(Outcome::Done)
}

fn encode_image_file(model: &Model, path: &Path) -> anyhow::Result<Vec<f32>> {
    let bytes = std::fs::read(path).map_err(SchemaError::io(path))?;
    let image = decode(&bytes, MAX_PIXELS).with_context(|| path.display().to_string())?;
    Ok(model.encoder.encode_images(&eval_transform(&image, model.image_size(), model.resize())?)?)
}

/// The images and captions of the rows found, in their order.
fn pictures(model: &Model, dataset: &Path, selection: &Selection, found: &[(usize, f32)]) -> anyhow::Result<Vec<SheetItem>> {
    // The loader reads in the order of the dataset; the ranks are put back after it.
    let mut rows: Vec<usize> = found.iter().map(|(row, _)| *row).collect();
    rows.sort_unstable();
    let batches = eval_batches(EvalSpec {
        dataset: dataset.to_owned(),
        selection: Arc::new(subset(selection, &rows)),
        tokenizer: Arc::clone(&model.tokenizer),
        image_size: SHEET_IMAGE,
        resize: EvalResize::default(),
        context_length: model.context_length(),
        batch_size: rows.len(),
        config: LoaderConfig { threads: 1, ..LoaderConfig::default() },
    })?;
    let mut items = std::collections::HashMap::new();
    for batch in batches {
        let batch = batch?;
        let bytes = (SHEET_IMAGE * SHEET_IMAGE * 3) as usize;
        for ((uid, caption), pixels) in batch.uids.iter().zip(&batch.captions).zip(batch.images.chunks_exact(bytes)) {
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
    let ranked = found.iter().map(|(row, score)| {
        let uid = selection.uids[*row];
        let item = items.remove(&uid).with_context(|| format!("the image of pair {uid} cannot be read any more"))?;
        Ok(SheetItem { score: Some(*score), ..item })
    });
    ranked.collect()
}
