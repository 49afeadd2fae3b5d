//! The roles of a table's columns (Parquet, Arrow), by their names and types.

use std::path::Path;

use arrow::datatypes::{DataType, Field, Schema};

use super::columns::Wanted;
use super::item::{Captions, ReadOptions};
use super::report::IngestError;

/// Columns whose value becomes the record's key.
const KEY_COLUMNS: &[&str] = &["key", "__key__"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) image: String,
    pub(super) kind: ImageKind,
    pub(super) caption: String,
    /// Other columns that captions may be in, in words.
    pub(super) rivals: String,
    pub(super) captions: Captions,
    pub(super) key: Option<String>,
    pub(super) own: Vec<String>,
}

impl Columns {
    /// Describes the columns of a file of this kind.
    pub(super) fn words(&self, file: &str) -> String {
        let Self { image, caption, own, .. } = self;
        let own = if own.is_empty() {
            String::new()
        } else {
            format!(", and {} other columns", own.len())
        };
        let (what, form) = match self.kind {
            ImageKind::Url => ("URLs of images", ""),
            ImageKind::Bytes => ("images", ""),
            ImageKind::Nested => ("images", " (a struct of bytes and path)"),
            ImageKind::Text => ("paths of images, or images in base64,", ""),
        };
        let rivals = &self.rivals;
        format!("{file}: {what} in `{image}`{form}, captions in `{caption}`{rivals}{own}")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ImageKind {
    Bytes,
    /// A struct with the fields `bytes` and `path`.
    Nested,
    Url,
    /// A path, or an image in base64.
    Text,
}

pub(super) fn is_bytes(kind: &DataType) -> bool {
    match kind {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        DataType::Dictionary(_, value) => is_bytes(value),
        _ => false,
    }
}

fn is_struct_of_bytes(kind: &DataType) -> bool {
    matches!(kind, DataType::Struct(fields) if fields.iter().any(|field| field.name() == "bytes"
        && is_bytes(field.data_type())))
}

pub(super) fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

pub(super) fn is_list_of_text(kind: &DataType) -> bool {
    match kind {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            is_text(item.data_type())
        }
        _ => false,
    }
}

/// Returns whether meta can hold the type as a source's own column.
fn is_scalar(kind: &DataType) -> bool {
    let time = matches!(
        kind,
        DataType::Timestamp(..)
            | DataType::Date32
            | DataType::Date64
            | DataType::Time32(_)
            | DataType::Time64(_)
    );
    match kind {
        DataType::Dictionary(_, value) => is_scalar(value),
        _ => is_text(kind) || kind.is_numeric() || time || *kind == DataType::Boolean,
    }
}

pub(super) fn find_columns(
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
        (Err(error), _) => {
            let text = of_kind(Wanted::File, options.image_column, &is_text);
            (text.map_err(|_| error)?, ImageKind::Text)
        }
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
        rivals: Wanted::Caption.rivals(
            fields.iter().map(|field| field.name().as_str()),
            caption.name(),
            options.caption_column,
        ),
        captions: options.captions,
        key: key.map(|field| field.name().clone()),
        own: own.map(|field| field.name().clone()).collect(),
    })
}

/// Returns a type in one word, for a message.
fn short(kind: &DataType) -> String {
    match kind {
        DataType::Struct(_) => "struct".into(),
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => "list".into(),
        other => other.to_string(),
    }
}
