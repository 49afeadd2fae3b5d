//! Embeddings as files for other tools, in clip-retrieval's layout, which autofaiss reads too: `img_emb/img_emb_N.npy` and
//! `text_emb/text_emb_N.npy` (half floats, [rows, D], of unit length), and `metadata/metadata_N.parquet` with the same rows.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use diptych_pipeline::sql::{default_memory, query};
use diptych_pipeline::write_halves;
use diptych_schemas::{ContentHash, SchemaError, Uid, durable};
use half::f16;
use parquet::arrow::ArrowWriter;

use crate::commands::sql::with_session;
use crate::nearest::Vectors;
use crate::store::{Modality, Store};

/// Rows of a file, as clip-retrieval's inference writes them.
const ROWS: usize = 1_000_000;

/// What was written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    pub(crate) rows: usize,
    pub(crate) files: usize,
}

/// Writes the embeddings that a model made of these pairs into a new folder, whole or not at all. Pairs that have none, since their image
/// cannot be decoded, are left out.
pub(crate) fn write(
    store: &Store,
    producer: ContentHash,
    dataset: &Path,
    uids: &[Uid],
    folder: &Path,
) -> anyhow::Result<Written> {
    if folder.exists() {
        bail!("{} is there already: embeddings go into a new folder", folder.display());
    }
    let unfinished = durable::unfinished(folder);
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(SchemaError::io(&unfinished))?;
    }
    for part in ["img_emb", "text_emb", "metadata"] {
        let path = unfinished.join(part);
        fs::create_dir_all(&path).map_err(SchemaError::io(&path))?;
    }
    let mut written = Written::default();
    // As many digits as the last one has: names in the order of their numbers.
    let digits = uids.len().div_ceil(ROWS).max(1).to_string().len();
    for part in uids.chunks(ROWS) {
        let number = format!("{:0digits$}", written.files);
        let images = Vectors::read_some(store, producer, Modality::Image, part, default_memory() as u64)?;
        let rows = npy(&unfinished.join(format!("img_emb/img_emb_{number}.npy")), &images)?;
        let kept = images.uids().to_vec();
        drop(images);
        let texts = Vectors::read_some(store, producer, Modality::Text, &kept, default_memory() as u64)?;
        if texts.uids() != kept {
            bail!("the store has images of pairs whose captions it does not have: embed them again");
        }
        npy(&unfinished.join(format!("text_emb/text_emb_{number}.npy")), &texts)?;
        drop(texts);
        metadata(dataset, &kept, &unfinished.join(format!("metadata/metadata_{number}.parquet")))?;
        written.rows += rows;
        written.files += 1;
    }
    durable::publish(&unfinished, folder)?;
    Ok(written)
}

fn npy(path: &Path, vectors: &Vectors) -> anyhow::Result<usize> {
    let dimension = vectors.dimension();
    let rows: Vec<&[f16]> = (0..vectors.len()).map(|place| &vectors.row(place)[..dimension]).collect();
    write_halves(path, dimension, &mut rows.into_iter())?;
    Ok(vectors.len())
}

/// What each row is of. `image_path` is where it came from, as clip-retrieval shows it.
fn metadata(dataset: &Path, uids: &[Uid], path: &Path) -> anyhow::Result<()> {
    let places: HashMap<Uid, usize> = uids.iter().copied().zip(0..).collect();
    let (mut sources, mut captions) = (vec![String::new(); uids.len()], vec![String::new(); uids.len()]);
    with_session(Some(dataset), None, async |context| {
        let of_meta = "SELECT uid, arrow_cast(concat(source, '/', key), 'Utf8'), arrow_cast(caption, 'Utf8') FROM meta";
        let mut rows = query(&context, of_meta).await.context("what the embeddings are of")?;
        while let Some(batch) = rows.next().await? {
            for row in 0..batch.num_rows() {
                let uid = Uid::try_from(batch.column(0).as_fixed_size_binary().value(row))?;
                let Some(place) = places.get(&uid) else { continue };
                batch.column(1).as_string::<i32>().value(row).clone_into(&mut sources[*place]);
                batch.column(2).as_string::<i32>().value(row).clone_into(&mut captions[*place]);
            }
        }
        Ok(())
    })?;
    let names = StringArray::from_iter_values(uids.iter().map(Uid::to_string));
    let batch = RecordBatch::try_from_iter([
        ("image_path", Arc::new(StringArray::from(sources)) as ArrayRef),
        ("caption", Arc::new(StringArray::from(captions)) as ArrayRef),
        ("uid", Arc::new(names) as ArrayRef),
    ])?;
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None)?;
    writer.write(&batch)?;
    writer.close().context("writing metadata")?;
    Ok(durable::write(path, &bytes)?)
}
