//! Footers of Parquet files, which may be damaged or hostile: parquet panics on some of them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use diptych_schemas::words::panic_message;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::ChunkReader;

/// Reads the footer of a file. Where parquet panics, that is an error like others.
pub(crate) fn load<R: ChunkReader>(
    file: &R,
    options: ArrowReaderOptions,
) -> Result<ArrowReaderMetadata> {
    catch_unwind(AssertUnwindSafe(|| ArrowReaderMetadata::load(file, options))).unwrap_or_else(
        |payload| {
            let message = panic_message(payload.as_ref()).unwrap_or("no message");
            Err(ParquetError::General(format!("its footer makes no sense: {message}")))
        },
    )
}

/// Returns what reads the rows of a file.
pub(crate) fn rows_of<R: ChunkReader + 'static>(
    file: R,
) -> Result<ParquetRecordBatchReaderBuilder<R>> {
    let footer = load(&file, ArrowReaderOptions::new())?;
    Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer))
}
