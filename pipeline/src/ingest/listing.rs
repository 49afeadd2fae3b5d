//! Listings: CSV, TSV or JSON Lines with the path or the address of an image file and a caption in each record.
//!
//! Paths are relative to the listing's folder and may not leave it: a listing can come from anywhere, and must not be a way
//! to read other files of this machine.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use csv::ByteRecord;
use diptych_schemas::Reason;
use serde_json::{Map, Value};

use super::columns::Wanted;
use super::item::{
    Fault, Flaw, Item, MAX_RECORD_BYTES, Outcome, ReadOptions, Record, Rejection, Sink,
};
use super::{IngestError, text};

/// Lines of JSON that are looked at to find out which fields there are.
const PEEK_LINES: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Csv,
    JsonLines,
}

/// The names of the two columns that count.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Columns {
    image: String,
    caption: String,
    /// The image is an address, not a path.
    urls: bool,
}

/// Finds the columns; says whether it is a list of addresses, and in words what is read.
pub(super) fn check(
    path: &Path,
    form: Form,
    options: &ReadOptions,
) -> Result<Result<(bool, String), io::Error>, IngestError> {
    let (kind, names) = match form {
        Form::Csv => match open_csv(path) {
            Ok(opened) => (opened.name, opened.header),
            Err(error) => return Ok(Err(error)),
        },
        Form::JsonLines => match json_names(path) {
            Ok(names) => ("JSON Lines", names),
            Err(error) => return Ok(Err(error)),
        },
    };
    let columns = find_columns(path, &names, options)?;
    let what = if columns.urls { "addresses of images" } else { "image files" };
    Ok(Ok((
        columns.urls,
        format!("{kind}: {what} in `{}`, captions in `{}`", columns.image, columns.caption),
    )))
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
    if options.url_column.is_some() {
        return Ok(Columns { image: find(Wanted::Url, options.url_column)?, caption, urls: true });
    }
    match find(Wanted::File, options.image_column) {
        Ok(image) => Ok(Columns { image, caption, urls: false }),
        Err(_) if options.image_column.is_none() && find(Wanted::Url, None).is_ok() => {
            Ok(Columns { image: find(Wanted::Url, None)?, caption, urls: true })
        }
        Err(error) => Err(error),
    }
}

/// Lines of a listing: about its records, for those who want to know how long it will take.
pub(super) fn lines(path: &Path) -> Option<u64> {
    let mut file = File::open(path).ok()?;
    let mut buffer = vec![0; 1 << 20];
    let mut lines = 0;
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(lines),
            // Sums of bytes are vectorised.
            read => {
                lines += buffer[..read].iter().map(|&byte| u64::from(byte == b'\n')).sum::<u64>();
            }
        }
    }
}

/// Reads the records that come after the first `from`.
pub(super) fn read(
    path: &Path,
    form: Form,
    from: u64,
    options: &ReadOptions,
    sink: &mut Sink,
) -> Result<Outcome, IngestError> {
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let opened = folder.canonicalize().and_then(|root| Ok((root, File::open(path)?)));
    let files = match opened {
        Ok((root, _)) => Files { root, folder: folder.to_owned() },
        Err(error) => return super::unreadable(Reason::TruncatedSource, error.to_string(), sink),
    };
    match form {
        Form::Csv => read_csv(path, from, options, &files, sink),
        Form::JsonLines => read_json_lines(path, from, options, &files, sink),
    }
}

/// Where image files may be.
struct Files {
    /// The listing's folder without links.
    root: PathBuf,
    /// The same as it was given.
    folder: PathBuf,
}

impl Files {
    fn read(&self, name: &str, options: &ReadOptions) -> Result<Vec<u8>, Flaw> {
        if name.trim().is_empty() {
            return Err((Reason::MissingImage, "the path is empty".into()));
        }
        if name.contains("://") {
            let advice = "is an address; name its column with --url-column and it is downloaded";
            return Err((Reason::MissingImage, format!("{name} {advice}")));
        }
        let relative = Path::new(name);
        if relative.is_absolute()
            || relative
                .components()
                .any(|part| matches!(part, Component::ParentDir | Component::Prefix(_)))
        {
            return Err((
                Reason::BadRecord,
                format!("the path {name} leaves the listing's folder"),
            ));
        }
        let path = self.folder.join(relative);
        let real = path
            .canonicalize()
            .map_err(|e| (Reason::MissingImage, format!("{}: {e}", path.display())))?;
        if !real.starts_with(&self.root) {
            return Err((
                Reason::BadRecord,
                format!("the path {name} leaves the listing's folder through a link"),
            ));
        }
        read_file(&real, options.max_image_bytes, Reason::MissingImage)
    }
}

