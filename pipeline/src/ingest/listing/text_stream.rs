//! A list as a stream of UTF-8 text and as lines: decompressed, decoded, without a byte order mark.
//! Only one line is in memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use encoding_rs::{Encoding, UTF_16BE, UTF_16LE};
use encoding_rs_io::DecodeReaderBytesBuilder;

use crate::ingest::item::MAX_RECORD_BYTES;
use crate::ingest::packing::{Packing, peeked};

/// Bytes that are checked to recognise the encoding.
const START_BYTES: u64 = 512;

pub(super) type TextStream = BufReader<Box<dyn Read>>;

/// Opens a list. UTF-16 is recognised by its mark or its zero bytes. Anything else must be UTF-8,
/// unless `encoding` is given.
pub(super) fn open(path: &Path, encoding: Option<&'static Encoding>) -> io::Result<TextStream> {
    let (start, packed) = peeked(File::open(path)?, START_BYTES)?;
    let unpacked = Packing::of(&start).unpacked(packed)?;
    let (start, whole) = peeked(unpacked, START_BYTES)?;
    let text = DecodeReaderBytesBuilder::new()
        .encoding(encoding.or_else(|| utf_16_without_mark(&start)))
        .bom_override(true)
        .strip_bom(true)
        .utf8_passthru(true)
        .build(whole);
    Ok(BufReader::with_capacity(1 << 18, Box::new(text)))
}

/// Recognises UTF-16 by the zeros between the letters of its first characters.
fn utf_16_without_mark(start: &[u8]) -> Option<&'static Encoding> {
    let pairs = start.chunks_exact(2).take(16);
    if pairs.len() < 4 {
        return None;
    }
    let all = |fits: fn(u8, u8) -> bool| pairs.clone().all(|pair| fits(pair[0], pair[1]));
    if all(|low, high| low != 0 && high == 0) {
        Some(UTF_16LE)
    } else if all(|high, low| high == 0 && low != 0) {
        Some(UTF_16BE)
    } else {
        None
    }
}

/// One line without its end.
pub(super) struct Line {
    /// From 1.
    pub(super) number: u64,
    /// `None` for a line that is longer than [`MAX_RECORD_BYTES`].
    pub(super) text: Option<Vec<u8>>,
}

pub(super) struct Lines {
    stream: TextStream,
    number: u64,
}

impl Lines {
    pub(super) fn new(stream: TextStream) -> Self {
        Self { stream, number: 0 }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        let mut text = Vec::new();
        (&mut self.stream).take(MAX_RECORD_BYTES + 1).read_until(b'\n', &mut text)?;
        if text.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        let number = self.number;
        if text.len() as u64 > MAX_RECORD_BYTES {
            if text.last() != Some(&b'\n') {
                self.stream.skip_until(b'\n')?;
            }
            return Ok(Some(Line { number, text: None }));
        }
        if text.last() == Some(&b'\n') {
            text.pop();
        }
        if text.last() == Some(&b'\r') {
            text.pop();
        }
        Ok(Some(Line { number, text: Some(text) }))
    }
}

/// Returns the number of lines of a list, which is about that of its records, for progress
/// displays.
pub(super) fn count_lines(path: &Path, encoding: Option<&'static Encoding>) -> Option<u64> {
    let mut stream = open(path, encoding).ok()?;
    let mut lines = 0;
    loop {
        let buffer = stream.fill_buf().ok()?;
        if buffer.is_empty() {
            return Some(lines);
        }
        // Sums of bytes are vectorised.
        lines += buffer.iter().map(|&byte| u64::from(byte == b'\n')).sum::<u64>();
        let read = buffer.len();
        stream.consume(read);
    }
}

#[cfg(test)]
mod tests {
    use diptych_schemas::durable;

    use super::*;

    fn text(bytes: &[u8], encoding: Option<&'static Encoding>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        durable::write(&path, bytes).unwrap();
        let mut text = String::new();
        open(&path, encoding).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn text_is_utf_8_however_it_was_written() {
        let expected = "name,caption\na,Bär 😀\n";
        let wide = |bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            expected.encode_utf16().flat_map(bytes).collect()
        };
        let (little, big) = (wide(u16::to_le_bytes), wide(u16::to_be_bytes));
        for bytes in [
            expected.as_bytes().to_vec(),
            [b"\xef\xbb\xbf", expected.as_bytes()].concat(),
            [b"\xff\xfe", little.as_slice()].concat(),
            [b"\xfe\xff", big.as_slice()].concat(),
            little,
            big,
            zstd::encode_all(expected.as_bytes(), 1).unwrap(),
        ] {
            assert_eq!(text(&bytes, None), expected);
        }
        assert_eq!(text(b"a,B\xe4r\n", Some(encoding_rs::WINDOWS_1252)), "a,Bär\n");
        assert_eq!(text(b"", None), "");
    }
}
