//! Writes stored embeddings into a new folder.
//!
//! The numbers are the stored ones: half floats of unit length.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::ipc::writer::FileWriter;
use diptych_pipeline::sql::{default_memory, query};
use diptych_pipeline::{ParquetWriter, write_halves};
use diptych_schemas::{ContentHash, EmbeddingFormat, SchemaError, Uid, column, durable};
use diptych_store::{Modality, Store};
use half::f16;

use super::table::lists;
use super::{IMAGE, IMAGES, METADATA, PAIRS, TEXT, TEXTS};
use crate::nearest::Vectors;
use crate::session::with_session;

/// Rows per file, as in clip-retrieval's inference.
const ROWS: usize = 1_000_000;
/// Rows of a table written at once.
const ROWS_AT_ONCE: usize = 16_384;

/// Counts of what [`write`] wrote.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    pub rows: usize,
    pub files: usize,
}

/// The embeddings to write and their format.
pub struct Request<'a> {
    pub producer: ContentHash,
    pub dataset: &'a Path,
    pub uids: &'a [Uid],
    pub format: EmbeddingFormat,
}

/// Writes a model's embeddings of these pairs into a new folder, all or nothing.
///
/// Pairs without embeddings, because their image cannot be decoded, are skipped.
pub fn write(store: &Store, request: &Request<'_>, folder: &Path) -> anyhow::Result<Written> {
    if folder.exists() {
        bail!("{} exists already: choose a new folder for the embeddings", folder.display());
    }
    let unfinished = durable::unfinished(folder);
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(SchemaError::io(&unfinished))?;
    }
    let parts: &[&str] =
        if request.format == EmbeddingFormat::Npy { &[IMAGES, TEXTS, METADATA] } else { &[""] };
    for part in parts {
        let path = unfinished.join(part);
        fs::create_dir_all(&path).map_err(SchemaError::io(&path))?;
    }
    let mut written = Written::default();
    // Padded to the last number's digits, so that names sort by number.
    let digits = request.uids.len().div_ceil(ROWS).max(1).to_string().len();
    for uids in request.uids.chunks(ROWS) {
        let number = format!("{:0digits$}", written.files);
        let part = FileRows::read(store, request, uids)?;
        match request.format {
            EmbeddingFormat::Npy => part.arrays(&unfinished, &number)?,
            EmbeddingFormat::Parquet => {
                durable::write_with(
                    &unfinished.join(format!("{PAIRS}{number}.parquet")),
                    |file| {
                        let mut writer = ParquetWriter::try_new(
                            file,
                            part.table(0, 0).map_err(other)?.schema(),
                            None,
                        )
                        .map_err(other)?;
                        part.tables(|table| Ok(writer.write(table)?)).map_err(other)?;
                        writer.close().map(|_| ()).map_err(other)
                    },
                )?;
            }
            EmbeddingFormat::Arrow => {
                durable::write_with(&unfinished.join(format!("{PAIRS}{number}.arrow")), |file| {
                    let schema = part.table(0, 0).map_err(other)?.schema();
                    let mut writer = FileWriter::try_new_buffered(file, &schema).map_err(other)?;
                    part.tables(|table| Ok(writer.write(table)?)).map_err(other)?;
                    writer.finish().map_err(other)
                })?;
            }
        }
        written.rows += part.images.len();
        written.files += 1;
    }
    durable::publish(&unfinished, folder)?;
    Ok(written)
}

fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> std::io::Error {
    std::io::Error::other(error)
}

/// The rows of one file.
struct FileRows {
    images: Vectors,
    texts: Vectors,
    /// Origin of each pair, as source and key.
    sources: Vec<String>,
    captions: Vec<String>,
}

