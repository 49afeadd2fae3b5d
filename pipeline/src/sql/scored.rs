//! The table `scored`: meta, with a column for each score. It has exactly the rows of meta, and
//! reads only the columns that a query uses.
//!
//! A score's column holds the values of its newest producer, and is null for a pair without one.
//! `phash` and `language` also exist in meta: the value in meta counts, or else the score's.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{cast, is_not_null};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result as SqlResult};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use diptych_schemas::{ScoreValue, column};
use diptych_table::{Give, ReadPart, projected, scan};
use parquet::arrow::ProjectionMask;

use crate::footer;
use crate::scores::{ScoreError, ScoreFiles, ScoreWalk, files_by_shard};

pub(super) struct ScoredTable {
    /// Number and meta file.
    shards: Vec<(u32, PathBuf)>,
    scores: Vec<ScoreFiles>,
    meta: SchemaRef,
    schema: SchemaRef,
    /// The origin of each column of `schema`.
    origins: Vec<Origin>,
}

/// The origin of a column.
#[derive(Clone, Copy, Debug, Default)]
struct Origin {
    /// Index in the schema of meta.
    meta: Option<usize>,
    /// Index of the score.
    score: Option<usize>,
}

impl fmt::Debug for ScoredTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScoredTable").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl ScoredTable {
    pub(super) fn new(
        shards: Vec<(u32, PathBuf)>,
        meta: SchemaRef,
        scores: Vec<ScoreFiles>,
    ) -> Self {
        let mut fields: Vec<Arc<Field>> = meta.fields().iter().cloned().collect();
        let mut origins: Vec<Origin> =
            (0..fields.len()).map(|index| Origin { meta: Some(index), score: None }).collect();
        for (index, score) in scores.iter().enumerate() {
            let fills = [column::PHASH, column::LANGUAGE].contains(&score.name.as_str());
            match fields.iter().position(|field| *field.name() == score.name) {
                Some(place) if fills && *fields[place].data_type() == score.value.data_type() => {
                    origins[place].score = Some(index);
                }
                taken => {
                    let name = if taken.is_some() {
                        format!("score_{}", score.name)
                    } else {
                        score.name.clone()
                    };
                    fields.push(Arc::new(Field::new(name, score.value.data_type(), true)));
                    origins.push(Origin { meta: None, score: Some(index) });
                }
            }
        }
        Self { shards, scores, meta, schema: Arc::new(Schema::new(fields)), origins }
    }
}

#[async_trait]
impl TableProvider for ScoredTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> SqlResult<Arc<dyn ExecutionPlan>> {
        let (projection, schema) = projected(&self.schema, projection)?;
        let columns: Vec<Origin> = projection.iter().map(|&index| self.origins[index]).collect();
        let mut scores = Vec::new();
        for (index, score) in self.scores.iter().enumerate() {
            if columns.iter().any(|column| column.score == Some(index)) {
                let files = files_by_shard(score).map_err(external)?;
                scores.push(WantedScore { index, value: score.value, files });
            }
        }
        let part = ShardGroup {
            shards: Vec::new(),
            scores: scores.into(),
            columns,
            meta: Arc::clone(&self.meta),
            schema: Arc::clone(&schema),
        };
        let parts = state.config().target_partitions().clamp(1, self.shards.len().max(1));
        let shards = self.shards.chunks(self.shards.len().div_ceil(parts).max(1));
        let readers = shards.map(|shards| -> ReadPart {
            let part = ShardGroup { shards: shards.to_vec(), ..part.clone() };
            Box::new(move |batch_rows, give| part.read(batch_rows, give))
        });
        scan("scored", schema, readers, limit)
    }
}

/// A score that a query uses.
#[derive(Debug)]
struct WantedScore {
    index: usize,
    value: ScoreValue,
    /// Files with their shards, ordered by shard.
    files: Vec<(u32, PathBuf)>,
}

