//! The split of a dataset into a training and a held-out part, with all pairs of a group on one
//! side.
//!
//! The side of a group follows from a hash: of the value that defines the group, or of its oldest
//! pair. So if a share is held out, a pair keeps its side when the dataset grows: new pairs come
//! after the older ones, and no group gets an older pair. Only when a new pair joins two groups do
//! they become one, with the side of the older group.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::prelude::SessionContext;
use diptych_schemas::{ContentHash, SchemaError, Uid, column};

use crate::selection::{Selection, SelectionError};
use crate::sql::{SqlError, hash_fraction, parquet_file_table, query};

/// Column of a table of groups, as `diptych dedup --groups` writes it.
const GROUP: &str = "group";
/// Name of the table of groups in queries.
const TABLE: &str = "groups_of_the_split";

/// The amount that is held out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HeldOut {
    /// Share of the pairs, in (0, 1).
    Share(f64),
    Pairs(u64),
}

impl fmt::Display for HeldOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Rounds away the last digits of 100 * 0.07.
            Self::Share(share) => write!(f, "{}%", (share * 1e8).round() / 1e6),
            Self::Pairs(pairs) => write!(f, "{pairs}"),
        }
    }
}

/// The pairs that stay together.
#[derive(Clone, Copy, Debug)]
pub enum Grouping<'a> {
    /// Each pair is a group.
    Single,
    /// The groups of a Parquet file with columns uid and group. Each other pair is a group.
    File(&'a Path),
    /// Pairs with an equal value of an SQL expression over meta and scores. A pair without a value
    /// is a group.
    Value(&'a str),
}

/// The settings of a split.
#[derive(Clone, Copy, Debug)]
pub struct SplitSpec<'a> {
    pub heldout: HeldOut,
    pub grouping: Grouping<'a>,
    /// Another seed gives another split.
    pub seed: u64,
}

/// The result for one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    pub pairs: u64,
    /// Groups of more than one pair.
    pub groups: u64,
    pub selection_hash: ContentHash,
}

/// The result of a split.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SplitReport {
    pub train: Side,
    pub heldout: Side,
    /// Groups with more pairs than are held out. They are trained on.
    pub too_large: u64,
    /// Pairs of the largest of these groups.
    pub largest: u64,
    /// A share that holds out about as much, and keeps these sides when the dataset grows. `None`
    /// if a share was given.
    pub share: Option<f64>,
}

/// The reason why a dataset cannot be split.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    File(#[from] SelectionError),
    #[error(
        "{path}: a table of groups needs the columns uid and group, as `diptych dedup --groups \
         FILE` writes them, but this one has: {columns}"
    )]
    NoGroups { path: PathBuf, columns: String },
    #[error(
        "{path}: pair {uid} is in more than one group. Make the groups again with `diptych dedup \
         --groups FILE`"
    )]
    TwoGroups { path: PathBuf, uid: Uid },
    #[error(
        "{path}: none of its pairs is in this dataset. Make the groups of this dataset with \
         `diptych dedup --groups FILE`"
    )]
    OtherDataset { path: PathBuf },
    #[error(
        "no pair would be held out: --heldout {heldout} of {pairs} pairs in {groups} groups. Hold \
         out more"
    )]
    NothingHeldOut { heldout: HeldOut, pairs: u64, groups: u64 },
    #[error(
        "nothing would be left to train on: --heldout {heldout} of {pairs} pairs in {groups} \
         groups. Hold out less"
    )]
    NothingLeft { heldout: HeldOut, pairs: u64, groups: u64 },
}

