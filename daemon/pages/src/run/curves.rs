//! The curves of a run's metrics, together with those of a second run if there is one.

use std::collections::{BTreeMap, BTreeSet};

use diptych_store::EVALUATION_PREFIX;
use maud::{Markup, html};

use super::history::History;
use crate::chart::lines::{Line, LineChart, Unit};
use crate::metrics::{Metrics, TERM, held_out_losses, loss_and_terms};

/// A chart of known metrics.
struct CurveSpec {
    title: &'static str,
    unit: Unit,
    from_zero: bool,
    noisy: bool,
    /// Metrics with the names of their curves.
    metrics: &'static [(&'static str, &'static str)],
}

const PLAIN: CurveSpec =
    CurveSpec { title: "", unit: Unit::Plain, from_zero: true, noisy: false, metrics: &[] };
const IMAGE_TO_TEXT: &[(&str, &str)] = &[
    ("heldout/i2t_recall@1", "R@1"),
    ("heldout/i2t_recall@5", "R@5"),
    ("heldout/i2t_recall@10", "R@10"),
];
const TEXT_TO_IMAGE: &[(&str, &str)] = &[
    ("heldout/t2i_recall@1", "R@1"),
    ("heldout/t2i_recall@5", "R@5"),
    ("heldout/t2i_recall@10", "R@10"),
];
/// Charts that follow the loss, in order.
const KNOWN: [CurveSpec; 7] = [
    CurveSpec { title: "Held out: image to text", metrics: IMAGE_TO_TEXT, ..PLAIN },
    CurveSpec { title: "Held out: text to image", metrics: TEXT_TO_IMAGE, ..PLAIN },
    CurveSpec { title: "Learning rate", metrics: &[("lr", "")], ..PLAIN },
    CurveSpec {
        title: "Samples a second",
        noisy: true,
        metrics: &[("samples_per_second", "")],
        ..PLAIN
    },
    CurveSpec { title: "MFU", unit: Unit::Percent, noisy: true, metrics: &[("mfu", "")], ..PLAIN },
    CurveSpec {
        title: "Norm of the gradient",
        noisy: true,
        metrics: &[("grad_norm", "")],
        ..PLAIN
    },
    CurveSpec { title: "Logit scale", from_zero: false, metrics: &[("logit_scale", "")], ..PLAIN },
];
/// Metrics without a chart: the page shows them as text or in tables, or they exist only at single
/// steps.
const WITHOUT_CHART: [&str; 4] = ["loss", "data_wait_seconds", "overflow", "skipped_step"];

/// Draws the loss with its terms, the known metrics, and all other metrics of the training's steps.
pub(super) fn curves(history: &History, beside: Option<&History>) -> Markup {
    let runs: Vec<(&str, &Metrics)> = std::iter::once(history)
        .chain(beside)
        .map(|history| (history.run.as_str(), &history.metrics))
        .collect();
    html! { @for chart in charts(&runs) { (chart.figure()) } }
}

fn charts<'a>(runs: &[(&str, &'a Metrics)]) -> Vec<LineChart<'a>> {
    let mut losses = loss_and_terms(runs.iter().flat_map(|(_, metrics)| metrics.keys()));
    losses.extend(held_out_losses(runs.iter().flat_map(|(_, metrics)| metrics.keys())));
    let known = KNOWN.iter().map(|known| {
        let metrics: Vec<(String, String)> = known
            .metrics
            .iter()
            .map(|(metric, name)| ((*metric).to_owned(), (*name).to_owned()))
            .collect();
        chart(runs, known, known.title, &metrics)
    });
    let loss = chart(runs, &CurveSpec { from_zero: false, noisy: true, ..PLAIN }, "Loss", &losses);
    let others = others(runs)
        .into_iter()
        .map(|(title, metrics)| chart(runs, &CurveSpec { noisy: true, ..PLAIN }, &title, &metrics));
    std::iter::once(loss).chain(known).chain(others).collect()
}

