//! Lists: CSV, TSV or JSON with the path or the URL of an image file and a caption in each record.
//! Only the current record is in memory.

mod coco;
mod json_values;
mod separated;
mod text_stream;

use std::io::{self, BufRead};
use std::path::Path;

use diptych_schemas::Reason;
use serde_json::Map;

pub(super) use self::coco::captions_of_folder;
use self::coco::{IMAGE_ID, Images};
use self::json_values::{Records, Shape, Text, Values};
use self::separated::{Header, Separated, is_place};
use super::columns::Wanted;
use super::image_files::{ImageFiles, is_base64_image};
use super::inferred::Inferred;
use super::item::{Fault, Flaw, Item, Outcome, ReadOptions, Record, Rejection, Sink, unreadable};
use super::own_value::{self, OwnValue};
use super::report::IngestError;
use super::{json, text};

/// Records of JSON that are checked for their fields.
const PEEK_RECORDS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Csv,
    Json,
}

/// The names of the two required columns.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Columns {
    image: String,
    caption: String,
    /// Whether the image is a URL, not a path.
    urls: bool,
    /// Other columns that captions may be in, in words.
    rivals: String,
}

/// An error in a list: it cannot be read, which goes to the ledger, or the user must add options.
#[derive(Debug)]
enum Failure {
    Read(io::Error),
    Request(IngestError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl From<IngestError> for Failure {
    fn from(error: IngestError) -> Self {
        Self::Request(error)
    }
}

/// A list with known columns.
struct Opened {
    records: OpenedRecords,
    columns: Columns,
    /// In words.
    kind: String,
}

enum OpenedRecords {
    /// With the types of its columns.
    Separated(Separated, Vec<Inferred>),
    Json(Records),
    Coco(Images, Values),
}

/// Finds the columns. Returns whether it is a list of URLs, and a description.
pub(super) fn check(
    path: &Path,
    form: Form,
    options: &ReadOptions,
) -> Result<Result<(bool, String), io::Error>, IngestError> {
    match open(path, form, options) {
        Ok(Opened { columns: Columns { image, caption, urls, rivals }, kind, .. }) => {
            let what = if urls { "URLs of images" } else { "image files" };
            Ok(Ok((urls, format!("{kind}: {what} in `{image}`, captions in `{caption}`{rivals}"))))
        }
        Err(Failure::Read(error)) => Ok(Err(error)),
        Err(Failure::Request(error)) => Err(error),
    }
}

/// Recognises a list by its first bytes, whatever its name.
pub(super) fn form_of(path: &Path, options: &ReadOptions) -> Option<Form> {
    let mut text = text_stream::open(path, options.lists.text_encoding()).ok()?;
    let start = text.fill_buf().ok()?.trim_ascii_start();
    match *start.first()? {
        b'{' | b'[' => return Some(Form::Json),
        0 => return None,
        _ if start.get(257..262) == Some(b"ustar") => return None,
        _ => {}
    }
    let lists = options.lists;
    let is_said = lists.separator.is_some() || lists.columns.is_some() || lists.no_header;
    let is_list = is_said || open_separated(path, options).is_ok();
    is_list.then_some(Form::Csv)
}

/// Returns the number of lines of a list, which is about that of its records.
pub(super) fn lines(path: &Path, options: &ReadOptions) -> Option<u64> {
    text_stream::count_lines(path, options.lists.text_encoding())
}

fn open(path: &Path, form: Form, options: &ReadOptions) -> Result<Opened, Failure> {
    match form {
        Form::Csv => open_separated(path, options),
        Form::Json => open_json(path, options),
    }
}

fn open_separated(path: &Path, options: &ReadOptions) -> Result<Opened, Failure> {
    let (mut list, header) = Separated::open(path, options)?;
    let names = match header {
        Header::Named(names) => names,
        Header::Missing(first) => names_of(path, &first, options)?,
    };
    let columns = find_columns(path, &names, options)?;
    let image = names.iter().position(|name| *name == columns.image);
    list.name(names, image);
    Ok(Opened { kind: list.words(), records: OpenedRecords::Separated(list, Vec::new()), columns })
}

/// Returns names for the columns of a list whose first line is a record.
fn names_of(
    path: &Path,
    first: &[String],
    options: &ReadOptions,
) -> Result<Vec<String>, IngestError> {
    let wrong = |message: String| {
        Err(IngestError::Request {
            message: format!("{}: {message}. Nothing was written", path.display()),
        })
    };
    if let Some(names) = &options.lists.columns {
        if names.len() == first.len() {
            return Ok(names.iter().map(|name| name.trim().to_owned()).collect());
        }
        return wrong(format!(
            "--columns names {} columns, but its first line has {}: {}",
            names.len(),
            first.len(),
            first.join(" | ")
        ));
    }
    let places: Vec<bool> = first.iter().map(|field| is_place(field)).collect();
    if places != [true, false] && places != [false, true] {
        return wrong(format!(
            "its first line is a record, not a header ({}). Name its columns in order with \
             --columns, as in --columns caption,url",
            first.join(" | ")
        ));
    }
    let name = |at: usize| {
        let usual = match (places[at], first[at].contains("://")) {
            (false, _) => options.caption_column.unwrap_or("caption"),
            (true, true) => options.url_column.or(options.image_column).unwrap_or("url"),
            (true, false) => options.image_column.or(options.url_column).unwrap_or("file_name"),
        };
        usual.to_owned()
    };
    Ok(vec![name(0), name(1)])
}

fn find_columns(
    path: &Path,
    names: &[String],
    options: &ReadOptions,
) -> Result<Columns, IngestError> {
    let find = |wanted: Wanted, given| {
        let iter = names.iter().map(String::as_str);
        wanted
            .find(&iter, given)
            .map(|index| names[index].clone())
            .ok_or_else(|| wanted.missing(path, iter, given))
    };
    let caption = find(Wanted::Caption, options.caption_column)?;
    let (image, urls) = match find(Wanted::File, options.image_column) {
        _ if options.url_column.is_some() => (find(Wanted::Url, options.url_column)?, true),
        Ok(image) => (image, false),
        Err(_) if options.image_column.is_none() && find(Wanted::Url, None).is_ok() => {
            (find(Wanted::Url, None)?, true)
        }
        Err(error) => return Err(error),
    };
    let all = names.iter().map(String::as_str);
    let rivals = Wanted::Caption.rivals(all, &caption, options.caption_column);
    Ok(Columns { image, caption, urls, rivals })
}

fn open_json(path: &Path, options: &ReadOptions) -> Result<Opened, Failure> {
    let encoding = options.lists.text_encoding();
    let shape = Shape::of(path, encoding)?;
    if shape == Shape::Coco {
        let mut annotations = coco::annotations(path, encoding)?;
        let names = names(|| annotations.next())?;
        let caption =
            Wanted::Caption.find(&names.iter().map(String::as_str), options.caption_column);
        let Some(caption) = caption else {
            let names = names.iter().map(String::as_str);
            return Err(Wanted::Caption.missing(path, names, options.caption_column).into());
        };
        let columns = Columns {
            image: IMAGE_ID.into(),
            caption: names[caption].clone(),
            urls: false,
            rivals: String::new(),
        };
        let images = Images::read(path, encoding)?;
        let records = OpenedRecords::Coco(images, coco::annotations(path, encoding)?);
        return Ok(Opened { records, columns, kind: "COCO's captions".into() });
    }
    let mut peeked = Records::open(path, &shape, encoding)?;
    let names = names(|| peeked.next())?;
    let columns = find_columns(path, &names, options)?;
    let records = OpenedRecords::Json(Records::open(path, &shape, encoding)?);
    let kind = if shape == Shape::Lines { "JSON Lines" } else { "JSON records" };
    Ok(Opened { records, columns, kind: kind.into() })
}

/// Returns the fields of the first records, in order of appearance.
fn names(mut next: impl FnMut() -> io::Result<Option<(u64, Text)>>) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for _ in 0..PEEK_RECORDS {
        let Some((_, record)) = next()? else { break };
        let fields = record.ok().and_then(|record| json::object(&record).ok());
        for name in fields.iter().flat_map(Map::keys) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    Ok(names)
}

/// Reads the records after the first `from`.
pub(super) fn read(
    path: &Path,
    form: Form,
    from: u64,
    options: &ReadOptions,
    sink: &mut Sink,
) -> Result<Outcome, IngestError> {
    let opened = match open(path, form, options) {
        Ok(opened) => opened,
        Err(Failure::Read(error)) => return unreadable(reason_of(&error), error.to_string(), sink),
        Err(Failure::Request(error)) => return Err(error),
    };
    let mut opened = opened;
    if let OpenedRecords::Separated(list, kinds) = &mut opened.records {
        // The types of its values depend on all of them, so it is read completely once before.
        *kinds = match column_kinds(path, list, &opened.columns, options) {
            Ok(kinds) => kinds,
            Err(error) => return unreadable(reason_of(&error), error.to_string(), sink),
        };
    }
    let own_folder = path.parent().unwrap_or(Path::new(""));
    let found_folder = match &opened.records {
        OpenedRecords::Coco(images, _) if options.lists.images_root.is_none() => {
            images.folder(path)
        }
        _ => None,
    };
    let files = match ImageFiles::of_list(found_folder.as_deref().unwrap_or(own_folder), options) {
        Ok(files) => files,
        Err(error) => return unreadable(Reason::TruncatedSource, error.to_string(), sink),
    };
    let reader = Reader { columns: opened.columns, files, options };
    reader.read(opened.records, from, sink)
}

/// Infers the types of a CSV's or TSV's columns over the whole list, whose column names `list`
/// knows. Columns that the user names in `text_columns` stay text.
fn column_kinds(
    path: &Path,
    list: &Separated,
    columns: &Columns,
    options: &ReadOptions,
) -> io::Result<Vec<Inferred>> {
    let stays_text = |name: &String| {
        let given = &options.lists.text_columns;
        *name == columns.image
            || *name == columns.caption
            || given.iter().any(|given| given == "*" || given.eq_ignore_ascii_case(name))
    };
    let of_name = |name| if stays_text(name) { Inferred::Text } else { Inferred::Nothing };
    let mut kinds: Vec<Inferred> = list.header.iter().map(of_name).collect();
    let mut list = list.again(path, options)?;
    while kinds.iter().any(|kind| *kind != Inferred::Text) {
        // The actual reading reports errors.
        let Ok(Some((_, row))) = list.next() else { break };
        for (kind, value) in kinds.iter_mut().zip(row.iter().flatten()) {
            *kind = kind.with(value);
        }
    }
    Ok(kinds)
}

fn reason_of(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => Reason::TruncatedSource,
        _ => Reason::BadRecord,
    }
}

/// Converts records to items.
struct Reader<'a> {
    columns: Columns,
    files: ImageFiles,
    options: &'a ReadOptions<'a>,
}

