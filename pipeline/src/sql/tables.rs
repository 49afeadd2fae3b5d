//! The tables of a dataset folder: their files, and how these become tables of SQL.
//!
//! A shard or ledger file that dataset.json does not name is not part of the dataset. A missing or
//! truncated file is an error when the session is created, not in the middle of a query.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{
    ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl,
};
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, cast, col, lit};
use datafusion::prelude::SessionContext;
use diptych_schemas::{
    DatasetManifest, SchemaError, blob_path, blob_schema, column, embedding_file_schema,
    embeddings_schema, ledger_path, ledger_schema, meta_path, score_file_schema, scores_schema,
};
use url::Url;

use super::error::SqlError;
use super::scored::ScoredTable;
use super::session::setting_up;
use crate::checksums::check_tail;
use crate::footer;
use crate::scores::{EmbeddingFiles, ScoreFiles, embedding_files, score_files};

/// Bytes of images that one batch of a query should hold. A query holds a few batches for each of
/// its threads.
const IMAGE_BATCH_BYTES: u64 = 8 << 20;
/// Most rows in a batch of a query that reads images, however small they are.
const IMAGE_BATCH_ROWS: u64 = 1024;

/// A dataset at the time when the session was created.
#[derive(Debug)]
pub(crate) struct DatasetTables {
    /// Absolute.
    folder: PathBuf,
    manifest: DatasetManifest,
    scores: Vec<ScoreFiles>,
    embeddings: Vec<EmbeddingFiles>,
}