/// Returns the metrics of further charts by title: one chart for each unknown metric, or for all
/// `group/name` of a group. Results of evaluations have tables instead.
fn others(runs: &[(&str, &Metrics)]) -> BTreeMap<String, Vec<(String, String)>> {
    let known = |name: &str| {
        WITHOUT_CHART.contains(&name)
            || [TERM, EVALUATION_PREFIX, "heldout"].iter().any(|group| name.starts_with(group))
            || KNOWN.iter().flat_map(|known| known.metrics).any(|(metric, _)| *metric == name)
    };
    let names: BTreeSet<&String> =
        runs.iter().flat_map(|(_, metrics)| metrics.keys()).filter(|name| !known(name)).collect();
    let mut charts: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for name in names {
        let words = name.replace('_', " ");
        let (title, own) = words.split_once('/').unwrap_or((&words, ""));
        let (first, rest) = title.split_at(title.chars().next().map_or(0, char::len_utf8));
        charts
            .entry(format!("{}{rest}", first.to_uppercase()))
            .or_default()
            .push((name.clone(), own.to_owned()));
    }
    charts
}

/// Builds a chart of some metrics of all runs. Curves of the second run are dashed.
fn chart<'a>(
    runs: &[(&str, &'a Metrics)],
    like: &CurveSpec,
    title: &str,
    metrics: &[(String, String)],
) -> LineChart<'a> {
    // A single metric is named by the title, and a single run needs no name.
    let named = |name: &str, run: &str| {
        let words =
            [Some(name).filter(|_| metrics.len() > 1), Some(run).filter(|_| runs.len() > 1)];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    };
    let named = &named;
    let lines = metrics.iter().flat_map(|(metric, name)| {
        runs.iter().enumerate().map(move |(place, (run, of_run))| Line {
            // Evaluations are few, so their curves are not smoothed.
            noisy: like.noisy && !metric.starts_with("heldout"),
            dashed: place > 0,
            ..Line::new(named(name, run), of_run.get(metric).map_or(&[][..], Vec::as_slice))
        })
    });
    LineChart {
        title: title.to_owned(),
        unit: like.unit,
        from_zero: like.from_zero,
        lines: lines.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(names: &[&str]) -> Metrics {
        names.iter().map(|name| ((*name).to_owned(), vec![(1, 2.0), (2, 1.0)])).collect()
    }

    fn drawn(charts: &[LineChart<'_>]) -> Vec<(String, Vec<String>)> {
        let names =
            |chart: &LineChart<'_>| chart.lines.iter().map(|line| line.name.clone()).collect();
        charts
            .iter()
            .filter(|chart| !chart.is_empty())
            .map(|chart| (chart.title.clone(), names(chart)))
            .collect()
    }

    #[test]
    fn old_runs_have_their_loss_and_new_ones_their_terms() {
        let old =
            metrics(&["loss", "logit_scale", "heldout/pairs", "eval/flickr/top1", "overflow"]);
        let unnamed = || vec![String::new()];
        assert_eq!(
            drawn(&charts(&[("old", &old)])),
            [("Loss".into(), unnamed()), ("Logit scale".into(), unnamed())]
        );
        let held_out = metrics(&["loss", "heldout/loss"]);
        assert_eq!(
            drawn(&charts(&[("run", &held_out)])),
            [("Loss".into(), vec!["loss".to_owned(), "held out".to_owned()])]
        );
        let one = metrics(&["loss", "loss/clip"]);
        assert_eq!(
            drawn(&charts(&[("one", &one)])),
            [("Loss".into(), unnamed())],
            "one term alone is the loss"
        );
        let new = metrics(&[
            "loss",
            "loss/mlm",
            "loss/itm",
            "accuracy/itm",
            "accuracy/mlm",
            "loss_scale",
        ]);
        let all = drawn(&charts(&[("new", &new)]));
        assert_eq!(all[0], ("Loss".into(), ["loss", "itm", "mlm"].map(String::from).to_vec()));
        assert_eq!(all[1], ("Accuracy".into(), ["itm", "mlm"].map(String::from).to_vec()));
        assert_eq!(all[2], ("Loss scale".into(), unnamed()));
        let two = charts(&[("new", &new), ("old", &old)]);
        let lines: Vec<(&str, bool)> =
            two[0].lines.iter().map(|line| (line.name.as_str(), line.dashed)).collect();
        assert_eq!(
            lines[..4],
            [("loss new", false), ("loss old", true), ("itm new", false), ("itm old", true)]
        );
    }
}
