//! Metrics, events, reasons of the ledger and exit codes: lists that the code keeps with a sentence for each entry.

use diptych_schemas::outcome::EXIT_CODES;
use diptych_schemas::{ReasonDoc, reasons};
use diptych_serve::prometheus_metrics;
use diptych_store::EventKind;
use diptych_training::metric_docs::METRICS;

use super::markdown::{code, sentence, start, table};

pub(super) fn metrics() -> anyhow::Result<String> {
    let about = "Figures of a run, which `diptych sql`, the dashboard and `diptych report` show, and figures of a service for Prometheus.";
    let of_runs =
        METRICS.iter().map(|doc| vec![code(doc.name), doc.unit.to_owned(), sentence(doc.meaning)]);
    let mut text = start("Metrics", about);
    text += "\n## Of a run\n\nThe names in the column `name` of the SQL table `metrics`. `TERM`, `K`, `TASK`, `DATASET` and `FIGURE` stand for words.\n\n";
    text += &table(&["name", "unit", "meaning"], of_runs);
    text += "\n## Of a service\n\nPrometheus reads them at `/metrics`. A histogram has the series `_bucket`, `_sum` and `_count`.\n\n";
    let of_service = prometheus_metrics()?.into_iter().map(|metric| {
        let labels: Vec<String> = metric.labels.iter().map(|label| code(label)).collect();
        let unit = match metric.name.trim_end_matches("_total") {
            name if name.ends_with("_seconds") => "s",
            name if name.ends_with("_bytes") => "bytes",
            name if name.ends_with("_ratio") => "0 to 1",
            _ => "",
        };
        vec![
            code(&metric.name),
            metric.kind,
            unit.to_owned(),
            labels.join(", "),
            sentence(&metric.help),
        ]
    });
    Ok(text + &table(&["name", "type", "unit", "labels", "meaning"], of_service))
}

pub(super) fn events() -> String {
    let about = "What the guards of a run notice. Events are rows of the SQL table `events`, lines of `diptych watch`, \
                 toasts of the dashboard, and the metric `diptych_events_total`. An event is recorded when it begins.";
    let rows = EventKind::ALL
        .map(|kind| vec![code(kind.as_str()), sentence(kind.meaning()), sentence(kind.advice())]);
    format!("{}\n{}", start("Events", about), table(&["kind", "meaning", "what to do"], rows))
}

pub(super) fn ledger() -> String {
    let about = "Why an input did not become a pair, or a pair not a sample. `diptych ledger` lists the entries. An entry is \
                 `retryable` if another try may work: `diptych ledger retry` tries those again. Others are `quarantined`.";
    let rows = reasons().into_iter().map(|ReasonDoc { reason, meaning }| {
        let disposition = code(reason.disposition());
        vec![code(reason.as_str()), disposition, sentence(&meaning), sentence(reason.advice())]
    });
    let head = ["reason", "disposition", "meaning", "what to do"];
    format!("{}\n{}", start("Ledger reasons", about), table(&head, rows))
}

pub(super) fn exit_codes() -> String {
    let about = "How a command ended, for scripts and service managers.";
    let rows = EXIT_CODES.map(|exit| {
        vec![code(&exit.code.to_string()), sentence(exit.meaning), sentence(exit.advice)]
    });
    format!("{}\n{}", start("Exit codes", about), table(&["code", "meaning", "what to do"], rows))
}
