//! SQL over a dataset: tables, functions, errors, output. Expected values are computed by hand from
//! the rows that `common` writes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod common;
#[path = "sql/damage.rs"]
mod damage;
#[path = "sql/output.rs"]
mod output;
#[path = "sql/row_numbers.rs"]
mod row_numbers;
#[path = "sql/scored.rs"]
mod scored;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use diptych_pipeline::sql::{
    OutputFormat, SessionSpec, SqlError, TableLimits, query, session, write_file, write_output,
};
use diptych_schemas::{DatasetManifest, blob_path, ledger_schema, meta_path, runs_schema};

use common::{
    add_ledger, add_scores, ledger_columns, pair, pairs, stand_ins, write_dataset, write_parquet,
};

/// Creates twelve pairs in two shards.
fn dataset() -> (tempfile::TempDir, DatasetManifest) {
    let folder = tempfile::tempdir().unwrap();
    let manifest = write_dataset(folder.path(), &[pairs(0..6), pairs(6..12)]);
    (folder, manifest)
}

fn open(folder: &Path) -> SessionContext {
    session(SessionSpec::new(Some(folder), &stand_ins())).unwrap()
}

async fn batches(context: &SessionContext, sql: &str) -> Vec<RecordBatch> {
    match query(context, sql).await {
        Ok(rows) => rows.collect().await.unwrap_or_else(|error| panic!("{sql}: {error}")),
        Err(error) => panic!("{sql}: {error}"),
    }
}

/// Returns rows as text, cells separated by a bar, null as "-".
async fn rows(context: &SessionContext, sql: &str) -> Vec<String> {
    let options = FormatOptions::new().with_null("-");
    let mut lines = Vec::new();
    for batch in batches(context, sql).await {
        let columns: Vec<_> =
            batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            lines.push(
                columns
                    .iter()
                    .map(|column| column.value(row).to_string())
                    .collect::<Vec<_>>()
                    .join("|"),
            );
        }
    }
    lines
}

async fn value(context: &SessionContext, expression: &str) -> String {
    rows(context, &format!("SELECT {expression}")).await.join("\n")
}

/// Returns the error of planning or running.
async fn failure(context: &SessionContext, sql: &str) -> String {
    let error = match query(context, sql).await {
        Ok(rows) => rows.collect().await.map(|_| ()).expect_err(sql),
        Err(error) => error,
    };
    error.to_string()
}

#[tokio::test]
async fn tables_hold_what_the_manifest_names_and_nothing_else() {
    let (folder, mut manifest) = dataset();
    // A shard and a ledger file of an ingest that was killed before it wrote its manifest.
    let path = folder.path();
    std::fs::copy(meta_path(path, 0), meta_path(path, 2)).unwrap();
    std::fs::copy(blob_path(path, 0), blob_path(path, 2)).unwrap();
    add_ledger(path, &mut manifest, &["empty_caption", "corrupt_header", "empty_caption"]);
    write_parquet(
        &path.join("ledger/00001.parquet"),
        ledger_schema(),
        ledger_columns(&["missing_image"], "ingest"),
    );
    let context = open(path);
    assert_eq!(
        rows(&context, "SELECT count(*), count(DISTINCT uid), sum(width) FROM meta").await,
        ["12|12|186"]
    );
    assert_eq!(
        rows(&context, "SELECT count(*), max(length(caption)) FROM meta JOIN blob USING (uid)")
            .await,
        ["12|10"]
    );
    assert_eq!(
        rows(&context, "SELECT reason, count(*) FROM ledger GROUP BY reason ORDER BY reason").await,
        ["corrupt_header|1", "empty_caption|2"]
    );
    // Shard 0 has no column category: its rows have null there.
    assert_eq!(
        rows(
            &context,
            "SELECT caption, category FROM meta WHERE width IN (10, 16, 17, 18) ORDER BY width"
        )
        .await,
        ["caption 0|-", "caption 6|a", "caption 7|b", "caption 8|-"]
    );
}

#[tokio::test]
async fn types_are_those_of_the_schemas() {
    let (folder, _) = dataset();
    let context = open(folder.path());
    let schema =
        query(&context, "SELECT uid, caption, image, sha256 FROM meta JOIN blob USING (uid)")
            .await
            .unwrap()
            .schema();
    let types: Vec<_> = schema.fields().iter().map(|field| field.data_type().clone()).collect();
    assert_eq!(
        types,
        [
            DataType::FixedSizeBinary(16),
            DataType::Utf8,
            DataType::LargeBinary,
            DataType::FixedSizeBinary(32)
        ]
    );
}

