//! Parquet sources: a column of image bytes (plain, or Hugging Face's struct of bytes and path) or of images' addresses, and
//! a column of captions.
//!
//! Rows are streamed in batches that are bounded in bytes: a batch of parquet's usual 8192 rows could be gigabytes. A footer
//! is believed only as far as the file bears it out, and a row group that cannot be read costs that row group alone.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, LargeListArray, RecordBatch, StringArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use diptych_schemas::Reason;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};

use super::IngestError;
use super::columns::Wanted;
use super::item::{Captions, Fault, Flaw, Item, Outcome, ReadOptions, Record, Rejection, Sink};

/// Bytes of a batch of rows, by the row group's own account of its size.
const BATCH_BYTES: u64 = 16 << 20;
/// Most rows of a batch, for row groups whose account is too small: a repeated image counts once in a dictionary.
const BATCH_ROWS: u64 = 256;
/// Columns whose value is taken as the record's key.
const KEY_COLUMNS: &[&str] = &["key", "__key__"];

/// An opened file and which of its columns are what.
struct Opened {
    file: File,
    metadata: ArrowReaderMetadata,
    columns: Columns,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Columns {
    image: String,
    kind: ImageKind,
    caption: String,
    captions: Captions,
    key: Option<String>,
    own: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ImageKind {
    Bytes,
    /// A struct with the fields `bytes` and `path`.
    Nested,
    Url,
}

/// Finds the columns; says whether it is a list of addresses and in words what is read, or why the file cannot be.
pub(super) fn check(
    path: &Path,
    options: &ReadOptions,
) -> Result<Result<(bool, String), Flaw>, IngestError> {
    let opened = match open(path, options)? {
        Ok(opened) => opened,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let Columns { image, kind, caption, own, .. } = opened.columns;
    let own = if own.is_empty() {
        String::new()
    } else {
        format!(", and {} columns of its own", own.len())
    };
    let words = match kind {
        ImageKind::Url => {
            format!("Parquet: addresses of images in `{image}`, captions in `{caption}`{own}")
        }
        ImageKind::Bytes => format!("Parquet: images in `{image}`, captions in `{caption}`{own}"),
        ImageKind::Nested => format!(
            "Parquet: images in `{image}` (a struct of bytes and path), captions in `{caption}`{own}"
        ),
    };
    Ok(Ok((kind == ImageKind::Url, words)))
}

/// Rows of a file, as its footer says.
pub(super) fn rows(path: &Path) -> Option<u64> {
    let metadata = File::open(path).ok().and_then(|file| load(&file).ok())?;
    Some(metadata.metadata().file_metadata().num_rows() as u64)
}

/// Runs code of the Parquet reader, which may panic on damaged files, as a fallible call.
fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err("the Parquet reader fails on it".into()))
}

fn open(path: &Path, options: &ReadOptions) -> Result<Result<Opened, Flaw>, IngestError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return Ok(Err((Reason::TruncatedSource, error.to_string()))),
    };
    let metadata = match load(&file) {
        Ok(metadata) => metadata,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let schema = Arc::clone(metadata.schema());
    let columns = find_columns(path, &schema, options)?;
    // Views into the pages: an image that a dictionary holds once is not copied for each of its rows, and there are no
    // 32-bit offsets to overflow.
    let fields = schema.fields().iter().map(|field| {
        let is_image = *field.name() == columns.image && columns.kind != ImageKind::Url;
        if is_image { Arc::new(as_view(field)) } else { Arc::clone(field) }
    });
    let schema =
        Arc::new(Schema::new_with_metadata(fields.collect::<Fields>(), schema.metadata().clone()));
    let viewed = ArrowReaderMetadata::try_new(
        Arc::clone(metadata.metadata()),
        ArrowReaderOptions::new().with_schema(schema),
    );
    Ok(match viewed {
        Ok(metadata) => Ok(Opened { file, metadata, columns }),
        Err(error) => Err((Reason::BadRecord, format!("its schema cannot be read: {error}"))),
    })
}

/// Reads the footer and checks it against the file.
fn load(file: &File) -> Result<ArrowReaderMetadata, Flaw> {
    let length = file.metadata().map_err(|e| (Reason::TruncatedSource, e.to_string()))?.len();
    let mut end = [0; 4];
    let at_end = length
        .checked_sub(4)
        .map(|at| std::os::unix::fs::FileExt::read_exact_at(file, &mut end, at));
    if !matches!(at_end, Some(Ok(()))) || &end != b"PAR1" {
        return Err((
            Reason::TruncatedSource,
            format!("it does not end as a Parquet file does (PAR1); it has {length} bytes"),
        ));
    }
    let metadata = guarded(|| {
        ArrowReaderMetadata::load(file, ArrowReaderOptions::new()).map_err(|e| e.to_string())
    })
    .map_err(|message| (Reason::BadRecord, format!("its footer cannot be read: {message}")))?;
    check_footer(metadata.metadata(), length)
        .map_err(|message| (Reason::BadRecord, format!("its footer lies: {message}")))?;
    Ok(metadata)
}

