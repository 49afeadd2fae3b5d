//! `diptych plot`: loss, learning rate and held-out recall of a run as a picture.

use anyhow::bail;
use diptych_cli::PlotArgs;
use diptych_embeddings::session::open_state;
use diptych_pages::pictures::{EvalSeries, TrainPoint, loss_plot};
use diptych_schemas::outcome::Outcome;
use diptych_store::{MetricRow, RunName};

use crate::output::line;

/// What is drawn of the evaluations: metric, its name in the legend.
const SERIES: [(&str, &str); 2] = [("heldout/i2t_recall@1", "image to text R@1"), ("heldout/t2i_recall@1", "text to image R@1")];
const CHANCE: &str = "heldout/chance_i2t_recall@1";

pub(crate) fn run(args: &PlotArgs) -> anyhow::Result<Outcome> {
    let store = open_state(&args.state)?;
    let run = RunName::new(&args.run)?;
    let rows = store.metrics(&run)?;
    if rows.is_empty() {
        let known: Vec<String> = store.runs()?.iter().map(|record| record.run.to_string()).collect();
        bail!("run {run} has no metrics in {}; runs there: {}", args.state.display(), known.join(", "));
    }
    let value = |row: &MetricRow, name: &str| row.values.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
    let points: Vec<TrainPoint> = rows
        .iter()
        .filter_map(|row| Some(TrainPoint { step: row.step.0, loss: value(row, "loss")?, learning_rate: value(row, "lr")? }))
        .collect();
    let chance = rows.iter().find_map(|row| value(row, CHANCE));
    let series = SERIES.map(|(metric, name)| EvalSeries {
        name: name.to_owned(),
        points: rows.iter().filter_map(|row| Some((row.step.0, value(row, metric)?))).collect(),
        chance,
    });
    let drawn: Vec<EvalSeries> = series.into_iter().filter(|series| !series.points.is_empty()).collect();
    loss_plot(run.as_str(), &points, &drawn, &args.output)?;
    line(args.output.display().to_string())?;
    Ok(Outcome::Done)
}