impl DatasetTables {
    pub(super) fn open(folder: &Path) -> Result<Arc<Self>, SqlError> {
        let manifest = DatasetManifest::read(folder)?;
        let folder = plain_path(folder)?;
        let (scores, embeddings) = (score_files(&folder)?, embedding_files(&folder)?);
        let tables = Self { folder, manifest, scores, embeddings };
        tables.check_files()?;
        Ok(Arc::new(tables))
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn manifest(&self) -> &DatasetManifest {
        &self.manifest
    }

    /// Returns the rows per batch of a query that reads images, so that a batch of average images
    /// has [`IMAGE_BATCH_BYTES`].
    ///
    /// Operators fill their batches up to this number of rows, so it applies to the whole query,
    /// not only to the scan.
    pub(super) fn image_batch_rows(&self) -> usize {
        let bytes: u64 = self.manifest.shards.iter().map(|shard| shard.blob_bytes).sum();
        let average = (bytes / self.manifest.pairs.max(1)).max(1);
        (IMAGE_BATCH_BYTES / average).clamp(1, IMAGE_BATCH_ROWS) as usize
    }

    fn meta_files(&self) -> Vec<PathBuf> {
        self.manifest.shards.iter().map(|entry| meta_path(&self.folder, entry.shard)).collect()
    }

    fn ledger_files(&self) -> Vec<PathBuf> {
        self.manifest.ledgers.iter().map(|entry| ledger_path(&self.folder, entry.number)).collect()
    }

    /// Returns the files of scores and embeddings.
    fn scored_files(&self) -> Vec<PathBuf> {
        let scores = self.scores.iter().flat_map(|score| &score.files);
        scores.chain(self.embeddings.iter().flat_map(|of| &of.files)).cloned().collect()
    }

    fn check_files(&self) -> Result<(), SqlError> {
        for path in
            self.meta_files().into_iter().chain(self.ledger_files()).chain(self.scored_files())
        {
            check_footer(&path, None)?;
        }
        for entry in &self.manifest.shards {
            let path = blob_path(&self.folder, entry.shard);
            check_footer(&path, Some(entry.blob_bytes))?;
        }
        Ok(())
    }

    pub(super) fn register(
        &self,
        context: &SessionContext,
        training_ledger: Option<Arc<dyn TableProvider>>,
        embeddings_of_state: Option<Arc<dyn TableProvider>>,
    ) -> Result<(), SqlError> {
        let blobs: Vec<PathBuf> =
            self.manifest.shards.iter().map(|entry| blob_path(&self.folder, entry.shard)).collect();
        let ledger = parquet_table(&self.ledger_files(), ledger_schema())?;
        let ledger = match training_ledger {
            Some(training) => union_of(vec![whole(ledger)?, whole(training)?])?,
            None => ledger,
        };
        let tables = [
            ("meta", parquet_table(&self.meta_files(), self.manifest.meta_schema())?),
            ("blob", parquet_table(&blobs, blob_schema())?),
            ("ledger", ledger),
            ("scores", self.scores_table()?),
            ("scored", Arc::new(self.scored_table())),
            ("embeddings", self.embeddings_table(embeddings_of_state)?),
        ];
        for (name, table) in tables {
            context.register_table(name, table).map_err(setting_up)?;
        }
        Ok(())
    }

    /// Returns all scores in one table, with the name of each in the first column.
    fn scores_table(&self) -> Result<Arc<dyn TableProvider>, SqlError> {
        let schema = scores_schema();
        if self.scores.is_empty() {
            return Ok(Arc::new(EmptyTable::new(schema)));
        }
        let mut parts = Vec::new();
        for score in &self.scores {
            let files = parquet_table(&score.files, score_file_schema(score.value))?;
            let columns = schema.fields().iter().map(|field| match field.name().as_str() {
                column::NAME => lit(score.name.as_str()).alias(column::NAME),
                column::VALUE | column::TEXT | column::BITS
                    if field.name() == score.value.column() =>
                {
                    col(column::VALUE).alias(field.name())
                }
                column::VALUE | column::TEXT | column::BITS => {
                    cast(lit(ScalarValue::Null), field.data_type().clone()).alias(field.name())
                }
                other => col(other),
            });
            let files = LogicalPlanBuilder::scan("files", provider_as_source(files), None);
            parts.push(files.and_then(|scan| scan.project(columns)?.build()).map_err(setting_up)?);
        }
        union_of(parts)
    }

    /// Returns meta with a column for each score.
    fn scored_table(&self) -> ScoredTable {
        let shards = self
            .manifest
            .shards
            .iter()
            .map(|entry| (entry.shard, meta_path(&self.folder, entry.shard)));
        ScoredTable::new(shards.collect(), self.manifest.meta_schema(), self.scores.clone())
    }

    /// Returns the embeddings of the dataset and of a state folder as one table.
    fn embeddings_table(
        &self,
        of_state: Option<Arc<dyn TableProvider>>,
    ) -> Result<Arc<dyn TableProvider>, SqlError> {
        let schema = embeddings_schema();
        let mut parts = of_state.map(whole).transpose()?.into_iter().collect::<Vec<_>>();
        for of in &self.embeddings {
            for modality in [column::IMAGE, column::TEXT] {
                let files = parquet_table(&of.files, embedding_file_schema(of.dimension))?;
                let columns = [
                    col(column::UID),
                    lit(modality).alias(column::MODALITY),
                    lit(of.producer.as_str()).alias(column::PRODUCER),
                    cast(col(modality), schema.field(3).data_type().clone())
                        .alias(column::EMBEDDING),
                ];
                let files = LogicalPlanBuilder::scan("files", provider_as_source(files), None);
                let rows = files.and_then(|scan| {
                    scan.filter(col(modality).is_not_null())?.project(columns)?.build()
                });
                parts.push(rows.map_err(setting_up)?);
            }
        }
        if parts.is_empty() { Ok(Arc::new(EmptyTable::new(schema))) } else { union_of(parts) }
    }

    /// Returns the first file that cannot be read, and the reason. It reads whole files except
    /// images, so it is meant for error handling.
    pub(super) fn first_unreadable_file(&self) -> Option<SqlError> {
        let narrow = self.meta_files().into_iter().chain(self.ledger_files());
        let narrow = narrow.chain(self.scored_files());
        let narrow = narrow.map(|path| (path, true));
        let blobs =
            self.manifest.shards.iter().map(|entry| (blob_path(&self.folder, entry.shard), false));
        narrow.chain(blobs).find_map(|(path, rows_too)| {
            let message = unreadable(&path, rows_too).err()?;
            Some(SqlError::Damaged { path, message: format!("it cannot be read: {message}") })
        })
    }
}

fn unreadable(path: &Path, rows_too: bool) -> Result<(), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let builder = footer::rows_of(file).map_err(|error| error.to_string())?;
    if rows_too {
        for batch in builder.build().map_err(|error| error.to_string())? {
            batch.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Checks that a Parquet file exists, has its known length and can hold its footer, and that
/// everything behind its pages has its checksum, where there is one.
///
/// parquet 59 computes with the footer's length before it compares it with the file's.
fn check_footer(path: &Path, known_length: Option<u64>) -> Result<(), SqlError> {
    let damaged =
        |message: &str| SqlError::Damaged { path: path.to_owned(), message: message.into() };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(damaged("dataset.json names this file, but it does not exist"));
        }
        Err(error) => return Err(SchemaError::io(path)(error).into()),
    };
    let length = file.metadata().map_err(SchemaError::io(path))?.len();
    if let Some(known) = known_length.filter(|known| *known != length) {
        return Err(damaged(&format!("it has {length} bytes, but dataset.json says {known}")));
    }
    let (magic, tail) = (4, 8);
    if length < magic + tail {
        return Err(damaged("it is too short to be a Parquet file"));
    }
    let mut end = [0; 8];
    file.seek(SeekFrom::End(-8))
        .and_then(|_| file.read_exact(&mut end))
        .map_err(SchemaError::io(path))?;
    let footer = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    if &end[4..] != b"PAR1" {
        return Err(damaged(
            "it does not end like a Parquet file: it is truncated or has another format",
        ));
    }
    if footer + magic + tail > length {
        return Err(damaged(&format!(
            "its footer claims {footer} bytes, but the whole file has {length}"
        )));
    }
    // What stands there decides which rows a query reads, and no reader checks it.
    match check_tail(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(damaged(&error.to_string()))
        }
        Err(error) => Err(SchemaError::io(path)(error).into()),
    }
}

