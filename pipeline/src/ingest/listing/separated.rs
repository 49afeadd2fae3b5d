//! Separated values: CSV, TSV and similar formats, as people and programs write them.
//!
//! Quotes are the difficulty. In CSV, a quoted field may hold separators and line ends. In lists
//! with tabs or bars, most writers do not use quoting, and a quote at the start of a caption is
//! part of it. The rules for both:
//!
//! 1. A field that is completely in quotes within its line, with inner quotes doubled, loses them.
//! 2. A record is one line, unless a quote that it opens is closed in one of the next lines and the
//!    fields then fit the header.
//! 3. Such a quote never swallows a line that is a record by itself. A quote that is not closed
//!    costs its own line: in CSV it is an error, with tabs or bars it is text.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use super::text_stream::{self, Line, Lines};
use crate::ingest::item::{MAX_CAPTION_BYTES, MAX_RECORD_BYTES, ReadOptions};
use crate::ingest::list_options::ListOptions;
use crate::ingest::tar_group::is_image_extension;

/// Lines that are checked to find the separator.
const PEEK_LINES: usize = 16;
/// Most empty lines that are skipped to see what comes next.
const MAX_EMPTY_LINES: usize = 64;
/// Possible separators, the more usual first.
const SEPARATORS: [char; 4] = ['\t', ',', ';', '|'];

/// A list whose header has been read or created.
pub(super) struct Separated {
    lines: Lines,
    /// Lines that were read ahead.
    ahead: VecDeque<Line>,
    separator: u8,
    pub(super) header: Vec<String>,
    /// Index of the column whose value distinguishes a record from a piece of text.
    image: Option<usize>,
}

/// One record: the number of its first line, and its values or the reason why there are none.
pub(super) type Row = (u64, Result<Vec<String>, String>);

/// The names of the columns, from the user or the first line.
pub(super) enum Header {
    Named(Vec<String>),
    /// The first line is a record; the columns have no names yet.
    Missing(Vec<String>),
}

impl Separated {
    /// Opens a list and reads its header. The caller sets the names of the columns with
    /// [`Self::name`].
    pub(super) fn open(path: &Path, options: &ReadOptions) -> io::Result<(Self, Header)> {
        let mut list = Self::from_beginning(path, options.lists)?;
        let Some((number, row)) = list.next()? else {
            return Ok((list, Header::Named(Vec::new())));
        };
        let fields = row.map_err(|message| {
            io::Error::new(io::ErrorKind::InvalidData, format!("line {number}: {message}"))
        })?;
        let given = [options.image_column, options.caption_column, options.url_column];
        let is_header = fields.iter().any(|field| given.contains(&Some(field)));
        let is_record = match &options.lists.columns {
            Some(names) => !same_names(names, &fields),
            None if options.lists.no_header => true,
            None => !is_header && fields.iter().any(|field| is_place(field)),
        };
        if is_record {
            return Ok((Self::from_beginning(path, options.lists)?, Header::Missing(fields)));
        }
        Ok((list, Header::Named(fields)))
    }

    fn from_beginning(path: &Path, options: &ListOptions) -> io::Result<Self> {
        let mut lines = Lines::new(text_stream::open(path, options.text_encoding())?);
        let mut ahead = VecDeque::new();
        while ahead.len() < PEEK_LINES {
            let Some(line) = lines.next()? else { break };
            ahead.push_back(line);
        }
        let separator = options.separator.unwrap_or_else(|| separator_of(&ahead)) as u8;
        Ok(Self { lines, ahead, separator, header: Vec::new(), image: None })
    }

    /// Describes the separator.
    pub(super) fn words(&self) -> String {
        match self.separator {
            b'\t' => "values separated by tabs".into(),
            b',' => "values separated by commas".into(),
            b';' => "values separated by semicolons".into(),
            b'|' => "values separated by bars".into(),
            other => format!("values separated by {:?}", char::from(other)),
        }
    }

    /// Opens the list again at its first record.
    pub(super) fn again(&self, path: &Path, options: &ReadOptions) -> io::Result<Self> {
        let (mut list, _) = Self::open(path, options)?;
        list.name(self.header.clone(), self.image);
        Ok(list)
    }

