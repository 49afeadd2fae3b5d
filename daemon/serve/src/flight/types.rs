//! Conversion of Arrow types to those that every driver knows. Types that only make DataFusion fast
//! are replaced.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;

/// Returns a schema with plain types.
pub(super) fn plain(schema: &Schema) -> Schema {
    Schema::new(schema.fields().iter().map(plain_field).collect::<Vec<_>>())
}

/// Returns a schema with plain types in which any column may be null. The planner and the process
/// that computes can disagree about nulls, and drivers compare the schemas of both.
pub(super) fn plain_rows(schema: &Schema) -> SchemaRef {
    let fields = schema
        .fields()
        .iter()
        .map(|field| Arc::new(plain_field(field).as_ref().clone().with_nullable(true)));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Converts rows to the schema that [`plain_rows`] gave for them.
pub(super) fn plain_batch(
    batch: &RecordBatch,
    schema: &SchemaRef,
) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        if column.data_type() == field.data_type() {
            Ok(Arc::clone(column))
        } else {
            cast(column, field.data_type())
        }
    });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns.collect::<Result<_, _>>()?,
        &options,
    )
}

fn plain_field(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(field.name(), plain_type(field.data_type()), field.is_nullable()))
}

fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::RunEndEncoded(_, values) => plain_type(values.data_type()),
        DataType::List(item) | DataType::ListView(item) => DataType::List(plain_field(item)),
        DataType::LargeList(item) | DataType::LargeListView(item) => {
            DataType::LargeList(plain_field(item))
        }
        DataType::FixedSizeList(item, length) => {
            DataType::FixedSizeList(plain_field(item), *length)
        }
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(plain_field(entries), *sorted),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, AsArray, DictionaryArray, StringViewArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn views_and_dictionaries_become_text_with_the_same_values() {
        let views: ArrayRef =
            Arc::new(StringViewArray::from(vec![Some("a text longer than twelve bytes"), None]));
        let words: ArrayRef =
            Arc::new(vec!["x", "x"].into_iter().collect::<DictionaryArray<Int32Type>>());
        let batch = RecordBatch::try_from_iter([("views", views), ("words", words)]).unwrap();
        let schema = plain_rows(batch.schema_ref());
        let plain = plain_batch(&batch, &schema).unwrap();
        assert!(
            schema
                .fields()
                .iter()
                .all(|field| *field.data_type() == DataType::Utf8 && field.is_nullable())
        );
        assert_eq!(
            plain.column(0).as_string::<i32>().iter().collect::<Vec<_>>(),
            [Some("a text longer than twelve bytes"), None]
        );
        assert_eq!(
            plain.column(1).as_string::<i32>().iter().collect::<Vec<_>>(),
            [Some("x"), Some("x")]
        );
    }

    #[test]
    fn views_within_lists_are_found() {
        let item = |data_type| Arc::new(Field::new_list_field(data_type, true));
        let nested = DataType::List(item(DataType::ListView(item(DataType::BinaryView))));
        assert_eq!(
            plain_type(&nested),
            DataType::List(item(DataType::List(item(DataType::Binary))))
        );
    }
}
