//! Values of sources' own columns, with their types.
//!
//! A column of the dataset has the narrowest type that holds all its values without loss. For whole
//! numbers, this is the widest of their types. For whole numbers and fractions it is `Float64`
//! (exact up to 2^53), for decimals a decimal, and for all other mixtures text.

use std::borrow::Cow;

use arrow::array::{ArrayRef, new_empty_array};
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType};
use datafusion::common::{DataFusionError, ScalarValue};
use serde_json::Value;

pub(super) type OwnValue = ScalarValue;

/// Digits of the largest unsigned 64-bit number.
const U64_DIGITS: u8 = 20;

pub(super) fn text(value: impl Into<String>) -> OwnValue {
    ScalarValue::Utf8(Some(value.into()))
}

/// Converts a JSON value. Returns `None` for null. Lists and objects are kept as JSON.
pub(super) fn of_json(value: &Value) -> Option<OwnValue> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => ScalarValue::Boolean(Some(*value)),
        Value::String(value) => text(value.as_str()),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), ..) => ScalarValue::Int64(Some(number)),
            (None, Some(number), _) => ScalarValue::UInt64(Some(number)),
            (None, None, Some(number)) => ScalarValue::Float64(Some(number)),
            (None, None, None) => text(number.to_string()),
        },
        other => text(other.to_string()),
    })
}

/// Returns the value as text.
pub(super) fn shown(value: &OwnValue) -> Cow<'_, str> {
    match value {
        ScalarValue::Utf8(Some(text)) => Cow::Borrowed(text),
        other => Cow::Owned(other.to_string()),
    }
}

/// Returns the approximate number of bytes in memory.
pub(super) fn bytes(value: &OwnValue) -> usize {
    if let ScalarValue::Utf8(Some(text)) = value { text.len() } else { size_of::<u64>() }
}

/// Returns the type that holds the values of both.
pub(super) fn common_type(a: &DataType, b: &DataType) -> DataType {
    let decimal = |kind: &DataType| match kind {
        DataType::Decimal128(precision, scale) => Some((*precision, *scale)),
        kind => digits(kind).map(|digits| (digits, 0)),
    };
    match (a, b) {
        _ if a == b => a.clone(),
        (DataType::Null, other) | (other, DataType::Null) => other.clone(),
        _ if a.is_integer() && b.is_integer() => common_integer(a, b),
        _ if a.is_floating() && b.is_floating() => wider(a, b),
        _ if (a.is_floating() && b.is_integer()) || (a.is_integer() && b.is_floating()) => {
            DataType::Float64
        }
        _ => match (decimal(a), decimal(b)) {
            (Some((p, s)), Some((q, t))) => {
                let scale = s.max(t);
                let whole = (i16::from(p) - i16::from(s)).max(i16::from(q) - i16::from(t));
                match u8::try_from(whole + i16::from(scale)) {
                    Ok(precision) if precision <= DECIMAL128_MAX_PRECISION => {
                        DataType::Decimal128(precision, scale)
                    }
                    _ => DataType::Utf8,
                }
            }
            _ => DataType::Utf8,
        },
    }
}

fn wider(a: &DataType, b: &DataType) -> DataType {
    let width = |kind: &DataType| kind.primitive_width().unwrap_or(0);
    if width(a) >= width(b) { a.clone() } else { b.clone() }
}

fn common_integer(a: &DataType, b: &DataType) -> DataType {
    if a.is_signed_integer() == b.is_signed_integer() {
        return wider(a, b);
    }
    let (signed, unsigned) = if a.is_signed_integer() { (a, b) } else { (b, a) };
    let holds_unsigned = match unsigned {
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        _ => return DataType::Decimal128(U64_DIGITS, 0),
    };
    wider(&holds_unsigned, signed)
}

/// Returns the decimal digits of an integer type.
fn digits(kind: &DataType) -> Option<u8> {
    Some(match kind {
        DataType::Int8 | DataType::UInt8 => 3,
        DataType::Int16 | DataType::UInt16 => 5,
        DataType::Int32 | DataType::UInt32 => 10,
        DataType::Int64 => 19,
        DataType::UInt64 => U64_DIGITS,
        _ => return None,
    })
}

/// Builds a column of values with a type that holds them all.
pub(super) fn column<'a>(
    values: impl Iterator<Item = Option<&'a OwnValue>>,
    kind: &DataType,
) -> Result<ArrayRef, DataFusionError> {
    let null = ScalarValue::try_new_null(kind)?;
    let values: Vec<ScalarValue> = values
        .map(|value| match value {
            None => Ok(null.clone()),
            Some(value) if value.data_type() == *kind => Ok(value.clone()),
            Some(value) => value.cast_to(kind),
        })
        .collect::<Result<_, _>>()?;
    if values.is_empty() { Ok(new_empty_array(kind)) } else { ScalarValue::iter_to_array(values) }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Float64Type, TimeUnit};

    use super::*;

    #[test]
    fn types_that_differ_have_one_that_holds_both() {
        let milliseconds = DataType::Timestamp(TimeUnit::Millisecond, None);
        for (a, b, common) in [
            (DataType::Int64, DataType::Int64, DataType::Int64),
            (DataType::Int32, DataType::Int64, DataType::Int64),
            (DataType::UInt32, DataType::Int8, DataType::Int64),
            (DataType::UInt64, DataType::Int64, DataType::Decimal128(20, 0)),
            (DataType::Float32, DataType::Float64, DataType::Float64),
            (DataType::Int64, DataType::Float32, DataType::Float64),
            (DataType::Int64, DataType::Utf8, DataType::Utf8),
            (DataType::Boolean, DataType::Int64, DataType::Utf8),
            (milliseconds.clone(), DataType::Date32, DataType::Utf8),
            (DataType::Decimal128(5, 2), DataType::Decimal128(9, 1), DataType::Decimal128(10, 2)),
            (DataType::Decimal128(5, 2), DataType::Int64, DataType::Decimal128(21, 2)),
            (DataType::Decimal128(38, 2), DataType::Decimal128(38, 0), DataType::Utf8),
            (DataType::Null, milliseconds.clone(), milliseconds),
        ] {
            assert_eq!(common_type(&a, &b), common, "{a} {b}");
            assert_eq!(common_type(&b, &a), common, "{b} {a}");
        }
    }

    #[test]
    fn values_become_a_column_of_their_common_type() {
        let values = [ScalarValue::Int64(Some(3)), ScalarValue::Float64(Some(0.25))];
        let numbers = column(values.iter().map(Some).chain([None]), &DataType::Float64).unwrap();
        let numbers: Vec<Option<f64>> = numbers.as_primitive::<Float64Type>().iter().collect();
        assert_eq!(numbers, [Some(3.0), Some(0.25), None]);
        let texts = column(values.iter().map(Some), &DataType::Utf8).unwrap();
        let texts: Vec<&str> = texts.as_string::<i32>().iter().flatten().collect();
        assert_eq!(texts, ["3", "0.25"]);
    }

    #[test]
    fn json_keeps_its_types() {
        let values = serde_json::json!([1, 18_446_744_073_709_551_615_u64, 0.5, true, "a", [1, 2]]);
        let kinds: Vec<DataType> = values
            .as_array()
            .unwrap()
            .iter()
            .map(|value| of_json(value).unwrap().data_type())
            .collect();
        assert_eq!(
            kinds,
            [
                DataType::Int64,
                DataType::UInt64,
                DataType::Float64,
                DataType::Boolean,
                DataType::Utf8,
                DataType::Utf8
            ]
        );
        assert_eq!(of_json(&Value::Null), None);
    }
}
