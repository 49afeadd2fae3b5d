//! `diptych ingest`: reads sources into a dataset.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::bail;
use diptych_cli::{CaptionsChoice, IngestArgs};
use diptych_embeddings::session::with_session;
use diptych_pipeline::ingest::{
    Captions, IngestError, IngestProgress, IngestReport, IngestRequest, ListOptions,
    PerceptualHash, SourceOutcome, SourceReport, ingest,
};
use diptych_pipeline::sql::phash_of_file;
use diptych_pipeline::sql::query;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::{describe, thousands};
use diptych_schemas::{DatasetManifest, Reason, SchemaError};

use crate::commands::download_options::download_options;
use crate::commands::ingest_progress::IngestBar;
use crate::output::line;
use crate::signals::{self, Ending};

const MIB: u64 = 1 << 20;
/// Most sources that are listed one by one. Of more, only those with a remark are listed.
const LISTED: usize = 10;

pub(crate) fn run(args: IngestArgs) -> anyhow::Result<Outcome> {
    let folder = args.dataset.dataset;
    let is_new = std::fs::read_dir(&folder).map_or(true, |mut entries| entries.next().is_none());
    let ended = attempt(|stop, progress| {
        let request = IngestRequest {
            caption_column: args.caption_column,
            image_column: args.image_column,
            url_column: args.url_column,
            captions: match args.captions {
                CaptionsChoice::First => Captions::First,
                CaptionsChoice::AllColumns => Captions::AllColumns,
                CaptionsChoice::Folder => Captions::Folder,
            },
            lists: ListOptions {
                separator: args.lists.separator,
                columns: args.lists.columns,
                no_header: args.lists.no_header,
                text_columns: args.lists.text_columns,
                encoding: args.lists.encoding,
                images_root: args.lists.images_root,
                allow_outside: args.lists.allow_outside,
            },
            dotted_keys: args.dotted_keys,
            max_pixels: args.max_pixels,
            max_image_bytes: args.max_image_mib.saturating_mul(MIB),
            row_group_bytes: args.row_group_mib.saturating_mul(MIB),
            shard_bytes: args.shard_mib.saturating_mul(MIB),
            verify: args.verify,
            phash: args.phash.then_some(phash_of_file as PerceptualHash),
            download: download_options(args.download, stop),
            ..IngestRequest::new(args.sources, &folder)
        };
        ingest(&request, progress)
    })
    .map_err(|error| with_folder(error, &folder))?;
    let report = match ended {
        Attempt::Stopped(outcome) => return Ok(outcome),
        Attempt::Done(report) => report,
    };
    let printed = print_report(&folder, &report);
    // Otherwise an ingest with the right options would find these sources ingested already. Keeps a
    // ledger that holds more.
    let says_more =
        report.ledger_added.keys().any(|reason| *reason != Reason::MissingCaption.as_str());
    if is_new && report.pairs_total == 0 && !says_more {
        std::fs::remove_dir_all(&folder).map_err(SchemaError::io(&folder))?;
    }
    printed
}

/// Adds the dataset's folder to an error about a full disk, if the error does not name a file.
fn with_folder(error: anyhow::Error, folder: &Path) -> anyhow::Error {
    let text = describe(&error);
    let folder = folder.display().to_string();
    let is_full = text.contains("(os error 28)") || text.contains("(os error 122)");
    if is_full && !text.contains(&folder) { error.context(folder) } else { error }
}

/// The end of an ingest that did not fail.
pub(crate) enum Attempt {
    Done(IngestReport),
    Stopped(Outcome),
}

/// Runs an ingest, shows its progress, and stops it at a signal.
pub(crate) fn attempt(
    work: impl FnOnce(
        Arc<AtomicBool>,
        &mut dyn FnMut(&IngestProgress) -> ControlFlow<()>,
    ) -> Result<IngestReport, IngestError>,
) -> anyhow::Result<Attempt> {
    let stop = signals::watch(Ending::InOrder("what is under way ends and is saved"))?;
    let bar = IngestBar::new()?;
    let ended = work(stop.flag(), &mut |progress| {
        bar.show(progress);
        ControlFlow::Continue(())
    });
    bar.finish();
    match ended {
        Ok(report) => Ok(Attempt::Done(report)),
        Err(error @ IngestError::Stopped { .. }) if stop.is_requested() => {
            line(error.to_string())?;
            Ok(Attempt::Stopped(Outcome::Stopped))
        }
        Err(error) => Err(error.into()),
    }
}