#[tokio::test]
async fn empty_dataset_has_empty_tables() {
    let folder = tempfile::tempdir().unwrap();
    write_dataset(folder.path(), &[]);
    let context = open(folder.path());
    for table in ["meta", "blob", "ledger", "scores", "scored", "embeddings"] {
        assert_eq!(
            rows(&context, &format!("SELECT count(*) FROM {table}")).await,
            ["0"],
            "{table}"
        );
    }
    assert!(rows(&context, "SELECT name, uid, value, producer FROM scores").await.is_empty());
    assert!(
        rows(
            &context,
            "SELECT caption, width(image) FROM meta JOIN blob USING (uid) WHERE category = 'a'"
        )
        .await
        .is_empty()
    );
}

#[tokio::test]
async fn folder_names_that_look_like_patterns_or_urls_are_read() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("a b*[é]%20?#");
    write_dataset(&folder, &[pairs(0..3)]);
    assert_eq!(rows(&open(&folder), "SELECT count(*) FROM meta").await, ["3"]);
}

#[tokio::test]
async fn scores_are_one_table_with_their_names() {
    let (folder, _) = dataset();
    add_scores(folder.path(), "clip", &[(pair(0).uid(), 0.25), (pair(1).uid(), 0.5)]);
    add_scores(folder.path(), "aesthetic", &[(pair(1).uid(), 7.0)]);
    std::fs::create_dir_all(folder.path().join("scores/unfinished")).unwrap();
    std::fs::File::create(folder.path().join("scores/unfinished/00000.parquet.incomplete"))
        .unwrap();
    let context = open(folder.path());
    assert_eq!(
        rows(
            &context,
            "SELECT name, caption, value FROM scores JOIN meta USING (uid) ORDER BY name, caption"
        )
        .await,
        ["aesthetic|caption 1|7.0", "clip|caption 0|0.25", "clip|caption 1|0.5"]
    );
    assert_eq!(
        rows(&context, "SELECT name, value, producer FROM scores WHERE name = 'aesthetic'").await,
        ["aesthetic|7.0|producer"]
    );
    let schema = query(&context, "SELECT * FROM scores").await.unwrap().schema();
    assert_eq!(
        schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(),
        ["name", "uid", "value", "text", "bits", "producer", "error"]
    );
    // One score alone is a table with equal columns.
    std::fs::remove_dir_all(folder.path().join("scores/clip")).unwrap();
    assert_eq!(
        rows(&open(folder.path()), "SELECT name, value FROM scores").await,
        ["aesthetic|7.0"]
    );
}

#[tokio::test]
async fn training_ledger_and_other_tables_are_given_by_the_caller() {
    let (folder, mut manifest) = dataset();
    add_ledger(folder.path(), &mut manifest, &["empty_caption"]);
    let training =
        RecordBatch::try_new(ledger_schema(), ledger_columns(&["corrupt_pixels"], "train"))
            .unwrap();
    let functions = stand_ins();
    let mut spec = SessionSpec::new(Some(folder.path()), &functions);
    spec.tables.push((
        "training_ledger".into(),
        Arc::new(MemTable::try_new(ledger_schema(), vec![vec![training]]).unwrap()),
    ));
    spec.tables
        .push(("runs".into(), Arc::new(MemTable::try_new(runs_schema(), vec![vec![]]).unwrap())));
    let context = session(spec.clone()).unwrap();
    assert_eq!(
        rows(&context, "SELECT stage, reason FROM ledger ORDER BY stage").await,
        ["ingest|empty_caption", "train|corrupt_pixels"]
    );
    assert_eq!(
        rows(&context, "SELECT reason FROM ledger WHERE stage = 'train'").await,
        ["corrupt_pixels"]
    );
    assert_eq!(rows(&context, "SELECT count(*) FROM runs").await, ["0"]);
    spec.dataset = None;
    let without = session(spec).unwrap();
    assert_eq!(rows(&without, "SELECT count(*) FROM runs").await, ["0"]);
    assert!(failure(&without, "SELECT * FROM meta").await.contains("there is no table meta"));
}

#[tokio::test]
async fn conditions_on_meta_are_checked_while_reading() {
    let (folder, _) = dataset();
    let context = open(folder.path());
    let plan = rows(&context, "EXPLAIN SELECT caption FROM meta WHERE width = 15").await.join("\n");
    assert!(plan.contains("predicate=width@") && plan.contains("pruning_predicate="), "{plan}");
    // Nothing filters after the scan: the scan itself does.
    assert!(!plan.contains("FilterExec"), "{plan}");
    let uid = pair(7).uid();
    assert_eq!(
        rows(&context, &format!("SELECT caption FROM meta WHERE uid = uid('{uid}')")).await,
        ["caption 7"]
    );
    let analyzed = rows(
        &context,
        &format!("EXPLAIN ANALYZE SELECT caption FROM meta WHERE uid = uid('{uid}')"),
    )
    .await
    .join("\n");
    assert!(analyzed.contains("row_groups_pruned_statistics="), "{analyzed}");
}

