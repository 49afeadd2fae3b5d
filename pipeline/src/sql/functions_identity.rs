//! Functions of identities: uids as text and back, and a fraction derived from a value's hash,
//! which splits data reproducibly.

use std::sync::Arc;

use arrow::array::{FixedSizeBinaryBuilder, Float64Array, StringArray};
use arrow::datatypes::DataType;
use datafusion::logical_expr::Documentation;
use diptych_schemas::{ContentHash, Uid};

use super::function::{Function, SECTION, each_row, is_binary, is_text, type_names};
use crate::random::fraction_of;

pub(super) fn identity_functions() -> Vec<Function> {
    vec![
        Function::new(
            "uid",
            DataType::FixedSizeBinary(16),
            one_text,
            uid_doc(),
            |arguments, rows| {
                let mut uids = FixedSizeBinaryBuilder::with_capacity(rows, 16);
                for row in 0..rows {
                    match arguments[0].text(row) {
                        Some(text) => {
                            let uid: Uid = text.parse().map_err(|_| {
                                format!("needs 32 hexadecimal digits, found '{text}'")
                            })?;
                            uids.append_value(uid.0).map_err(|error| error.to_string())?;
                        }
                        None => uids.append_null(),
                    }
                }
                Ok(Arc::new(uids.finish()))
            },
        ),
        Function::new("hex", DataType::Utf8, one_binary, hex_doc(), |arguments, rows| {
            Ok(each_row::<_, StringArray>(rows, |row| arguments[0].bytes(row).map(hex::encode)))
        }),
        Function::new(
            "hash_fraction",
            DataType::Float64,
            value_and_salt,
            fraction_doc(),
            |arguments, rows| {
                Ok(each_row::<_, Float64Array>(rows, |row| {
                    let value = arguments[0].bytes(row)?;
                    match arguments.get(1) {
                        Some(salt) => Some(hash_fraction(value, Some(salt.text(row)?))),
                        None => Some(hash_fraction(value, None)),
                    }
                }))
            },
        ),
    ]
}

/// Returns a uniformly distributed number in [0, 1): the first 53 bits of sha256(value), divided by
/// 2^53. With a salt, sha256(sha256(salt) ‖ value) is used.
pub(crate) fn hash_fraction(value: &[u8], salt: Option<&str>) -> f64 {
    let hash = match salt {
        Some(salt) => ContentHash::of(&[&ContentHash::of(salt.as_bytes()).0, value].concat()),
        None => ContentHash::of(value),
    };
    fraction_of(hash.seed())
}

fn one_text(types: &[DataType]) -> Result<Vec<DataType>, String> {
    match types {
        [one] if is_text(one) => Ok(vec![DataType::LargeUtf8]),
        other => Err(format!("a text of 32 hexadecimal digits, not {}", type_names(other))),
    }
}

fn one_binary(types: &[DataType]) -> Result<Vec<DataType>, String> {
    match types {
        [one] if is_binary(one) => Ok(vec![DataType::LargeBinary]),
        other => Err(format!("a uid, a sha256 or other bytes, not {}", type_names(other))),
    }
}

fn value_and_salt(types: &[DataType]) -> Result<Vec<DataType>, String> {
    let value = match types.first() {
        Some(first) if is_text(first) => Some(DataType::LargeUtf8),
        Some(first) if is_binary(first) => Some(DataType::LargeBinary),
        _ => None,
    };
    match (value, types) {
        (Some(value), [_]) => Ok(vec![value]),
        (Some(value), [_, salt]) if is_text(salt) => Ok(vec![value, DataType::LargeUtf8]),
        _ => Err(format!(
            "a text or bytes, and optionally a text as salt, not {}",
            type_names(types)
        )),
    }
}

fn uid_doc() -> Documentation {
    Documentation::builder(
        SECTION,
        "Parses the text of a uid, for comparison with a uid column. Fails if the text is not a \
         uid.",
        "uid('hex')",
    )
    .with_argument("hex", "32 hexadecimal digits.")
    .with_sql_example(
        "SELECT caption FROM meta WHERE uid = uid('0123456789abcdef0123456789abcdef')",
    )
    .with_related_udf("hex")
    .build()
}

fn hex_doc() -> Documentation {
    Documentation::builder(SECTION, "Bytes as hexadecimal digits in lower case.", "hex(bytes)")
        .with_argument("bytes", "A uid, a sha256 or other bytes.")
        .with_sql_example("SELECT caption FROM meta WHERE hex(sha256) LIKE '00ff%'")
        .with_related_udf("uid")
        .build()
}

fn fraction_doc() -> Documentation {
    let description = "A number from 0 up to but not including 1 that depends on the value alone: \
        the first 53 bits of its sha256, divided by 2^53. So a condition on it splits data \
        reproducibly, and new pairs never move old ones. Split by sha256 if one image has several \
        captions, or by caption if one caption has several images: equal values always fall on the \
        same side. Another salt gives an independent split: sha256(sha256(salt) ‖ value).";
    Documentation::builder(SECTION, description, "hash_fraction(value[, salt])")
        .with_argument("value", "A text, or bytes such as a uid or a sha256.")
        .with_argument("salt", "A text that names the split.")
        .with_sql_example("SELECT uid FROM meta WHERE hash_fraction(sha256) < 0.9")
        .build()
}