/// Returns an absolute path without `..`, which DataFusion does not accept. In a path with `..`,
/// links before it are followed: `link/..` is the parent folder of the link's target.
pub(super) fn plain_path(path: &Path) -> Result<PathBuf, SchemaError> {
    let absolute = std::path::absolute(path).map_err(SchemaError::io(path))?;
    if absolute.components().any(|part| part == Component::ParentDir) {
        return std::fs::canonicalize(&absolute).map_err(SchemaError::io(path));
    }
    Ok(absolute)
}

/// Opens exactly these files as one table. A column that a file lacks is null there.
fn parquet_table(files: &[PathBuf], schema: SchemaRef) -> Result<Arc<dyn TableProvider>, SqlError> {
    if files.is_empty() {
        return Ok(Arc::new(EmptyTable::new(schema)));
    }
    listed_files(files, Arc::new(ParquetFormat::default()), schema)
}

/// Opens exactly these files of a format as one table.
pub(super) fn listed_files(
    files: &[PathBuf],
    format: Arc<dyn FileFormat>,
    schema: SchemaRef,
) -> Result<Arc<dyn TableProvider>, SqlError> {
    let mut urls = Vec::with_capacity(files.len());
    for path in files {
        // In a path, unlike in a URL, `*` and `[` in the name of a folder would be a pattern.
        let url = Url::from_file_path(path).map_err(|()| {
            SqlError::Session(format!("{} is not an absolute path", path.display()))
        })?;
        urls.push(ListingTableUrl::try_new(url, None).map_err(setting_up)?);
    }
    // The files are named one by one, with any extension.
    let options = ListingOptions::new(format).with_file_extension("");
    let config = ListingTableConfig::new_with_multi_paths(urls)
        .with_listing_options(options)
        .with_schema(schema);
    Ok(Arc::new(ListingTable::try_new(config).map_err(setting_up)?))
}

/// Opens a Parquet file that is not part of a dataset as a table: a selection, a table of groups, a
/// stored result.
pub fn parquet_file_table(path: &Path) -> Result<Arc<dyn TableProvider>, SqlError> {
    let path = plain_path(path)?;
    let schema = parquet_file_schema(&path)?;
    parquet_table(std::slice::from_ref(&path), schema)
}

/// Opens several Parquet files as one table, with the columns of all of them. The paths must be
/// absolute.
pub(super) fn parquet_files_table(files: &[PathBuf]) -> Result<Arc<dyn TableProvider>, SqlError> {
    let mut merged = Schema::empty();
    for path in files {
        let schema = parquet_file_schema(path)?;
        merged = Schema::try_merge([merged, Schema::clone(&schema)])
            .map_err(|error| SqlError::File { path: path.clone(), message: error.to_string() })?;
    }
    parquet_table(files, Arc::new(merged))
}

fn parquet_file_schema(path: &Path) -> Result<SchemaRef, SqlError> {
    let unreadable = |message: String| SqlError::File { path: path.to_owned(), message };
    let file = File::open(path).map_err(SchemaError::io(path))?;
    check_footer(path, None)
        .map_err(|_| unreadable("it is not a Parquet file, or is truncated".into()))?;
    let builder = footer::rows_of(file).map_err(|error| unreadable(error.to_string()))?;
    Ok(Arc::new(builder.schema().as_ref().clone().with_metadata(HashMap::new())))
}

fn whole(table: Arc<dyn TableProvider>) -> Result<LogicalPlan, SqlError> {
    LogicalPlanBuilder::scan("rows", provider_as_source(table), None)
        .and_then(LogicalPlanBuilder::build)
        .map_err(setting_up)
}

/// Returns the rows of all plans as one table.
fn union_of(plans: Vec<LogicalPlan>) -> Result<Arc<dyn TableProvider>, SqlError> {
    let mut plans = plans.into_iter();
    let Some(mut all) = plans.next() else {
        return Err(SqlError::Session("a union of nothing".into()));
    };
    for plan in plans {
        all = LogicalPlanBuilder::from(all)
            .union(plan)
            .and_then(LogicalPlanBuilder::build)
            .map_err(setting_up)?;
    }
    Ok(Arc::new(ViewTable::new(all, None)))
}