#[tokio::test]
async fn functions_of_images_read_blob_and_columns_of_the_same_name_stay_columns() {
    let (folder, _) = dataset();
    let context = open(folder.path());
    assert_eq!(
        rows(&context, "SELECT width, height FROM meta WHERE caption = 'caption 3'").await,
        ["13|20"]
    );
    let sql = "SELECT width(image), height(image), aspect_ratio(image), phash(image), \
               aspect_ratio(width, height)
               FROM meta JOIN blob USING (uid) WHERE caption = 'caption 0'";
    assert_eq!(rows(&context, sql).await, ["10|20|0.5|30|0.5"]);
    assert_eq!(
        rows(
            &context,
            "SELECT count(*) FROM blob JOIN meta USING (uid) WHERE width(image) <> width"
        )
        .await,
        ["0"]
    );
    assert_eq!(
        value(
            &context,
            "width(arrow_cast('no image', 'Binary')), phash(arrow_cast('no', 'LargeBinary')), \
             width(NULL)"
        )
        .await,
        "-|-|-"
    );
    assert_eq!(
        value(&context, "aspect_ratio(3, 2), aspect_ratio(1, 0), aspect_ratio(NULL, 2)").await,
        "1.5|-|-"
    );
}

#[tokio::test]
async fn functions_of_texts() {
    let (folder, _) = dataset();
    let context = open(folder.path());
    assert_eq!(
        value(&context, "word_count('  a red\tcircle '), word_count(''), word_count(NULL)").await,
        "3|0|-"
    );
    assert_eq!(value(&context, "token_count('héllo'), token_count(NULL)").await, "5|-");
    assert_eq!(
        rows(&context, "SELECT max(token_count(caption)), min(word_count(caption)) FROM meta")
            .await,
        ["10|2"]
    );
}

#[tokio::test]
async fn functions_of_hashes_and_vectors() {
    let (folder, _) = dataset();
    let context = open(folder.path());
    // 0b1100 and 0b1010 differ in two bits; -1 has all 64.
    assert_eq!(
        value(&context, "hamming(12, 10), hamming(-1, 0), hamming(NULL, 1)").await,
        "2|64|-"
    );
    assert_eq!(
        value(&context, "hamming(18446744073709551615, 0), hamming(arrow_cast(5, 'UInt64'), 5)")
            .await,
        "64|0"
    );
    assert_eq!(
        rows(
            &context,
            "SELECT phash, hamming(phash, 30) FROM meta WHERE width IN (10, 11, 12) ORDER BY width"
        )
        .await,
        ["30|0", "-|-", "36|4"]
    );
    assert_eq!(rows(&context, "SELECT max(hamming(sha256, sha256)) FROM meta").await, ["0"]);
    // cos of 45 degrees is 1/√2 = 0.7071067811865475…
    assert_eq!(
        value(&context, "round(cosine_similarity([1.0, 0.0], [2.0, 2.0]), 6)").await,
        "0.707107"
    );
    assert_eq!(
        value(
            &context,
            "cosine_similarity([1, 2], [2, 4]) > 0.999999, cosine_similarity([0.0], [1.0]), \
             cosine_similarity(NULL, [1.0])"
        )
        .await,
        "true|-|-"
    );
    let types = ["List(Float32)", "FixedSizeList(2, Float16)", "LargeList(Float64)"];
    for a in types {
        for b in types {
            let sql = format!(
                "cosine_similarity(arrow_cast(make_array(3.0, 4.0), '{a}'), \
                 arrow_cast(make_array(4.0, 3.0), '{b}'))"
            );
            // (12 + 12) / (5 · 5), exact in all three types.
            assert_eq!(value(&context, &sql).await, "0.96", "{sql}");
        }
    }
    assert_eq!(
        rows(
            &context,
            "SELECT cosine_similarity(make_array(width, height), make_array(1, 0)) FROM meta WHERE \
             width = 15"
        )
        .await,
        ["0.6"]
    );
    assert_eq!(
        failure(&context, "SELECT cosine_similarity([1.0], [1.0, 2.0])").await,
        "the query failed while it ran: cosine_similarity: the two vectors have 1 and 2 \
         elements\nline 1, column 8:\n  SELECT cosine_similarity([1.0], [1.0, 2.0])\n         \
         ^^^^^^^^^^^^^^^^^"
    );
}

