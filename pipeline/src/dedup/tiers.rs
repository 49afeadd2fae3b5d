//! Reads the columns of each tier and finds its near classes.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, UInt64Type};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::DedupError;
use super::caption_index::BandKeys;
use super::captions::{normalise, shingles};
use super::classes::{Classes, NO_CLASS};
use super::hamming::{Hashed, pairs_within};
use super::rows::{RowSet, Rows};
use super::semantic;
use super::stars::{Alike, Near};
use crate::random::mix;
use crate::sql::SqlError;

/// A criterion by which pairs are near.
#[derive(Clone, Debug, PartialEq)]
pub enum Tier {
    /// Equal bytes of the image.
    Sha256,
    /// Perceptual hashes that differ in at most `hamming` of 64 bits.
    Phash { hamming: u32 },
    /// Normalised captions with at least this Jaccard similarity of their shingles (runs of five
    /// characters); 1: equal ones.
    Caption { jaccard: f64 },
    /// Image embeddings with at least this cosine, within clusters (SemDeDup: Abbas et al., 2023).
    Semantic {
        cosine: f64,
        /// Number of clusters; 0: about one per thousand pairs.
        clusters: usize,
        /// First characters of the producer's hash; empty: the newest producer.
        producer: String,
    },
}

impl Tier {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Phash { .. } => "phash",
            Self::Caption { .. } => "caption",
            Self::Semantic { .. } => "semantic",
        }
    }
}

/// Formats the tier as on the command line.
impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256 => write!(f, "--by sha256"),
            Self::Phash { hamming } => write!(f, "--by phash --hamming {hamming}"),
            Self::Caption { jaccard } => write!(f, "--by caption --jaccard {jaccard}"),
            Self::Semantic { cosine, clusters, producer } => {
                write!(
                    f,
                    "--by semantic --cosine {cosine} --clusters {clusters} --producer {producer:?}"
                )
            }
        }
    }
}

/// The rows of a dataset that are compared.
pub(super) struct Source {
    /// For messages.
    pub(super) name: String,
    pub(super) rows: Rows,
    pub(super) wanted: Option<Arc<RowSet>>,
}

impl Source {
    pub(super) fn len(&self) -> u64 {
        self.wanted.as_ref().map_or(u64::from(self.rows.count), |wanted| wanted.len())
    }
}

/// A finished tier, and the number of rows without a value for it.
pub(super) struct Built {
    pub(super) alike: Alike,
    pub(super) unseen: u64,
}

/// Reads the data of a tier. `memory` is the limit for keys in bytes. Rows from `references` on are
/// those of evaluation sets. Then only pairs of one of them and an earlier row matter.
pub(super) async fn build(
    tier: &Tier,
    sources: &[Source],
    memory: usize,
    references: Option<u32>,
) -> Result<Built, DedupError> {
    match tier {
        Tier::Sha256 => by_sha256(sources, memory).await,
        Tier::Phash { hamming } => by_phash(sources, memory, *hamming, references).await,
        Tier::Caption { jaccard } => by_caption(sources, memory, *jaccard).await,
        Tier::Semantic { cosine, clusters, producer } => {
            semantic::by_embedding(sources, memory, *cosine, *clusters, producer, references).await
        }
    }
}

pub(super) fn rows_of(sources: &[Source]) -> u32 {
    sources.last().map_or(0, |last| last.rows.numbers().end)
}

async fn by_sha256(sources: &[Source], memory: usize) -> Result<Built, DedupError> {
    let mut classes = Classes::new(rows_of(sources), memory);
    for source in sources {
        source
            .rows
            .scan("sha256", "meta", source.wanted.as_ref(), None, |batch, numbers| {
                let hashes = batch.column(0).as_fixed_size_binary();
                for (row, &number) in numbers.iter().enumerate() {
                    // The first half has as many bits as a uid.
                    classes
                        .push(first_128_bits(hashes.value(row)), number)
                        .map_err(DedupError::temporary)?;
                }
                Ok(())
            })
            .await?;
    }
    let classes = classes.finish().map_err(DedupError::temporary)?;
    Ok(Built { alike: Alike { classes, near: Near::Equal }, unseen: 0 })
}

