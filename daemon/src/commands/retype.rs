//! `diptych retype`: converts text columns whose values are all numbers or booleans.

use diptych_cli::RetypeArgs;
use diptych_pipeline::ingest::{Retyped, retype};
use diptych_schemas::outcome::Outcome;

use crate::output::line;

pub(crate) fn run(args: &RetypeArgs) -> anyhow::Result<Outcome> {
    let folder = &args.dataset.dataset;
    let retyped = retype(folder, &args.columns)?;
    for Retyped { column, kind } in &retyped {
        line(format!("{column}: {kind}"))?;
    }
    let count = retyped.len();
    line(format!(
        "{}: {count} columns that were text have the type of their values",
        folder.display()
    ))?;
    Ok(Outcome::Done)
}
