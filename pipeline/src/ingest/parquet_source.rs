//! Parquet sources: a column of images (bytes, Hugging Face's struct of bytes and path, paths,
//! base64) or of image URLs, and a column of captions.
//!
//! Rows are streamed in batches that are bounded in bytes: a batch of parquet's usual 8192 rows
//! could be gigabytes. A footer is trusted only as far as it agrees with the file. A row group that
//! cannot be read costs only that row group.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};
use diptych_schemas::Reason;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};

use super::IngestError;
use super::expand::Source;
use super::image_files::ImageFiles;
use super::item::{Fault, Flaw, Item, Outcome, ReadOptions, Rejection, Sink, unreadable};
use super::source_file::SourceFile;
use super::table_columns::{Columns, ImageKind, find_columns, is_bytes};
use super::table_rows::Rows;

/// Bytes of a batch of rows, according to the row group's metadata.
const BATCH_BYTES: u64 = 16 << 20;
/// Most rows of a batch, for row groups whose metadata is too small: a dictionary counts a repeated
/// image once.
const BATCH_ROWS: u64 = 256;

/// An open file and its columns.
struct Opened {
    file: SourceFile,
    metadata: ArrowReaderMetadata,
    columns: Columns,
    /// The places that its paths may point to.
    files: ImageFiles,
    max_image_bytes: u64,
}

/// Finds the columns. Returns whether it is a list of URLs and a description, or the reason why the
/// file cannot be read.
pub(super) fn check(
    source: &Source,
    options: &ReadOptions,
) -> Result<Result<(bool, String), Flaw>, IngestError> {
    let opened = match open(source, options)? {
        Ok(opened) => opened,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let is_list = opened.columns.kind == ImageKind::Url;
    Ok(Ok((is_list, opened.columns.words("Parquet"))))
}

/// Returns the number of rows of a file, according to its footer.
pub(super) fn rows(source: &Source) -> Option<u64> {
    let metadata = SourceFile::open(source).ok().and_then(|file| load(&file).ok())?;
    Some(metadata.metadata().file_metadata().num_rows() as u64)
}

/// Runs code of the Parquet reader, which may panic on damaged files, as a fallible call.
fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err("the Parquet reader crashed".into()))
}