    /// Sets the names of the columns.
    pub(super) fn name(&mut self, header: Vec<String>, image: Option<usize>) {
        (self.header, self.image) = (header, image);
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Row>> {
        let Some(line) = self.line()? else { return Ok(None) };
        let row = self.record(&line)?;
        Ok(Some((line.number, row)))
    }

    /// Returns the next line that is not empty.
    fn line(&mut self) -> io::Result<Option<Line>> {
        loop {
            let line = match self.ahead.pop_front() {
                Some(line) => line,
                None => match self.lines.next()? {
                    Some(line) => line,
                    None => return Ok(None),
                },
            };
            if line.text.as_ref().is_none_or(|text| !text.is_empty()) {
                return Ok(Some(line));
            }
        }
    }

    /// Returns the record that starts with a line.
    fn record(&mut self, line: &Line) -> io::Result<Result<Vec<String>, String>> {
        let Some(text) = &line.text else {
            return Ok(Err(format!(
                "the line has more than {MAX_RECORD_BYTES} bytes; is a quote not closed?"
            )));
        };
        let plain = split(text, self.separator);
        if !plain.iter().any(|field| field.trim_ascii_start().starts_with(b"\"")) {
            return Ok(self.checked(plain.iter().map(|field| field.to_vec()).collect()));
        }
        let parsed = match parse(text, self.separator) {
            Parsed::Fields(fields) if self.fits(fields.len()) => return Ok(self.checked(fields)),
            other => other,
        };
        let quotes_are_text = matches!(self.separator, b'\t' | b'|');
        let plain_fits = self.fits(plain.len());
        let looks_on = match parsed {
            Parsed::Open if quotes_are_text && plain_fits => !self.next_is_record(&plain)?,
            Parsed::Open => true,
            _ => false,
        };
        if looks_on && let Some((fields, lines)) = self.over_lines(text, &plain)? {
            self.ahead.drain(..lines);
            return Ok(self.checked(fields));
        }
        let literal = || plain.iter().map(|field| field.to_vec()).collect();
        Ok(match parsed {
            Parsed::Open if !quotes_are_text => {
                Err("a quote is opened and not closed before the next record".into())
            }
            Parsed::Fields(fields) if !quotes_are_text => self.checked(fields),
            Parsed::Misplaced if !plain_fits => {
                Err("text follows a closing quote; a quote within quotes must be doubled".into())
            }
            _ => self.checked(literal()),
        })
    }

    /// Returns whether a record may have this many fields. Before the header is known, any number
    /// is accepted.
    fn fits(&self, fields: usize) -> bool {
        self.header.is_empty() || fields == self.header.len()
    }

    fn checked(&self, fields: Vec<Vec<u8>>) -> Result<Vec<String>, String> {
        if !self.fits(fields.len()) {
            return Err(format!(
                "{} fields, but the header has {}",
                fields.len(),
                self.header.len()
            ));
        }
        let text = |field: Vec<u8>| match String::from_utf8(field) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(error) => Err(format!(
                "it is not UTF-8 text: {}; name its encoding with --encoding, such as windows-1252",
                error.utf8_error()
            )),
        };
        fields.into_iter().map(text).collect()
    }

    /// Reads ahead until `lines` lines wait, or the list ends.
    fn look_ahead(&mut self, lines: usize) -> io::Result<bool> {
        while self.ahead.len() < lines {
            let Some(line) = self.lines.next()? else { return Ok(false) };
            self.ahead.push_back(line);
        }
        Ok(true)
    }

    /// Returns whether the line after this one is a record by itself. The end of the list counts as
    /// one.
    fn next_is_record(&mut self, this: &[&[u8]]) -> io::Result<bool> {
        for index in 0.. {
            if !self.look_ahead(index + 1)? {
                break;
            }
            match self.ahead.get(index).and_then(|line| line.text.as_deref()) {
                // It is skipped where a record starts, and may be part of a text.
                Some(b"") if index < MAX_EMPTY_LINES => {}
                Some(next) => return Ok(self.is_record(next, this)),
                None => break,
            }
        }
        Ok(true)
    }

    /// Returns whether a line is a record by itself: it has the header's fields, and names an image
    /// if `this` record does.
    fn is_record(&self, line: &[u8], this: &[&[u8]]) -> bool {
        let fields = split(line, self.separator);
        let names_image = |fields: &[&[u8]]| {
            let field = self.image.and_then(|image| fields.get(image));
            field.is_some_and(|field| is_place(&String::from_utf8_lossy(field)))
        };
        self.fits(fields.len()) && (names_image(&fields) || !names_image(this))
    }

