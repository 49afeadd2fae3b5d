//! `diptych balance`: makes a selection that is balanced as MetaCLIP does it.

use anyhow::bail;
use diptych_cli::BalanceArgs;
use diptych_embeddings::session::with_session;
use diptych_pipeline::balance::{BalanceReport, BalanceSpec, Entries, balance};
use diptych_pipeline::remember_selection;
use diptych_pipeline::{Selection, read_counts, write_counts};
use diptych_schemas::DatasetManifest;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::thousands;

use crate::output::line;

/// Entries that the summary names.
const SHOWN: usize = 5;

pub(crate) fn run(args: &BalanceArgs) -> anyhow::Result<Outcome> {
    let entries = Entries::read(&args.entries)?;
    let counts = args.counts.as_deref().map(read_counts).transpose()?;
    if let Some((path, counts)) = args.counts.as_ref().zip(counts.as_ref())
        && counts.len() != entries.len()
    {
        bail!(
            "{} has {} counts, and {} has {} entries",
            path.display(),
            counts.len(),
            args.entries.display(),
            entries.len()
        );
    }
    let selection = args.selection.as_deref().map(Selection::read).transpose()?;
    if let Some(selection) = &selection {
        let dataset = &args.dataset.dataset;
        selection.check_dataset(dataset, &DatasetManifest::read(dataset)?)?;
    }
    let spec = BalanceSpec {
        entries: &entries,
        t: args.t,
        seed: args.seed,
        counts,
        condition: args.condition.as_deref(),
        selection: selection.as_ref(),
    };
    let report = with_session(Some(&args.dataset.dataset), None, async |context| {
        Ok(balance(&context, &spec, &args.output).await?)
    })?;
    if let Some(path) = &args.save_counts {
        write_counts(path, &report.counts)?;
    }
    remember_selection(&args.dataset.dataset, &args.output);
    print(args, &entries, &report)?;
    Ok(Outcome::Done)
}

fn print(args: &BalanceArgs, entries: &Entries, report: &BalanceReport) -> anyhow::Result<()> {
    let matching = report.counts.iter().filter(|count| **count > 0).count() as u64;
    let capped = report.counts.iter().filter(|count| **count > args.t).count() as u64;
    line(format!(
        "{:>12}  pairs, of which {} match an entry",
        thousands(report.candidates),
        thousands(report.matched)
    ))?;
    line(format!(
        "{:>12}  entries, of which {} match a pair, and {} more than {}",
        thousands(entries.len() as u64),
        thousands(matching),
        thousands(capped),
        thousands(args.t)
    ))?;
    let mut order: Vec<u32> = (0..entries.len() as u32).collect();
    order.sort_by_key(|id| std::cmp::Reverse(report.counts[*id as usize]));
    for id in order.into_iter().take(SHOWN) {
        let count = report.counts[id as usize];
        let probability = args.t as f64 / count.max(args.t) as f64;
        line(format!(
            "{:>12}  {:?} is kept with probability {probability:.3}",
            thousands(count),
            entries.name(id)
        ))?;
    }
    line(format!(
        "{}: {} of {} pairs, selection {:.12}, dataset {:.12}",
        args.output.display(),
        thousands(report.selection.rows),
        thousands(report.selection.of),
        report.selection.selection_hash.to_string(),
        report.selection.dataset_hash.to_string()
    ))?;
    Ok(())
}
