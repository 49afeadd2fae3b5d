//! `diptych ledger`: shows the inputs that did not become a pair, in numbers or one by one, and
//! retries them.

use std::path::Path;

use anyhow::{Context, anyhow};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use diptych_cli::{LedgerAction, LedgerArgs, LedgerRetryArgs};
use diptych_embeddings::session::with_session;
use diptych_pipeline::ingest::{IngestRequest, PerceptualHash, RetryFilter, retry};
use diptych_pipeline::sql::phash_of_file;
use diptych_pipeline::sql::query;
use diptych_schemas::Reason;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::{did_you_mean, thousands};

use crate::commands::download_options::download_options;
use crate::commands::ingest::{Attempt, attempt, print_report};
use crate::output::{line, one_line};

/// Longest detail in a summary, in characters.
const SHOWN: usize = 90;

pub(crate) fn run(args: LedgerArgs) -> anyhow::Result<Outcome> {
    match args.action {
        Some(LedgerAction::Retry(args)) => run_retry(args),
        None => {
            let dataset = args.shown.dataset.context("no dataset: name one with --dataset")?;
            match args.shown.reason {
                Some(reason) => list(&dataset, named(&reason)?, args.shown.rows),
                None => summarise(&dataset),
            }
        }
    }
}

fn named(reason: &str) -> anyhow::Result<Reason> {
    serde_json::from_value(reason.into()).map_err(|error| {
        // serde lists the known words in backquotes, behind the unknown one.
        let message = error.to_string();
        let known = message.split('`').skip(3).step_by(2);
        anyhow!(
            "unknown reason {reason:?}{}. `diptych ledger --dataset FOLDER` shows the reasons in a \
             ledger",
            did_you_mean(reason, known)
        )
    })
}

fn run_retry(args: LedgerRetryArgs) -> anyhow::Result<Outcome> {
    let folder = args.dataset.dataset;
    let filter = RetryFilter { reason: args.reason.as_deref().map(named).transpose()? };
    match attempt(|stop, progress| {
        let request = IngestRequest {
            phash: args.phash.then_some(phash_of_file as PerceptualHash),
            download: download_options(args.download, stop),
            ..IngestRequest::new(Vec::new(), &folder)
        };
        retry(&request, filter, progress)
    })? {
        Attempt::Stopped(outcome) => Ok(outcome),
        Attempt::Done(report) if report.sources.is_empty() => {
            let of_reason =
                args.reason.map_or("retryable".into(), |reason| format!("of reason {reason}"));
            line(format!("{}: no entry of the ledger is {of_reason}", folder.display()))?;
            Ok(Outcome::Done)
        }
        Attempt::Done(report) => print_report(&folder, &report),
    }
}

/// Collects the rows of a query over the dataset.
fn rows(dataset: &Path, sql: &str) -> anyhow::Result<Vec<RecordBatch>> {
    with_session(Some(dataset), None, async |context| {
        Ok(query(&context, sql).await?.collect().await?)
    })
}

fn text(batch: &RecordBatch, column: usize, row: usize) -> anyhow::Result<String> {
    let array = arrow::compute::cast(batch.column(column), &arrow::datatypes::DataType::Utf8)
        .context("reading the ledger")?;
    Ok(array.as_string::<i32>().value(row).to_owned())
}

/// Prints one line for each reason, disposition, stage and source, most frequent first, with an
/// example.
fn summarise(dataset: &Path) -> anyhow::Result<Outcome> {
    let sql = "SELECT reason, disposition, stage, source, count(*), \
               min(position || CASE WHEN key = '' THEN '' ELSE ', ' || key END || ': ' || detail) \
               FROM ledger GROUP BY reason, disposition, stage, source ORDER BY count(*) DESC, \
               reason, source";
    let mut total = 0;
    let mut retryable = 0;
    let mut lines = Vec::new();
    for batch in rows(dataset, sql)? {
        let counts = batch.column(4).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let of = |column| text(&batch, column, row);
            let (reason, disposition, stage, source, example) =
                (of(0)?, of(1)?, of(2)?, of(3)?, of(5)?);
            let count = counts.value(row) as u64;
            total += count;
            retryable += if disposition == diptych_schemas::RETRYABLE { count } else { 0 };
            lines.push(format!(
                "{:>10}  {reason:<18} {disposition:<11} {stage:<6} {source}",
                thousands(count)
            ));
            lines.push(format!("{:>10}  for example {}", "", shortened(&example)));
        }
    }
    line(format!(
        "{}: {} entries, {} of them retryable",
        dataset.display(),
        thousands(total),
        thousands(retryable)
    ))?;
    for text in lines {
        line(text)?;
    }
    Ok(Outcome::Done)
}

/// Prints the entries of one reason, with tabs between fields.
fn list(dataset: &Path, reason: Reason, limit: usize) -> anyhow::Result<Outcome> {
    let limit = if limit == 0 { String::new() } else { format!(" LIMIT {limit}") };
    let sql = format!(
        "SELECT source, position, key, detail FROM ledger WHERE reason = '{}'{limit}",
        reason.as_str()
    );
    for batch in rows(dataset, &sql)? {
        for row in 0..batch.num_rows() {
            let fields = (0..4)
                .map(|column| text(&batch, column, row))
                .collect::<anyhow::Result<Vec<_>>>()?;
            line(fields.iter().map(|field| one_line(field)).collect::<Vec<_>>().join("\t"))?;
        }
    }
    Ok(Outcome::Done)
}

fn shortened(text: &str) -> String {
    let text = one_line(text);
    if text.chars().count() <= SHOWN {
        return text;
    }
    format!("{}…", text.chars().take(SHOWN).collect::<String>())
}
