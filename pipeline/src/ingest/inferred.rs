//! Inference of the type of a text column, such as CSV's, from all its values.
//!
//! A column is `Int64` if all its values are whole numbers as a program writes them, without a plus
//! and leading zeros: `007` is a name. It is `Float64` if all are numbers, `Boolean` if all are
//! true or false, and text otherwise. Empty fields, and NaN among numbers, are null.

use arrow::datatypes::DataType;

use super::own_value::{self, OwnValue};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inferred {
    /// No value has been seen.
    Nothing,
    Boolean,
    Whole,
    Number,
    Text,
}

impl Inferred {
    /// Returns the column's type in the dataset.
    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Whole => DataType::Int64,
            Self::Number => DataType::Float64,
            Self::Text | Self::Nothing => DataType::Utf8,
        }
    }

    /// Returns the type of a column with a further value.
    pub(super) fn with(self, value: &str) -> Self {
        if self == Self::Text || value.is_empty() {
            return self;
        }
        match (self, Self::of(value)) {
            (Self::Nothing, kind) => kind,
            (known, kind) if known == kind => known,
            (Self::Whole | Self::Number, Self::Whole | Self::Number) => Self::Number,
            _ => Self::Text,
        }
    }

    fn of(value: &str) -> Self {
        let digits = value.strip_prefix('-').unwrap_or(value);
        if value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") {
            Self::Boolean
        } else if value == "-0"
            || (digits.starts_with('0') && !digits.starts_with("0.") && digits != "0")
        {
            Self::Text
        } else if digits.bytes().all(|byte| byte.is_ascii_digit()) {
            if value.parse::<i64>().is_ok() { Self::Whole } else { Self::Text }
        } else if is_nan(value)
            || digits.starts_with(|first: char| first.is_ascii_digit() || first == '.')
                && value.parse::<f64>().is_ok_and(f64::is_finite)
        {
            Self::Number
        } else {
            Self::Text
        }
    }

    /// Converts a field to a value of this type. Returns `None` for null.
    pub(super) fn value(self, field: String) -> Option<OwnValue> {
        match self {
            Self::Boolean => Some(OwnValue::Boolean(Some(field.eq_ignore_ascii_case("true")))),
            Self::Whole => field.parse().ok().map(|number| OwnValue::Int64(Some(number))),
            Self::Number if is_nan(&field) => None,
            Self::Number => field.parse().ok().map(|number| OwnValue::Float64(Some(number))),
            Self::Text | Self::Nothing => Some(own_value::text(field)),
        }
    }
}

fn is_nan(value: &str) -> bool {
    value.eq_ignore_ascii_case("nan")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(values: &[&str]) -> Inferred {
        values.iter().fold(Inferred::Nothing, |kind, value| kind.with(value))
    }

    #[test]
    fn type_of_a_column_is_that_of_all_its_values() {
        for (values, expected) in [
            (vec!["1", "", "-20", "0"], Inferred::Whole),
            (vec!["1", "2.5", "1e-3", "-.5", "nan"], Inferred::Number),
            (vec!["true", "False"], Inferred::Boolean),
            (vec!["007", "1"], Inferred::Text),
            (vec!["1", "x"], Inferred::Text),
            (vec!["1", "true"], Inferred::Text),
            (vec!["+49"], Inferred::Text),
            (vec!["12345678901234567890123"], Inferred::Text),
            (vec!["1e999"], Inferred::Text),
            (vec!["inf"], Inferred::Text),
            (vec!["", ""], Inferred::Nothing),
        ] {
            assert_eq!(kind(&values), expected, "{values:?}");
        }
    }
}
