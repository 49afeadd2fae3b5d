//! Single columns and expressions of a dataset, pair by pair.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::Context;
use arrow::array::{Array, ArrayRef, AsArray};
use diptych_pipeline::Selection;
use diptych_pipeline::sql::query;
use diptych_schemas::{Uid, column};

use crate::session::with_session;

/// Reads meta with the scores and gives `take` each pair for which `value`, an expression over their columns, is not null: its uid, and the
/// array and row with the value. `what` the value is, for an error.
pub fn each_value(
    dataset: &Path,
    value: &str,
    what: &str,
    mut take: impl FnMut(Uid, &ArrayRef, usize),
) -> anyhow::Result<()> {
    let sql = format!("SELECT {}, {value} FROM scored", column::UID);
    with_session(Some(dataset), None, async |context| {
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

/// The same for a column of any type, as text.
pub fn each_text(
    dataset: &Path,
    name: &str,
    what: &str,
    mut take: impl FnMut(Uid, &str),
) -> anyhow::Result<()> {
    each_value(dataset, &column_as_text(name), &format!("{what} {name}"), |uid, texts, row| {
        take(uid, texts.as_string::<i32>().value(row));
    })
}

fn column_as_text(name: &str) -> String {
    format!("CAST(\"{}\" AS VARCHAR)", name.replace('"', "\"\""))
}

/// The texts of a column, of the selection's pairs that have one.
pub fn column_texts(
    dataset: &Path,
    selection: &Selection,
    name: &str,
) -> anyhow::Result<HashMap<Uid, String>> {
    selected_texts(dataset, selection, &column_as_text(name), &format!("the column {name}"))
}

/// The same for an expression whose values are texts.
pub fn selected_texts(
    dataset: &Path,
    selection: &Selection,
    value: &str,
    what: &str,
) -> anyhow::Result<HashMap<Uid, String>> {
    let wanted: HashSet<Uid> = selection.uids.iter().copied().collect();
    let mut found = HashMap::with_capacity(wanted.len());
    each_value(dataset, value, what, |uid, texts, row| {
        if wanted.contains(&uid) {
            found.insert(uid, texts.as_string::<i32>().value(row).to_owned());
        }
    })?;
    Ok(found)
}