/// Reads a regular file of a limited size.
pub(super) fn read_file(path: &Path, limit: u64, missing: Reason) -> Result<Vec<u8>, Flaw> {
    let failed = |error: io::Error| (missing, format!("{}: {error}", path.display()));
    // Looked at before it is opened: opening a pipe would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err((Reason::BadRecord, format!("{} is not a regular file", path.display())));
    }
    if metadata.len() > limit {
        return Err((
            Reason::TooManyBytes,
            format!("{} has {} bytes, the limit is {limit}", path.display(), metadata.len()),
        ));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(failed)?;
    Ok(bytes)
}

fn record(
    line: u64,
    file: Option<String>,
    caption: Option<String>,
    own: Vec<(String, String)>,
    columns: &Columns,
    files: &Files,
    options: &ReadOptions,
) -> Item {
    let image = match &file {
        Some(url) if columns.urls => Ok(url.trim().as_bytes().to_owned()),
        Some(name) => files.read(name, options),
        None if columns.urls => Err((Reason::BadUrl, "the record has no address".into())),
        None => Err((Reason::MissingImage, "the record has no path".into())),
    };
    let caption =
        caption.ok_or_else(|| (Reason::MissingCaption, "the record has no caption".into()));
    let key = file
        .map_or_else(String::new, |name| if columns.urls { name.trim().to_owned() } else { name });
    Item::Record(Record { position: format!("line {line}"), key, image, caption, columns: own })
}

fn bad_record(line: u64, detail: String) -> Item {
    Item::Rejected(Rejection {
        position: format!("line {line}"),
        key: String::new(),
        reason: Reason::BadRecord,
        detail,
    })
}

/// Ends a listing that cannot be read on.
fn ended(records: u64, line: u64, detail: &str, sink: &mut Sink) -> Result<Outcome, IngestError> {
    let message = format!("line {line}: {detail}");
    if records == 0 {
        return super::unreadable(Reason::BadRecord, message, sink);
    }
    sink(bad_record(line, format!("{detail}; the rest is not read")), records + 1)?;
    Ok(Outcome { records: records + 1, fault: Some(Fault::Partial(message)), notes: Vec::new() })
}

struct OpenCsv {
    reader: csv::Reader<Limited>,
    left: Rc<Cell<u64>>,
    header: Vec<String>,
    name: &'static str,
}

/// A reader that fails when a record is longer than the limit: a quote that is never closed would swallow the whole file.
struct Limited {
    inner: Box<dyn Read>,
    left: Rc<Cell<u64>>,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.get() == 0 {
            let message =
                format!("a record of more than {MAX_RECORD_BYTES} bytes; is a quote not closed?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let most = buffer.len().min(self.left.get() as usize);
        let read = self.inner.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - read as u64);
        Ok(read)
    }
}

/// Opens a file of separated values. The separator is the one of comma, tab and semicolon that its first line has most of:
/// OpenCLIP's own `.csv` files are separated by tabs.
fn open_csv(path: &Path) -> io::Result<OpenCsv> {
    let mut file = BufReader::new(File::open(path)?);
    let mut first_line = Vec::new();
    (&mut file).take(MAX_RECORD_BYTES).read_until(b'\n', &mut first_line)?;
    let count = |separator: u8| first_line.split(|&byte| byte == separator).count();
    let separator = [b'\t', b',', b';']
        .into_iter()
        .max_by_key(|&separator| (count(separator), separator == b','))
        .unwrap_or(b',');
    let name = match separator {
        b'\t' => "values separated by tabs",
        b';' => "values separated by semicolons",
        _ => "values separated by commas",
    };
    let left = Rc::new(Cell::new(MAX_RECORD_BYTES));
    let inner = Box::new(io::Cursor::new(first_line).chain(file));
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator)
        .has_headers(false)
        .flexible(true)
        .from_reader(Limited { inner, left: Rc::clone(&left) });
    let mut header = ByteRecord::new();
    reader.read_byte_record(&mut header).map_err(io::Error::other)?;
    let header =
        header.iter().map(|field| String::from_utf8_lossy(field).trim().to_owned()).collect();
    Ok(OpenCsv { reader, left, header, name })
}

