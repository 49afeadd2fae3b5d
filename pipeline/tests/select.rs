//! From SQL to selection files: their content, their reproducibility, and what is refused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod common;
#[path = "select/curation.rs"]
mod curation;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;

use datafusion::prelude::SessionContext;
use diptych_pipeline::sql::{SessionSpec, session};
use diptych_pipeline::{FunnelStep, SelectError, Selection, SelectionReport, select, select_of};
use diptych_schemas::{DatasetManifest, Uid};

use common::{ROW_GROUP, add_scores, pair, pairs, stand_ins, write_dataset};

/// Creates forty pairs in four shards. Widths 10 to 49, heights all 20; every second pair has a
/// perceptual hash.
fn dataset() -> (tempfile::TempDir, DatasetManifest) {
    let folder = tempfile::tempdir().unwrap();
    let manifest =
        write_dataset(folder.path(), &[pairs(0..10), pairs(10..20), pairs(20..30), pairs(30..40)]);
    (folder, manifest)
}

fn open(folder: &Path, partitions: usize) -> SessionContext {
    let functions = stand_ins();
    let mut spec = SessionSpec::new(Some(folder), &functions);
    spec.partitions = NonZeroUsize::new(partitions);
    session(spec).unwrap()
}

async fn run(folder: &Path, sql: &str) -> Result<(SelectionReport, Selection), SelectError> {
    let output = folder.join("selection.parquet");
    let report = select(&open(folder, 4), sql, &output).await?;
    Ok((report, Selection::read(&output).unwrap()))
}

async fn refused(folder: &Path, sql: &str) -> SelectError {
    let error = run(folder, sql).await.expect_err(sql);
    assert!(
        !folder.join("selection.parquet").exists()
            && !folder.join("selection.parquet.incomplete").exists(),
        "{sql}"
    );
    error
}

fn uids(numbers: impl IntoIterator<Item = u32>) -> BTreeSet<Uid> {
    numbers.into_iter().map(|n| pair(n).uid()).collect()
}

#[tokio::test]
async fn selection_holds_the_chosen_pairs_at_their_places_in_order() {
    let (folder, manifest) = dataset();
    let sql = "SELECT uid FROM meta WHERE width % 3 = 0 -- every third";
    let (report, selection) = run(folder.path(), sql).await.unwrap();
    let chosen: Vec<u32> = (0..40).filter(|n| (10 + n) % 3 == 0).collect();
    assert_eq!(selection.len(), chosen.len());
    for (row, n) in chosen.iter().enumerate() {
        let in_shard = n % 10;
        assert_eq!(selection.uids[row], pair(*n).uid());
        let place = (selection.shards[row], selection.row_groups[row], selection.rows[row]);
        assert_eq!(place, (n / 10, in_shard / ROW_GROUP as u32, in_shard % ROW_GROUP as u32));
    }
    assert!(selection.weights.iter().all(|weight| *weight == 1.0));
    assert_eq!((selection.sql.as_str(), selection.dataset_hash), (sql, manifest.content_hash()));
    assert_eq!((report.rows, report.of, report.weighted), (13, 40, false));
    assert_eq!(
        (report.dataset_hash, report.selection_hash),
        (manifest.content_hash(), selection.hash())
    );
}

#[tokio::test]
async fn weights_and_joins_with_scores() {
    let (folder, _) = dataset();
    let scores: Vec<_> = (0..20).map(|n| (pair(n).uid(), f64::from(n) / 2.0)).collect();
    add_scores(folder.path(), "clip", &scores);
    let sql = "SELECT uid, value AS weight FROM meta JOIN scores USING (uid) WHERE name = 'clip' \
               AND value > 9";
    let (report, selection) = run(folder.path(), sql).await.unwrap();
    assert!(report.weighted);
    assert_eq!(selection.uids, [pair(19).uid()]);
    assert_eq!(selection.weights, [9.5]);
    // Whole numbers are weights too, and other columns do not matter, whatever they claim.
    let (_, selection) =
        run(folder.path(), "SELECT uid, 7 AS shard, 2 AS weight FROM meta WHERE width = 30")
            .await
            .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((selection.weights, selection.shards), (vec![2.0], vec![2]));
}