/// Prints the result of an ingest.
pub(crate) fn print_report(folder: &Path, report: &IngestReport) -> anyhow::Result<Outcome> {
    print_sources(report)?;
    if report.tried_again > 0 {
        line(format!(
            "{} entries of the ledger were tried again; {} became pairs",
            thousands(report.tried_again),
            thousands(report.mended)
        ))?;
    }
    line(format!(
        "{}: {} pairs added, {} in all; {} inputs to the ledger",
        folder.display(),
        thousands(report.pairs_added),
        thousands(report.pairs_total),
        thousands(report.ledger_added.values().sum())
    ))?;
    for (reason, count) in &report.ledger_added {
        line(format!("  {:>8} {reason}", thousands(*count)))?;
    }
    if report.pairs_total == 0 {
        bail!("no pair came out of these sources.{}", ledger_examples(folder, &report.sources)?);
    }
    let whole =
        |outcome: &SourceOutcome| matches!(outcome, SourceOutcome::Done | SourceOutcome::AlreadyIn);
    let all_whole = report.sources.iter().all(|source| whole(&source.outcome));
    if !all_whole {
        tracing::warn!(
            "not all sources could be read to their end. Copy those again and repeat this command: \
             it adds only the missing pairs"
        );
    }
    Ok(if all_whole { Outcome::Done } else { Outcome::SourceUnreadable })
}

/// Prints one line for each source: its format and its result.
fn print_sources(report: &IngestReport) -> std::io::Result<()> {
    let many = report.sources.len() > LISTED;
    for source in &report.sources {
        let (said, remarkable) = match &source.outcome {
            SourceOutcome::Done => {
                (format!("{}, {} pairs", source.layout, thousands(source.pairs_added)), false)
            }
            SourceOutcome::AlreadyIn => ("already in".to_owned(), false),
            SourceOutcome::Partial(message) => (
                format!(
                    "{}, {} pairs, then: {message}",
                    source.layout,
                    thousands(source.pairs_added)
                ),
                true,
            ),
            SourceOutcome::Unreadable(message) => (format!("not read: {message}"), true),
        };
        if !many || remarkable || !source.notes.is_empty() {
            line(format!("{}: {said}", source.path))?;
        }
        for note in &source.notes {
            line(format!("  {note}"))?;
        }
    }
    report.notes.iter().try_for_each(line)
}

/// Most sources whose rows of the ledger are looked for.
const MOST_SOURCES: usize = 1000;

/// Describes the first rows of the ledger that these sources have: why no input could be used.
fn ledger_examples(dataset: &Path, sources: &[SourceReport]) -> anyhow::Result<String> {
    if DatasetManifest::read(dataset)?.ledger_rows == 0 {
        return Ok(" They hold no records at all".into());
    }
    let names = sources.iter().take(MOST_SOURCES);
    let names: Vec<String> =
        names.map(|source| format!("'{}'", source.path.replace('\'', "''"))).collect();
    let sql = format!(
        "SELECT source || ', ' || position || ': ' || reason || ' (' || detail || ')' \
         FROM ledger WHERE source IN ({}) ORDER BY source, length(position), position LIMIT 3",
        names.join(", ")
    );
    let examples = with_session(Some(dataset), None, async |context| {
        let mut examples = Vec::new();
        for batch in query(&context, &sql).await?.collect().await? {
            let texts = arrow::array::AsArray::as_string::<i32>(batch.column(0));
            examples.extend(texts.iter().flatten().map(str::to_owned));
        }
        Ok(examples)
    })?;
    Ok(if examples.is_empty() {
        " `diptych ledger` shows the reasons".into()
    } else {
        format!(" The first that were refused: {}", examples.join("; "))
    })
}