#[tokio::test]
async fn functions_of_identities() {
    let (folder, _) = dataset();
    let context = open(folder.path());
    let uid = pair(2).uid();
    assert_eq!(
        rows(&context, "SELECT hex(uid) FROM meta WHERE width = 12").await,
        [uid.to_string()]
    );
    assert_eq!(
        value(&context, "hex(uid('00112233445566778899AABBCCDDEEFF')), uid(NULL)").await,
        "00112233445566778899aabbccddeeff|-"
    );
    // sha256("abc") starts with ba7816bf 8f01cfea (FIPS 180-4): 0xba7816bf8f01cfea / 2^64 =
    // 0.728394908…
    assert_eq!(
        value(&context, "round(hash_fraction('abc'), 8), hash_fraction(NULL)").await,
        "0.72839491|-"
    );
    assert_eq!(value(&context,
        "hash_fraction('abc') = hash_fraction(arrow_cast('abc', 'Binary')), hash_fraction('abc') = \
         hash_fraction('abc', 'other')").await, "true|false");
    assert_eq!(
        rows(
            &context,
            "SELECT min(hash_fraction(uid)) >= 0, max(hash_fraction(uid, 'x')) < 1 FROM meta"
        )
        .await,
        ["true|true"]
    );
}

/// By hand: its distance from even is within chance (the standard deviation of the mean of 10,000
/// is 0.003).
#[tokio::test]
async fn hash_fraction_is_spread_evenly_and_salts_are_independent() {
    let context = session(SessionSpec::new(None, &stand_ins())).unwrap();
    let sql = "SELECT avg(hash_fraction(v)) BETWEEN 0.48 AND 0.52, abs(corr(hash_fraction(v), \
               hash_fraction(v, 's'))) < 0.05
               FROM (SELECT arrow_cast(value, 'Utf8') AS v FROM generate_series(1, 10000))";
    assert_eq!(rows(&context, sql).await, ["true|true"]);
}

#[tokio::test]
async fn errors_of_names_point_at_the_column() {
    let (folder, _) = dataset();
    let context = open(folder.path());
    for (sql, message) in [
        (
            "SELECT captoin FROM meta",
            "there is no column captoin\nline 1, column 8:\n  SELECT captoin FROM meta\n         \
             ^^^^^^^\ndid you mean caption?",
        ),
        (
            "SELECT uid\nFROM meta\nWHERE m.width > 3",
            "there is no column width in m\nline 3, column 7:\n  WHERE m.width > 3\n        \
             ^^^^^^^",
        ),
        (
            "SELECT m.capt FROM meta m",
            "there is no column capt in m\nline 1, column 8:\n  SELECT m.capt FROM meta m\n  \
             \x20      ^^^^^^\ndid you mean caption?",
        ),
        (
            "SELECT uid FROM meta JOIN blob ON meta.uid = blob.uid",
            "more than one table has a column uid\nline 1, column 8:\n  SELECT uid FROM meta JOIN \
             blob ON meta.uid = blob.uid\n         ^^^\nput the table before it, as in meta.uid, \
             or join with USING (uid)",
        ),
        (
            "SELECT 1 FROM metta",
            "there is no table metta\nline 1, column 15:\n  SELECT 1 FROM metta\n                \
             ^^^^^\ndid you mean meta?",
        ),
        (
            "SELECT 1 FROM zzz",
            "there is no table zzz\nline 1, column 15:\n  SELECT 1 FROM zzz\n                \
             ^^^\nthe tables are: blob, embeddings, ledger, meta, scored, scores",
        ),
        (
            "SELECT word_cuont(caption) FROM meta",
            "there is no function word_cuont\nline 1, column 8:\n  SELECT word_cuont(caption) FROM \
             meta\n         ^^^^^^^^^^\ndid you mean word_count?",
        ),
        (
            "SELECT uid FROM meta WHERE format = \"jpeg\"",
            "there is no column jpeg\nline 1, column 37:\n  SELECT uid FROM meta WHERE format = \
             \"jpeg\"\n                                      ^^^^^^\ntext is written in single \
             quotes: 'jpeg'. Double quotes name a column",
        ),
    ] {
        assert_eq!(failure(&context, sql).await, message, "{sql}");
    }
}

