//! Reads single columns and expressions of a dataset, pair by pair.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, bail};
use arrow::array::{Array, ArrayRef, AsArray};
use diptych_pipeline::Selection;
use diptych_pipeline::sql::query;
use diptych_schemas::words::nearest;
use diptych_schemas::{Uid, column};

use crate::session::with_session;

/// Calls `take` for each pair for which `value` is not null, with its uid, the array and the row.
///
/// `value` is an SQL expression over the columns of meta and the scores. `what` describes it in
/// error messages.
pub fn for_each_value(
    dataset: &Path,
    value: &str,
    what: &str,
    take: impl FnMut(Uid, &ArrayRef, usize),
) -> anyhow::Result<()> {
    each(dataset, None, value, what, take)
}

/// Like [`for_each_value`]. If the value is a single column, messages name that column and not the
/// SQL made from it.
fn each(
    dataset: &Path,
    column: Option<&str>,
    value: &str,
    what: &str,
    mut take: impl FnMut(Uid, &ArrayRef, usize),
) -> anyhow::Result<()> {
    let sql = format!("SELECT {}, {value} FROM scored", column::UID);
    with_session(Some(dataset), None, async |context| {
        if let Some(column) = column {
            let scored = context.table("scored").await?;
            let known: Vec<&str> =
                scored.schema().fields().iter().map(|field| field.name().as_str()).collect();
            if !known.contains(&column) {
                let meant = nearest(column, known.iter().copied());
                let meant =
                    meant.map_or_else(String::new, |name| format!("; did you mean {name}?"));
                bail!(
                    "{what}: {} has no such column (its columns are {}){meant}",
                    dataset.display(),
                    known.join(", ")
                );
            }
        }
        let mut rows = query(&context, &sql).await.with_context(|| what.to_owned())?;
        while let Some(batch) = rows.next().await? {
            let (uids, values) = (batch.column(0).as_fixed_size_binary(), batch.column(1));
            for row in (0..batch.num_rows()).filter(|row| !values.is_null(*row)) {
                take(Uid::try_from(uids.value(row))?, values, row);
            }
        }
        Ok(())
    })
}

/// Calls `take` for each pair with a column's value as text, whatever the column's type.
pub fn for_each_text(
    dataset: &Path,
    name: &str,
    what: &str,
    mut take: impl FnMut(Uid, &str),
) -> anyhow::Result<()> {
    let what = format!("{what} {name}");
    each(dataset, Some(name), &column_as_text(name), &what, |uid, texts, row| {
        take(uid, texts.as_string::<i32>().value(row));
    })
}

fn column_as_text(name: &str) -> String {
    format!("CAST(\"{}\" AS VARCHAR)", name.replace('"', "\"\""))
}

/// Returns the texts of a column for the selected pairs that have one.
pub fn column_texts(
    dataset: &Path,
    selection: &Selection,
    name: &str,
) -> anyhow::Result<HashMap<Uid, String>> {
    let what = format!("the column {name}");
    selected(dataset, selection, Some(name), &column_as_text(name), &what)
}

/// Returns the values of a text expression for the selected pairs that have one.
pub fn selected_texts(
    dataset: &Path,
    selection: &Selection,
    value: &str,
    what: &str,
) -> anyhow::Result<HashMap<Uid, String>> {
    selected(dataset, selection, None, value, what)
}

fn selected(
    dataset: &Path,
    selection: &Selection,
    column: Option<&str>,
    value: &str,
    what: &str,
) -> anyhow::Result<HashMap<Uid, String>> {
    let wanted: HashSet<Uid> = selection.uids.iter().copied().collect();
    let mut found = HashMap::with_capacity(wanted.len());
    each(dataset, column, value, what, |uid, texts, row| {
        if wanted.contains(&uid) {
            found.insert(uid, texts.as_string::<i32>().value(row).to_owned());
        }
    })?;
    Ok(found)
}
