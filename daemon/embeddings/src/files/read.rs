//! Reads embedding files into memory and finds the rows of a dataset's pairs, by uid or by key.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::ipc::reader::FileReader;
use diptych_pipeline::{Selection, read_rows};
use diptych_schemas::{SchemaError, Uid, column};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::table::rows_of;
use super::{IMAGE, IMAGES, METADATA, PAIRS, TEXT, TEXTS};
use crate::encode::Encoded;
use crate::values::for_each_value;

/// Columns that can name rows. The first one present is used.
const NAMES: [&str; 4] = [column::UID, column::KEY, "image_path", "image_name"];

/// Embeddings of pairs, read from files. Rows have unit length.
pub struct EmbeddingFiles {
    path: PathBuf,
    dimension: usize,
    /// The column that names rows.
    named_by: &'static str,
    rows: HashMap<String, usize>,
    /// `[rows, dimension]`.
    images: Vec<f32>,
    texts: Vec<f32>,
}

impl EmbeddingFiles {
    /// Returns whether a path holds embedding files, and not a model.
    pub fn exist_at(path: &Path) -> bool {
        if path.is_dir() {
            return path.join(IMAGES).is_dir()
                || tables(path).is_ok_and(|tables| !tables.is_empty());
        }
        path.is_file() && is_table(path)
    }

    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let mut read = Self {
            path: path.to_owned(),
            dimension: 0,
            named_by: "",
            rows: HashMap::new(),
            images: Vec::new(),
            texts: Vec::new(),
        };
        if path.is_dir() && path.join(IMAGES).is_dir() {
            read.arrays()?;
        } else {
            let files = if path.is_dir() { tables(path)? } else { vec![path.to_owned()] };
            for file in files {
                for_each_table(&file, &mut |table| read.table(table))
                    .with_context(|| file.display().to_string())?;
            }
        }
        if read.rows.is_empty() {
            bail!("{}: holds no embeddings", path.display());
        }
        let Self { dimension, images, texts, .. } = &mut read;
        for (what, values) in [("image", images), ("caption", texts)] {
            for (row, values) in values.chunks_exact_mut(*dimension).enumerate() {
                let length =
                    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
                if !(length > 0.0 && length.is_finite()) {
                    bail!(
                        "{}: the {what} embedding of row {row} has length {length}, so it has no \
                         direction",
                        path.display()
                    );
                }
                for value in values {
                    *value = (f64::from(*value) / length) as f32;
                }
            }
        }
        Ok(read)
    }

    /// Returns the length of an embedding.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Fails with the path and the reason why these files do not suffice.
    pub fn insufficient<T>(&self, why: &str) -> anyhow::Result<T> {
        bail!("{} {why}", self.path.display())
    }

    /// Reads clip-retrieval's layout: each image file with its text file and its metadata.
    fn arrays(&mut self) -> anyhow::Result<()> {
        let mut numbers: Vec<String> = names(&self.path.join(IMAGES))?
            .iter()
            .filter_map(|name| {
                Some(name.strip_prefix("img_emb_")?.strip_suffix(".npy")?.to_owned())
            })
            .collect();
        numbers.sort_by_key(|number| (number.len(), number.clone()));
        for number in numbers {
            let [images, texts] =
                [(IMAGES, "img_emb"), (TEXTS, "text_emb")].map(|(folder, name)| {
                    read_rows(&self.path.join(folder).join(format!("{name}_{number}.npy")))
                });
            let (images, texts) = (images?, texts?);
            let metadata = self.path.join(METADATA).join(format!("metadata_{number}.parquet"));
            let mut found = Vec::new();
            for_each_table(&metadata, &mut |table| {
                found.extend(self.names(table)?);
                Ok(())
            })
            .with_context(|| metadata.display().to_string())?;
            let rows = [
                found.len(),
                images.values.len() / images.columns,
                texts.values.len() / texts.columns,
            ];
            if rows != [rows[0]; 3] || images.columns != texts.columns {
                bail!(
                    "{}: the files of number {number} do not match: {} rows of metadata, {} image \
                     embeddings of {} numbers, {} caption embeddings of {} numbers",
                    self.path.display(),
                    rows[0],
                    rows[1],
                    images.columns,
                    rows[2],
                    texts.columns
                );
            }
            self.append(found, (images.columns, images.values), texts.values)?;
        }
        Ok(())
    }

    fn table(&mut self, table: &RecordBatch) -> anyhow::Result<()> {
        let of = |name: &str| {
            let column = table.column_by_name(name).with_context(|| {
                let there: Vec<_> =
                    table.schema().fields().iter().map(|field| field.name().clone()).collect();
                format!(
                    "no column {name}: a table of embeddings needs {IMAGE}, {TEXT}, and uid or \
                     key; this one has {}",
                    there.join(", ")
                )
            })?;
            rows_of(column).context(name.to_owned())
        };
        let (images, texts) = (of(IMAGE)?, of(TEXT)?);
        if images.0 != texts.0 {
            bail!(
                "image embeddings have {} numbers and caption embeddings {}: they come from \
                 different models",
                images.0,
                texts.0
            );
        }
        let found = self.names(table)?;
        self.append(found, images, texts.1)
    }

    fn append(
        &mut self,
        names: Vec<String>,
        (dimension, images): (usize, Vec<f32>),
        texts: Vec<f32>,
    ) -> anyhow::Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        if self.rows.is_empty() {
            self.dimension = dimension;
        } else if self.dimension != dimension {
            bail!("embeddings of {dimension} numbers follow embeddings of {}", self.dimension);
        }
        let first = self.images.len() / dimension.max(1);
        for (row, name) in (first..).zip(names) {
            match self.rows.entry(name) {
                Entry::Vacant(vacant) => vacant.insert(row),
                Entry::Occupied(taken) => {
                    bail!(
                        "two rows have the {} {:?}: name rows by uid instead",
                        self.named_by,
                        taken.key()
                    )
                }
            };
        }
        self.images.extend(images);
        self.texts.extend(texts);
        Ok(())
    }

    /// Returns the names of a table's rows.
    fn names(&mut self, table: &RecordBatch) -> anyhow::Result<Vec<String>> {
        let found = NAMES.into_iter().find_map(|name| Some((name, table.column_by_name(name)?)));
        let (name, column) = found.with_context(|| {
            format!("no column names the pair of each row: it needs one of {}", NAMES.join(", "))
        })?;
        if !self.named_by.is_empty() && self.named_by != name {
            bail!("rows are named by {name} here, but by {} in the files before", self.named_by);
        }
        self.named_by = name;
        texts_of(column).with_context(|| name.to_owned())
    }

    /// Returns the embeddings of a selection's pairs, in the selection's order.
    ///
    /// Pairs without embeddings are skipped with a warning.
    pub fn select(&self, dataset: &Path, selection: &Selection) -> anyhow::Result<Encoded> {
        let mut found = self.rows_and_captions(dataset, selection)?;
        let mut encoded = Encoded::default();
        for uid in &selection.uids {
            let Some((row, caption)) = found.remove(uid) else { continue };
            let at = row * self.dimension..(row + 1) * self.dimension;
            encoded.uids.push(*uid);
            encoded.captions.push(caption);
            encoded.images.extend_from_slice(&self.images[at.clone()]);
            encoded.texts.extend_from_slice(&self.texts[at]);
        }
        let missing = selection.uids.len() - encoded.uids.len();
        if encoded.uids.is_empty() {
            bail!(
                "{}: none of its {} rows matches a pair of the selection by the column {}",
                self.path.display(),
                self.rows.len(),
                self.named_by
            );
        }
        if missing > 0 {
            tracing::warn!(
                "{}: skipping {missing} of {} pairs, which have no embedding",
                self.path.display(),
                selection.len()
            );
        }
        Ok(encoded)
    }

    /// Finds the row and the caption of each pair in the selection that has both.
    ///
    /// A row is found by uid, by source and key, or by key alone.
    fn rows_and_captions(
        &self,
        dataset: &Path,
        selection: &Selection,
    ) -> anyhow::Result<HashMap<Uid, (usize, String)>> {
        let wanted: HashSet<Uid> = selection.uids.iter().copied().collect();
        let by_uid = self.named_by == column::UID;
        let mut found = HashMap::with_capacity(wanted.len());
        let mut taken = HashSet::new();
        let mut twice = None;
        let of = |name: &str| format!("'{name}', arrow_cast({name}, 'Utf8')");
        let columns = [column::CAPTION, column::SOURCE, column::KEY].map(of).join(", ");
        for_each_value(
            dataset,
            &format!("named_struct({columns})"),
            "reading captions and keys",
            |uid, values, row| {
                let text = |place: usize| {
                    let column = values.as_struct().column(place).as_string::<i32>();
                    column.is_valid(row).then(|| column.value(row))
                };
                let at = if by_uid {
                    self.rows.get(&uid.to_string())
                } else {
                    let whole = || self.rows.get(&format!("{}/{}", text(1)?, text(2)?));
                    whole().or_else(|| self.rows.get(text(2)?))
                };
                let Some(at) = at else { return };
                // Also for pairs outside the selection, because the row may be theirs.
                if !by_uid && !taken.insert(*at) {
                    twice = text(2).map(str::to_owned);
                }
                if let Some(caption) = text(0).filter(|_| wanted.contains(&uid)) {
                    found.insert(uid, (*at, caption.to_owned()));
                }
            },
        )?;
        match twice {
            Some(key) => bail!(
                "{}: two pairs of the dataset have the key {key:?}: name rows by uid instead",
                self.path.display()
            ),
            None => Ok(found),
        }
    }
}