fn read_csv(
    path: &Path,
    from: u64,
    options: &ReadOptions,
    files: &Files,
    sink: &mut Sink,
) -> Result<Outcome, IngestError> {
    let OpenCsv { mut reader, left, header, .. } = match open_csv(path) {
        Ok(opened) => opened,
        Err(error) => return super::unreadable(Reason::BadRecord, error.to_string(), sink),
    };
    let columns = find_columns(path, &header, options)?;
    let mut records = 0;
    let mut fields = ByteRecord::new();
    loop {
        left.set(MAX_RECORD_BYTES);
        let line = reader.position().line();
        match reader.read_byte_record(&mut fields) {
            Ok(true) => {}
            Ok(false) => return Ok(Outcome { records, ..Outcome::default() }),
            Err(error) => return ended(records, line, &error.to_string(), sink),
        }
        records += 1;
        if records <= from {
            continue;
        }
        let line = fields.position().map_or(line, csv::Position::line);
        let item = if fields.len() == header.len() {
            match fields.iter().map(|field| str::from_utf8(field)).collect::<Result<Vec<_>, _>>() {
                Err(error) => bad_record(line, format!("not UTF-8 text: {error}")),
                Ok(values) => {
                    let (mut file, mut caption, mut own) = (None, None, Vec::new());
                    for (name, value) in header.iter().zip(values) {
                        if *name == columns.image && file.is_none() {
                            file = Some(value.to_owned());
                        } else if *name == columns.caption && caption.is_none() {
                            caption = Some(value.to_owned());
                        } else if !value.is_empty() {
                            own.push((name.clone(), value.to_owned()));
                        }
                    }
                    record(line, file, caption, own, &columns, files, options)
                }
            }
        } else {
            bad_record(line, format!("{} fields, the header has {}", fields.len(), header.len()))
        };
        sink(item, records)?;
    }
}

/// The fields of the first lines, in order of their appearance.
fn json_names(path: &Path) -> io::Result<Vec<String>> {
    let mut lines = BufReader::new(File::open(path)?);
    let mut names: Vec<String> = Vec::new();
    for _ in 0..PEEK_LINES {
        let Some(line) = next_line(&mut lines)? else { break };
        if let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(&line) {
            for name in fields.keys() {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
    }
    Ok(names)
}

fn next_line(lines: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    lines.take(MAX_RECORD_BYTES + 1).read_until(b'\n', &mut line)?;
    if line.len() as u64 > MAX_RECORD_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a line of more than {MAX_RECORD_BYTES} bytes"),
        ));
    }
    Ok((!line.is_empty()).then_some(line))
}

fn read_json_lines(
    path: &Path,
    from: u64,
    options: &ReadOptions,
    files: &Files,
    sink: &mut Sink,
) -> Result<Outcome, IngestError> {
    let opened = json_names(path).and_then(|names| Ok((names, BufReader::new(File::open(path)?))));
    let (names, mut lines) = match opened {
        Ok(opened) => opened,
        Err(error) => return super::unreadable(Reason::BadRecord, error.to_string(), sink),
    };
    let columns = find_columns(path, &names, options)?;
    let mut records = 0;
    let mut line_number = 0;
    loop {
        line_number += 1;
        let line = match next_line(&mut lines) {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(Outcome { records, ..Outcome::default() }),
            Err(error) => return ended(records, line_number, &error.to_string(), sink),
        };
        if line.trim_ascii().is_empty() {
            continue;
        }
        records += 1;
        if records <= from {
            continue;
        }
        let item = match serde_json::from_slice::<Map<String, Value>>(&line) {
            Err(error) => bad_record(line_number, format!("not a JSON object: {error}")),
            Ok(fields) => {
                let (mut file, mut caption, mut own) = (None, None, Vec::new());
                for (name, value) in &fields {
                    if *name == columns.image {
                        file = text::of_json(value);
                    } else if *name == columns.caption {
                        caption = options.captions.of_json(value, &mut own);
                    } else if let Some(value) = text::of_json(value) {
                        own.push((name.clone(), value));
                    }
                }
                record(line_number, file, caption, own, &columns, files, options)
            }
        };
        sink(item, records)?;
    }
}
