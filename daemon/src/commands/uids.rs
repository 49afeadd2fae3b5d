//! `diptych uids`: writes a selection as DataComp's list of uids.

use anyhow::{Context, bail};
use arrow::array::AsArray;
use diptych_cli::UidsArgs;
use diptych_embeddings::session::with_session;
use diptych_pipeline::sql::{query, register_pairs};
use diptych_pipeline::{Selection, write_uid_list};
use diptych_schemas::Uid;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::thousands;

use crate::output::line;

pub(crate) fn run(args: &UidsArgs) -> anyhow::Result<Outcome> {
    let selection = Selection::read(&args.selection)?;
    let pairs = selection.len();
    let uids = match &args.uid_column {
        None => selection.uids,
        Some(column) => of_column(args, &selection, column)?,
    };
    let written = write_uid_list(&args.output, uids)?;
    line(format!(
        "{}: {} uids of {} pairs",
        args.output.display(),
        thousands(written),
        thousands(pairs as u64)
    ))?;
    Ok(Outcome::Done)
}

/// Returns the uids of a column of meta.
fn of_column(args: &UidsArgs, selection: &Selection, column: &str) -> anyhow::Result<Vec<Uid>> {
    with_session(args.dataset.as_deref(), None, async |context| {
        register_pairs(&context, "selection", &selection.uids, None)?;
        let column = quoted(column);
        let sql =
            format!("SELECT uid({column}) FROM meta WHERE uid IN (SELECT uid FROM selection)");
        let mut rows = query(&context, &sql).await?;
        let mut uids = Vec::with_capacity(selection.len());
        while let Some(batch) = rows.next().await? {
            for uid in batch.column(0).as_fixed_size_binary() {
                let uid = uid.with_context(|| {
                    format!("a pair of the selection has no {column}, so the list would lack it")
                })?;
                uids.push(Uid::try_from(uid)?);
            }
        }
        if uids.len() != selection.len() {
            bail!(
                "only {} of the selection's {} pairs are in the dataset: it belongs to another \
                 dataset",
                uids.len(),
                selection.len()
            );
        }
        Ok(uids)
    })
}

/// Quotes a name for SQL if it has other characters than letters.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
