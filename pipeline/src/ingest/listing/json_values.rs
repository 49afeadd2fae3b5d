//! JSON lists as a stream of records: JSON Lines, one array of objects, or objects written over
//! several lines.
//!
//! A damaged record costs only itself: reading continues at the next line that starts like the
//! records before.

use std::io::{self, BufRead};
use std::path::Path;

use encoding_rs::Encoding;

use super::text_stream::{self, Lines, TextStream};
use crate::ingest::item::MAX_RECORD_BYTES;

/// A record's text, or the reason why there is none.
pub(super) type Text = Result<Vec<u8>, String>;

/// The form in which a file holds its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Lines,
    /// An array, or consecutive objects that take several lines.
    Values,
    /// COCO's captions: one object with the lists `images` and `annotations`.
    Coco,
}

impl Shape {
    pub(super) fn of(path: &Path, encoding: Option<&'static Encoding>) -> io::Result<Self> {
        let mut cursor = Cursor::new(text_stream::open(path, encoding)?);
        match cursor.skip_blanks()? {
            Some(b'[') => return Ok(Self::Values),
            Some(b'{') => {}
            _ => return Ok(Self::Lines),
        }
        let first_line = cursor.line;
        let mut lists = Vec::new();
        let mut members = Members::of(cursor)?;
        let ended = loop {
            match members.next()? {
                Some(Ok((name, b'['))) => lists.push(name),
                Some(Ok(_)) => {}
                Some(Err(_)) => break false,
                None => break true,
            }
        };
        let has = |name: &str| lists.iter().any(|list| list == name);
        if has("images") && has("annotations") {
            Ok(Self::Coco)
        } else if ended && members.cursor.line > first_line {
            Ok(Self::Values)
        } else {
            Ok(Self::Lines)
        }
    }
}

/// The bytes of a text, with their place.
pub(super) struct Cursor {
    stream: TextStream,
    /// From 1.
    line: u64,
    /// Bytes before this one in its line.
    column: u64,
}

impl Cursor {
    pub(super) fn new(stream: TextStream) -> Self {
        Self { stream, line: 1, column: 0 }
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.stream.fill_buf()?.first().copied())
    }

    /// Moves past the byte that [`Self::peek`] returned.
    fn step(&mut self, byte: u8) {
        self.stream.consume(1);
        if byte == b'\n' {
            (self.line, self.column) = (self.line + 1, 0);
        } else {
            self.column += 1;
        }
    }

    fn skip_blanks(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.peek()? {
                Some(byte) if byte.is_ascii_whitespace() => self.step(byte),
                other => return Ok(other),
            }
        }
    }

    /// Reads a value up to its end. With `keeps`, its text is kept, which limits its size.
    fn value(&mut self, keeps: bool) -> io::Result<Text> {
        let mut text = Vec::new();
        let (mut depth, mut in_string, mut escaped) = (0_u32, false, false);
        loop {
            let Some(byte) = self.peek()? else {
                return Ok(if depth == 0 && !in_string && !text.is_empty() {
                    Ok(text)
                } else {
                    Err("the file ends within it".into())
                });
            };
            if in_string {
                match byte {
                    b'\n' => return Ok(Err("a text in it is not closed on its line".into())),
                    _ if escaped => escaped = false,
                    b'\\' => escaped = true,
                    b'"' => in_string = false,
                    _ => {}
                }
            } else {
                match byte {
                    b'"' => in_string = true,
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' if depth > 0 => depth -= 1,
                    // A number or a word ends where something else starts.
                    b'}' | b']' | b',' if depth == 0 => return Ok(Ok(text)),
                    _ if depth == 0 && byte.is_ascii_whitespace() => return Ok(Ok(text)),
                    _ => {}
                }
            }
            self.step(byte);
            if keeps {
                text.push(byte);
            }
            if depth == 0 && !in_string && matches!(byte, b'}' | b']' | b'"') {
                return Ok(Ok(text));
            }
            if text.len() as u64 > MAX_RECORD_BYTES {
                return Ok(Err(format!("it has more than {MAX_RECORD_BYTES} bytes")));
            }
        }
    }

    /// Moves to the next line in which an object starts at `column`. Returns false if there is
    /// none.
    fn resume(&mut self, column: u64) -> io::Result<bool> {
        loop {
            match self.peek()? {
                None => return Ok(false),
                Some(b'{') if self.column == column => return Ok(true),
                Some(byte) => self.step(byte),
            }
        }
    }
}

