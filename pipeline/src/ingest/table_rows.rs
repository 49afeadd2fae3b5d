//! Rows of a table (Parquet, Arrow) as records.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, LargeListArray, RecordBatch, StringArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use diptych_schemas::Reason;

use super::image_files::{self, ImageFiles};
use super::item::{Captions, Flaw, Record};
use super::own_value::OwnValue;
use super::table_columns::{Columns, ImageKind, is_list_of_text, is_text};

/// The captions of a batch: one per row, or a list.
enum CaptionArray {
    Texts(StringArray),
    Lists(LargeListArray),
}

enum Image {
    Bytes(BinaryViewArray),
    Urls(StringArray),
    Texts(StringArray),
}

/// The columns of a batch.
pub(super) struct Rows<'a> {
    /// The places that paths may point to.
    files: &'a ImageFiles,
    max_image_bytes: u64,
    image: Image,
    /// Hugging Face's `path` next to the bytes.
    path: Option<StringArray>,
    /// A null struct hides the values of its fields.
    hidden: Option<ArrayRef>,
    image_name: String,
    caption: CaptionArray,
    captions: Captions,
    key: Option<StringArray>,
    own: Vec<(String, ArrayRef)>,
}

impl<'a> Rows<'a> {
    pub(super) fn of(
        batch: &RecordBatch,
        columns: &Columns,
        files: &'a ImageFiles,
        max_image_bytes: u64,
    ) -> Result<Self, String> {
        let column = |name: &str| {
            batch.column_by_name(name).ok_or_else(|| format!("the column {name} is missing"))
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
        let image = match columns.kind {
            ImageKind::Url => Image::Urls(text(&image)?),
            ImageKind::Text => Image::Texts(text(&image)?),
            ImageKind::Bytes | ImageKind::Nested => {
                let bytes = cast(&image, &DataType::BinaryView).map_err(|e| e.to_string())?;
                Image::Bytes(bytes.as_binary_view().clone())
            }
        };
        let own = columns
            .own
            .iter()
            .map(|name| Ok((name.clone(), own_array(column(name)?)?)))
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
            files,
            max_image_bytes,
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

    pub(super) fn record(&self, index: usize, position: String, row: u64) -> Record {
        let value =
            |array: &StringArray| array.is_valid(index).then(|| array.value(index).to_owned());
        let shown = self.hidden.as_ref().is_none_or(|whole| whole.is_valid(index));
        let missing = || (Reason::MissingImage, format!("`{}` is null", self.image_name));
        let (image, url) = match &self.image {
            Image::Texts(texts) if texts.is_null(index) => (Err(missing()), None),
            Image::Texts(texts) => {
                let text = texts.value(index);
                // An image in base64 is not a name.
                let name = (!image_files::is_base64_image(text)).then(|| text.to_owned());
                (self.files.read(text, self.max_image_bytes), name)
            }
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
            // Hugging Face's `Image` without its bytes: only the path.
            Image::Bytes(_) => match self.path.as_ref().and_then(value) {
                Some(path) => (self.files.read(&path, self.max_image_bytes), None),
                None => (Err(missing()), None),
            },
        };
        let own = self.own.iter().filter(|(_, array)| array.is_valid(index));
        let own = own.map(|(name, array)| {
            // It fails only for types that `own_array` does not return.
            let value = OwnValue::try_from_array(array, index).map_err(|error| {
                (Reason::BadRecord, format!("the value of `{name}` cannot be read: {error}"))
            })?;
            Ok((name.clone(), value))
        });
        let own: Result<Vec<(String, OwnValue)>, Flaw> = own.collect();
        let (mut columns, image) = match own {
            Ok(columns) => (columns, image),
            Err(flaw) => (Vec::new(), Err(flaw)),
        };
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

/// Converts a source's own column to its form in meta: every text as `Utf8`, a dictionary as its
/// values, anything else unchanged.
fn own_array(array: &ArrayRef) -> Result<ArrayRef, String> {
    let kind = match array.data_type() {
        kind if is_text(kind) => &DataType::Utf8,
        DataType::Dictionary(_, value) => value.as_ref(),
        _ => return Ok(Arc::clone(array)),
    };
    cast(array, kind).map_err(|error| error.to_string())
}