/// Splits `whole`, pairs of the session's dataset, and writes both sides as selections.
pub async fn split(
    context: &SessionContext,
    whole: &Selection,
    spec: SplitSpec<'_>,
    train: &Path,
    heldout: &Path,
) -> Result<SplitReport, SplitError> {
    let groups = Groups::read(context, whole, spec).await?;
    let sides = groups.sides(spec.heldout);
    let made_by = |side: &str| {
        format!("{}\n-- diptych split {}: {side}", whole.sql.trim_end(), groups.described(spec))
    };
    let mut kept = Selection::empty(made_by("train"), whole.dataset_hash);
    let mut held = Selection::empty(made_by("heldout"), whole.dataset_hash);
    for (row, group) in groups.of_row.iter().enumerate() {
        let side = if sides.held[*group as usize] { &mut held } else { &mut kept };
        let place = [whole.shards[row], whole.row_groups[row], whole.rows[row]];
        side.push(whole.uids[row], place, whole.weights[row]);
    }
    let (pairs, count) = (whole.len() as u64, groups.all.len() as u64);
    if held.is_empty() {
        return Err(SplitError::NothingHeldOut { heldout: spec.heldout, pairs, groups: count });
    }
    if kept.is_empty() {
        return Err(SplitError::NothingLeft { heldout: spec.heldout, pairs, groups: count });
    }
    kept.check_weights()?;
    // If the process is killed between the two writes, a new file must not be next to an old one
    // that shares pairs with it.
    match std::fs::remove_file(train) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(SelectionError::from(SchemaError::io(train)(error)).into());
        }
        _ => {}
    }
    let heldout_hash = held.write(heldout)?;
    let train_hash = kept.write(train)?;
    let side = |is_held: bool, selection: &Selection, selection_hash| Side {
        pairs: selection.len() as u64,
        groups: groups
            .all
            .iter()
            .zip(&sides.held)
            .filter(|(group, held)| **held == is_held && group.pairs > 1)
            .count() as u64,
        selection_hash,
    };
    Ok(SplitReport {
        train: side(false, &kept, train_hash),
        heldout: side(true, &held, heldout_hash),
        too_large: sides.too_large.len() as u64,
        largest: sides.too_large.iter().copied().max().unwrap_or(0),
        share: sides.share,
    })
}

struct Group {
    /// Number of its pairs in the input.
    pairs: u64,
    /// Its place between 0 and 1. The largest fractions are held out.
    fraction: f64,
}

struct Groups {
    all: Vec<Group>,
    /// The group of each input row.
    of_row: Vec<u32>,
    /// Hash of the file of groups, if there is one.
    file_hash: Option<ContentHash>,
}

struct Sides {
    /// Whether each group is held out.
    held: Vec<bool>,
    /// Pairs of each group that is larger than the held-out part.
    too_large: Vec<u64>,
    share: Option<f64>,
}

impl Groups {
    async fn read(
        context: &SessionContext,
        whole: &Selection,
        spec: SplitSpec<'_>,
    ) -> Result<Self, SplitError> {
        let (keys, file_hash) = match spec.grouping {
            Grouping::Single => (HashMap::new(), None),
            Grouping::File(path) => {
                let bytes = std::fs::read(path)
                    .map_err(|error| SqlError::from(SchemaError::io(path)(error)))?;
                (of_file(context, path).await?, Some(ContentHash::of(&bytes)))
            }
            Grouping::Value(value) => (of_value(context, value).await?, None),
        };
        let salt = (spec.seed != 0).then(|| format!("split {}", spec.seed));
        let (mut groups, mut of_row) = (Vec::<Group>::new(), Vec::with_capacity(whole.len()));
        let mut numbers: HashMap<&[u8], u32> = HashMap::new();
        for uid in &whole.uids {
            let key = keys.get(uid).map_or(&uid.0[..], Vec::as_slice);
            let next = groups.len() as u32;
            let number = *numbers.entry(key).or_insert(next);
            if number == next {
                let fraction = hash_fraction(key, salt.as_deref());
                groups.push(Group { pairs: 0, fraction });
            }
            groups[number as usize].pairs += 1;
            of_row.push(number);
        }
        Ok(Self { all: groups, of_row, file_hash })
    }

    fn sides(&self, heldout: HeldOut) -> Sides {
        let all = self.of_row.len() as u64;
        let most = match heldout {
            HeldOut::Share(share) => ((share * all as f64).round() as u64).max(1),
            HeldOut::Pairs(pairs) => pairs,
        };
        let fits = |group: &Group| group.pairs <= most;
        let too_large = self.all.iter().filter(|group| !fits(group)).map(|group| group.pairs);
        let mut sides = Sides {
            held: vec![false; self.all.len()],
            too_large: too_large.collect(),
            share: None,
        };
        match heldout {
            HeldOut::Share(share) => {
                for (held, group) in sides.held.iter_mut().zip(&self.all) {
                    *held = fits(group) && group.fraction >= 1.0 - share;
                }
            }
            HeldOut::Pairs(wanted) => {
                let mut order: Vec<usize> = (0..self.all.len()).collect();
                order.sort_by(|a, b| self.all[*b].fraction.total_cmp(&self.all[*a].fraction));
                let mut left = wanted;
                for group in order {
                    // A group that does not fit is skipped in favour of smaller ones.
                    if self.all[group].pairs <= left {
                        left -= self.all[group].pairs;
                        sides.held[group] = true;
                    }
                    if left == 0 {
                        break;
                    }
                }
                sides.share = Some((wanted - left) as f64 / all.max(1) as f64);
            }
        }
        sides
    }