#[tokio::test]
async fn condition_stands_for_the_pairs_that_fulfil_it_and_nothing_for_all() {
    let (folder, _) = dataset();
    add_scores(folder.path(), "clip", &[(pair(3).uid(), 0.5), (pair(4).uid(), 0.7)]);
    for (text, sql, numbers) in [
        ("width > 45", "SELECT uid FROM scored WHERE width > 45", 36..40),
        (
            "(width > 45 OR false) -- wide",
            "SELECT uid FROM scored WHERE (width > 45 OR false) -- wide",
            36..40,
        ),
        ("clip > 0.6", "SELECT uid FROM scored WHERE clip > 0.6", 4..5),
        (
            "width = (SELECT max(width) FROM meta)",
            "SELECT uid FROM scored WHERE width = (SELECT max(width) FROM meta)",
            39..40,
        ),
        (
            "true ORDER BY width LIMIT 3",
            "SELECT uid FROM scored WHERE true ORDER BY width LIMIT 3",
            0..3,
        ),
        (" -- nothing\n", "SELECT uid FROM meta", 0..40),
        ("", "SELECT uid FROM meta", 0..40),
        (
            "(SELECT uid FROM meta WHERE width < 12)",
            "(SELECT uid FROM meta WHERE width < 12)",
            0..2,
        ),
    ] {
        let (_, selection) =
            run(folder.path(), text).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(selection.uids.into_iter().collect::<BTreeSet<_>>(), uids(numbers), "{text}");
        assert_eq!(selection.sql, sql);
    }
    let folder = dataset().0;
    for (text, says) in [
        ("widht > 45", "line 1, column 1:\n  widht > 45\n  ^^^^^\ndid you mean width?"),
        (
            "height = 20 AND\n widht > 45",
            "line 2, column 2:\n   widht > 45\n   ^^^^^\ndid you mean width?",
        ),
        ("width >", "expected an expression"),
        ("SELEC uid FROM meta", "SELEC"),
        ("width > 1000", "1000"),
    ] {
        let error = refused(folder.path(), text).await.to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[tokio::test]
async fn part_of_a_selection_keeps_its_weights() {
    let (folder, _) = dataset();
    let (_, whole) =
        run(folder.path(), "SELECT uid, width AS weight FROM meta WHERE width < 30").await.unwrap();
    let output = folder.path().join("part.parquet");
    let context = open(folder.path(), 4);
    let report = select_of(&context, "width > 27", Some(&whole), &output).await.unwrap();
    let part = Selection::read(&output).unwrap();
    assert_eq!(part.uids.iter().copied().collect::<BTreeSet<_>>(), uids([18, 19]));
    assert_eq!((part.weights.clone(), report.weighted), (vec![28.0, 29.0], true));
    assert!(part.sql.contains(&whole.hash().to_string()), "{}", part.sql);
    let error = select_of(&context, "width > 40", Some(&whole), &output).await.unwrap_err();
    assert!(matches!(error, SelectError::Empty { .. }), "{error}");
}

#[tokio::test]
async fn dataset_is_found_by_a_path_that_climbs() {
    let (folder, _) = dataset();
    std::fs::create_dir(folder.path().join("beside")).unwrap();
    let climbing = folder.path().join("beside/..");
    let (report, _) = run(&climbing, "width > 45").await.unwrap();
    assert_eq!(report.rows, 4);
}

#[tokio::test]
async fn images_may_be_conditions() {
    let (folder, _) = dataset();
    let (report, selection) = run(
        folder.path(),
        "SELECT * FROM meta JOIN blob USING (uid) WHERE width(image) = 12 AND \
         hamming(phash(image), 36) = 0",
    )
    .await
    .unwrap();
    assert_eq!(selection.uids, [pair(2).uid()]);
    assert_eq!(report.funnel, []);
}

/// Queries with ties or parallel computation.
#[tokio::test]
async fn same_sql_gives_the_same_bytes_on_any_number_of_threads() {
    let (folder, _) = dataset();
    let scores: Vec<_> = (0..40).map(|n| (pair(n).uid(), 1.0 / (1.0 + f64::from(n % 7)))).collect();
    add_scores(folder.path(), "clip", &scores);
    for (sql, rows) in [
        ("SELECT uid FROM meta", 40),
        ("SELECT uid FROM meta ORDER BY height LIMIT 13", 13),
        ("SELECT uid FROM meta ORDER BY hash_fraction(uid, 'x') LIMIT 13 OFFSET 2", 13),
        (
            "SELECT uid FROM (SELECT uid, height FROM meta ORDER BY height LIMIT 30) ORDER BY \
             height LIMIT 11",
            11,
        ),
        ("SELECT uid, max(value) AS weight FROM scores GROUP BY uid", 40),
        ("SELECT DISTINCT ON (category) uid FROM meta ORDER BY category", 3),
        (
            "SELECT uid FROM (SELECT uid, row_number() OVER (PARTITION BY category ORDER BY \
             height) AS n FROM meta) WHERE n <= 2",
            6,
        ),
        ("SELECT first_value(uid ORDER BY height) AS uid FROM meta GROUP BY category", 3),
        ("SELECT first_value(uid ORDER BY uid) AS uid FROM meta GROUP BY category", 3),
        ("SELECT uid, 40 * value / (SELECT sum(value) FROM scores) AS weight FROM scores", 40),
        (
            "SELECT uid, sum(value) OVER (ORDER BY value DESC ROWS BETWEEN 2 PRECEDING AND CURRENT \
             ROW) AS weight FROM scores",
            40,
        ),
        ("SELECT uid FROM meta WHERE uid IN (SELECT uid FROM scores ORDER BY value LIMIT 17)", 17),
        (
            "SELECT DISTINCT ON (uid) uid, w AS weight FROM meta JOIN (VALUES (1, 20), (2, 20), \
             (3, 20)) AS v (w, h) ON height = h ORDER BY uid, h",
            40,
        ),
    ] {
        let mut files = Vec::new();
        for partitions in [1, 2, 4, 4, 4, 7] {
            let output = folder.path().join(format!("{partitions}.parquet"));
            let report = select(&open(folder.path(), partitions), sql, &output)
                .await
                .unwrap_or_else(|error| panic!("{sql}: {error}"));
            assert_eq!(report.rows, rows, "{sql}");
            files.push(std::fs::read(&output).unwrap());
        }
        assert!(files.windows(2).all(|two| two[0] == two[1]), "{sql}");
    }
}

/// All heights are 20, so every order by height is one tie: the uid decides.
#[tokio::test]
async fn ties_are_broken_by_the_uid() {
    let (folder, _) = dataset();
    let smallest =
        |of: Vec<u32>, count: usize| uids(of).into_iter().take(count).collect::<BTreeSet<Uid>>();
    // Pairs by category: shard 0 (pairs 0 to 9) has none, of the others a third each has a, b and
    // none.
    let category = |left: u32| (10..40).filter(|n| n % 3 == left).collect::<Vec<u32>>();
    let none: Vec<u32> = (0..10).chain(category(2)).collect();
    let of_each = |count| {
        &(&smallest(category(0), count) | &smallest(category(1), count))
            | &smallest(none.clone(), count)
    };
    for (sql, expected) in [
        ("SELECT uid FROM meta ORDER BY height LIMIT 13", smallest((0..40).collect(), 13)),
        ("SELECT DISTINCT ON (category) uid FROM meta ORDER BY category, height", of_each(1)),
        (
            "SELECT uid FROM (SELECT uid, row_number() OVER (PARTITION BY category ORDER BY \
             height) AS n FROM meta) WHERE n <= 2",
            of_each(2),
        ),
        ("SELECT first_value(uid ORDER BY height) AS uid FROM meta GROUP BY category", of_each(1)),
    ] {
        let (_, selection) = run(folder.path(), sql).await.unwrap();
        assert_eq!(selection.uids.into_iter().collect::<BTreeSet<_>>(), expected, "{sql}");
    }
}

#[tokio::test]
async fn held_out_pairs_are_split_off_for_good() {
    let (folder, _) = dataset();
    let (_, train) =
        run(folder.path(), "SELECT uid FROM meta WHERE hash_fraction(sha256) < 0.8").await.unwrap();
    let (_, test) = run(folder.path(), "SELECT uid FROM meta WHERE hash_fraction(sha256) >= 0.8")
        .await
        .unwrap();
    let (train, test): (BTreeSet<Uid>, BTreeSet<Uid>) =
        (train.uids.into_iter().collect(), test.uids.into_iter().collect());
    assert!(train.is_disjoint(&test) && !test.is_empty());
    assert_eq!(&train | &test, uids(0..40));
    // More pairs, and other shards: the old pairs stay on their side.
    let grown = tempfile::tempdir().unwrap();
    write_dataset(grown.path(), &[pairs(20..60), pairs(0..20)]);
    let (_, more) =
        run(grown.path(), "SELECT uid FROM meta WHERE hash_fraction(sha256) < 0.8").await.unwrap();
    let more: BTreeSet<Uid> = more.uids.into_iter().collect();
    assert!(more.is_superset(&train) && more.is_disjoint(&test));
}

#[tokio::test]
async fn funnel_counts_what_each_condition_leaves() {
    let (folder, _) = dataset();
    let step = |condition: &str, remaining| FunnelStep { condition: condition.into(), remaining };
    let sql = "SELECT uid FROM meta WHERE width >= 20 AND (phash IS NOT NULL AND width < 40) AND \
               (category = 'a' OR category = 'b')";
    let (report, _) = run(folder.path(), sql).await.unwrap();
    // Widths 20 to 49; even ones, 15; of these below 40, 10: 20, 22, …, 38, which are pairs 10, 12,
    // …, 28. Pairs with a remainder of 0 or 1 when divided by 3 have a category: 10, 12, 16, 18,
    // 22, 24, 28.
    let expected = [
        step("FROM meta", 40),
        step("width >= 20", 30),
        step("phash IS NOT NULL", 15),
        step("width < 40", 10),
        step("(category = 'a' OR category = 'b')", 7),
    ];
    assert_eq!(report.funnel, expected);
    assert_eq!(report.rows, 7);
    let sql = "WITH wide AS (SELECT * FROM meta WHERE width > 30) SELECT uid FROM wide JOIN scores \
               USING (uid) WHERE name = 'clip'";
    add_scores(
        folder.path(),
        "clip",
        &[(pair(0).uid(), 1.0), (pair(25).uid(), 1.0), (pair(26).uid(), 1.0)],
    );
    let (report, _) = run(folder.path(), sql).await.unwrap();
    assert_eq!(
        report.funnel,
        [step("FROM wide JOIN scores USING(uid)", 2), step("name = 'clip'", 2)]
    );
    let (report, _) =
        run(folder.path(), "SELECT uid FROM meta WHERE uid IN (SELECT uid FROM scores)")
            .await
            .unwrap();
    assert_eq!(report.funnel, [step("FROM meta", 40), step("uid IN (SELECT uid FROM scores)", 3)]);
    let (report, _) =
        run(folder.path(), "SELECT uid FROM meta ORDER BY uid LIMIT 3").await.unwrap();
    assert_eq!(report.funnel, []);
}

#[tokio::test]
async fn rows_that_are_no_selection_are_refused() {
    type IsExpected<'a> = &'a dyn Fn(&SelectError) -> bool;
    let (folder, _) = dataset();
    let path = folder.path();
    let (first, other) = (pair(0).uid(), pair(99).uid());
    add_scores(path, "clip", &[(first, 1.0), (other, 2.0)]);
    add_scores(path, "aesthetic", &[(first, 3.0)]);
    let refusals: [(&str, IsExpected<'_>); 7] = [
        (
            "SELECT caption, width FROM meta",
            &|error| matches!(error, SelectError::NoUid { columns } if columns == "caption, width"),
        ),
        (
            "SELECT uid FROM meta JOIN scores USING (uid)",
            &|error| matches!(error, SelectError::Repeated { uid, others: 0 } if *uid == first),
        ),
        (
            "SELECT DISTINCT uid FROM scores",
            &|error| matches!(error, SelectError::Unknown { uid, others: 0 } if *uid == other),
        ),
        ("SELECT NULLIF(uid, uid) AS uid FROM meta", &|error| {
            matches!(error, SelectError::NullUid)
        }),
        ("SELECT hex(uid) AS uid FROM meta", &|error| {
            matches!(error, SelectError::WrongType { column: "uid", .. })
        }),
        ("SELECT a.uid, b.uid FROM meta a JOIN meta b ON a.uid = b.uid", &|error| {
            matches!(error, SelectError::TwoColumns { column: "uid" })
        }),
        ("SELECT uid, caption AS weight FROM meta", &|error| {
            matches!(error, SelectError::WrongType { column: "weight", .. })
        }),
    ];
    for (sql, is_expected) in refusals {
        let error = refused(path, sql).await;
        assert!(is_expected(&error), "{sql}: {error}");
    }
    for (weight, shown) in [
        ("0", "0"),
        ("-1", "-1"),
        ("'NaN'::double", "NaN"),
        ("1e300", "1e300"),
        ("1e-300", "1e-300"),
        ("NULL::double", "null"),
    ] {
        let error =
            refused(path, &format!("SELECT uid, {weight} AS weight FROM meta WHERE width = 10"))
                .await;
        assert!(
            matches!(
                &error,
                SelectError::Weight { uid, weight: found }
                    if *uid == first && (found == shown || weight.starts_with("1e"))
            ),
            "{error}"
        );
    }
    let empty = refused(path, "SELECT uid FROM meta WHERE width > 30 AND height > 20").await;
    let lines = "\n            40  FROM meta\n            19  width > 30\n             0  height > \
                 20";
    assert!(
        matches!(empty, SelectError::Empty { .. }) && empty.to_string().ends_with(lines),
        "{empty}"
    );
    let error = refused(path, "SELECT uid FROM meta ORDER BY uid LIMIT 0").await;
    assert!(matches!(error, SelectError::Empty { .. }), "{error}");
    let twice = refused(path, "SELECT 1 AS width, * FROM meta").await.to_string();
    assert!(twice.starts_with("two columns of the result are named width"), "{twice}");
    for sql in ["EXPLAIN SELECT uid FROM meta", "SHOW TABLES"] {
        assert!(matches!(refused(path, sql).await, SelectError::NoUid { .. }), "{sql}");
    }
    let error = refused(path, "SELECT uidd FROM meta").await.to_string();
    assert!(error.contains("did you mean uid?"), "{error}");
    let without = session(SessionSpec::new(None, &stand_ins())).unwrap();
    assert!(matches!(
        select(&without, "SELECT 1", &path.join("s.parquet")).await,
        Err(SelectError::NoDataset)
    ));
}

#[tokio::test]
async fn what_would_not_come_out_the_same_is_refused() {
    let (folder, _) = dataset();
    for (sql, says, place, advice) in [
        (
            "SELECT uid FROM meta WHERE random() < 0.1",
            "random()",
            "column 28",
            "hash_fraction(uid, 'name')",
        ),
        (
            "SELECT uid FROM meta WHERE now() > TIMESTAMP '2020-01-01T00:00:00'",
            "now()",
            "column 28",
            "TIMESTAMP '2026",
        ),
        ("SELECT uid FROM meta ORDER BY uuid() LIMIT 3", "uuid()", "column 31", "hash_fraction"),
        (
            "SELECT uid FROM meta WHERE uid IN (SELECT uid FROM scores WHERE random() < 0.5)",
            "random()",
            "column 65",
            "hash_fraction",
        ),
        ("SELECT uid FROM meta LIMIT 10", "LIMIT without ORDER BY", "column 22", "ORDER BY uid"),
        (
            "SELECT uid FROM (SELECT uid FROM meta ORDER BY uid) LIMIT 10",
            "LIMIT without ORDER BY",
            "column 53",
            "ORDER BY uid",
        ),
        ("SELECT uid FROM meta OFFSET 10", "LIMIT without ORDER BY", "column 22", "ORDER BY uid"),
        (
            "SELECT uid FROM meta WHERE uid IN (SELECT uid FROM scores LIMIT 5)",
            "LIMIT without ORDER BY",
            "column 59",
            "ORDER BY uid",
        ),
        (
            "SELECT DISTINCT ON (category) uid FROM meta",
            "DISTINCT ON without ORDER BY",
            "column 8",
            "ORDER BY uid",
        ),
        (
            "SELECT uid FROM (SELECT uid, row_number() OVER () AS n FROM meta) WHERE n < 5",
            "row_number without an order",
            "column 30",
            "OVER (ORDER BY uid)",
        ),
        (
            "SELECT first_value(uid) AS uid FROM meta GROUP BY category",
            "first_value without an order",
            "column 8",
            "uid ORDER BY uid",
        ),
        (
            "SELECT uid, sum(width) OVER (ROWS 2 PRECEDING) AS weight FROM meta",
            "sum without an order",
            "column 13",
            "ORDER BY uid",
        ),
    ] {
        let message = refused(folder.path(), sql).await.to_string();
        assert!(
            message.contains(says) && message.contains(place) && message.contains(advice),
            "{sql}: {message}"
        );
    }
}

/// A new version of DataFusion may bring functions of chance or the clock. They are refused by
/// their declared volatility, so this looks for known ones that are declared otherwise.
#[test]
fn functions_of_chance_and_the_clock_are_declared_as_such() {
    let context = session(SessionSpec::new(None, &stand_ins())).unwrap();
    let state = context.state();
    for name in ["random", "uuid", "now", "current_timestamp", "current_date", "current_time"] {
        let function = state.scalar_functions().get(name).unwrap_or_else(|| panic!("{name}"));
        assert_ne!(
            function.signature().volatility,
            datafusion::logical_expr::Volatility::Immutable,
            "{name}"
        );
    }
    for function in state.scalar_functions().values() {
        let suspicious = ["rand", "now", "today", "uuid", "current_"]
            .iter()
            .any(|part| function.name().starts_with(part));
        let declared =
            function.signature().volatility != datafusion::logical_expr::Volatility::Immutable;
        assert!(declared || !suspicious, "{}", function.name());
    }
}