/// Some shards, read in sequence.
#[derive(Clone, Debug)]
struct ShardGroup {
    shards: Vec<(u32, PathBuf)>,
    scores: Arc<[WantedScore]>,
    columns: Vec<Origin>,
    meta: SchemaRef,
    /// After the projection.
    schema: SchemaRef,
}

impl ShardGroup {
    fn read(&self, batch_rows: usize, give: &mut Give<'_>) -> SqlResult<()> {
        for (shard, meta) in &self.shards {
            if !self.read_shard(*shard, meta, batch_rows, give)? {
                break;
            }
        }
        Ok(())
    }

    /// Passes the rows of a shard to `give`, until it returns `false`.
    fn read_shard(
        &self,
        shard: u32,
        meta: &PathBuf,
        batch_rows: usize,
        give: &mut Give<'_>,
    ) -> SqlResult<bool> {
        let damaged = |message: String| external(ScoreError::Meta { path: meta.clone(), message });
        let file = File::open(meta).map_err(|error| damaged(error.to_string()))?;
        let builder = footer::rows_of(file).map_err(|error| damaged(error.to_string()))?;
        let mut names: Vec<&str> = self
            .columns
            .iter()
            .filter_map(|origin| origin.meta)
            .map(|index| self.meta.field(index).name().as_str())
            .collect();
        // Without scores and columns, the uid still gives the number of rows.
        names.push(column::UID);
        let mask = ProjectionMask::columns(builder.parquet_schema(), names);
        let rows = builder.with_projection(mask).with_batch_size(batch_rows).build();
        let mut walks = Vec::with_capacity(self.scores.len());
        for WantedScore { index, value, files } in self.scores.iter() {
            let of_shard = files.iter().filter(|(of, _)| *of == shard).map(|(_, path)| path);
            walks.push((
                *index,
                ScoreWalk::open(shard, *value, of_shard, batch_rows).map_err(external)?,
            ));
        }
        for batch in rows.map_err(|error| damaged(error.to_string()))? {
            let batch = batch.map_err(|error| damaged(error.to_string()))?;
            let uids =
                batch.column_by_name(column::UID).and_then(|uids| uids.as_fixed_size_binary_opt());
            let uids = uids.ok_or_else(|| damaged("its column uid does not hold uids".into()))?;
            let mut values = Vec::with_capacity(walks.len());
            for (index, walk) in &mut walks {
                values.push((*index, walk.next(uids).map_err(external)?));
            }
            let columns: SqlResult<Vec<ArrayRef>> =
                self.columns.iter().map(|origin| self.column(*origin, &batch, &values)).collect();
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            if !give(RecordBatch::try_new_with_options(
                Arc::clone(&self.schema),
                columns?,
                &options,
            )?) {
                return Ok(false);
            }
        }
        for (_, walk) in &walks {
            walk.finish().map_err(external)?;
        }
        Ok(true)
    }

    fn column(
        &self,
        origin: Origin,
        batch: &RecordBatch,
        values: &[(usize, ArrayRef)],
    ) -> SqlResult<ArrayRef> {
        let own = origin.meta.map(|index| {
            let field = self.meta.field(index);
            match batch.column_by_name(field.name()) {
                // A shard may hold its source's columns in a narrower type than the dataset.
                Some(values) => cast(values, field.data_type()),
                // A shard whose source had no such column.
                None => Ok(new_null_array(field.data_type(), batch.num_rows())),
            }
        });
        let own = own.transpose()?;
        let score = origin
            .score
            .and_then(|score| values.iter().find(|(index, _)| *index == score))
            .map(|(_, values)| values);
        Ok(match (own, score) {
            (Some(own), Some(score)) if own.null_count() == own.len() => Arc::clone(score),
            (Some(own), Some(score)) => zip(&is_not_null(&own)?, &own, score)?,
            (Some(own), None) => own,
            (None, Some(score)) => Arc::clone(score),
            (None, None) => new_null_array(&DataType::Null, batch.num_rows()),
        })
    }
}

fn external(error: ScoreError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