    /// Describes the options that decide the sides.
    fn described(&self, spec: SplitSpec<'_>) -> String {
        let grouping = match (spec.grouping, self.file_hash) {
            (Grouping::File(_), Some(hash)) => format!(" --groups with sha256 {hash}"),
            (Grouping::Value(value), _) => format!(" --by {value:?}"),
            _ => String::new(),
        };
        let seed = if spec.seed == 0 { String::new() } else { format!(" --seed {}", spec.seed) };
        format!("--heldout {}{grouping}{seed}", spec.heldout)
    }
}

/// Returns, for each pair of a file of groups, the uid of the oldest pair of its group. The oldest
/// is the one with the first place in the dataset.
async fn of_file(
    context: &SessionContext,
    path: &Path,
) -> Result<HashMap<Uid, Vec<u8>>, SplitError> {
    let table = parquet_file_table(path)?;
    let schema = table.schema();
    let uid_is_one = schema
        .field_with_name(column::UID)
        .is_ok_and(|field| *field.data_type() == DataType::FixedSizeBinary(16));
    if !uid_is_one || schema.field_with_name(GROUP).is_err() {
        let columns = schema.fields().iter().map(|field| field.name().as_str());
        let columns = columns.collect::<Vec<_>>().join(", ");
        return Err(SplitError::NoGroups { path: path.to_owned(), columns });
    }
    context
        .register_table(TABLE, table)
        .map_err(|error| SqlError::Session(error.strip_backtrace()))?;
    let sql = format!("SELECT uid, \"{GROUP}\" FROM {TABLE}");
    let (mut group_of, mut numbers) = (HashMap::new(), HashMap::new());
    let mut rows = query(context, &sql).await?;
    while let Some(batch) = rows.next().await? {
        each_value(&batch, |uid, value| {
            let next = numbers.len() as u32;
            let number = *numbers.entry(value.to_owned()).or_insert(next);
            match group_of.insert(uid, number) {
                Some(before) if before != number => {
                    Err(SplitError::TwoGroups { path: path.to_owned(), uid })
                }
                _ => Ok(()),
            }
        })?;
    }
    let mut oldest: Vec<Option<([u32; 3], Uid)>> = vec![None; numbers.len()];
    let mut rows = query(context, "SELECT uid, shard, row_group, row FROM meta").await?;
    while let Some(batch) = rows.next().await? {
        let uids = batch.column(0).as_fixed_size_binary();
        let place = [1, 2, 3]
            .map(|index| batch.column(index).as_primitive::<arrow::datatypes::UInt32Type>());
        for row in 0..batch.num_rows() {
            let uid = Uid::try_from(uids.value(row)).map_err(SqlError::from)?;
            let Some(number) = group_of.get(&uid) else { continue };
            let found = (place.map(|column| column.value(row)), uid);
            let known = &mut oldest[*number as usize];
            if known.is_none_or(|known| found < known) {
                *known = Some(found);
            }
        }
    }
    if !group_of.is_empty() && oldest.iter().all(Option::is_none) {
        return Err(SplitError::OtherDataset { path: path.to_owned() });
    }
    let key = |(uid, number): (Uid, u32)| Some((uid, oldest[number as usize]?.1.0.to_vec()));
    Ok(group_of.into_iter().filter_map(key).collect())
}

/// Returns the value of each pair that has one.
async fn of_value(
    context: &SessionContext,
    value: &str,
) -> Result<HashMap<Uid, Vec<u8>>, SplitError> {
    let mut found = HashMap::new();
    let mut rows = query(context, &format!("SELECT uid, {value} FROM scored")).await?;
    while let Some(batch) = rows.next().await? {
        each_value(&batch, |uid, value| {
            found.insert(uid, value.as_bytes().to_vec());
            Ok(())
        })?;
    }
    Ok(found)
}

/// Calls `take` with the uid in the first column and the value in the second as text, for each row
/// with both.
fn each_value(
    batch: &RecordBatch,
    mut take: impl FnMut(Uid, &str) -> Result<(), SplitError>,
) -> Result<(), SplitError> {
    let (uids, values) = (batch.column(0).as_fixed_size_binary(), batch.column(1));
    let options = FormatOptions::new();
    let unprintable = |error: arrow::error::ArrowError| SqlError::Session(error.to_string());
    let texts = ArrayFormatter::try_new(values.as_ref(), &options).map_err(unprintable)?;
    for row in (0..batch.num_rows()).filter(|row| !uids.is_null(*row) && !values.is_null(*row)) {
        let uid = Uid::try_from(uids.value(row)).map_err(SqlError::from)?;
        take(uid, &texts.value(row).try_to_string().map_err(unprintable)?)?;
    }
    Ok(())
}