#[tokio::test]
async fn errors_of_syntax_and_types_point_at_the_place() {
    let (folder, _) = dataset();
    let context = open(folder.path());
    for (sql, message) in [
        (
            "SELECT uid\nFROM meta WERE width > 3",
            "syntax error: expected end of statement, found width\nline 2, column 16:\n  FROM meta \
             WERE width > 3\n                 ^^^^^",
        ),
        (
            "SELECT uid FROM meta WHERE",
            "syntax error: expected an expression, found the end of the SQL\nline 1, column 27:\n  \
             SELECT uid FROM meta WHERE\n                            ^",
        ),
        ("", "the SQL is empty"),
        ("SELECT 1; SELECT 2", "there is more than one statement; run one at a time"),
        (
            "SELECT width(caption) FROM meta",
            "width needs the bytes of an image, as in blob.image, not Utf8\nline 1, column 8:\n  \
             SELECT width(caption) FROM meta\n         ^^^^^",
        ),
        (
            "SELECT hamming(phash) FROM meta",
            "hamming needs two hashes, both integers or both bytes, not UInt64\nline 1, column \
             8:\n  SELECT hamming(phash) FROM meta\n         ^^^^^^^",
        ),
        (
            "SELECT uid('xyz')",
            "the query failed while it ran: uid: needs 32 hexadecimal digits, found 'xyz'\nline 1, \
             column 8:\n  SELECT uid('xyz')\n         ^^^",
        ),
    ] {
        assert_eq!(failure(&context, sql).await, message, "{sql}");
    }
    let comparison = failure(&context, "SELECT caption FROM meta WHERE uid = '00ff'").await;
    assert!(
        comparison.ends_with("a uid is written as uid('32 hexadecimal digits')")
            && comparison.contains("column 32:"),
        "{comparison}"
    );
    let comparison = failure(&context, "SELECT uid = '00ff' FROM meta").await;
    assert!(
        comparison.contains("a uid is written as uid(") && comparison.contains("column 8:"),
        "{comparison}"
    );
    let grouping = failure(&context, "SELECT caption, count(*) FROM meta GROUP BY width").await;
    assert!(grouping.contains("line 1, column 8:") && grouping.contains("GROUP BY"), "{grouping}");
}

#[tokio::test]
async fn nothing_can_be_written_and_no_other_file_read() {
    let (folder, _) = dataset();
    let context = open(folder.path());
    let target = folder.path().join("out.csv");
    let meta = meta_path(folder.path(), 0);
    let target = target.display();
    for sql in [
        format!("COPY (SELECT 1) TO '{target}'"),
        format!("EXPLAIN ANALYZE COPY (SELECT 1) TO '{target}'"),
        format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'", meta.display()),
        "CREATE TABLE t AS SELECT 1".into(),
        "CREATE VIEW v AS SELECT 1".into(),
        "INSERT INTO meta SELECT * FROM meta".into(),
        "DELETE FROM meta".into(),
        "UPDATE meta SET caption = ''".into(),
        "DROP TABLE meta".into(),
        "SET datafusion.execution.batch_size = 1".into(),
    ] {
        let message = failure(&context, &sql).await;
        assert!(
            message.contains("only reading is allowed") || message.contains("syntax error"),
            "{sql}: {message}"
        );
    }
    let message = failure(&context, &format!("SELECT * FROM '{}'", meta.display())).await;
    assert!(message.contains("there is no table"), "{message}");
    assert!(!folder.path().join("out.csv").exists());
    for sql in ["SHOW TABLES", "DESCRIBE meta", "EXPLAIN SELECT * FROM meta"] {
        assert!(!rows(&context, sql).await.is_empty(), "{sql}");
    }
}

#[tokio::test]
async fn functions_are_documented_in_sql() {
    let (folder, _) = dataset();
    let context = open(folder.path());
    let names = [
        "aspect_ratio",
        "cosine_similarity",
        "hamming",
        "hash_fraction",
        "height",
        "hex",
        "phash",
        "token_count",
        "uid",
        "width",
        "word_count",
    ];
    let list = names.map(|name| format!("'{name}'")).join(", ");
    let sql = format!(
        "SELECT routine_name FROM information_schema.routines WHERE routine_name IN ({list}) AND \
         description IS NOT NULL AND syntax_example IS NOT NULL ORDER BY 1"
    );
    assert_eq!(rows(&context, &sql).await, names);
}

#[tokio::test]
async fn query_that_needs_too_much_memory_says_so() {
    let functions = stand_ins();
    let mut spec = SessionSpec::new(None, &functions);
    spec.memory = Some(1 << 20);
    let context = session(spec).unwrap();
    let sql = "SELECT count(*) FROM (SELECT a.value FROM generate_series(1, 2000000) a JOIN \
               generate_series(1, 2000000) b ON a.value = b.value)";
    let message = failure(&context, sql).await;
    assert!(message.contains("memory pool"), "{message}");
}