    /// Returns the fields of a record that continues in the next lines, and the number of these
    /// lines.
    fn over_lines(
        &mut self,
        text: &[u8],
        plain: &[&[u8]],
    ) -> io::Result<Option<(Vec<Vec<u8>>, usize)>> {
        let mut whole = text.to_vec();
        for lines in 1.. {
            if !self.look_ahead(lines)? {
                return Ok(None);
            }
            let Some(Line { text: Some(next), .. }) = self.ahead.get(lines - 1) else {
                return Ok(None);
            };
            // A value may not be longer than a caption, so nothing beyond is checked.
            if whole.len() + next.len() > 2 * MAX_CAPTION_BYTES {
                return Ok(None);
            }
            let is_record = self.is_record(next, plain) && self.image.is_some();
            whole.push(b'\n');
            whole.extend_from_slice(next);
            // Only a line with a quote can end the field.
            if next.contains(&b'"') {
                match parse(&whole, self.separator) {
                    Parsed::Fields(fields) if self.fits(fields.len()) && !is_record => {
                        return Ok(Some((fields, lines)));
                    }
                    Parsed::Open => {}
                    _ => return Ok(None),
                }
            }
            if is_record {
                return Ok(None);
            }
        }
        Ok(None)
    }
}

/// Returns whether a field of the first line is not a name of a column, but a URL or an image file.
pub(super) fn is_place(field: &str) -> bool {
    let field = field.trim().trim_matches('"');
    let file = field.rsplit_once('#').filter(|(_, number)| number.parse::<u32>().is_ok());
    let extension = file.map_or(field, |(file, _)| file).rsplit_once('.').map(|(_, end)| end);
    let is_address = field.contains("://") && !field.contains(char::is_whitespace);
    is_address || extension.is_some_and(|end| is_image_extension(&end.to_lowercase()))
}

fn same_names(names: &[String], fields: &[String]) -> bool {
    names.len() == fields.len()
        && names.iter().zip(fields).all(|(name, field)| name.trim().eq_ignore_ascii_case(field))
}

/// Returns the fields of a line in which quotes are text.
fn split(line: &[u8], separator: u8) -> Vec<&[u8]> {
    line.split(|&byte| byte == separator).collect()
}

enum Parsed {
    Fields(Vec<Vec<u8>>),
    /// A quote is opened and not closed.
    Open,
    /// Something other than a separator follows a closing quote.
    Misplaced,
}

/// Parses the fields of a text with quoting (RFC 4180). White space around a quoted field is not
/// part of it.
fn parse(text: &[u8], separator: u8) -> Parsed {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let blanks = rest.iter().take_while(|&&byte| byte == b' ').count();
        let mut field = Vec::new();
        if rest.get(blanks) == Some(&b'"') {
            rest = &rest[blanks + 1..];
            loop {
                let Some(quote) = rest.iter().position(|&byte| byte == b'"') else {
                    return Parsed::Open;
                };
                field.extend_from_slice(&rest[..quote]);
                rest = &rest[quote + 1..];
                if rest.first() != Some(&b'"') {
                    break;
                }
                field.push(b'"');
                rest = &rest[1..];
            }
            let blanks = rest.iter().take_while(|&&byte| byte == b' ').count();
            rest = &rest[blanks..];
            if rest.first().is_some_and(|&byte| byte != separator) {
                return Parsed::Misplaced;
            }
        } else {
            let end = rest.iter().position(|&byte| byte == separator).unwrap_or(rest.len());
            field.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
        }
        fields.push(field);
        match rest.split_first() {
            Some((_, more)) => rest = more,
            None => return Parsed::Fields(fields),
        }
    }
}

/// Returns the separator that splits the first line into fields, and the others into as many.
/// OpenCLIP's own `.csv` files are separated by tabs.
fn separator_of(lines: &VecDeque<Line>) -> char {
    let counts = |separator: char| {
        let texts = lines.iter().filter_map(|line| line.text.as_deref());
        let texts = texts.filter(|text| !text.is_empty());
        texts.map(move |text| match parse(text, separator as u8) {
            Parsed::Fields(fields) => fields.len(),
            _ => split(text, separator as u8).len(),
        })
    };
    let rated = SEPARATORS.into_iter().filter_map(|separator| {
        let first = counts(separator).next()?;
        let same = counts(separator).filter(|count| *count == first).count();
        (first > 1).then_some((same, first, separator))
    });
    // The first of equal ones: `max_by_key` returns the last.
    let found = rated.rev().max_by_key(|(same, first, _)| (*same, *first));
    found.map_or(',', |(.., separator)| separator)
}

#[cfg(test)]
mod tests {
    use diptych_schemas::durable;

    use super::*;
    use crate::ingest::item::Captions;

