//! `diptych plot`: draws loss, learning rate and held-out recall of runs as a picture.

use anyhow::bail;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, UInt64Type};
use datafusion::prelude::SessionContext;
use diptych_cli::PlotArgs;
use diptych_embeddings::session::with_session;
use diptych_pages::Metrics;
use diptych_pages::pictures::TrainingPlot;
use diptych_pages::run::other_runs;
use diptych_pipeline::sql::query;
use diptych_schemas::outcome::Outcome;
use diptych_store::RunName;

use crate::client::reading::state_tables;
use crate::output::line;

pub(crate) fn run(args: &PlotArgs) -> anyhow::Result<Outcome> {
    let names = args.runs.iter().map(|run| RunName::new(run)).collect::<Result<Vec<_>, _>>()?;
    let runs = with_session(None, Some(state_tables(&args.state)?), async |context| {
        let mut runs = Vec::new();
        for run in &names {
            let metrics = metrics_of_run(&context, run).await?;
            if metrics.is_empty() {
                let known = known_runs(&context).await?;
                bail!(
                    "run {run} has no metrics in {}{}",
                    args.state.display(),
                    other_runs(run.as_str(), &known)
                );
            }
            runs.push((run.to_string(), metrics));
        }
        Ok(runs)
    })?;
    let plot = match &runs[..] {
        [(run, metrics)] => TrainingPlot::from_metrics(run, metrics),
        several => TrainingPlot::of_several(several),
    };
    plot.write(&args.output)?;
    line(args.output.display().to_string())?;
    Ok(Outcome::Done)
}

async fn metrics_of_run(context: &SessionContext, run: &RunName) -> anyhow::Result<Metrics> {
    // The name of a run has no quote in it.
    let sql = format!("SELECT step, name, value FROM metrics WHERE run = '{run}' ORDER BY step");
    metrics_of(&query(context, &sql).await?.collect().await?)
}

/// Names of all runs, newest first.
async fn known_runs(context: &SessionContext) -> anyhow::Result<Vec<String>> {
    let known = query(context, "SELECT run FROM runs ORDER BY updated DESC").await?;
    let batches = known.collect().await?;
    let names =
        batches.iter().flat_map(|batch| batch.column(0).as_string::<i32>().iter().flatten());
    Ok(names.map(str::to_owned).collect())
}

/// Collects rows of step, name and value.
fn metrics_of(batches: &[RecordBatch]) -> anyhow::Result<Metrics> {
    let mut metrics = Metrics::new();
    for batch in batches {
        let columns = (
            batch.column(0).as_primitive_opt::<UInt64Type>(),
            batch.column(1).as_string_opt::<i32>(),
            batch.column(2).as_primitive_opt::<Float64Type>(),
        );
        let (Some(steps), Some(names), Some(values)) = columns else {
            bail!("the table metrics has other columns: is it of another version?");
        };
        for ((step, name), value) in steps.values().iter().zip(names.iter()).zip(values.values()) {
            let name = name.unwrap_or_default().to_owned();
            metrics.entry(name).or_default().push((*step, *value));
        }
    }
    Ok(metrics)
}
