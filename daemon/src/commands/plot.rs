//! `diptych plot`: loss, learning rate and held-out recall of a run as a picture.

use anyhow::bail;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, UInt64Type};
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
    let run = RunName::new(&args.run)?;
    let metrics = with_session(None, Some(state_tables(&args.state)?), async |context| {
        // A run's name has no quote in it.
        let of_run =
            format!("SELECT step, name, value FROM metrics WHERE run = '{run}' ORDER BY step");
        let metrics = metrics_of(&query(&context, &of_run).await?.collect().await?)?;
        if metrics.is_empty() {
            let known = query(&context, "SELECT run FROM runs ORDER BY updated DESC").await?;
            let known: Vec<String> = known
                .collect()
                .await?
                .iter()
                .flat_map(|batch| batch.column(0).as_string::<i32>().iter().flatten())
                .map(str::to_owned)
                .collect();
            bail!(
                "run {run} has no metrics in {}{}",
                args.state.display(),
                other_runs(run.as_str(), &known)
            );
        }
        Ok(metrics)
    })?;
    TrainingPlot::from_metrics(run.as_str(), &metrics).write(&args.output)?;
    line(args.output.display().to_string())?;
    Ok(Outcome::Done)
}

/// Rows of step, name and value.
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