pub(super) fn first_128_bits(hash: &[u8]) -> [u64; 2] {
    let word =
        |at: usize| hash[at..at + 8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    [word(0), word(8)]
}

async fn by_phash(
    sources: &[Source],
    memory: usize,
    hamming: u32,
    references: Option<u32>,
) -> Result<Built, DedupError> {
    let mut classes = Classes::new(rows_of(sources), memory);
    let mut hashes = vec![0; rows_of(sources) as usize];
    let mut unseen = 0;
    for source in sources {
        let mut missing = 0;
        source
            .rows
            .scan(
                "phash",
                source.rows.wide_table(),
                source.wanted.as_ref(),
                None,
                |batch, numbers| {
                    let column = cast(batch.column(0), &DataType::UInt64)
                        .map_err(|error| SqlError::Session(error.to_string()))?;
                    let column = column.as_primitive::<UInt64Type>();
                    for (row, &number) in numbers.iter().enumerate() {
                        if column.is_null(row) {
                            missing += 1;
                            continue;
                        }
                        let hash = column.value(row);
                        hashes[number as usize] = hash;
                        classes.push([mix(hash), hash], number).map_err(DedupError::temporary)?;
                    }
                    Ok(())
                },
            )
            .await?;
        if missing == source.len() && missing > 0 {
            return Err(DedupError::NoHashes { dataset: source.name.clone(), rows: missing });
        }
        unseen += missing;
    }
    let classes = classes.finish().map_err(DedupError::temporary)?;
    let mut distinct: Vec<Hashed> =
        firsts(&classes).map(|class| Hashed { hash: hashes[class as usize], class }).collect();
    drop(hashes);
    let on_both_sides = references.map(|first| Sides::of(&classes, first));
    let wanted = |a: u32, b: u32| on_both_sides.as_ref().is_none_or(|sides| sides.join(a, b));
    // Each pair is stored three times before the groups are formed.
    let most = (memory / 36).max(1 << 20);
    let found = pairs_within(&mut distinct, hamming, most, &wanted);
    drop(distinct);
    let found = found.ok_or(DedupError::TooManyPairs {
        what: "perceptual hashes are near",
        option: "--hamming",
        most,
    })?;
    let pairs = found.iter().map(|pair| (pair.a, pair.b, pair.distance as f32));
    Ok(Built { alike: Alike { near: both_ways(pairs), classes }, unseen })
}

/// Returns the first row of each class.
pub(super) fn firsts(classes: &[u32]) -> impl Iterator<Item = u32> {
    (0..).zip(classes).filter(|(row, class)| row == *class).map(|(row, _)| row)
}

pub(super) fn both_ways(pairs: impl Iterator<Item = (u32, u32, f32)>) -> Near {
    let mut both: Vec<_> =
        pairs.flat_map(|(a, b, distance)| [(a, b, distance), (b, a, distance)]).collect();
    // The nearest first, so that they are reported first.
    both.par_sort_unstable_by(|x, y| (x.0, x.1).cmp(&(y.0, y.1)));
    Near::Pairs(both)
}

/// Classes that have references, and classes that have other rows.
pub(super) struct Sides {
    references: RowSet,
    others: RowSet,
}

impl Sides {
    pub(super) fn of(classes: &[u32], first_reference: u32) -> Self {
        let mut sides = Self {
            references: RowSet::none(classes.len() as u32),
            others: RowSet::none(classes.len() as u32),
        };
        for (row, &class) in (0..).zip(classes).filter(|(_, class)| **class != NO_CLASS) {
            if row >= first_reference {
                sides.references.insert(class);
            } else {
                sides.others.insert(class);
            }
        }
        sides
    }

    pub(super) fn join(&self, a: u32, b: u32) -> bool {
        let across = |a, b| self.references.contains(a) && self.others.contains(b);
        across(a, b) || across(b, a)
    }
}

/// Reads the captions three times: all for equal ones, one per class for bands, and those that
/// share a band for their texts.
async fn by_caption(sources: &[Source], memory: usize, jaccard: f64) -> Result<Built, DedupError> {
    let rows = rows_of(sources);
    let mut classes = Classes::new(rows, memory);
    let mut unseen = 0;
    for source in sources {
        let scanned =
            source.rows.scan("caption", "meta", source.wanted.as_ref(), None, |batch, numbers| {
                let captions: &StringArray = batch.column(0).as_string();
                let keys: Vec<_> = (0..numbers.len())
                    .into_par_iter()
                    .map(|row| caption_key(captions.value(row)))
                    .collect();
                for (key, &number) in keys.into_iter().zip(numbers) {
                    match key {
                        Some(key) => classes.push(key, number).map_err(DedupError::temporary)?,
                        None => unseen += 1,
                    }
                }
                Ok(())
            });
        scanned.await?;
    }
    let classes = classes.finish().map_err(DedupError::temporary)?;
    if jaccard >= 1.0 {
        return Ok(Built { alike: Alike { classes, near: Near::Equal }, unseen });
    }
    let mut first_rows = RowSet::none(rows);
    firsts(&classes).for_each(|row| first_rows.insert(row));
    let first_rows = Arc::new(first_rows);
    let mut keys = BandKeys::new(jaccard, rows, memory);
    for source in sources {
        let scanned =
            source.rows.scan("caption", "meta", Some(&first_rows), None, |batch, numbers| {
                let captions: &StringArray = batch.column(0).as_string();
                let bands = &keys.bands;
                let hash = |(mut shingled, mut hashes): (Vec<u64>, Vec<u64>), row: usize| {
                    shingles(&normalise(captions.value(row)), &mut shingled);
                    bands.of(&shingled, &mut hashes);
                    (shingled, hashes)
                };
                let hashed = (0..numbers.len()).into_par_iter().fold_chunks(
                    64,
                    <(Vec<u64>, Vec<u64>)>::default,
                    hash,
                );
                let hashes: Vec<u64> = hashed.flat_map_iter(|(_, hashes)| hashes).collect();
                let count = keys.bands.len();
                hashes
                    .chunks(count)
                    .zip(numbers)
                    .try_for_each(|(hashes, &number)| keys.push(hashes, number))
                    .map_err(DedupError::temporary)
            });
        scanned.await?;
    }
    let mut index = keys.finish(jaccard).map_err(DedupError::temporary)?;
    let candidates = Arc::new(index.has_candidates.clone());
    for source in sources {
        let scanned =
            source.rows.scan("caption", "meta", Some(&candidates), None, |batch, numbers| {
                let captions: &StringArray = batch.column(0).as_string();
                numbers
                    .iter()
                    .enumerate()
                    .for_each(|(row, &number)| index.add_text(number, captions.value(row)));
                Ok(())
            });
        scanned.await?;
    }
    Ok(Built { alike: Alike { classes, near: Near::Captions(Box::new(index)) }, unseen })
}

/// Returns the key of a caption, or `None` if it has no text.
fn caption_key(caption: &str) -> Option<[u64; 2]> {
    let text = normalise(caption);
    (!text.is_empty()).then(|| first_128_bits(&Sha256::digest(text.as_bytes())))
}