fn open(source: &Source, options: &ReadOptions) -> Result<Result<Opened, Flaw>, IngestError> {
    let path = source.path.as_path();
    let file = match SourceFile::open(source) {
        Ok(file) => file,
        Err(error) => return Ok(Err((Reason::TruncatedSource, error.to_string()))),
    };
    let metadata = match load(&file) {
        Ok(metadata) => metadata,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let schema = Arc::clone(metadata.schema());
    let columns = find_columns(path, &schema, options)?;
    // Views into the pages: an image that a dictionary holds once is not copied for each of its
    // rows. And 32-bit offsets cannot overflow.
    let fields = schema.fields().iter().map(|field| {
        let is_image = *field.name() == columns.image
            && matches!(columns.kind, ImageKind::Bytes | ImageKind::Nested);
        if is_image { Arc::new(as_view(field)) } else { Arc::clone(field) }
    });
    let schema =
        Arc::new(Schema::new_with_metadata(fields.collect::<Fields>(), schema.metadata().clone()));
    let viewed = ArrowReaderMetadata::try_new(
        Arc::clone(metadata.metadata()),
        ArrowReaderOptions::new().with_schema(schema),
    );
    Ok(match viewed {
        Ok(metadata) => match ImageFiles::of_list(path.parent().unwrap_or(path), options) {
            Ok(files) => {
                let max_image_bytes = options.max_image_bytes;
                Ok(Opened { file, metadata, columns, files, max_image_bytes })
            }
            Err(error) => Err((Reason::TruncatedSource, error.to_string())),
        },
        Err(error) => Err((Reason::BadRecord, format!("its schema cannot be read: {error}"))),
    })
}

/// Reads the footer and checks it against the file.
fn load(file: &SourceFile) -> Result<ArrowReaderMetadata, Flaw> {
    let length = Length::len(file);
    let end = length.checked_sub(4).and_then(|at| file.get_bytes(at, 4).ok());
    if end.is_none_or(|end| end != b"PAR1"[..]) {
        return Err((
            Reason::TruncatedSource,
            format!("it does not end like a Parquet file (PAR1); it has {length} bytes"),
        ));
    }
    let metadata = guarded(|| {
        ArrowReaderMetadata::load(file, ArrowReaderOptions::new()).map_err(|e| e.to_string())
    })
    .map_err(|message| (Reason::BadRecord, format!("its footer cannot be read: {message}")))?;
    check_footer(metadata.metadata(), length)
        .map_err(|message| (Reason::BadRecord, format!("its footer is wrong: {message}")))?;
    file.learn(metadata.metadata());
    Ok(metadata)
}

/// Checks that the file is long enough for its footer, and that the numbers of rows agree.
fn check_footer(metadata: &ParquetMetaData, length: u64) -> Result<(), String> {
    let mut rows = 0_i64;
    for (index, group) in metadata.row_groups().iter().enumerate() {
        if group.num_rows() < 0 {
            return Err(format!("row group {index} has {} rows", group.num_rows()));
        }
        rows = rows.checked_add(group.num_rows()).ok_or("more rows than can be counted")?;
        for column in group.columns() {
            let start =
                column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            let end = start.checked_add(column.compressed_size());
            let fits = start >= 0
                && column.compressed_size() >= 0
                && end.is_some_and(|end| end as u64 <= length);
            if !fits {
                let place = format!("row group {index}, column {}", column.column_path());
                return Err(format!(
                    "{place} is at {start} with {} bytes, but the file has {length}",
                    column.compressed_size()
                ));
            }
        }
    }
    if rows != metadata.file_metadata().num_rows() {
        return Err(format!(
            "{} rows in total, but {rows} in the row groups",
            metadata.file_metadata().num_rows()
        ));
    }
    Ok(())
}

fn as_view(field: &Field) -> Field {
    let kind = match field.data_type() {
        kind if is_bytes(kind) => DataType::BinaryView,
        DataType::Struct(fields) => DataType::Struct(
            fields
                .iter()
                .map(|inner| {
                    if inner.name() == "bytes" {
                        Arc::new(as_view(inner))
                    } else {
                        Arc::clone(inner)
                    }
                })
                .collect(),
        ),
        other => other.clone(),
    };
    field.clone().with_data_type(kind)
}

/// Reads the rows from row `from` on. The number of an item is the number of rows up to it.
pub(super) fn read(
    source: &Source,
    from: u64,
    options: &ReadOptions,
    sink: &mut Sink,
) -> Result<Outcome, IngestError> {
    let opened = match open(source, options)? {
        Ok(opened) => opened,
        Err((reason, message)) => return unreadable(reason, message, sink),
    };
    let groups = opened.metadata.metadata().num_row_groups();
    let rows = opened.metadata.metadata().file_metadata().num_rows() as u64;
    // One more than the number of rows means that an earlier reading met damage, which is in the
    // ledger already.
    let mut damage = (from > rows)
        .then(|| "some of its row groups cannot be read; the ledger lists them".to_owned());
    let mut first = 0;
    for group in 0..groups {
        let end = first + opened.metadata.metadata().row_group(group).num_rows() as u64;
        if from < end
            && let Err((row, message)) = read_group(&opened, group, first, from.max(first), sink)?
        {
            let position = format!("row group {group}, row {}", row - first);
            let detail = format!("{message}; {} rows are lost", end - row);
            let message = format!("{position}: {detail}");
            sink(
                Item::Rejected(Rejection {
                    position,
                    key: String::new(),
                    reason: Reason::BadRecord,
                    detail,
                }),
                end,
            )?;
            damage.get_or_insert(message);
        }
        first = end;
        let columns = opened.metadata.metadata().row_group(group).columns().iter();
        let behind = columns.map(|column| {
            let (start, length) = column.byte_range();
            start.saturating_add(length)
        });
        opened.file.forget_before(behind.max().unwrap_or_default());
    }
    Ok(Outcome {
        records: rows + u64::from(damage.is_some()),
        fault: damage.map(Fault::Partial),
        notes: Vec::new(),
    })
}

/// Reads the rows of a group from `from` on. The inner error is the first row that could not be
/// read, and the reason.
fn read_group(
    opened: &Opened,
    group: usize,
    first: u64,
    from: u64,
    sink: &mut Sink,
) -> Result<Result<(), (u64, String)>, IngestError> {
    let end = first + opened.metadata.metadata().row_group(group).num_rows() as u64;
    let mut row = from;
    let mut reader = match guarded(|| {
        group_reader(opened, group, (from - first) as usize).map_err(|e| e.to_string())
    }) {
        Ok(reader) => reader,
        Err(message) => return Ok(Err((row, message))),
    };
    loop {
        let batch = match guarded(|| reader.next().transpose().map_err(|e| e.to_string())) {
            Ok(Some(batch)) => batch,
            Ok(None) if row == end => return Ok(Ok(())),
            Ok(None) => {
                return Ok(Err((row, "the row group has fewer rows than the footer says".into())));
            }
            Err(message) => return Ok(Err((row, message))),
        };
        let rows = match Rows::of(&batch, &opened.columns, &opened.files, opened.max_image_bytes) {
            Ok(rows) => rows,
            Err(message) => return Ok(Err((row, message))),
        };
        for index in 0..batch.num_rows() {
            let position = format!("row group {group}, row {}", row - first);
            let record = rows.record(index, position, row);
            row += 1;
            sink(Item::Record(record), row)?;
        }
    }
}

fn group_reader(
    opened: &Opened,
    group: usize,
    offset: usize,
) -> Result<ParquetRecordBatchReader, ParquetError> {
    let columns = &opened.columns;
    let wanted = |name: &String| {
        [&columns.image, &columns.caption].contains(&name)
            || columns.key.as_ref() == Some(name)
            || columns.own.contains(name)
    };
    let roots = opened
        .metadata
        .schema()
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| wanted(field.name()));
    let mask =
        ProjectionMask::roots(opened.metadata.parquet_schema(), roots.map(|(index, _)| index));
    let file = opened.file.again().map_err(|e| ParquetError::General(e.to_string()))?;
    ParquetRecordBatchReaderBuilder::new_with_metadata(file, opened.metadata.clone())
        .with_row_groups(vec![group])
        .with_projection(mask)
        .with_offset(offset)
        .with_batch_size(batch_rows(opened.metadata.metadata().row_group(group)))
        .build()
}

fn batch_rows(group: &RowGroupMetaData) -> usize {
    let row_bytes = group.total_byte_size().max(1) as u64 / group.num_rows().max(1) as u64;
    (BATCH_BYTES / row_bytes.max(1)).clamp(1, BATCH_ROWS) as usize
}
