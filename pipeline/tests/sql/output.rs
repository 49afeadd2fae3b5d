//! Rows as tables for people, CSV, JSON and Parquet.

use super::*;

async fn written(
    context: &SessionContext,
    sql: &str,
    format: OutputFormat,
    limits: TableLimits,
) -> String {
    let mut out = Vec::new();
    write_output(query(context, sql).await.unwrap(), format, limits, &mut out).await.unwrap();
    String::from_utf8(out).unwrap()
}

const MIXED: &str =
    "SELECT hex(uid) = hex(uid) AS same, caption, phash, image, arrow_cast(arrow_cast('ab', \
     'Binary'), 'FixedSizeBinary(2)') AS b, [1.5, 2.0] AS l
                     FROM meta JOIN blob USING (uid) WHERE width IN (10, 11) ORDER BY width";

#[tokio::test]
async fn table_is_for_people() {
    let (folder, _) = dataset();
    let context = open(folder.path());
    let expected = "\
+------+-----------+-------+------------+------+------------+
| same | caption   | phash | image      | b    | l          |
+------+-----------+-------+------------+------+------------+
| true | caption 0 | 30    | <12 bytes> | 6162 | [1.5, 2.0] |
| true | caption 1 | NULL  | <12 bytes> | 6162 | [1.5, 2.0] |
+------+-----------+-------+------------+------+------------+
2 rows
";
    assert_eq!(
        written(&context, MIXED, OutputFormat::Table, TableLimits::default()).await,
        expected
    );
    let expected = "\
+-------+
| c     |
+-------+
| capt… |
| capt… |
+-------+
2 of 12 rows
";
    let limits = TableLimits { rows: 2, cell_width: 5, ..TableLimits::default() };
    assert_eq!(
        written(&context, "SELECT caption AS c FROM meta", OutputFormat::Table, limits).await,
        expected
    );
    assert_eq!(
        written(
            &context,
            "SELECT value FROM generate_series(1, 1500000)",
            OutputFormat::Table,
            TableLimits { rows: 0, cell_width: 5, ..TableLimits::default() }
        )
        .await,
        "+-------+\n| value |\n+-------+\n+-------+\n0 of more than 1,000,000 rows\n"
    );
    let explained =
        written(&context, "EXPLAIN SELECT caption FROM meta", OutputFormat::Table, limits).await;
    assert!(
        explained.contains("DataSourceExec") && explained.contains("physical_plan"),
        "{explained}"
    );
}

#[tokio::test]
async fn wide_table_is_cut_to_the_screen_or_expanded_and_says_so() {
    let (folder, _) = dataset();
    let context = open(folder.path());
    let limits = TableLimits {
        rows: 1,
        screen_width: Some(31),
        more_rows: ": --rows 0 shows all",
        more_columns: ": --expanded shows all",
        ..TableLimits::default()
    };
    let sql = "SELECT width, caption, width + 1 AS wider, caption AS again FROM meta WHERE width < \
               12 ORDER BY width";
    let expected = "\
+-------+-----------+-------+
| width | caption   | wider |
+-------+-----------+-------+
| 10    | caption 0 | 11    |
+-------+-----------+-------+
1 of 2 rows: --rows 0 shows all; 3 of 4 columns, as many as fit: --expanded shows all
";
    assert_eq!(written(&context, sql, OutputFormat::Table, limits).await, expected);
    let expected = "\
-[ row 1 ]-------
width   | 10
caption | caption 0
wider   | 11
again   | caption 0
1 of 2 rows: --rows 0 shows all
";
    let limits = TableLimits { expanded: true, ..limits };
    assert_eq!(written(&context, sql, OutputFormat::Table, limits).await, expected);
}

#[tokio::test]
async fn csv_and_json_give_bytes_as_digits() {
    let (folder, _) = dataset();
    let context = open(folder.path());
    let image = |n: u32| hex::encode(pair(n).image());
    let limits = TableLimits::default();
    assert_eq!(
        written(&context, MIXED, OutputFormat::Csv, limits).await,
        format!(
            "same,caption,phash,image,b,l\ntrue,caption 0,30,{},6162,\"[1.5, 2.0]\"\ntrue,caption \
             1,,{},6162,\"[1.5, 2.0]\"\n",
            image(0),
            image(1)
        )
    );
    let object = |n: u32, hash: &str| {
        format!(
            "{{\"same\":true,\"caption\":\"caption \
             {n}\",\"phash\":{hash},\"image\":\"{}\",\"b\":\"6162\",\"l\":[1.5,2.0]}}",
            image(n)
        )
    };
    assert_eq!(
        written(&context, MIXED, OutputFormat::Json, limits).await,
        format!("[{},{}]\n", object(0, "30"), object(1, "null"))
    );
    assert_eq!(
        written(&context, MIXED, OutputFormat::JsonLines, limits).await,
        format!("{}\n{}\n", object(0, "30"), object(1, "null"))
    );
    assert_eq!(
        written(&context, "SELECT caption FROM meta WHERE width = 0", OutputFormat::Json, limits)
            .await,
        "[]\n"
    );
    assert_eq!(
        written(&context, "SELECT caption FROM meta WHERE width = 0", OutputFormat::Csv, limits)
            .await,
        "caption\n"
    );
}

#[tokio::test]
async fn parquet_file_is_whole_or_not_there() {
    let (folder, _) = dataset();
    let context = open(folder.path());
    let path = folder.path().join("out.parquet");
    let result = query(
        &context,
        "SELECT uid, caption, embedding FROM (SELECT uid, caption, [1.0] AS embedding FROM meta)",
    )
    .await
    .unwrap();
    assert_eq!(
        write_file(result, OutputFormat::Parquet, TableLimits::default(), &path).await.unwrap(),
        12
    );
    let file = std::fs::File::open(&path).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build()
        .unwrap();
    let back: Vec<RecordBatch> = reader.collect::<Result<_, _>>().unwrap();
    assert_eq!(back.iter().map(RecordBatch::num_rows).sum::<usize>(), 12);
    assert_eq!(back[0].column(0).as_fixed_size_binary().value_length(), 16);

    // Fails in the middle: a caption that is not a number.
    let before = std::fs::read(&path).unwrap();
    let failing = query(&context, "SELECT CAST(caption AS INT) FROM meta").await.unwrap();
    let error = write_file(failing, OutputFormat::Parquet, TableLimits::default(), &path)
        .await
        .unwrap_err();
    assert!(matches!(error, SqlError::Run(_)) && error.to_string().contains("caption"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert!(!folder.path().join("out.parquet.incomplete").exists());
}
