//! row_number() over sorted rows, compared with counting by hand.

use std::collections::HashMap;

use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, UInt64Type};
use diptych_pipeline::sql::{SessionSpec, session};

use crate::common::stand_ins;
use crate::{batches, dataset};

/// Many batches, null keys, two columns of keys, and a partition that spans many batches.
#[tokio::test]
async fn row_numbers_of_sorted_rows_are_counted_without_a_state_for_each_partition() {
    let (folder, _) = dataset();
    for threads in [1, 2, 3] {
        let functions = stand_ins();
        let mut spec = SessionSpec::new(Some(folder.path()), &functions);
        spec.partitions = threads.try_into().ok();
        let context = session(spec).unwrap();
        // Every seventh has no key, half of the others have the key 1, the rest have unique ones.
        let rows = "SELECT value AS v, CASE WHEN value % 7 = 0 THEN NULL WHEN value % 2 = 0 THEN 1 \
                    ELSE value END AS k \
                    FROM generate_series(0, 39999)";
        let numbered = format!(
            "SELECT v, row_number() OVER (PARTITION BY k, v % 3 ORDER BY v DESC) AS n FROM ({rows})"
        );
        let plan = batches(&context, &format!("EXPLAIN {numbered}")).await;
        assert!(format!("{plan:?}").contains("RowNumbers"), "{plan:?}");

        let mut found: Vec<(i64, u64)> = Vec::new();
        for batch in batches(&context, &numbered).await {
            let (values, numbers) = (
                batch.column(0).as_primitive::<Int64Type>(),
                batch.column(1).as_primitive::<UInt64Type>(),
            );
            found.extend(values.values().iter().copied().zip(numbers.values().iter().copied()));
        }
        found.sort_unstable();
        let mut counts: HashMap<(Option<i64>, i64), u64> = HashMap::new();
        let mut expected: Vec<(i64, u64)> = Vec::new();
        for v in (0..40_000).rev() {
            let key = if v % 7 == 0 { None } else { Some(if v % 2 == 0 { 1 } else { v }) };
            let count = counts.entry((key, v % 3)).or_default();
            *count += 1;
            expected.push((v, *count));
        }
        expected.reverse();
        assert!(found == expected, "{threads}");
    }
}