    /// Returns the values of a list's records joined by `/`, or `line N: …` for an invalid one.
    fn rows(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        durable::write(&path, text.as_bytes()).unwrap();
        let options = ReadOptions {
            image_column: None,
            caption_column: None,
            url_column: None,
            captions: Captions::First,
            lists: &ListOptions::default(),
            dotted_keys: false,
            max_image_bytes: 1,
            copy: None,
        };
        let (mut list, header) = Separated::open(&path, &options).unwrap();
        let (Header::Named(header) | Header::Missing(header)) = header;
        let image = header.iter().position(|name| name == "file");
        list.name(header, image);
        let mut rows = Vec::new();
        while let Some((line, row)) = list.next().unwrap() {
            rows.push(row.map_or_else(
                |message| format!("line {line}: {}", message.split_whitespace().next().unwrap()),
                |values| values.join("/"),
            ));
        }
        rows
    }

    #[test]
    fn quotes_in_lists_with_tabs_are_text_unless_they_are_quotes() {
        for (text, expected) in [
            ("a.jpg\t\"best\" of all\n", vec!["a.jpg/\"best\" of all"]),
            ("a.jpg\t\"open\nb.jpg\t5\"\nc.jpg\tc\n", vec!["a.jpg/\"open", "b.jpg/5\"", "c.jpg/c"]),
            ("a.jpg\t\"he said \"\"hi\"\"\"\n", vec!["a.jpg/he said \"hi\""]),
            ("a.jpg\t\"tab\there\"\nb.jpg\tb\n", vec!["a.jpg/tab\there", "b.jpg/b"]),
            ("a.jpg\t\"one\ntwo\"\nb.jpg\tb\n", vec!["a.jpg/one\ntwo", "b.jpg/b"]),
            ("a.jpg\t\"one\r\n\r\ntwo\"\r\nb.jpg\tb", vec!["a.jpg/one\n\ntwo", "b.jpg/b"]),
            ("a.jpg\t\"last", vec!["a.jpg/\"last"]),
            ("a.jpg\t\"one\nstray\nb.jpg\tb\n", vec!["a.jpg/\"one", "line 3: 1", "b.jpg/b"]),
            (" \"a.jpg\" \t  b \n", vec!["a.jpg/b"]),
        ] {
            assert_eq!(rows(&format!("file\tcaption\n{text}")), expected, "{text}");
        }
    }

    #[test]
    fn quotes_in_csv_hold_what_they_enclose_and_an_open_one_costs_its_line() {
        for (text, expected) in [
            ("a.jpg,\"one, two\"\n", vec!["a.jpg/one, two"]),
            ("a.jpg, \"one, two\"\n", vec!["a.jpg/one, two"]),
            ("a.jpg,\"one\ntwo, three\"\nb.jpg,b\n", vec!["a.jpg/one\ntwo, three", "b.jpg/b"]),
            ("a.jpg,\"open\nb.jpg,b\nc.jpg,\"c, d\"\n", vec!["line 2: a", "b.jpg/b", "c.jpg/c, d"]),
            ("a.jpg,\"open\nb.jpg,5\"\n", vec!["line 2: a", "b.jpg/5\""]),
            ("a.jpg,\"open\n", vec!["line 2: a"]),
            ("a.jpg,\"the \"best\" one, two\"\nb.jpg,b\n", vec!["line 2: text", "b.jpg/b"]),
            ("a.jpg,\"best\" of all\n", vec!["a.jpg/\"best\" of all"]),
        ] {
            assert_eq!(rows(&format!("file,caption\n{text}")), expected, "{text}");
        }
    }

    #[test]
    fn addresses_and_image_files_are_no_names_of_columns_and_sentences_are_no_addresses() {
        for place in ["http://a.org/1", "folder/1.JPG", "1.jpg#3", "\"x.png\"", "s3://b/k"] {
            assert!(is_place(place), "{place}");
        }
        for name in ["caption", "see http://a.org/x", "image.name", "jpg", "", "1.5"] {
            assert!(!is_place(name), "{name}");
        }
    }

    #[test]
    fn separator_is_the_one_that_cuts_all_lines_alike() {
        for (text, expected) in [
            ("file;caption\na;b, c, d\n", "a/b, c, d"),
            ("file| n| caption\na.jpg| 0| two, three\n", "a.jpg/0/two, three"),
            (
                "red, round, big\thttp://a/1.jpg\nblue\thttp://a/2.jpg\n",
                "red, round, big/http://a/1.jpg",
            ),
            ("file,caption\na.jpg,\"x;y\tz\"\n", "a.jpg/x;y\tz"),
        ] {
            assert_eq!(rows(text)[0], expected, "{text}");
        }
    }
}
