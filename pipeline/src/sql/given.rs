//! Tables of pairs that a caller provides: a list of uids, a selection.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeBinaryArray, Float32Array, RecordBatch, new_empty_array};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use diptych_schemas::{Uid, column};

use super::error::SqlError;
use super::session::setting_up;

/// Registers uids, and weights if given, as a table with the columns `uid` and `weight`.
pub fn register_pairs(
    context: &SessionContext,
    name: &str,
    uids: &[Uid],
    weights: Option<&[f32]>,
) -> Result<(), SqlError> {
    let uid = DataType::FixedSizeBinary(16);
    let internal = |error: arrow::error::ArrowError| SqlError::Session(error.to_string());
    let column: ArrayRef = match uids {
        // An empty iterator does not tell the length of its items.
        [] => new_empty_array(&uid),
        uids => Arc::new(
            FixedSizeBinaryArray::try_from_iter(uids.iter().map(|uid| uid.0)).map_err(internal)?,
        ),
    };
    let (mut fields, mut columns) = (vec![Field::new(column::UID, uid, false)], vec![column]);
    if let Some(weights) = weights {
        fields.push(Field::new(column::WEIGHT, DataType::Float32, false));
        columns.push(Arc::new(Float32Array::from(weights.to_vec())));
    }
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).map_err(internal)?;
    let table = MemTable::try_new(schema, vec![vec![batch]]).map_err(setting_up)?;
    context.register_table(name, Arc::new(table)).map_err(setting_up)?;
    Ok(())
}