/// The records of a JSON list, with the lines in which they start.
pub(super) enum Records {
    Lines(Lines),
    Values(Values),
}

impl Records {
    pub(super) fn open(
        path: &Path,
        shape: &Shape,
        encoding: Option<&'static Encoding>,
    ) -> io::Result<Self> {
        let stream = text_stream::open(path, encoding)?;
        Ok(match shape {
            Shape::Lines => Self::Lines(Lines::new(stream)),
            _ => Self::Values(Values::new(Cursor::new(stream))),
        })
    }

    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Text)>> {
        match self {
            Self::Values(values) => values.next(),
            Self::Lines(lines) => loop {
                let Some(line) = lines.next()? else { return Ok(None) };
                let text = line
                    .text
                    .ok_or_else(|| format!("the line has more than {MAX_RECORD_BYTES} bytes"));
                if text.as_ref().is_ok_and(|text| text.trim_ascii().is_empty()) {
                    continue;
                }
                return Ok(Some((line.number, text)));
            },
        }
    }
}

/// The elements of an array, or consecutive values.
pub(super) struct Values {
    cursor: Cursor,
    is_in_array: bool,
    /// Ends with the array.
    is_one_array: bool,
    broken: bool,
}

impl Values {
    fn new(cursor: Cursor) -> Self {
        Self { cursor, is_in_array: false, is_one_array: false, broken: false }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Text)>> {
        if self.broken {
            return Ok(None);
        }
        loop {
            match self.cursor.skip_blanks()? {
                None => return Ok(None),
                Some(b'[') if !self.is_in_array => {
                    self.is_in_array = true;
                    self.cursor.step(b'[');
                }
                Some(b']') if self.is_in_array => {
                    self.is_in_array = false;
                    self.cursor.step(b']');
                    if self.is_one_array {
                        return Ok(None);
                    }
                }
                Some(byte @ (b',' | b'}' | b']')) => self.cursor.step(byte),
                Some(_) => break,
            }
        }
        let (line, column) = (self.cursor.line, self.cursor.column);
        let text = self.cursor.value(true)?;
        if text.is_err() {
            self.broken = !self.cursor.resume(column)?;
        }
        Ok(Some((line, text)))
    }
}

/// The members of an object, in sequence, without their values in memory.
pub(super) struct Members {
    cursor: Cursor,
    is_at_value: bool,
}

impl Members {
    /// Starts at the object that comes next.
    pub(super) fn of(mut cursor: Cursor) -> io::Result<Self> {
        if let Some(byte @ b'{') = cursor.skip_blanks()? {
            cursor.step(byte);
        }
        Ok(Self { cursor, is_at_value: false })
    }

    /// Returns the next member's name and the first byte of its value, which is skipped unless it
    /// is read.
    fn next(&mut self) -> io::Result<Option<Result<(String, u8), String>>> {
        if std::mem::take(&mut self.is_at_value)
            && let Err(message) = self.cursor.value(false)?
        {
            return Ok(Some(Err(message)));
        }
        loop {
            match self.cursor.skip_blanks()? {
                Some(byte @ b',') => self.cursor.step(byte),
                Some(byte @ b'}') => {
                    self.cursor.step(byte);
                    return Ok(None);
                }
                Some(b'"') => break,
                _ => return Ok(Some(Err("it is not a JSON object".into()))),
            }
        }
        let name = match self.cursor.value(true)? {
            Ok(name) => serde_json::from_slice(&name).map_err(|error| error.to_string()),
            Err(message) => Err(message),
        };
        let colon = self.cursor.skip_blanks()?;
        if colon == Some(b':') {
            self.cursor.step(b':');
        }
        let first = self.cursor.skip_blanks()?;
        self.is_at_value = true;
        Ok(Some(match (name, colon, first) {
            (Ok(name), Some(b':'), Some(first)) => Ok((name, first)),
            (Err(message), ..) => Err(message),
            _ => Err("it is not a JSON object".into()),
        }))
    }

