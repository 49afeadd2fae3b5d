//! Arrow sources: Hugging Face's `save_to_disk` and Feather, as streams or files in Arrow's IPC
//! format. Columns are treated as in Parquet. One batch at a time is in memory, as large as its
//! writer made it.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use diptych_schemas::Reason;

use super::image_files::ImageFiles;
use super::item::{Fault, Flaw, Item, Outcome, ReadOptions, Rejection, Sink, unreadable};
use super::report::IngestError;
use super::table_columns::{ImageKind, find_columns};
use super::table_rows::Rows;

/// The first bytes of a file with a footer. A stream has no footer.
const FILE_MAGIC: &[u8] = b"ARROW1";

/// The schema and an iterator of batches.
struct Batches {
    schema: SchemaRef,
    batches: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>,
}

fn open(path: &Path) -> Result<Batches, String> {
    let failed = |error: ArrowError| format!("it cannot be read as Arrow: {error}");
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let mut start = Vec::new();
    (&file)
        .take(FILE_MAGIC.len() as u64)
        .read_to_end(&mut start)
        .and_then(|_| file.rewind())
        .map_err(|error| error.to_string())?;
    if start == FILE_MAGIC {
        let reader = FileReader::try_new_buffered(file, None).map_err(failed)?;
        Ok(Batches { schema: reader.schema(), batches: Box::new(reader) })
    } else {
        let reader = StreamReader::try_new(BufReader::new(file), None).map_err(failed)?;
        Ok(Batches { schema: reader.schema(), batches: Box::new(reader) })
    }
}

/// Finds the columns. Returns whether it is a list of URLs and a description, or the reason why the
/// file cannot be read.
pub(super) fn check(
    path: &Path,
    options: &ReadOptions,
) -> Result<Result<(bool, String), Flaw>, IngestError> {
    match open(path) {
        Ok(Batches { schema, .. }) => {
            let columns = find_columns(path, &schema, options)?;
            Ok(Ok((columns.kind == ImageKind::Url, columns.words("Arrow"))))
        }
        Err(message) => Ok(Err((Reason::TruncatedSource, message))),
    }
}

/// Reads the rows from row `from` on. The number of an item is the number of rows up to it.
pub(super) fn read(
    path: &Path,
    from: u64,
    options: &ReadOptions,
    sink: &mut Sink,
) -> Result<Outcome, IngestError> {
    let Batches { schema, batches } = match open(path) {
        Ok(opened) => opened,
        Err(message) => return unreadable(Reason::TruncatedSource, message, sink),
    };
    let columns = find_columns(path, &schema, options)?;
    let files = match ImageFiles::of_list(path.parent().unwrap_or(path), options) {
        Ok(files) => files,
        Err(error) => return unreadable(Reason::TruncatedSource, error.to_string(), sink),
    };
    let mut row = 0;
    for batch in batches {
        let rows = batch.map_err(|error| error.to_string()).and_then(|batch| {
            let count = batch.num_rows();
            Rows::of(&batch, &columns, &files, options.max_image_bytes).map(|rows| (rows, count))
        });
        let (rows, count) = match rows {
            Ok(found) => found,
            Err(message) if row == 0 => return unreadable(Reason::BadRecord, message, sink),
            Err(message) => {
                let position = format!("row {row}");
                let message = format!("{message}; the rows from here on are lost");
                let rejection = Rejection {
                    position: position.clone(),
                    key: String::new(),
                    reason: Reason::BadRecord,
                    detail: message.clone(),
                };
                sink(Item::Rejected(rejection), row + 1)?;
                let fault = Some(Fault::Partial(format!("{position}: {message}")));
                return Ok(Outcome { records: row + 1, fault, notes: Vec::new() });
            }
        };
        for index in 0..count {
            if row >= from {
                sink(Item::Record(rows.record(index, format!("row {row}"), row)), row + 1)?;
            }
            row += 1;
        }
    }
    Ok(Outcome { records: row, ..Outcome::default() })
}
