//! The exact median of a column, in memory that does not grow with the rows. Count by count, the
//! interval that holds the median is narrowed until its values fit.

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::prelude::SessionContext;
use diptych_pipeline::sql::query;

/// Most values in memory at a time.
const MOST_HELD: u64 = 1 << 20;
/// Parts of an interval that one query counts.
const PARTS: u64 = 4096;
/// Most narrowing queries. Only numbers over hundreds of orders of magnitude need more than a few.
const MOST_COUNTS: usize = 40;

/// The values between two bounds.
#[derive(Clone, Copy)]
struct Interval {
    count: u64,
    low: f64,
    high: f64,
}

/// Returns the median of the column `x` of `rows`, which is SQL of a table. Its values are `count`
/// finite numbers between `low` and `high`. For an even number of values, the median is the mean of
/// the middle two. Returns `None` if it takes too many queries.
pub(super) async fn median(
    context: &SessionContext,
    rows: &str,
    (count, low, high): (u64, f64, f64),
) -> anyhow::Result<Option<f64>> {
    exact(context, rows, Interval { count, low, high }, MOST_HELD).await
}

async fn exact(
    context: &SessionContext,
    rows: &str,
    all: Interval,
    held: u64,
) -> anyhow::Result<Option<f64>> {
    if all.count == 0 {
        return Ok(None);
    }
    // Positions of the middle two values within the interval. For an odd number of values they are
    // equal.
    let (mut first, mut second) = ((all.count - 1) / 2, all.count / 2);
    let mut within = all;
    for _ in 0..MOST_COUNTS {
        if within.low >= within.high {
            return Ok(Some(within.low));
        }
        if within.count <= held {
            let mut values = values(context, rows, within).await?;
            values.sort_unstable_by(f64::total_cmp);
            let at = |place: u64| values.get(place as usize).copied();
            return Ok(at(first).zip(at(second)).map(|(a, b)| f64::midpoint(a, b)));
        }
        let parts = parts(context, rows, within).await?;
        let (mut before, mut found) = (0, None);
        for (place, part) in parts.iter().enumerate() {
            if first < before + part.count {
                found = Some(place);
                break;
            }
            before += part.count;
        }
        let Some(place) = found else { return Ok(None) };
        if second >= before + parts[place].count {
            // The middle lies between two parts: the last value of one and the first of the next.
            return Ok(parts.get(place + 1).map(|next| f64::midpoint(parts[place].high, next.low)));
        }
        (first, second, within) = (first - before, second - before, parts[place]);
    }
    Ok(None)
}

fn condition(Interval { low, high, .. }: Interval) -> String {
    format!("x >= {low:e} AND x <= {high:e}")
}

/// Returns the parts of an interval that hold any values, in ascending order.
async fn parts(
    context: &SessionContext,
    rows: &str,
    within: Interval,
) -> anyhow::Result<Vec<Interval>> {
    // Dividing first keeps the width of the largest numbers from overflowing.
    let width = within.high / PARTS as f64 - within.low / PARTS as f64;
    let part = format!("least({}, floor((x - {:e}) / {width:e}))", PARTS - 1, within.low);
    let sql = format!(
        "SELECT CAST({part} AS BIGINT) AS part, count(*), min(x), max(x) FROM ({rows}) WHERE {} \
         GROUP BY 1 ORDER BY 1",
        condition(within)
    );
    let mut found = Vec::new();
    for batch in query(context, &sql).await?.collect().await? {
        let counts = cast(batch.column(1), &DataType::Int64)?;
        let counts = counts.as_primitive::<Int64Type>();
        let [lows, highs] = [2, 3].map(|column| batch.column(column).as_primitive::<Float64Type>());
        found.extend((0..batch.num_rows()).map(|row| Interval {
            count: counts.value(row) as u64,
            low: lows.value(row),
            high: highs.value(row),
        }));
    }
    Ok(found)
}

async fn values(
    context: &SessionContext,
    rows: &str,
    within: Interval,
) -> anyhow::Result<Vec<f64>> {
    let sql = format!("SELECT x FROM ({rows}) WHERE {}", condition(within));
    let mut batches = query(context, &sql).await?;
    let mut found = Vec::new();
    while let Some(batch) = batches.next().await? {
        found.extend(batch.column(0).as_primitive::<Float64Type>().values());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    async fn of(values: &[f64], held: u64) -> Option<f64> {
        let listed: Vec<String> = values.iter().map(|value| format!("({value:e})")).collect();
        let rows =
            format!("SELECT CAST(column1 AS DOUBLE) AS x FROM (VALUES {})", listed.join(", "));
        let edge = |pick: fn(f64, f64) -> f64| values.iter().copied().reduce(pick).unwrap();
        let all =
            Interval { count: values.len() as u64, low: edge(f64::min), high: edge(f64::max) };
        exact(&SessionContext::new(), &rows, all, held).await.unwrap()
    }

    fn sorted(values: &[f64]) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        }
    }

    #[tokio::test]
    async fn median_is_the_middle_of_the_sorted_values_however_few_are_held() {
        let edges: Vec<f64> = vec![64.0, 64.0, 65.0, 71.0];
        let one_far_out: Vec<f64> = (0..50).map(|n| 1e-9 * f64::from(n)).chain([1e300]).collect();
        let equal = vec![7.0; 30];
        for values in [edges, one_far_out, equal, vec![3.0], vec![-1e308, 0.5, 1e308]] {
            for held in [1, 2, 1000] {
                assert_eq!(of(&values, held).await, Some(sorted(&values)), "{values:?} {held}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn any_values_have_their_median(
            values in proptest::collection::vec(-1000.0..1000.0f64, 1..60),
            held in 1_u64..8,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            prop_assert_eq!(runtime.block_on(of(&values, held)), Some(sorted(&values)));
        }
    }
}
