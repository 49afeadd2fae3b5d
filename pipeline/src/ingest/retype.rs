//! Gives text columns of a dataset the types of their values, for datasets from before types were
//! kept.
//!
//! Only `dataset.json` changes. Shards keep their texts, which are read as values of the new type.

use std::path::Path;

use arrow::array::AsArray;
use arrow::datatypes::DataType;
use diptych_schemas::{DatasetManifest, meta_path};

use super::folder;
use super::inferred::Inferred;
use super::ledger_files::for_each_batch;
use super::report::IngestError;

/// A column with a new type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retyped {
    pub column: String,
    pub kind: DataType,
}

/// Finds the types of all own text columns, or of the named ones, from all their values.
pub fn retype(dataset: &Path, named: &[String]) -> Result<Vec<Retyped>, IngestError> {
    DatasetManifest::read(dataset)?;
    let _lock = folder::lock(dataset)?;
    let mut manifest = DatasetManifest::read(dataset)?;
    if let Some(unknown) = named.iter().find(|name| !manifest.source_columns.contains(name)) {
        let known = manifest.source_columns.join(", ");
        let message = format!("{unknown} is not a column of a source. These columns are: {known}");
        return Err(IngestError::Request { message });
    }
    let is_wanted = |name: &&String| {
        manifest.source_type(name) == DataType::Utf8 && (named.is_empty() || named.contains(name))
    };
    let columns: Vec<String> = manifest.source_columns.iter().filter(is_wanted).cloned().collect();
    let mut kinds = vec![Inferred::Nothing; columns.len()];
    for shard in &manifest.shards {
        for_each_batch(&meta_path(dataset, shard.shard), &columns, |batch| {
            for (kind, name) in kinds.iter_mut().zip(&columns) {
                match batch.column_by_name(name) {
                    None => {}
                    Some(array) => match array.as_string_opt::<i32>() {
                        Some(texts) => {
                            for text in texts.iter().flatten() {
                                *kind = kind.with(text);
                            }
                        }
                        // It became text because a shard holds other values.
                        None => *kind = Inferred::Text,
                    },
                }
            }
        })?;
    }
    let found = columns.into_iter().zip(kinds);
    let retyped: Vec<Retyped> = found
        .map(|(column, kind)| Retyped { column, kind: kind.data_type() })
        .filter(|retyped| retyped.kind != DataType::Utf8)
        .collect();
    for Retyped { column, kind } in &retyped {
        manifest.source_types.insert(column.clone(), kind.to_string());
    }
    if !retyped.is_empty() {
        manifest.write(dataset)?;
    }
    Ok(retyped)
}
