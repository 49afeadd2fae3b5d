//! Splits of artificial datasets: groups stay whole, shares hold, and pairs keep their sides when a
//! dataset grows.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod common;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeBinaryArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::prelude::SessionContext;
use diptych_pipeline::sql::{SessionSpec, session};
use diptych_pipeline::{Grouping, HeldOut, Selection, SplitReport, SplitSpec, choose, split};
use diptych_schemas::Uid;
use proptest::prelude::*;

use common::{Pair, pair, stand_ins, write_dataset, write_parquet};

/// Pairs per shard.
const SHARD: usize = 400;

fn open(folder: &Path) -> SessionContext {
    session(SessionSpec::new(Some(folder), &stand_ins())).unwrap()
}

fn dataset(folder: &Path, pairs: &[Pair]) {
    let shards: Vec<Vec<Pair>> = pairs.chunks(SHARD).map(<[Pair]>::to_vec).collect();
    write_dataset(folder, &shards);
}

/// Writes a file of groups from the numbers of their pairs.
fn write_groups(path: &Path, groups: &[Vec<u32>]) {
    let lines: Vec<(u32, u64)> = (1..)
        .zip(groups)
        .flat_map(|(number, group)| group.iter().map(move |pair| (*pair, number)))
        .collect();
    let schema = Schema::new(vec![
        Field::new("uid", DataType::FixedSizeBinary(16), false),
        Field::new("group", DataType::UInt64, false),
    ]);
    let uids = lines.iter().map(|(number, _)| pair(*number).uid().0);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(FixedSizeBinaryArray::try_from_iter(uids).unwrap()),
        Arc::new(UInt64Array::from_iter_values(lines.iter().map(|(_, group)| *group))),
    ];
    write_parquet(path, Arc::new(schema), columns);
}

struct Split {
    report: SplitReport,
    train: Selection,
    heldout: Selection,
}

impl Split {
    /// Returns the side of each pair: whether it is held out.
    fn sides(&self) -> HashMap<Uid, bool> {
        let side = |selection: &Selection, held: bool| -> Vec<(Uid, bool)> {
            selection.uids.iter().map(|uid| (*uid, held)).collect()
        };
        [side(&self.train, false), side(&self.heldout, true)].concat().into_iter().collect()
    }
}

