//! The compression of a file, and its decompressed bytes.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// Recognises the compression by the first bytes: RFC 1952 and RFC 8878.
    pub(super) fn of(start: &[u8]) -> Self {
        if start.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Self::Zstd
        } else {
            Self::Plain
        }
    }

    /// Returns the suffix of a description: `WebDataset tar, gzip`.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Gzip => ", gzip",
            Self::Zstd => ", zstd",
        }
    }

    /// Returns the decompressed bytes of `stream`.
    pub(super) fn unpacked(self, stream: impl BufRead + 'static) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::Plain => Box::new(stream),
            Self::Gzip => Box::new(MultiGzDecoder::new(stream)),
            // Its window, and so its memory, is at most 128 MiB by default.
            Self::Zstd => Box::new(zstd::Decoder::with_buffer(stream)?),
        })
    }
}

/// Returns the first bytes of a stream, at most `length`, and the stream from its start.
pub(super) fn peeked(
    mut stream: impl Read + 'static,
    length: u64,
) -> io::Result<(Vec<u8>, impl BufRead)> {
    let mut start = Vec::new();
    (&mut stream).take(length).read_to_end(&mut start)?;
    let whole = io::Cursor::new(start.clone()).chain(BufReader::with_capacity(1 << 18, stream));
    Ok((start, whole))
}