impl FileRows {
    fn read(store: &Store, request: &Request<'_>, uids: &[Uid]) -> anyhow::Result<Self> {
        let limit = default_memory() as u64 / 2;
        let images = Vectors::read_some(store, request.producer, Modality::Image, uids, limit)?;
        let texts =
            Vectors::read_some(store, request.producer, Modality::Text, images.uids(), limit)?;
        if texts.uids() != images.uids() {
            bail!(
                "the store lacks caption embeddings for some pairs that have image embeddings: run \
                 `diptych embed` again"
            );
        }
        let (sources, captions) = origins_and_captions(request.dataset, images.uids())?;
        Ok(Self { images, texts, sources, captions })
    }

    /// Writes clip-retrieval's files. `image_path` is a pair's origin, which clip-retrieval shows.
    fn arrays(&self, folder: &Path, number: &str) -> anyhow::Result<()> {
        npy(&folder.join(format!("{IMAGES}/img_emb_{number}.npy")), &self.images)?;
        npy(&folder.join(format!("{TEXTS}/text_emb_{number}.npy")), &self.texts)?;
        let names = StringArray::from_iter_values(self.images.uids().iter().map(Uid::to_string));
        let batch = RecordBatch::try_from_iter([
            ("image_path", Arc::new(StringArray::from_iter_values(&self.sources)) as ArrayRef),
            (column::CAPTION, Arc::new(StringArray::from_iter_values(&self.captions)) as ArrayRef),
            (column::UID, Arc::new(names) as ArrayRef),
        ])?;
        let mut bytes = Vec::new();
        let mut writer = ParquetWriter::try_new(&mut bytes, batch.schema(), None)?;
        writer.write(&batch)?;
        writer.close().context("writing metadata")?;
        Ok(durable::write(&folder.join(format!("{METADATA}/metadata_{number}.parquet")), &bytes)?)
    }

    fn tables(
        &self,
        mut take: impl FnMut(&RecordBatch) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let rows = self.images.len();
        (0..rows)
            .step_by(ROWS_AT_ONCE)
            .try_for_each(|first| take(&self.table(first, ROWS_AT_ONCE.min(rows - first))?))
    }

    /// Returns some rows, with the columns of [`super::table`] and `image_path`.
    fn table(&self, first: usize, rows: usize) -> anyhow::Result<RecordBatch> {
        let values = |vectors: &Vectors| {
            let dimension = vectors.dimension();
            let halves = (first..first + rows).flat_map(|place| &vectors.row(place)[..dimension]);
            lists(halves.map(|value| value.to_f32()).collect(), dimension)
        };
        let names = self.images.uids()[first..first + rows].iter().map(Uid::to_string);
        Ok(RecordBatch::try_from_iter([
            (column::UID, Arc::new(StringArray::from_iter_values(names)) as ArrayRef),
            (
                "image_path",
                Arc::new(StringArray::from_iter_values(&self.sources[first..first + rows]))
                    as ArrayRef,
            ),
            (
                column::CAPTION,
                Arc::new(StringArray::from_iter_values(&self.captions[first..first + rows]))
                    as ArrayRef,
            ),
            (IMAGE, values(&self.images)?),
            (TEXT, values(&self.texts)?),
        ])?)
    }
}

fn npy(path: &Path, vectors: &Vectors) -> anyhow::Result<usize> {
    let dimension = vectors.dimension();
    let rows: Vec<&[f16]> =
        (0..vectors.len()).map(|place| &vectors.row(place)[..dimension]).collect();
    write_halves(path, dimension, &mut rows.into_iter())?;
    Ok(vectors.len())
}

/// Reads the origin and the caption of each pair.
fn origins_and_captions(
    dataset: &Path,
    uids: &[Uid],
) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let places: HashMap<Uid, usize> = uids.iter().copied().zip(0..).collect();
    let (mut sources, mut captions) =
        (vec![String::new(); uids.len()], vec![String::new(); uids.len()]);
    with_session(Some(dataset), None, async |context| {
        let of_meta = "SELECT uid, arrow_cast(concat(source, '/', key), 'Utf8'), \
                       arrow_cast(caption, 'Utf8') FROM meta";
        let mut rows =
            query(&context, of_meta).await.context("reading the pairs' origins and captions")?;
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
    Ok((sources, captions))
}
