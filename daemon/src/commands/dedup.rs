//! `diptych dedup`: makes a selection without duplicates.

use diptych_cli::{ByTier, DedupArgs, TierArgs};
use diptych_embeddings::pairs::chosen_part;
use diptych_embeddings::session::with_limited_session;
use diptych_pipeline::remember_selection;
use diptych_pipeline::sql::default_memory;
use diptych_pipeline::{DedupReport, DedupSpec, Tier, dedup};
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::thousands;

use crate::output::line;

/// Characters of a caption that are shown.
const CAPTION: usize = 60;

pub(crate) fn run(args: &DedupArgs) -> anyhow::Result<Outcome> {
    let memory = Memory::of(args.memory.memory_limit);
    let spec =
        DedupSpec { tiers: tiers(&args.tiers), keep: args.keep.clone(), memory: memory.keys };
    let input = chosen_part(&args.dataset.dataset, &args.pairs.choice())?;
    let report = with_limited_session(
        Some(&args.dataset.dataset),
        None,
        Some(memory.queries),
        async |context| {
            Ok(dedup(&context, input.as_ref(), &spec, &args.output, args.groups.as_deref()).await?)
        },
    )?;
    remember_selection(&args.dataset.dataset, &args.output);
    print_report(args, &report)?;
    Ok(Outcome::Done)
}

/// Divides a memory limit between queries and their results.
pub(super) struct Memory {
    pub(super) queries: usize,
    pub(super) keys: usize,
}

impl Memory {
    pub(super) fn of(limit: Option<usize>) -> Self {
        let limit = limit.unwrap_or_else(default_memory);
        Self { queries: limit / 2, keys: limit / 2 }
    }
}

/// Returns the tiers in the order of the arguments, each once.
pub(super) fn tiers(args: &TierArgs) -> Vec<Tier> {
    let mut tiers = Vec::new();
    for by in &args.by {
        let tier = match by {
            ByTier::Sha256 => Tier::Sha256,
            ByTier::Phash => Tier::Phash { hamming: args.hamming },
            ByTier::Caption => Tier::Caption { jaccard: args.jaccard },
            ByTier::Semantic => Tier::Semantic {
                cosine: args.cosine,
                clusters: args.clusters,
                producer: args.producer.clone(),
            },
        };
        if !tiers.contains(&tier) {
            tiers.push(tier);
        }
    }
    tiers
}

fn print_report(args: &DedupArgs, report: &DedupReport) -> anyhow::Result<()> {
    for tier in &report.tiers {
        line(format!(
            "{:>12}  dropped by {}{}",
            thousands(tier.dropped),
            tier.tier,
            unseen(tier.tier, tier.unseen)
        ))?;
        if tier.left_out > 0 {
            let text =
                "comparisons left out: so many captions share a MinHash band without being near";
            line(format!("{:>12}  {text}", thousands(tier.left_out)))?;
        }
    }
    if !report.largest.is_empty() {
        line("largest groups, by the pair that stays:")?;
    }
    for group in &report.largest {
        line(format!("{:>12}  {}  {}", thousands(group.pairs), group.uid, cut(&group.caption)))?;
    }
    if let Some(path) = &args.groups {
        line(format!("{}: {} groups", path.display(), thousands(report.groups)))?;
    }
    line(format!(
        "{}: {} of {} pairs, {} groups of duplicates, selection {:.12}",
        args.output.display(),
        thousands(report.kept),
        thousands(report.of),
        thousands(report.groups),
        report.selection_hash.to_string()
    ))?;
    Ok(())
}

/// Describes the pairs that a tier could not compare.
pub(super) fn unseen(tier: &str, pairs: u64) -> String {
    let what = match (pairs, tier) {
        (0, _) => return String::new(),
        (_, "phash") => {
            "have no perceptual hash and were not judged; `diptych score phash` adds them"
        }
        (_, "semantic") => "have no embedding and were not judged; `diptych score clip` adds them",
        _ => "have an empty caption and were not judged",
    };
    format!(" ({} pairs {what})", thousands(pairs))
}

/// Shortens a caption to one line.
pub(super) fn cut(caption: &str) -> String {
    let mut text: String =
        caption.chars().take(CAPTION).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if caption.chars().nth(CAPTION).is_some() {
        text.push('…');
    }
    text
}
