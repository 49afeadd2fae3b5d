//! Pairs with their embeddings as an Arrow table.
//!
//! Its columns are `uid` (hexadecimal), `caption`, `image_embedding` and `text_embedding` (lists of
//! float32 of equal length).

use std::sync::Arc;

use anyhow::{Context, bail};
use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, RecordBatch, StringArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type};
use diptych_schemas::{Uid, column};

use super::{IMAGE, TEXT};
use crate::encode::Encoded;

/// Converts pairs to a table.
pub fn pairs_table(encoded: &Encoded, dimension: usize) -> anyhow::Result<RecordBatch> {
    Ok(RecordBatch::try_from_iter([
        (
            column::UID,
            Arc::new(StringArray::from_iter_values(encoded.uids.iter().map(Uid::to_string)))
                as ArrayRef,
        ),
        (column::CAPTION, Arc::new(StringArray::from_iter_values(&encoded.captions)) as ArrayRef),
        (IMAGE, lists(encoded.images.clone(), dimension)?),
        (TEXT, lists(encoded.texts.clone(), dimension)?),
    ])?)
}

/// Converts a table back to pairs.
pub fn pairs_of(table: &RecordBatch) -> anyhow::Result<Encoded> {
    let text = |name: &str| {
        table
            .column_by_name(name)
            .and_then(|column| column.as_string_opt::<i32>())
            .with_context(|| format!("no column {name} of texts"))
    };
    let uids = text(column::UID)?
        .iter()
        .map(|uid| Ok(uid.context("a uid is null")?.parse()?))
        .collect::<anyhow::Result<Vec<Uid>>>()?;
    let captions = text(column::CAPTION)?
        .iter()
        .map(|caption| caption.unwrap_or_default().to_owned())
        .collect();
    let rows = |name: &str| {
        let column = table.column_by_name(name).with_context(|| format!("no column {name}"))?;
        anyhow::Ok(rows_of(column)?.1)
    };
    Ok(Encoded { uids, captions, images: rows(IMAGE)?, texts: rows(TEXT)?, skipped: Vec::new() })
}

/// Makes a column of lists from rows, `[rows, dimension]`.
pub(super) fn lists(values: Vec<f32>, dimension: usize) -> anyhow::Result<ArrayRef> {
    let item = Arc::new(Field::new_list_field(DataType::Float32, false));
    Ok(Arc::new(FixedSizeListArray::try_new(
        item,
        i32::try_from(dimension)?,
        Arc::new(Float32Array::from(values)),
        None,
    )?))
}

/// Reads a column of lists of floats, of any list and float type.
///
/// Returns the dimension and the rows, `[rows, dimension]`.
pub(super) fn rows_of(column: &ArrayRef) -> anyhow::Result<(usize, Vec<f32>)> {
    let lists =
        cast(column, &DataType::List(Arc::new(Field::new_list_field(DataType::Float32, true))))
            .with_context(|| format!("{} is not a list of numbers", column.data_type()))?;
    let lists = lists.as_list::<i32>();
    let dimension = if lists.is_empty() { 0 } else { lists.value_length(0) as usize };
    if let Some(row) = (0..lists.len())
        .find(|row| lists.is_null(*row) || lists.value_length(*row) as usize != dimension)
    {
        bail!("row {row} does not hold {dimension} numbers, as the first row does");
    }
    let values = lists.values().as_primitive::<Float32Type>();
    let (first, length) = (lists.value_offsets()[0] as usize, lists.len() * dimension);
    let values = values.slice(first, length);
    if values.null_count() > 0 {
        bail!("an embedding contains a null");
    }
    Ok((dimension, values.values().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::ListArray;
    use arrow::datatypes::{Float16Type, Float64Type};
    use half::f16;

    #[test]
    fn pairs_come_back_from_their_table_bit_for_bit() {
        let encoded = Encoded {
            uids: vec![Uid([7; 16]), Uid([1; 16])],
            captions: vec!["a cat".into(), String::new()],
            images: vec![0.1, -0.2, 0.3, 1.0, 0.0, f32::MIN_POSITIVE],
            texts: vec![0.0, 0.5, 0.5, -1.0, 0.25, 0.125],
            skipped: Vec::new(),
        };
        let table = pairs_table(&encoded, 3).unwrap();
        let back = pairs_of(&table).unwrap();
        assert_eq!((back.uids, back.captions), (encoded.uids.clone(), encoded.captions.clone()));
        assert_eq!((&back.images, &back.texts), (&encoded.images, &encoded.texts));
        let second = pairs_of(&table.slice(1, 1)).unwrap();
        assert_eq!(
            (second.uids, second.images),
            (vec![Uid([1; 16])], encoded.images[3..].to_vec())
        );
    }

    #[test]
    fn lists_of_any_floats_are_read_and_uneven_ones_refused() {
        let wide: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>([
            Some(vec![Some(1.0), Some(2.0)]),
            Some(vec![Some(3.0), Some(4.0)]),
        ]));
        assert_eq!(rows_of(&wide).unwrap(), (2, vec![1.0, 2.0, 3.0, 4.0]));
        let half: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float16Type, _, _>([Some(
            vec![Some(f16::from_f32(0.5))],
        )]));
        assert_eq!(rows_of(&half).unwrap(), (1, vec![0.5]));
        for bad in [
            vec![Some(vec![Some(1.0)]), Some(vec![Some(1.0), Some(2.0)])],
            vec![Some(vec![Some(1.0)]), None],
            vec![Some(vec![Some(1.0)]), Some(vec![None])],
        ] {
            let bad: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(bad));
            rows_of(&bad).unwrap_err();
        }
        rows_of(&(Arc::new(StringArray::from(vec!["x"])) as ArrayRef)).unwrap_err();
    }
}
