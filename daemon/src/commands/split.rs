//! `diptych split`: splits pairs into training pairs and held-out pairs.

use std::path::Path;

use anyhow::Context;
use diptych_cli::{HeldOutArg, SplitArgs};
use diptych_embeddings::pairs::chosen_pairs;
use diptych_embeddings::session::with_limited_session;
use diptych_pipeline::{
    Grouping, HeldOut, Side, SplitReport, SplitSpec, remember_selection, split,
};
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::thousands;

use crate::output::line;

pub(crate) fn run(args: &SplitArgs) -> anyhow::Result<Outcome> {
    let dataset = &args.dataset.dataset;
    let whole = chosen_pairs(dataset, &args.pairs.choice())?;
    let spec = SplitSpec {
        heldout: match args.heldout {
            HeldOutArg::Share(share) => HeldOut::Share(share),
            HeldOutArg::Pairs(pairs) => HeldOut::Pairs(pairs),
        },
        grouping: match (&args.groups, &args.by) {
            (Some(path), _) => Grouping::File(path),
            (None, Some(value)) => Grouping::Value(value),
            (None, None) => Grouping::Single,
        },
        seed: args.seed,
    };
    std::fs::create_dir_all(&args.output).with_context(|| args.output.display().to_string())?;
    let train = args.output.join("train.parquet");
    let heldout = args.output.join("heldout.parquet");
    let memory = args.memory.memory_limit;
    let report = with_limited_session(Some(dataset), None, memory, async |context| {
        Ok(split(&context, &whole, spec, &train, &heldout).await?)
    })?;
    remember_selection(dataset, &train);
    print(&report, args, whole.len() as u64, &train, &heldout)?;
    Ok(Outcome::Done)
}

fn print(
    report: &SplitReport,
    args: &SplitArgs,
    of: u64,
    train: &Path,
    heldout: &Path,
) -> anyhow::Result<()> {
    let grouped = args.groups.is_some() || args.by.is_some();
    for (path, Side { pairs, groups, selection_hash }) in
        [(train, report.train), (heldout, report.heldout)]
    {
        let groups = if grouped {
            format!(", {} groups of more than one pair", thousands(groups))
        } else {
            String::new()
        };
        line(format!(
            "{}: {} of {} pairs ({:.2}%){groups}, selection {:.12}",
            path.display(),
            thousands(pairs),
            thousands(of),
            100.0 * pairs as f64 / of as f64,
            selection_hash.to_string()
        ))?;
    }
    if report.too_large > 0 {
        line(format!(
            "{} groups have more pairs than are to be held out, the largest {}: they are in {}",
            thousands(report.too_large),
            thousands(report.largest),
            train.display()
        ))?;
    }
    if let Some(share) = report.share {
        line(format!(
            "with a number, pairs may change sides when the dataset grows; with --heldout {:.3}%, \
             they \
             stay",
            100.0 * share
        ))?;
    }
    Ok(())
}