/// Returns the texts of a column. A uid in bytes becomes hexadecimal digits.
fn texts_of(column: &ArrayRef) -> anyhow::Result<Vec<String>> {
    if let DataType::FixedSizeBinary(16) = column.data_type() {
        let bytes = column.as_fixed_size_binary();
        return (0..bytes.len())
            .map(|row| Ok(Uid::try_from(bytes.value(row))?.to_string()))
            .collect();
    }
    let texts = cast(column, &DataType::Utf8)?;
    let texts = texts.as_string::<i32>();
    texts
        .iter()
        .enumerate()
        .map(|(row, text)| Ok(text.with_context(|| format!("row {row} is null"))?.to_owned()))
        .collect()
}

fn is_table(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending == "parquet" || ending == "arrow" || ending == "feather")
}

/// Lists a folder's tables of pairs in order.
fn tables(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = names(folder)?
        .iter()
        .filter(|name| name.starts_with(PAIRS))
        .map(|name| folder.join(name))
        .filter(|path| is_table(path))
        .collect();
    found.sort();
    Ok(found)
}

fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(SchemaError::io(folder))?;
    let name = |entry: std::io::Result<fs::DirEntry>| {
        Ok(entry?.file_name().to_string_lossy().into_owned())
    };
    entries
        .map(name)
        .collect::<std::io::Result<_>>()
        .map_err(|error| SchemaError::io(folder)(error).into())
}

fn for_each_table(
    path: &Path,
    take: &mut dyn FnMut(&RecordBatch) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let file = File::open(path).map_err(SchemaError::io(path))?;
    if path.extension().is_some_and(|ending| ending == "parquet") {
        ParquetRecordBatchReaderBuilder::try_new(file)?.build()?.try_for_each(|table| take(&table?))
    } else {
        FileReader::try_new_buffered(file, None)?.try_for_each(|table| take(&table?))
    }
}