/// Whether the file is long enough for what its footer says, and whether the numbers of rows agree.
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
                    "{place} lies at {start} with {} bytes, the file has {length}",
                    column.compressed_size()
                ));
            }
        }
    }
    if rows != metadata.file_metadata().num_rows() {
        return Err(format!(
            "{} rows in all, {rows} in the row groups",
            metadata.file_metadata().num_rows()
        ));
    }
    Ok(())
}

fn is_bytes(kind: &DataType) -> bool {
    matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

fn is_struct_of_bytes(kind: &DataType) -> bool {
    matches!(kind, DataType::Struct(fields) if fields.iter().any(|field| field.name() == "bytes" && is_bytes(field.data_type())))
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

fn is_list_of_text(kind: &DataType) -> bool {
    matches!(kind, DataType::List(item) | DataType::LargeList(item) if is_text(item.data_type()))
}

/// What can stand in meta as text.
fn is_scalar(kind: &DataType) -> bool {
    let time = matches!(kind, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64);
    is_text(kind) || kind.is_numeric() || time || *kind == DataType::Boolean
}

fn find_columns(
    path: &Path,
    schema: &Schema,
    options: &ReadOptions,
) -> Result<Columns, IngestError> {
    let fields = schema.fields();
    let of_kind = |wanted: Wanted, given: Option<&str>, fits: &dyn Fn(&DataType) -> bool| {
        let fitting: Vec<&Field> =
            fields.iter().map(AsRef::as_ref).filter(|field| fits(field.data_type())).collect();
        wanted
            .find(&fitting.iter().map(|field| field.name().as_str()), given)
            .map(|index| fitting[index])
            .ok_or_else(|| {
                let shown: Vec<String> = fields
                    .iter()
                    .map(|field| format!("{} ({})", field.name(), short(field.data_type())))
                    .collect();
                wanted.missing(path, shown.iter().map(String::as_str), given)
            })
    };
    let bytes = of_kind(Wanted::Image, options.image_column, &|kind| {
        is_bytes(kind) || is_struct_of_bytes(kind)
    });
    let named = options.url_column.is_some();
    let url = of_kind(Wanted::Url, options.url_column, &is_text);
    let (image, kind) = match (bytes, url) {
        (_, url) if named => (url?, ImageKind::Url),
        (Ok(image), _) if is_struct_of_bytes(image.data_type()) => (image, ImageKind::Nested),
        (Ok(image), _) => (image, ImageKind::Bytes),
        (Err(_), Ok(url)) if options.image_column.is_none() => (url, ImageKind::Url),
        (Err(error), _) => return Err(error),
    };
    let caption = of_kind(Wanted::Caption, options.caption_column, &|kind| {
        is_text(kind) || is_list_of_text(kind)
    })?;
    let is_list = kind == ImageKind::Url;
    let key = fields
        .iter()
        .filter(|_| !is_list)
        .find(|field| KEY_COLUMNS.contains(&field.name().as_str()) && is_text(field.data_type()));
    let own = fields.iter().filter(|field| {
        let name = field.name();
        name != image.name()
            && name != caption.name()
            && key.is_none_or(|key| name != key.name())
            && is_scalar(field.data_type())
    });
    Ok(Columns {
        image: image.name().clone(),
        kind,
        caption: caption.name().clone(),
        captions: options.captions,
        key: key.map(|field| field.name().clone()),
        own: own.map(|field| field.name().clone()).collect(),
    })
}

/// A type in one word, for a message.
fn short(kind: &DataType) -> String {
    match kind {
        DataType::Struct(_) => "struct".into(),
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => "list".into(),
        other => other.to_string(),
    }
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
    path: &Path,
    from: u64,
    options: &ReadOptions,
    sink: &mut Sink,
) -> Result<Outcome, IngestError> {
    let opened = match open(path, options)? {
        Ok(opened) => opened,
        Err((reason, message)) => return super::unreadable(reason, message, sink),
    };
    let groups = opened.metadata.metadata().num_row_groups();
    let rows = opened.metadata.metadata().file_metadata().num_rows() as u64;
    // One more than there are rows says that an earlier reading met damage, which is in the ledger already.
    let mut damage = (from > rows)
        .then(|| "some of its row groups cannot be read; the ledger says which".to_owned());
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
    }
    Ok(Outcome {
        records: rows + u64::from(damage.is_some()),
        fault: damage.map(Fault::Partial),
        notes: Vec::new(),
    })
}

/// Reads the rows of a group from `from` on. The inner error is the first row that could not be read, and why.
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
        let rows = match Rows::of(&batch, &opened.columns) {
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
    let file = opened.file.try_clone().map_err(|e| ParquetError::General(e.to_string()))?;
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

/// The captions of a batch: one a row, or a list.
enum CaptionArray {
    Texts(StringArray),
    Lists(LargeListArray),
}

enum Image {
    Bytes(BinaryViewArray),
    Urls(StringArray),
}

/// A batch, taken apart.
struct Rows {
    image: Image,
    /// Hugging Face's `path` beside the bytes.
    path: Option<StringArray>,
    /// A struct that is null hides what its fields hold.
    hidden: Option<ArrayRef>,
    image_name: String,
    caption: CaptionArray,
    captions: Captions,
    key: Option<StringArray>,
    own: Vec<(String, StringArray)>,
}

impl Rows {
    fn of(batch: &RecordBatch, columns: &Columns) -> Result<Self, String> {
        let column = |name: &str| {
            batch.column_by_name(name).ok_or_else(|| format!("the column {name} is not there"))
        };
        let text = |array: &ArrayRef| {
            cast(array, &DataType::Utf8)
                .map(|cast| cast.as_string::<i32>().clone())
                .map_err(|e| e.to_string())
        };
        let whole = column(&columns.image)?;
        let (mut image, mut path, mut hidden) = (Arc::clone(whole), None, None);
        if columns.kind == ImageKind::Nested {
            let fields = whole.as_struct_opt().ok_or("the image is not a struct")?;
            image = Arc::clone(fields.column_by_name("bytes").ok_or("the image has no bytes")?);
            path = fields
                .column_by_name("path")
                .filter(|array| is_text(array.data_type()))
                .map(text)
                .transpose()?;
            hidden = Some(Arc::clone(whole));
        }
        let image = match image.as_binary_view_opt() {
            _ if columns.kind == ImageKind::Url => Image::Urls(text(&image)?),
            Some(bytes) => Image::Bytes(bytes.clone()),
            None => return Err(format!("the image is {}, not bytes", image.data_type())),
        };
        let own = columns
            .own
            .iter()
            .map(|name| Ok((name.clone(), text(column(name)?)?)))
            .collect::<Result<_, String>>()?;
        let key = columns.key.as_ref().map(|name| text(column(name)?)).transpose()?;
        let caption = column(&columns.caption)?;
        let caption = if is_list_of_text(caption.data_type()) {
            let lists = DataType::LargeList(Arc::new(Field::new("item", DataType::Utf8, true)));
            CaptionArray::Lists(
                cast(caption, &lists).map_err(|e| e.to_string())?.as_list::<i64>().clone(),
            )
        } else {
            CaptionArray::Texts(text(caption)?)
        };
        let captions = columns.captions;
        Ok(Self {
            captions,
            image,
            path,
            hidden,
            image_name: columns.image.clone(),
            caption,
            key,
            own,
        })
    }

    fn record(&self, index: usize, position: String, row: u64) -> Record {
        let value =
            |array: &StringArray| array.is_valid(index).then(|| array.value(index).to_owned());
        let shown = self.hidden.as_ref().is_none_or(|whole| whole.is_valid(index));
        let (image, url) = match &self.image {
            Image::Urls(urls) => {
                let url = value(urls).map(|url| url.trim().to_owned());
                let missing = || (Reason::BadUrl, format!("`{}` is null", self.image_name));
                (
                    url.clone().map(String::into_bytes).ok_or_else(missing),
                    Some(url.unwrap_or_default()),
                )
            }
            Image::Bytes(bytes) if shown && bytes.is_valid(index) => {
                (Ok(bytes.value(index).to_vec()), None)
            }
            Image::Bytes(_) => {
                let missing = match self.path.as_ref().and_then(value) {
                    Some(path) => {
                        format!("`{}` has no bytes, only the path {path}", self.image_name)
                    }
                    None => format!("`{}` is null", self.image_name),
                };
                (Err((Reason::MissingImage, missing)), None)
            }
        };
        let mut columns: Vec<(String, String)> = self
            .own
            .iter()
            .filter_map(|(name, array)| Some((name.clone(), value(array)?)))
            .collect();
        let caption = match &self.caption {
            CaptionArray::Texts(texts) => value(texts).ok_or("the caption is null"),
            CaptionArray::Lists(lists) if lists.is_null(index) => {
                Err("the list of captions is null")
            }
            CaptionArray::Lists(lists) => {
                let list = lists.value(index);
                let texts = list.as_string::<i32>().iter().flatten().map(str::to_owned);
                self.captions.choose(texts, &mut columns).ok_or("the list of captions holds none")
            }
        };
        let caption = caption.map_err(|message| (Reason::MissingCaption, message.to_owned()));
        let key =
            url.or_else(|| self.key.as_ref().and_then(value)).unwrap_or_else(|| row.to_string());
        Record { position, key, image, caption, columns }
    }
}
