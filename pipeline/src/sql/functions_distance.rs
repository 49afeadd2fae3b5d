//! Distances: differing bits of two hashes, cosine similarity of two vectors.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, PrimitiveArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, Float32Type, Float64Type, Int64Type, UInt64Type,
};
use datafusion::logical_expr::Documentation;

use super::function::{Argument, Function, SECTION, each_row, is_binary, type_names};

pub(super) fn distance_functions() -> Vec<Function> {
    vec![
        Function::new("hamming", DataType::Int64, hashes, hamming_doc(), |arguments, rows| {
            hamming(&arguments[0], &arguments[1], rows)
        }),
        Function::new(
            "cosine_similarity",
            DataType::Float64,
            vectors,
            cosine_doc(),
            |arguments, rows| {
                let (a, b) = (&arguments[0], &arguments[1]);
                match (element(a.array().data_type()), element(b.array().data_type())) {
                    (Some(DataType::Float32), Some(DataType::Float32)) => {
                        cosine::<Float32Type, Float32Type>(a, b, rows)
                    }
                    (Some(DataType::Float32), _) => cosine::<Float32Type, Float64Type>(a, b, rows),
                    (_, Some(DataType::Float32)) => cosine::<Float64Type, Float32Type>(a, b, rows),
                    _ => cosine::<Float64Type, Float64Type>(a, b, rows),
                }
            },
        ),
    ]
}

fn hamming(a: &Argument, b: &Argument, rows: usize) -> Result<ArrayRef, String> {
    if a.array().data_type() != &DataType::LargeBinary {
        return Ok(each_row::<_, Int64Array>(rows, |row| {
            Some((bits(a, row)? ^ bits(b, row)?).count_ones().into())
        }));
    }
    let mut distances = Int64Array::builder(rows);
    for row in 0..rows {
        match (a.bytes(row), b.bytes(row)) {
            (Some(x), Some(y)) if x.len() == y.len() => {
                distances.append_value(
                    x.iter().zip(y).map(|(x, y)| i64::from((x ^ y).count_ones())).sum(),
                );
            }
            (Some(x), Some(y)) => {
                return Err(format!("the two hashes have {} and {} bytes", x.len(), y.len()));
            }
            _ => distances.append_null(),
        }
    }
    Ok(Arc::new(distances.finish()))
}

/// Returns the bits of a 64-bit integer, signed or not.
fn bits(argument: &Argument, row: usize) -> Option<u64> {
    let (array, index) = (argument.array(), argument.index(row));
    let value = || match array.data_type() {
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(index),
        _ => array.as_primitive::<Int64Type>().value(index).cast_unsigned(),
    };
    array.is_valid(index).then(value)
}

/// Computes a·b / (|a| |b|), summed in f64 for any element type.
fn cosine<A, B>(a: &Argument, b: &Argument, rows: usize) -> Result<ArrayRef, String>
where
    A: ArrowPrimitiveType<Native: Into<f64>>,
    B: ArrowPrimitiveType<Native: Into<f64>>,
{
    let mut similarities = Float64Array::builder(rows);
    for row in 0..rows {
        let (Some(x), Some(y)) = (vector::<A>(a, row), vector::<B>(b, row)) else {
            similarities.append_null();
            continue;
        };
        if x.len() != y.len() {
            return Err(format!("the two vectors have {} and {} elements", x.len(), y.len()));
        }
        if x.null_count() + y.null_count() > 0 {
            similarities.append_null();
            continue;
        }
        let (mut dot, mut xx, mut yy) = (0.0, 0.0, 0.0);
        for (x, y) in x.values().iter().zip(y.values()) {
            let (x, y): (f64, f64) = ((*x).into(), (*y).into());
            dot += x * y;
            xx += x * x;
            yy += y * y;
        }
        // A vector of length 0 has no direction.
        similarities.append_option((xx > 0.0 && yy > 0.0).then(|| dot / (xx.sqrt() * yy.sqrt())));
    }
    Ok(Arc::new(similarities.finish()))
}

fn vector<T: ArrowPrimitiveType>(argument: &Argument, row: usize) -> Option<PrimitiveArray<T>> {
    let (lists, index) = (argument.array().as_list::<i32>(), argument.index(row));
    lists.is_valid(index).then(|| lists.value(index).as_primitive::<T>().clone())
}

fn hashes(types: &[DataType]) -> Result<Vec<DataType>, String> {
    let integer = |t: &DataType| match t {
        DataType::UInt64 => DataType::UInt64,
        _ => DataType::Int64,
    };
    match types {
        [a, b] if (a.is_integer() || a.is_null()) && (b.is_integer() || b.is_null()) => {
            Ok(vec![integer(a), integer(b)])
        }
        [a, b] if is_binary(a) && is_binary(b) => Ok(vec![DataType::LargeBinary; 2]),
        other => Err(format!("two hashes, both integers or both bytes, not {}", type_names(other))),
    }
}

fn vectors(types: &[DataType]) -> Result<Vec<DataType>, String> {
    let list = |t: &DataType| {
        let element = match element(t)? {
            DataType::Float16 | DataType::Float32 => DataType::Float32,
            DataType::Null => DataType::Float64,
            number if number.is_numeric() => DataType::Float64,
            _ => return None,
        };
        Some(DataType::List(Arc::new(Field::new_list_field(element, true))))
    };
    match types {
        [a, b] => list(a).zip(list(b)).map(|(a, b)| vec![a, b]),
        _ => None,
    }
    .ok_or_else(|| format!("two lists of numbers, not {}", type_names(types)))
}

fn element(list: &DataType) -> Option<&DataType> {
    match list {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            Some(field.data_type())
        }
        DataType::Null => Some(&DataType::Null),
        _ => None,
    }
}

fn hamming_doc() -> Documentation {
    let description = "Number of bits in which two hashes differ. For perceptual hashes (64 bits): \
        about 0 to 4 for the same picture, about 32 for unrelated ones.";
    Documentation::builder(SECTION, description, "hamming(hash1, hash2)")
        .with_argument("hash1", "A 64-bit integer or bytes.")
        .with_argument("hash2", "A hash of the same type; bytes of the same length.")
        .with_sql_example(
            "SELECT a.uid, b.uid FROM meta a JOIN meta b ON a.uid < b.uid WHERE hamming(a.phash, \
             b.phash) <= 4",
        )
        .with_related_udf("phash")
        .build()
}

fn cosine_doc() -> Documentation {
    let description = "Cosine of the angle between two vectors: 1 for the same direction, 0 for a \
        right angle. Null if one of them is null, has a null element or is all zeros; an error if \
        their lengths differ.";
    Documentation::builder(SECTION, description, "cosine_similarity(vector1, vector2)")
        .with_argument("vector1", "A list of numbers, as in embeddings.embedding.")
        .with_argument("vector2", "A list of the same length.")
        .with_sql_example(
            "SELECT uid, cosine_similarity(embedding, [0.1, 0.2, 0.3]) AS s FROM embeddings ORDER \
             BY s DESC LIMIT 10",
        )
        .build()
}
