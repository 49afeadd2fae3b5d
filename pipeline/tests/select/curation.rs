//! Presets, uid lists, balancing and measures compared with DataComp's and MetaCLIP's own
//! definitions, as computed by `reference/make_curation_values.py`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, Float64Array, StringArray};
use arrow::datatypes::Float64Type;
use diptych_pipeline::balance::{BalanceReport, BalanceSpec, Entries, balance};
use diptych_pipeline::presets::preset;
use diptych_pipeline::scores::{Wanted, measure};
use diptych_pipeline::sql::{SessionSpec, query, register_pairs, session};
use diptych_pipeline::{
    RgbImage, Selection, read_counts, read_uid_list, select, write_counts, write_uid_list,
};
use diptych_schemas::{ScoreValue, Uid};
use serde_json::Value;

use crate::common::{Pair, add_score_file, pair, stand_ins, write_dataset};

struct Reference {
    values: Value,
    folder: tempfile::TempDir,
    uids: Vec<Uid>,
}

impl Reference {
    /// The script's rows as shards 1 and 2, with their DataComp uids in the column category. Shard
    /// 0 has a pair without scores.
    fn new() -> Self {
        let text = include_str!("../reference/curation.json");
        let values: Value = serde_json::from_str(text).unwrap();
        let rows: Vec<Pair> = values["rows"].as_array().unwrap().iter().map(pair_of).collect();
        let folder = tempfile::tempdir().unwrap();
        write_dataset(folder.path(), &[vec![pair(0)], rows[..200].to_vec(), rows[200..].to_vec()]);
        let reference = Self { uids: rows.iter().map(Pair::uid).collect(), values, folder };
        for (shard, range) in [(1, 0..200), (2, 200..rows.len())] {
            let column = |name: &str| {
                reference.values["rows"].as_array().unwrap()[range.clone()]
                    .iter()
                    .map(|row| row[name].clone())
                    .collect::<Vec<_>>()
            };
            let numbers = |name: &str| {
                Arc::new(column(name).iter().map(Value::as_f64).collect::<Float64Array>())
            };
            let languages = Arc::new(
                column("language")
                    .iter()
                    .map(|value| value.as_str().map(str::to_owned))
                    .collect::<StringArray>(),
            );
            let add = |name: &str, value: ScoreValue, values| {
                add_score_file(
                    reference.path(),
                    name,
                    shard,
                    shard,
                    "p",
                    &reference.uids[range.clone()],
                    value,
                    values,
                );
            };
            add("clip", ScoreValue::Number, numbers("score"));
            add("cluster", ScoreValue::Number, numbers("cluster"));
            add("language", ScoreValue::Text, languages);
        }
        reference
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Numbers of rows.
    fn places(&self, name: &str) -> BTreeSet<usize> {
        self.values[name]
            .as_array()
            .unwrap()
            .iter()
            .map(|place| place.as_u64().unwrap() as usize)
            .collect()
    }

    /// Runs SQL as a selection. Returns the numbers of its rows.
    async fn select(&self, sql: &str) -> BTreeSet<usize> {
        let context = session(SessionSpec::new(Some(self.path()), &stand_ins())).unwrap();
        let output = self.path().join("selection.parquet");
        select(&context, sql, &output).await.unwrap_or_else(|error| panic!("{sql}\n{error}"));
        self.places_of(&output)
    }

    fn places_of(&self, selection: &Path) -> BTreeSet<usize> {
        let uids: BTreeSet<Uid> = Selection::read(selection).unwrap().uids.into_iter().collect();
        (0..self.uids.len()).filter(|place| uids.contains(&self.uids[*place])).collect()
    }
}

fn pair_of(row: &Value) -> Pair {
    Pair {
        caption: row["caption"].as_str().unwrap().into(),
        width: row["width"].as_u64().unwrap() as u32,
        height: row["height"].as_u64().unwrap() as u32,
        category: row["uid"].as_str().map(str::to_owned),
    }
}

#[tokio::test]
async fn presets_choose_what_datacomps_code_chooses() {
    let reference = Reference::new();
    let targets: Vec<String> =
        reference.values["targets"].as_array().unwrap().iter().map(ToString::to_string).collect();
    for (name, set, expected) in [
        ("datacomp-basic", None, "basic"),
        ("datacomp-clip-score", None, "clip_score"),
        (
            "datacomp-image-and-clip",
            Some(("clusters".to_owned(), targets.join(", "))),
            "image_and_clip",
        ),
    ] {
        let sql = preset(name).unwrap().sql(&set.into_iter().collect::<Vec<_>>()).unwrap();
        let expected = reference.places(expected);
        assert!(!expected.is_empty());
        assert_eq!(reference.select(&sql).await, expected, "{name}");
    }
}

#[tokio::test]
async fn every_preset_is_sql_that_a_selection_can_be_made_of() {
    let reference = Reference::new();
    for name in
        ["laion-400m", "laion-2b-en", "laion-2b-multi", "laion-high-resolution", "laion-aesthetics"]
    {
        let set = match name {
            "laion-aesthetics" => vec![("aesthetic".into(), "clip * 10".into())],
            _ => vec![],
        };
        // Images of these pairs have less than 5 KB.
        let sql = preset(name)
            .unwrap()
            .sql(&set)
            .unwrap()
            .replace("bytes >= 5000", "bytes >= 10")
            .replace(">= 1024", ">= 600");
        assert!(!reference.select(&sql).await.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn threshold_of_a_fraction_is_numpys_on_any_number_of_threads() {
    let reference = Reference::new();
    for threads in 1..4 {
        let functions = stand_ins();
        let mut spec = SessionSpec::new(Some(reference.path()), &functions);
        spec.partitions = threads.try_into().ok();
        let context = session(spec).unwrap();
        for case in reference.values["thresholds"].as_array().unwrap() {
            let sql =
                format!("SELECT top_fraction(clip, {:?}) FROM scored", case[0].as_f64().unwrap());
            let batches = query(&context, &sql).await.unwrap().collect().await.unwrap();
            assert_eq!(
                batches[0].column(0).as_primitive::<Float64Type>().value(0),
                case[1].as_f64().unwrap(),
                "{sql}"
            );
        }
        let none =
            query(&context, "SELECT top_fraction(clip, 0.3) FROM scored WHERE width = 12345")
                .await
                .unwrap();
        assert_eq!(none.collect().await.unwrap()[0].column(0).null_count(), 1);
        let bad = query(&context, "SELECT top_fraction(clip, 30) FROM scored")
            .await
            .unwrap()
            .collect()
            .await;
        assert!(bad.unwrap_err().to_string().contains("from 0 to 1"));
    }
}

#[tokio::test]
async fn lists_of_uids_are_numpys_byte_for_byte_and_find_their_pairs() {
    let reference = Reference::new();
    let numpy = hex::decode(reference.values["uids_of_basic"].as_str().unwrap()).unwrap();
    let (theirs, ours) = (reference.path().join("theirs.npy"), reference.path().join("ours.npy"));
    diptych_schemas::durable::write(&theirs, &numpy).unwrap();
    let list = read_uid_list(&theirs).unwrap();
    write_uid_list(&ours, list.iter().rev().copied().collect()).unwrap();
    assert_eq!(std::fs::read(&ours).unwrap(), numpy);

    let context = session(SessionSpec::new(Some(reference.path()), &stand_ins())).unwrap();
    register_pairs(&context, "uid_list", &list, None).unwrap();
    let output = reference.path().join("selection.parquet");
    select(
        &context,
        "SELECT uid FROM meta WHERE uid(category) IN (SELECT uid FROM uid_list)",
        &output,
    )
    .await
    .unwrap();
    assert_eq!(reference.places_of(&output), reference.places("basic"));
}

async fn balanced<'a>(
    reference: &Reference,
    entries: &'a Entries,
    change: impl FnOnce(&mut BalanceSpec<'a>),
) -> BalanceReport {
    let context = session(SessionSpec::new(Some(reference.path()), &stand_ins())).unwrap();
    let mut spec = BalanceSpec {
        entries,
        t: 20,
        seed: 0,
        counts: None,
        condition: Some("category IS NOT NULL"),
        selection: None,
    };
    change(&mut spec);
    balance(&context, &spec, &reference.path().join("balanced.parquet")).await.unwrap()
}

fn entries(reference: &Reference) -> Entries {
    let names = reference.values["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap().to_owned());
    Entries::new(names.collect()).unwrap()
}

#[tokio::test]
async fn entries_match_and_count_as_metaclips_code() {
    let reference = Reference::new();
    let entries = entries(&reference);
    let mut found = Vec::new();
    for (row, expected) in reference.values["rows"]
        .as_array()
        .unwrap()
        .iter()
        .zip(reference.values["matches"].as_array().unwrap())
    {
        entries.matches(row["caption"].as_str().unwrap(), &mut found);
        assert_eq!(Value::from(found.clone()), *expected, "{row}");
    }
    let report = balanced(&reference, &entries, |_| {}).await;
    assert_eq!(Value::from(report.counts.clone()), reference.values["counts"]);
    assert_eq!(report.candidates, reference.uids.len() as u64);
    let file = reference.path().join("counts.npy");
    write_counts(&file, &report.counts).unwrap();
    assert_eq!(
        hex::encode(std::fs::read(&file).unwrap()),
        reference.values["counts_npy"].as_str().unwrap()
    );
    assert_eq!(read_counts(&file).unwrap(), report.counts);
}

/// Draws for each pair.
const SEEDS: u64 = 40;

#[tokio::test]
async fn pairs_stay_as_often_as_their_entries_allow() {
    let reference = Reference::new();
    let entries = entries(&reference);
    let counts: Vec<f64> = reference.values["counts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|count| count.as_f64().unwrap())
        .collect();
    let chance = |matches: &Value| {
        let lost = |entry: &Value| 1.0 - 20.0 / counts[entry.as_u64().unwrap() as usize].max(20.0);
        1.0 - matches.as_array().unwrap().iter().map(lost).product::<f64>()
    };
    let chances: Vec<f64> =
        reference.values["matches"].as_array().unwrap().iter().map(chance).collect();
    let mut kept = vec![0.0; chances.len()];
    for seed in 0..SEEDS {
        balanced(&reference, &entries, |spec| spec.seed = seed).await;
        for place in reference.places_of(&reference.path().join("balanced.parquet")) {
            kept[place] += 1.0 / SEEDS as f64;
        }
    }
    for (place, (kept, chance)) in kept.iter().zip(&chances).enumerate() {
        let deviation = (chance * (1.0 - chance) / SEEDS as f64).sqrt();
        // Impossible ones never, certain ones always; if a miss is rare, two of them may be
        // missing.
        let rare = if [0.0, 1.0].contains(chance) { 1e-9 } else { 2.0 / SEEDS as f64 };
        assert!((kept - chance).abs() <= 5.0 * deviation + rare, "{place}: {kept} of {chance}");
    }
    let (kept, expected): (f64, f64) = (kept.iter().sum(), chances.iter().sum());
    let deviation =
        (chances.iter().map(|chance| chance * (1.0 - chance)).sum::<f64>() / SEEDS as f64).sqrt();
    assert!((kept - expected).abs() < 4.0 * deviation, "{kept} of {expected}");
}

#[tokio::test]
async fn balancing_composes_with_conditions_selections_and_given_counts() {
    let reference = Reference::new();
    let entries = entries(&reference);
    let output = reference.path().join("balanced.parquet");
    let english =
        balanced(&reference, &entries, |spec| spec.condition = Some("language = 'en' OR false"))
            .await;
    let only = reference.places_of(&output);
    assert!(
        english.candidates < reference.uids.len() as u64
            && english.selection.rows == only.len() as u64
    );

    // As a selection that was made before, with its weights.
    let context = session(SessionSpec::new(Some(reference.path()), &stand_ins())).unwrap();
    let input = reference.path().join("input.parquet");
    select(&context, "SELECT uid, 2.0 AS weight FROM scored WHERE language = 'en'", &input)
        .await
        .unwrap();
    let input = Selection::read(&input).unwrap();
    let again = balanced(&reference, &entries, |spec| {
        (spec.condition, spec.selection) = (None, Some(&input));
    })
    .await;
    assert_eq!((again.candidates, &again.counts), (english.candidates, &english.counts));
    assert_eq!(reference.places_of(&output), only);
    assert!(Selection::read(&output).unwrap().weights.iter().all(|weight| *weight == 2.0));

    // Counts of a pool that is a hundred times as large: fewer stay.
    let counts = english.counts.iter().map(|count| count * 100).collect();
    let fewer = balanced(&reference, &entries, |spec| spec.counts = Some(counts)).await;
    assert!(
        fewer.selection.rows < again.selection.rows / 4,
        "{} of {}",
        fewer.selection.rows,
        again.selection.rows
    );

    let context = session(SessionSpec::new(Some(reference.path()), &stand_ins())).unwrap();
    let spec = BalanceSpec {
        entries: &entries,
        t: 20,
        seed: 0,
        counts: None,
        condition: Some("random() < 0.5"),
        selection: None,
    };
    let error = balance(&context, &spec, &output).await.unwrap_err().to_string();
    assert!(error.contains("random()"), "{error}");
}

#[test]
fn entropy_is_pillows_and_blur_is_opencvs() {
    let reference = Reference::new();
    for case in reference.values["pictures"].as_array().unwrap() {
        let [width, height] = [0, 1].map(|index| case[index].as_u64().unwrap() as u32);
        let mut pixels = Vec::new();
        for y in 0..u64::from(height) {
            for x in 0..u64::from(width) {
                pixels.extend(
                    [x * 7 + y * 13 + x * y, x * x + 3 * y, x / 5 * 31 + y / 7 * 17]
                        .map(|value| (value % 256) as u8),
                );
            }
        }
        let image = RgbImage { width, height, pixels };
        let measured = measure(&image, Wanted { blur: true, entropy: true, phash: false }).unwrap();
        let (entropy, blur) = (case[2].as_f64().unwrap(), case[3].as_f64().unwrap());
        assert!((measured.entropy.unwrap() - entropy).abs() < 1e-9, "{case}: {measured:?}");
        assert!((measured.blur.unwrap() / blur - 1.0).abs() < 1e-5, "{case}: {measured:?}");
        assert_eq!(measured.phash, None);
    }
}