    /// Returns the elements of the list called `name`, if there is one.
    pub(super) fn list(mut self, name: &str) -> io::Result<Option<Values>> {
        loop {
            match self.next()? {
                Some(Ok((found, b'['))) if found == name => {
                    return Ok(Some(Values { is_one_array: true, ..Values::new(self.cursor) }));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use diptych_schemas::durable;

    use super::*;

    /// Records as text, with their lines.
    type Found = Vec<(u64, Result<String, String>)>;

    fn shape_and_records(text: &str) -> (Shape, Found) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        durable::write(&path, text.as_bytes()).unwrap();
        let shape = Shape::of(&path, None).unwrap();
        let mut records = Records::open(&path, &shape, None).unwrap();
        let mut found = Vec::new();
        while let Some((line, text)) = records.next().unwrap() {
            found.push((line, text.map(|text| String::from_utf8(text).unwrap())));
        }
        (shape, found)
    }

    #[test]
    fn shape_is_seen_by_the_first_record() {
        let coco = r#"{"info": {"a": [1]}, "annotations": [{"id": 1}], "images": []}"#;
        for (text, shape, records) in [
            ("{\"a\": 1}\n\n{\"a\": 2}\n", Shape::Lines, 2),
            ("nope\n{\"a\": 2}\n", Shape::Lines, 2),
            ("{\"a\": \"open\n{\"a\": 2}\n", Shape::Lines, 2),
            ("[{\"a\": 1}, {\"a\": [2, {}]},\n{\"a\": \"}\\\"\"}]\n", Shape::Values, 3),
            ("{\n \"a\": 1\n}\n{\n \"a\": 2\n}", Shape::Values, 2),
            ("", Shape::Lines, 0),
            (coco, Shape::Coco, 1),
        ] {
            let (found, of_it) = shape_and_records(text);
            assert_eq!((found, of_it.len()), (shape, records), "{text}");
        }
    }

    #[test]
    fn damaged_record_of_an_array_costs_itself() {
        let text = "[\n  {\n    \"a\": 1\n  },\n  {\n    \"a\": \"open\n  },\n  {\n    \"a\": \
                    nope\n  },\n  7,\n  {\"a\": 3}\n]\n";
        let (_, records) = shape_and_records(text);
        let found: Vec<_> = records.iter().map(|(line, text)| (*line, text.is_ok())).collect();
        assert_eq!(found, [(2, true), (5, false), (8, true), (11, true), (12, true)]);
        let (_, cut) = shape_and_records("[{\"a\": 1}, {\"a\": 2");
        assert_eq!(cut[0], (1, Ok("{\"a\": 1}".into())));
        assert!(cut.len() == 2 && cut[1].1.is_err());
    }

    #[test]
    fn lists_within_an_object_are_found_wherever_they_stand() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        durable::write(
            &path,
            br#"{"info": {"x": "]"}, "n": 3, "b": [{"i": 1}, {"i": 2}], "c": []}"#,
        )
        .unwrap();
        let list = |name: &str| {
            let cursor = Cursor::new(text_stream::open(&path, None).unwrap());
            Members::of(cursor).unwrap().list(name).unwrap()
        };
        let mut values = list("b").unwrap();
        let mut found = 0;
        while let Some((_, text)) = values.next().unwrap() {
            assert!(text.unwrap().starts_with(b"{\"i\""));
            found += 1;
        }
        assert_eq!(found, 2);
        assert!(list("d").is_none() && list("n").is_none());
    }
}
