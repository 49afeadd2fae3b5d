//! Rows of a result as JSON, made in the process of the query. A few bytes of Arrow can become
//! gigabytes of text, and that process is the one whose memory and time are limited.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, NullableEncoder, make_encoder};

/// Encodes rows of batches as JSON arrays with a value for each column.
pub(super) struct RowEncoder {
    options: EncoderOptions,
}

impl RowEncoder {
    pub(super) fn new() -> Self {
        // This applies to structs within a row.
        Self { options: EncoderOptions::default().with_explicit_nulls(true) }
    }

    /// Appends each row of `batch` to `text` as `[value, …]`, with commas between rows, and calls
    /// `take` after each row. `take` may empty the text. Bytes become hexadecimal digits, times ISO
    /// 8601, and numbers without a value `null`.
    ///
    /// # Errors
    /// Returns an error for a type that JSON cannot express, or the error of `take`.
    pub(super) fn encode<E: From<ArrowError>>(
        &self,
        batch: &RecordBatch,
        text: &mut Vec<u8>,
        mut take: impl FnMut(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let schema = batch.schema();
        let columns = schema.fields().iter().zip(batch.columns());
        let mut encoders = columns
            .map(|(field, column)| make_encoder(field, column.as_ref(), &self.options))
            .collect::<Result<Vec<NullableEncoder>, _>>()?;
        for row in 0..batch.num_rows() {
            if !text.is_empty() {
                text.push(b',');
            }
            text.push(b'[');
            for (number, encoder) in encoders.iter_mut().enumerate() {
                if number > 0 {
                    text.push(b',');
                }
                if encoder.is_null(row) {
                    text.extend_from_slice(b"null");
                } else {
                    encoder.encode(row, text);
                }
            }
            text.push(b']');
            take(text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        FixedSizeBinaryArray, Float64Array, StringArray, TimestampMillisecondArray,
    };
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn rows_keep_order_nulls_and_columns_of_equal_names() {
        let bytes = FixedSizeBinaryArray::try_from_iter([[0xab, 1], [0, 2]].into_iter()).unwrap();
        let times = TimestampMillisecondArray::from(vec![0, 1]).with_timezone("UTC");
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("a", Arc::new(StringArray::from(vec![None::<&str>, Some("\"\u{1b}")])) as _, true),
            ("a", Arc::new(Float64Array::from(vec![0.5, f64::NAN])) as _, true),
            ("u", Arc::new(bytes) as _, true),
            ("t", Arc::new(times) as _, true),
        ])
        .unwrap();
        let mut text = Vec::new();
        let mut taken = 0;
        let encode = RowEncoder::new().encode(&batch, &mut text, |_| {
            taken += 1;
            Ok::<_, ArrowError>(())
        });
        encode.unwrap();
        let rows: Value =
            serde_json::from_str(&format!("[{}]", String::from_utf8(text).unwrap())).unwrap();
        assert_eq!(taken, 2);
        assert_eq!(
            rows,
            json!([
                [null, 0.5, "ab01", "1970-01-01T00:00:00Z"],
                ["\"\u{1b}", null, "0002", "1970-01-01T00:00:00.001Z"],
            ])
        );
    }
}
