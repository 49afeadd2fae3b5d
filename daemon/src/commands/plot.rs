//! `diptych plot`: loss, learning rate and held-out recall of a run as a picture.

use anyhow::bail;
use diptych_cli::PlotArgs;
use diptych_embeddings::session::open_state;
use diptych_pages::Metrics;
use diptych_pages::pictures::TrainingPlot;
use diptych_pages::run::other_runs;
use diptych_schemas::outcome::Outcome;
use diptych_store::RunName;

use crate::output::line;

pub(crate) fn run(args: &PlotArgs) -> anyhow::Result<Outcome> {
    let store = open_state(&args.state)?;
    let run = RunName::new(&args.run)?;
    let rows = store.metrics(&run)?;
    if rows.is_empty() {
        let mut known = store.runs()?;
        known.sort_by_key(|record| std::cmp::Reverse(record.updated));
        let known: Vec<String> = known.iter().map(|record| record.run.to_string()).collect();
        bail!(
            "run {run} has no metrics in {}{}",
            args.state.display(),
            other_runs(run.as_str(), &known)
        );
    }
    let mut metrics = Metrics::new();
    for row in &rows {
        for (name, value) in &row.values {
            metrics.entry(name.clone()).or_default().push((row.step.0, *value));
        }
    }
    TrainingPlot::of(run.as_str(), &metrics).write(&args.output)?;
    line(args.output.display().to_string())?;
    Ok(Outcome::Done)
}
