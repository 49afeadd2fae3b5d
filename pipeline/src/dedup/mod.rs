//! Deduplication of a dataset or a selection, and decontamination against evaluation sets.
//!
//! Tiers compare pairs by equal bytes (`tiers`, `classes`), near perceptual hashes (`hamming`),
//! near captions (`captions`, `caption_index`) and near embeddings (`semantic`). A tier reads one
//! column, collapses equal values into classes, and finds near classes without comparing all pairs.
//! Rows that stay are chosen once for all tiers together (`stars`), from the best row to the worst.
//! So every dropped pair is near to one that stays.
//!
//! It reads meta, scores and embeddings, never images. Keys beyond the memory limit go to temporary
//! files. On top come about 12 bytes per pair and tier (20 for perceptual hashes and captions), 32
//! per pair of the written selection, and the near pairs. The result does not depend on threads.

mod caption_index;
mod captions;
mod classes;
mod error;
mod hamming;
mod keys;
mod output;
mod rows;
mod semantic;
mod stars;
mod tiers;
mod vectors;

use std::path::Path;
use std::sync::Arc;

use datafusion::prelude::SessionContext;
use diptych_schemas::{ContentHash, Uid};

use crate::selection::Selection;
use rows::{RowSet, Rows};
use stars::{Alike, Dropped, Near, drop_alike, drop_near};
use tiers::{Built, Source, build, rows_of};

pub use error::DedupError;
pub use hamming::MAX_HAMMING;
pub use tiers::Tier;

/// Groups and contaminated pairs that a report lists.
const SHOWN: usize = 5;

/// The settings of a deduplication.
#[derive(Clone, Debug)]
pub struct DedupSpec {
    /// A pair that several tiers would drop counts for the first of them.
    pub tiers: Vec<Tier>,
    /// SQL as after ORDER BY, over meta and scores: the first pair of a group stays. Nulls are
    /// last, ties are ordered by uid.
    pub keep: String,
    /// Memory for keys in bytes. Further keys go to temporary files.
    pub memory: usize,
}

/// The result of one tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierReport {
    pub tier: &'static str,
    /// Dropped pairs.
    pub dropped: u64,
    /// Pairs without a value for this tier, which were not compared.
    pub unseen: u64,
    /// Comparisons that were not made, because too many captions shared a band without being
    /// similar.
    pub left_out: u64,
}

/// The result of a deduplication.
#[derive(Clone, Debug, PartialEq)]
pub struct DedupReport {
    /// Pairs before and after.
    pub of: u64,
    pub kept: u64,
    pub groups: u64,
    pub tiers: Vec<TierReport>,
    pub largest: Vec<LargeGroup>,
    pub selection_hash: ContentHash,
}

/// A group, described by the pair that stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LargeGroup {
    pub pairs: u64,
    pub uid: Uid,
    pub caption: String,
}

/// An evaluation set.
pub struct Evaluation {
    pub name: String,
    pub context: SessionContext,
}

