//! `diptych select`: SQL in, selection out.

use diptych_pipeline::select;

use crate::cli::SelectArgs;
use crate::commands::profile::remember_selection;
use crate::commands::sql::{query_text, with_session};
use crate::exit::Outcome;
use crate::output::{line, thousands};

pub(crate) fn run(args: SelectArgs) -> anyhow::Result<Outcome> {
    let sql = query_text(args.query, args.file.as_deref())?;
    let report = with_session(Some(&args.dataset.dataset), args.state.as_deref(), async |context| {
        Ok(select(&context, &sql, &args.output).await?)
    })?;
    remember_selection(&args.dataset.dataset, &args.output);
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