impl Reader<'_> {
    fn read(
        &self,
        mut records: OpenedRecords,
        from: u64,
        sink: &mut Sink,
    ) -> Result<Outcome, IngestError> {
        let mut count = 0;
        loop {
            // The record's place, and its result unless it was added before.
            let next = match &mut records {
                OpenedRecords::Separated(list, kinds) => list.next().map(|row| {
                    row.map(|(line, row)| {
                        let is_new = count >= from;
                        (
                            format!("line {line}"),
                            is_new.then(|| self.of_row(&list.header, kinds, row)),
                        )
                    })
                }),
                OpenedRecords::Json(list) => list.next().map(|row| {
                    row.map(|(line, text)| {
                        let position = match list {
                            Records::Lines(_) => format!("line {line}"),
                            Records::Values(_) => format!("record {} in line {line}", count + 1),
                        };
                        (position, (count >= from).then(|| self.of_json(text, None)))
                    })
                }),
                OpenedRecords::Coco(images, list) => list.next().map(|row| {
                    row.map(|(_, text)| {
                        let position = format!("annotation {}", count + 1);
                        (position, (count >= from).then(|| self.of_json(text, Some(images))))
                    })
                }),
            };
            match next {
                Ok(None) => return Ok(Outcome { records: count, ..Outcome::default() }),
                Ok(Some((position, found))) => {
                    count += 1;
                    if let Some(found) = found {
                        sink(item(position, found), count)?;
                    }
                }
                Err(error) => return ended(count, &error, sink),
            }
        }
    }

    fn of_row(
        &self,
        header: &[String],
        kinds: &[Inferred],
        row: Result<Vec<String>, String>,
    ) -> Result<Record, String> {
        let (mut file, mut caption, mut own) = (None, None, Vec::new());
        for ((name, kind), value) in header.iter().zip(kinds).zip(row?) {
            if *name == self.columns.image && file.is_none() {
                file = Some(value);
            } else if *name == self.columns.caption && caption.is_none() {
                caption = Some(value);
            } else if !value.is_empty()
                && let Some(value) = kind.value(value)
            {
                own.push((name.clone(), value));
            }
        }
        Ok(self.record(file.map(Ok), caption, own))
    }

    /// Converts a JSON record. `images` is given if a field holds an image's id instead of its
    /// file.
    fn of_json(&self, record: Text, images: Option<&Images>) -> Result<Record, String> {
        let fields = json::object(&record?).map_err(|why| format!("not a JSON object: {why}"))?;
        let (mut file, mut caption, mut own) = (None, None, Vec::new());
        for (name, value) in &fields {
            if *name == self.columns.image {
                file = match images {
                    Some(images) => Some(images.file(value)),
                    None => text::of_json(value).map(Ok),
                };
            } else if *name == self.columns.caption {
                caption = self.options.captions.of_json(value, &mut own);
            }
            if (*name != self.columns.image || images.is_some())
                && *name != self.columns.caption
                && let Some(value) = own_value::of_json(value)
            {
                own.push((name.clone(), value));
            }
        }
        Ok(self.record(file, caption, own))
    }

    fn record(
        &self,
        file: Option<Result<String, String>>,
        caption: Option<String>,
        columns: Vec<(String, OwnValue)>,
    ) -> Record {
        let urls = self.columns.urls;
        let image: Result<Vec<u8>, Flaw> = match &file {
            Some(Ok(url)) if urls => Ok(url.trim().as_bytes().to_owned()),
            Some(Ok(name)) => self.files.read(name, self.options.max_image_bytes),
            Some(Err(why)) => Err((Reason::MissingImage, why.clone())),
            None if urls => Err((Reason::BadUrl, "the record has no URL".into())),
            None => Err((Reason::MissingImage, "the record has no path".into())),
        };
        let caption =
            caption.ok_or_else(|| (Reason::MissingCaption, "the record has no caption".into()));
        let key =
            file.and_then(Result::ok).filter(|file| !is_base64_image(file)).unwrap_or_default();
        let key = if urls { key.trim().to_owned() } else { key };
        Record { position: String::new(), key, image, caption, columns }
    }
}

fn item(position: String, found: Result<Record, String>) -> Item {
    match found {
        Ok(record) => Item::Record(Record { position, ..record }),
        Err(detail) => Item::Rejected(Rejection {
            position,
            key: String::new(),
            reason: Reason::BadRecord,
            detail,
        }),
    }
}

/// Ends a list that cannot be read further: a truncated compressed one, or a failing disk.
fn ended(records: u64, error: &io::Error, sink: &mut Sink) -> Result<Outcome, IngestError> {
    if records == 0 {
        return unreadable(Reason::TruncatedSource, error.to_string(), sink);
    }
    let message = format!("after {records} records: {error}");
    let rejection = Rejection {
        position: format!("after record {records}"),
        key: String::new(),
        reason: Reason::TruncatedSource,
        detail: format!("{error}; the rest was not read"),
    };
    sink(Item::Rejected(rejection), records + 1)?;
    Ok(Outcome { records: records + 1, fault: Some(Fault::Partial(message)), notes: Vec::new() })
}