/// The result of a decontamination.
#[derive(Clone, Debug, PartialEq)]
pub struct DecontaminationReport {
    pub of: u64,
    pub kept: u64,
    pub evaluations: Vec<Contamination>,
    /// Pairs of all sets without a value for a tier, by the tier's name.
    pub unseen: Vec<(&'static str, u64)>,
    pub selection_hash: ContentHash,
}

/// Pairs that are near to those of one evaluation set.
#[derive(Clone, Debug, PartialEq)]
pub struct Contamination {
    pub name: String,
    /// Pairs of the evaluation set.
    pub pairs: u64,
    pub dropped: u64,
    pub by_tier: Vec<(&'static str, u64)>,
    /// The nearest first.
    pub examples: Vec<Example>,
}

/// A pair and the near one of the evaluation set.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    pub uid: Uid,
    pub caption: String,
    pub evaluation_uid: Uid,
    pub evaluation_caption: String,
    pub tier: &'static str,
    pub distance: f32,
}

/// Drops all but one pair of each group of near pairs, in `input` or in the whole dataset. Writes
/// the selection to `output` and, if given, the pairs of all groups to `groups`.
pub async fn dedup(
    context: &SessionContext,
    input: Option<&Selection>,
    spec: &DedupSpec,
    output: &Path,
    groups: Option<&Path>,
) -> Result<DedupReport, DedupError> {
    let source = source("the dataset", context, 0, input).await?;
    let sources = [source];
    let (mut alike, unseen) = build_all(spec, &sources, None).await?;
    let order = best_first(&sources[0], &alike, &spec.keep).await?;
    let dropped = drop_alike(&mut alike, &order);
    drop(order);
    let left_out: Vec<u64> = alike.iter().map(left_out).collect();
    drop(alike);

    let kept = Arc::new(kept_rows(&sources[0], &dropped));
    let sql = format!(
        "{}\n-- diptych dedup {} --keep {:?}",
        made_by(input),
        shown_tiers(&spec.tiers),
        spec.keep
    );
    let selection = output::selection_of(&sources[0], input, &kept, sql).await?;
    let stars = output::Stars::new(dropped);
    if let Some(path) = groups {
        output::write_groups(path, &sources[0], &stars, &spec.tiers).await?;
    }
    let largest = output::largest(&sources[0], &stars, SHOWN).await?;
    let selection_hash = selection.write(output)?;
    let tiers = spec.tiers.iter().enumerate().map(|(index, tier)| TierReport {
        tier: tier.name(),
        dropped: stars.dropped.iter().filter(|dropped| dropped.tier == index).count() as u64,
        unseen: unseen[index],
        left_out: left_out[index],
    });
    Ok(DedupReport {
        of: sources[0].len(),
        kept: selection.len() as u64,
        groups: stars.len(),
        tiers: tiers.collect(),
        largest,
        selection_hash,
    })
}

/// Drops the pairs of `input`, or of the whole dataset, that are near to pairs of evaluation sets.
/// Ignores `spec.keep`.
///
/// Writes the selection to `output` and, if given, each dropped pair with its match to `groups`.
pub async fn decontaminate(
    context: &SessionContext,
    input: Option<&Selection>,
    against: &[Evaluation],
    spec: &DedupSpec,
    output: &Path,
    groups: Option<&Path>,
) -> Result<DecontaminationReport, DedupError> {
    let mut sources = vec![source("the dataset", context, 0, input).await?];
    let references = rows_of(&sources);
    for evaluation in against {
        let next = source(&evaluation.name, &evaluation.context, rows_of(&sources), None).await?;
        sources.push(next);
    }
    let (mut alike, unseen) = build_all(spec, &sources, Some(references)).await?;
    let mut contaminated: Vec<Vec<Dropped>> = Vec::new();
    for evaluation in &sources[1..] {
        contaminated.push(drop_near(&mut alike, &evaluation.rows.numbers(), references));
    }
    drop(alike);
    let all: Vec<Dropped> = contaminated.iter().flatten().copied().collect();
    let kept = Arc::new(kept_rows(&sources[0], &all));
    let names: Vec<&str> = against.iter().map(|evaluation| evaluation.name.as_str()).collect();
    let sql = format!(
        "{}\n-- diptych decontaminate {} --against {}",
        made_by(input),
        shown_tiers(&spec.tiers),
        names.join(",")
    );
    let selection = output::selection_of(&sources[0], input, &kept, sql).await?;
    if let Some(path) = groups {
        output::write_contaminated(path, &sources, &contaminated, &spec.tiers).await?;
    }
    let mut evaluations = Vec::new();
    for (evaluation, mut dropped) in sources[1..].iter().zip(contaminated) {
        let of_tier =
            |index: usize| dropped.iter().filter(|dropped| dropped.tier == index).count() as u64;
        let by_tier = spec
            .tiers
            .iter()
            .enumerate()
            .map(|(index, tier)| (tier.name(), of_tier(index)))
            .collect();
        let count = dropped.len() as u64;
        dropped.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then(a.row.cmp(&b.row)));
        dropped.truncate(SHOWN);
        evaluations.push(Contamination {
            name: evaluation.name.clone(),
            pairs: evaluation.len(),
            dropped: count,
            by_tier,
            examples: output::examples(&sources[0], evaluation, &dropped, &spec.tiers).await?,
        });
    }
    let selection_hash = selection.write(output)?;
    Ok(DecontaminationReport {
        of: sources[0].len(),
        kept: selection.len() as u64,
        evaluations,
        unseen: spec.tiers.iter().map(Tier::name).zip(unseen).collect(),
        selection_hash,
    })
}

async fn source(
    name: &str,
    context: &SessionContext,
    first: u32,
    input: Option<&Selection>,
) -> Result<Source, DedupError> {
    let rows = Rows::number(context, first).await?;
    let wanted = input.map(|selection| rows.of_selection(selection)).transpose()?.map(Arc::new);
    let name = rows
        .dataset()
        .map_or_else(|| name.to_owned(), |dataset| dataset.folder().display().to_string());
    Ok(Source { name, rows, wanted })
}

async fn build_all(
    spec: &DedupSpec,
    sources: &[Source],
    references: Option<u32>,
) -> Result<(Vec<Alike>, Vec<u64>), DedupError> {
    if spec.tiers.is_empty() {
        return Err(DedupError::NoTiers);
    }
    let (mut alike, mut without_value) = (Vec::new(), Vec::new());
    for tier in &spec.tiers {
        let started = std::time::Instant::now();
        let Built { alike: built, unseen } = build(tier, sources, spec.memory, references).await?;
        tracing::debug!("{tier}: {:.1} s", started.elapsed().as_secs_f64());
        alike.push(built);
        without_value.push(unseen);
    }
    Ok((alike, without_value))
}

/// Returns the rows that are near to any other, best first.
async fn best_first(source: &Source, alike: &[Alike], keep: &str) -> Result<Vec<u32>, DedupError> {
    let mut involved = RowSet::none(source.rows.numbers().end);
    for tier in alike {
        tier.add_involved(&mut involved);
    }
    let involved = Arc::new(involved);
    let mut order = Vec::with_capacity(involved.len() as usize);
    // On a separate line, so that a comment in it ends.
    let by = format!("{keep}\n, uid");
    let started = std::time::Instant::now();
    let scanned =
        source.rows.scan("", source.rows.wide_table(), Some(&involved), Some(&by), |_, numbers| {
            order.extend(numbers);
            Ok(())
        });
    scanned.await?;
    tracing::debug!("order of {} pairs: {:.1} s", order.len(), started.elapsed().as_secs_f64());
    Ok(order)
}

fn kept_rows(source: &Source, dropped: &[Dropped]) -> RowSet {
    let mut kept = match &source.wanted {
        Some(wanted) => RowSet::clone(wanted),
        None => RowSet::all(source.rows.count),
    };
    for dropped in dropped {
        kept.remove(dropped.row);
    }
    kept
}

fn left_out(alike: &Alike) -> u64 {
    match &alike.near {
        Near::Captions(index) => index.left_out,
        Near::Equal | Near::Pairs(_) => 0,
    }
}

fn made_by(input: Option<&Selection>) -> &str {
    input.map_or("SELECT uid FROM meta", |input| &input.sql)
}

fn shown_tiers(tiers: &[Tier]) -> String {
    tiers.iter().map(Tier::to_string).collect::<Vec<_>>().join(" ")
}
