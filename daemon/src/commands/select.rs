//! `diptych select`: makes a selection from SQL.

use std::path::Path;

use diptych_cli::SelectArgs;
use diptych_embeddings::pairs::chosen_pairs;
use diptych_embeddings::session::with_limited_session;
use diptych_pipeline::remember_selection;
use diptych_pipeline::sql::register_pairs;
use diptych_pipeline::{read_uid_list, select_of};
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::thousands;
use diptych_schemas::{ContentHash, PairChoice, SchemaError, Uid};

use crate::client::reading::state_tables;
use crate::commands::preset::preset_sql;
use crate::commands::sql::{query_text, register_files};
use crate::commands::uids::quoted;
use crate::output::line;

/// The table with the uids of a list.
const LIST: &str = "uid_list";

pub(crate) fn run(args: SelectArgs) -> anyhow::Result<Outcome> {
    let list = args.uids.as_deref().map(UidList::read).transpose()?;
    let mut sql = match (&args.preset.preset, &list) {
        (Some(name), _) => preset_sql(name, &args.preset.set)?,
        (None, Some(_)) if args.query.is_none() && args.file.is_none() => {
            UidList::sql(args.uid_column.as_deref())
        }
        (None, None) if args.query.is_none() && args.file.is_none() => String::new(),
        _ => query_text(args.query, args.file.as_deref())?,
    };
    if let Some(list) = &list {
        // The selection says which list it was.
        sql = format!(
            "{}\n-- {LIST}: {} uids, sha256 {}",
            sql.trim_end(),
            list.uids.len(),
            list.hash
        );
    }
    // So does what stands in for a table.
    for (name, path) in &args.tables {
        let hash = ContentHash::of(&std::fs::read(path).map_err(SchemaError::io(path))?);
        sql = format!("{}\n-- {name}: a file of sha256 {hash}", sql.trim_end());
    }
    let dataset = &args.dataset.dataset;
    let part_of = args
        .selection
        .map(|path| chosen_pairs(dataset, &PairChoice::of_selection(path)))
        .transpose()?;
    let memory = args.memory.memory_limit;
    let report = with_limited_session(
        Some(&args.dataset.dataset),
        args.state.as_deref().map(state_tables).transpose()?,
        memory,
        async |context| {
            if let Some(list) = &list {
                register_pairs(&context, LIST, &list.uids, None)?;
            }
            register_files(&context, &args.tables)?;
            Ok(select_of(&context, &sql, part_of.as_ref(), &args.output).await?)
        },
    )?;
    if !args.unremembered {
        remember_selection(&args.dataset.dataset, &args.output);
    }
    if let Some((list, path)) = list.as_ref().zip(args.uids.as_ref()) {
        line(format!("{:>12}  uids in {}", thousands(list.uids.len() as u64), path.display()))?;
    }
    for step in &report.funnel {
        line(format!("{:>12}  {}", thousands(step.remaining), step.condition))?;
    }
    line(format!(
        "{}: {} of {} pairs{}, selection {:.12}, dataset {:.12}",
        args.output.display(),
        thousands(report.rows),
        thousands(report.of),
        if report.weighted { ", weighted" } else { "" },
        report.selection_hash.to_string(),
        report.dataset_hash.to_string()
    ))?;
    Ok(Outcome::Done)
}

/// Uids of a file.
struct UidList {
    uids: Vec<Uid>,
    hash: ContentHash,
}

impl UidList {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let uids = read_uid_list(path)?;
        let hash = ContentHash::of(&uids.iter().flat_map(|uid| uid.0).collect::<Vec<u8>>());
        Ok(Self { uids, hash })
    }

    /// Returns SQL for the pairs of the list, by uid or by a column with uids.
    fn sql(column: Option<&str>) -> String {
        let uid =
            column.map_or_else(|| "uid".to_owned(), |column| format!("uid({})", quoted(column)));
        format!("SELECT uid FROM meta WHERE {uid} IN (SELECT uid FROM {LIST})")
    }
}
