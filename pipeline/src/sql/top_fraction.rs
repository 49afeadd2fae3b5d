//! The aggregate `top_fraction(value, fraction)`: the exact threshold that keeps the largest
//! values.
//!
//! It stores all values and selects by partition. So it needs eight bytes per value and linear
//! time, without a sort.

use std::cmp::Ordering;
use std::mem::size_of_val;
use std::sync::Arc;

use arrow::array::ListArray;
use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Float64Type};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::{Accumulator, AggregateUDF, Volatility, create_udaf};

pub(crate) const TOP_FRACTION: &str = "top_fraction";

/// Creates `top_fraction(value, fraction)`: element number ⌊count · fraction⌋, from 0, of the
/// values in descending order.
///
/// So `value >= top_fraction(value, 0.3)` keeps the top 30% as in DataComp's `get_threshold`
/// (`baselines/apply_filter.py`: `-np.sort(-values)[int(len(values) * fraction)]`). Nulls do not
/// count, NaN is below every number, and a fraction of 1 gives the smallest value. The result is
/// null if there are no values.
pub(super) fn top_fraction() -> AggregateUDF {
    let list = DataType::List(item());
    create_udaf(
        TOP_FRACTION,
        vec![DataType::Float64, DataType::Float64],
        Arc::new(DataType::Float64),
        Volatility::Immutable,
        Arc::new(|_| Ok(Box::<TopFraction>::default())),
        Arc::new(vec![list, DataType::Float64]),
    )
}

fn item() -> Arc<Field> {
    Arc::new(Field::new_list_field(DataType::Float64, true))
}

#[derive(Debug, Default)]
struct TopFraction {
    values: Vec<f64>,
    fraction: Option<f64>,
}

impl TopFraction {
    fn take_fraction(&mut self, fractions: &ArrayRef) -> Result<()> {
        let fractions = fractions.as_primitive::<Float64Type>();
        // It is one constant in all rows, but another part may have no rows at all.
        let Some(fraction) = fractions.iter().flatten().next() else { return Ok(()) };
        if !(0.0..=1.0).contains(&fraction) {
            return Err(DataFusionError::Execution(format!(
                "{TOP_FRACTION}: needs a fraction from 0 to 1, found {fraction}"
            )));
        }
        self.fraction = Some(fraction);
        Ok(())
    }
}

impl Accumulator for TopFraction {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let numbers = values[0].as_primitive::<Float64Type>();
        match numbers.null_count() {
            0 => self.values.extend_from_slice(numbers.values()),
            _ => self.values.extend(numbers.iter().flatten()),
        }
        self.take_fraction(&values[1])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for list in states[0].as_list::<i32>().iter().flatten() {
            self.values.extend_from_slice(list.as_primitive::<Float64Type>().values());
        }
        self.take_fraction(&states[1])
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values: ArrayRef =
            Arc::new(Float64Array::new(ScalarBuffer::from(std::mem::take(&mut self.values)), None));
        let list =
            ListArray::try_new(item(), OffsetBuffer::from_lengths([values.len()]), values, None)?;
        Ok(vec![ScalarValue::List(Arc::new(list)), ScalarValue::Float64(self.fraction)])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let (count, Some(fraction)) = (self.values.len(), self.fraction) else {
            return Ok(ScalarValue::Float64(None));
        };
        if count == 0 {
            return Ok(ScalarValue::Float64(None));
        }
        let place = ((count as f64 * fraction) as usize).min(count - 1);
        let (_, threshold, _) =
            self.values.select_nth_unstable_by(place, |a, b| descending(*a, *b));
        Ok(ScalarValue::Float64(Some(*threshold)))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.capacity() * size_of::<f64>()
    }
}

/// Compares in descending order with NaN last, as numpy sorts.
fn descending(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (false, false) => b.total_cmp(&a),
        (a, b) => a.cmp(&b),
    }
}