fn run(folder: &Path, heldout: HeldOut, grouping: Grouping<'_>) -> Result<Split, String> {
    let (train, held) = (folder.join("train.parquet"), folder.join("heldout.parquet"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let report = runtime.block_on(async {
        let context = open(folder);
        let whole = choose(&context, "").await.unwrap();
        let spec = SplitSpec { heldout, grouping, seed: 0 };
        split(&context, &whole, spec, &train, &held).await.map_err(|error| error.to_string())
    })?;
    let [train, heldout] = [train, held].map(|path| Selection::read(&path).unwrap());
    let both: HashSet<Uid> = train.uids.iter().chain(&heldout.uids).copied().collect();
    assert_eq!(both.len(), train.len() + heldout.len(), "no pair is on both sides");
    Ok(Split { report, train, heldout })
}

/// Consecutive groups of these sizes, spread over the dataset so that a group has pairs in several
/// shards.
fn spread(sizes: &[u32], pairs: u32) -> Vec<Vec<u32>> {
    let groups = sizes.len() as u32;
    let member = |group: u32, place: u32| group + place * groups;
    (0..groups)
        .zip(sizes)
        .map(|(group, size)| {
            (0..*size).map(|place| member(group, place)).filter(|pair| *pair < pairs).collect()
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn groups_stay_whole_the_share_holds_and_pairs_keep_their_side_when_the_dataset_grows(
        sizes in prop::collection::vec(1_u32..6, 200..300),
        share in 0.1_f64..0.4,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let groups_file = folder.path().join("groups.parquet");
        let pairs: Vec<Pair> = (0..1600).map(pair).collect();
        let mut before = HashMap::new();
        for count in [1200_u32, 1600] {
            let groups = spread(&sizes, count);
            dataset(folder.path(), &pairs[..count as usize]);
            write_groups(&groups_file, &groups);
            let split = run(folder.path(), HeldOut::Share(share), Grouping::File(&groups_file))
                .unwrap();
            let sides = split.sides();
            prop_assert_eq!(sides.len(), count as usize);
            for group in &groups {
                let held: HashSet<bool> = group.iter().map(|n| sides[&pair(*n).uid()]).collect();
                prop_assert!(held.len() <= 1, "{:?} is on both sides", group);
            }
            // 4 standard deviations of a draw of the groups, which have at most 5 pairs.
            let tolerance = 4.0 * (share * (1.0 - share) * 5.0 / f64::from(count)).sqrt();
            let found = split.heldout.len() as f64 / f64::from(count);
            prop_assert!((found - share).abs() < tolerance, "{} of {}", found, share);
            for (uid, side) in &before {
                prop_assert_eq!(sides[uid], *side);
            }
            before = sides;
        }
    }
}

#[test]
fn number_is_held_out_exactly_where_groups_allow_it_and_a_larger_share_holds_out_more_of_the_same()
{
    let folder = tempfile::tempdir().unwrap();
    dataset(folder.path(), &(0..1000).map(pair).collect::<Vec<_>>());
    let exact = run(folder.path(), HeldOut::Pairs(77), Grouping::Single).unwrap();
    assert_eq!((exact.heldout.len(), exact.train.len()), (77, 923));
    assert_eq!(exact.report.share, Some(0.077));
    let held = |share| -> HashSet<Uid> {
        run(folder.path(), HeldOut::Share(share), Grouping::Single)
            .unwrap()
            .heldout
            .uids
            .into_iter()
            .collect()
    };
    let (little, more) = (held(0.05), held(0.2));
    assert!(little.is_subset(&more) && little.len() < more.len());
    // The result of `hash_fraction` in a select.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let selected =
        runtime.block_on(choose(&open(folder.path()), "hash_fraction(uid) >= 0.8")).unwrap();
    assert_eq!(selected.uids.into_iter().collect::<HashSet<_>>(), more);
}

#[test]
fn group_larger_than_what_is_held_out_is_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    dataset(folder.path(), &(0..500).map(pair).collect::<Vec<_>>());
    let groups_file = folder.path().join("groups.parquet");
    write_groups(&groups_file, &[(0..200).collect(), (200..230).collect()]);
    for heldout in [HeldOut::Share(0.2), HeldOut::Pairs(100)] {
        let split = run(folder.path(), heldout, Grouping::File(&groups_file)).unwrap();
        let sides = split.sides();
        assert!((0..200).all(|n| !sides[&pair(n).uid()]));
        assert_eq!((split.report.too_large, split.report.largest), (1, 200));
        let report = &split.report;
        assert_eq!(report.train.groups + report.heldout.groups, 2);
    }
}

#[test]
fn pairs_with_the_same_value_stay_together_and_those_without_one_are_alone() {
    let folder = tempfile::tempdir().unwrap();
    dataset(folder.path(), &(0..1500).map(pair).collect::<Vec<_>>());
    let split = run(folder.path(), HeldOut::Share(0.3), Grouping::Value("width % 40")).unwrap();
    let mut sides: BTreeMap<u32, HashSet<bool>> = BTreeMap::new();
    let all = split.sides();
    for n in 0..1500 {
        let pair = pair(n);
        sides.entry(pair.width % 40).or_default().insert(all[&pair.uid()]);
    }
    assert!(sides.values().all(|sides| sides.len() == 1), "{sides:?}");
    assert_eq!(sides.values().flatten().collect::<HashSet<_>>().len(), 2);
    // Two of three pairs of the later shards have a category, each of about 400.
    let split = run(folder.path(), HeldOut::Share(0.3), Grouping::Value("category")).unwrap();
    assert!(
        split.heldout.len() > 50
            && split.report.too_large + split.report.heldout.groups + split.report.train.groups
                >= 2
    );
}

#[test]
fn what_cannot_be_split_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    dataset(folder.path(), &(0..40).map(pair).collect::<Vec<_>>());
    let groups_file = folder.path().join("groups.parquet");
    let of = |heldout, grouping| run(folder.path(), heldout, grouping).err().unwrap();
    let error = of(HeldOut::Share(1e-9), Grouping::Single);
    assert!(error.contains("no pair would be held out"), "{error}");
    let error = of(HeldOut::Pairs(40), Grouping::Single);
    assert!(error.contains("nothing would be left"), "{error}");
    let error = of(HeldOut::Share(0.5), Grouping::Value("widht"));
    assert!(error.contains("did you mean width?"), "{error}");
    write_groups(&groups_file, &[vec![1, 2], vec![2, 3]]);
    let error = of(HeldOut::Share(0.5), Grouping::File(&groups_file));
    assert!(error.contains("more than one group"), "{error}");
    write_groups(&groups_file, &[vec![900, 901]]);
    let error = of(HeldOut::Share(0.5), Grouping::File(&groups_file));
    assert!(error.contains("none of its pairs"), "{error}");
    let whole = run(folder.path(), HeldOut::Share(0.5), Grouping::Single).unwrap();
    assert!(whole.train.sql.contains("diptych split --heldout 50%: train"), "{}", whole.train.sql);
    let error = of(HeldOut::Share(0.5), Grouping::File(&folder.path().join("train.parquet")));
    assert!(error.contains("uid and group") && error.contains("shard"), "{error}");
}
