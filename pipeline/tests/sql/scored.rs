//! The table `scored`: meta with a column for each score.

use std::sync::Arc;

use arrow::array::{Float64Array, StringArray, UInt64Array};
use diptych_schemas::{ScoreValue, Uid};

use crate::common::{add_score_file, add_scores, pair, pairs, write_dataset};
use crate::{dataset, failure, open, rows};

fn uids(numbers: &[u32]) -> Vec<Uid> {
    numbers.iter().map(|n| pair(*n).uid()).collect()
}

/// Writes a file of numbers: pair and value.
fn add(
    folder: &std::path::Path,
    name: &str,
    number: u32,
    shard: u32,
    producer: &str,
    values: &[(u32, Option<f64>)],
) {
    let pairs: Vec<u32> = values.iter().map(|(n, _)| *n).collect();
    let values = Arc::new(values.iter().map(|(_, value)| *value).collect::<Float64Array>());
    add_score_file(
        folder,
        name,
        number,
        shard,
        producer,
        &uids(&pairs),
        ScoreValue::Number,
        values,
    );
}

#[tokio::test]
async fn each_score_is_a_column_and_rows_stay_those_of_meta() {
    let (folder, _) = dataset();
    let path = folder.path();
    add(path, "clip", 0, 0, "a", &[(0, Some(0.5)), (2, Some(0.25)), (5, None)]);
    add(path, "clip", 1, 1, "a", &[(7, Some(0.75))]);
    // A second file of one shard, which also repeats a pair: the newer value counts, and the row
    // stays one.
    add(path, "clip", 2, 0, "a", &[(1, Some(0.125)), (2, Some(1.0))]);
    add(path, "blur", 0, 1, "b", &[(6, Some(3.0)), (11, Some(4.0))]);
    let context = open(path);
    assert_eq!(
        rows(&context, "SELECT caption, clip, blur FROM scored ORDER BY width LIMIT 8").await,
        [
            "caption 0|0.5|-",
            "caption 1|0.125|-",
            "caption 2|1.0|-",
            "caption 3|-|-",
            "caption 4|-|-",
            "caption 5|-|-",
            "caption 6|-|3.0",
            "caption 7|0.75|-"
        ]
    );
    assert_eq!(
        rows(&context, "SELECT count(*), count(clip), count(blur), count(category) FROM scored")
            .await,
        ["12|4|2|4"]
    );
    assert_eq!(rows(&context, "SELECT caption FROM scored WHERE blur > 3").await, ["caption 11"]);
    assert_eq!(rows(&context, "SELECT count(*) FROM scored").await, ["12"]);
}

#[tokio::test]
async fn newest_producer_is_the_column_and_all_stay_in_scores() {
    let (folder, _) = dataset();
    add(folder.path(), "clip", 0, 0, "old", &[(0, Some(0.5)), (1, Some(0.5))]);
    add(folder.path(), "clip", 1, 0, "new", &[(1, Some(0.75))]);
    let context = open(folder.path());
    assert_eq!(
        rows(&context, "SELECT caption, clip FROM scored WHERE clip IS NOT NULL").await,
        ["caption 1|0.75"]
    );
    assert_eq!(
        rows(&context, "SELECT producer, count(*) FROM scores GROUP BY producer ORDER BY producer")
            .await,
        ["new|1", "old|2"]
    );
}

#[tokio::test]
async fn scores_that_meta_knows_fill_what_it_lacks() {
    let (folder, _) = dataset();
    let path = folder.path();
    // Meta has the phash of even widths: pairs 0, 2, 4.
    let bits = Arc::new(UInt64Array::from(vec![u64::MAX, 7]));
    add_score_file(path, "phash", 0, 0, "p", &uids(&[0, 1]), ScoreValue::Bits, bits);
    let languages = Arc::new(StringArray::from(vec!["en", "de"]));
    add_score_file(path, "language", 0, 0, "l", &uids(&[1, 3]), ScoreValue::Text, languages);
    add(path, "width", 0, 0, "w", &[(0, Some(1.5))]);
    let context = open(path);
    assert_eq!(
        rows(&context, "SELECT caption, phash, language FROM scored ORDER BY width LIMIT 4").await,
        ["caption 0|30|-", "caption 1|7|en", "caption 2|36|-", "caption 3|-|de"]
    );
    assert_eq!(
        rows(&context, "SELECT caption FROM scored WHERE language = 'en'").await,
        ["caption 1"]
    );
    // A score that is named like one of meta's columns does not hide it.
    assert_eq!(
        rows(&context, "SELECT width, score_width FROM scored WHERE score_width IS NOT NULL").await,
        ["10|1.5"]
    );
    assert_eq!(
        rows(&context, "SELECT bits, text FROM scores WHERE name <> 'width' ORDER BY bits, text")
            .await,
        ["7|-", "18446744073709551615|-", "-|de", "-|en"]
    );
}

#[tokio::test]
async fn score_of_a_pair_that_its_shard_lacks_is_an_error_and_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    write_dataset(folder.path(), &[pairs(0..6), pairs(6..12)]);
    add_scores(folder.path(), "clip", &[(pair(7).uid(), 1.0)]);
    let context = open(folder.path());
    let error = failure(&context, "SELECT count(clip) FROM scored").await;
    assert!(
        error.contains("clip")
            && error.contains("00000.parquet")
            && error.contains("not in shard 0"),
        "{error}"
    );
    // A query without the score does not read it.
    assert_eq!(rows(&context, "SELECT count(width) FROM scored").await, ["12"]);
}
