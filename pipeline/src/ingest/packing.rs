//! How a file is packed, and its bytes unpacked.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// By the first bytes: RFC 1952 and RFC 8878.
    pub(super) fn of(start: &[u8]) -> Self {
        if start.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Self::Zstd
        } else {
            Self::Plain
        }
    }

    /// What follows the name of a packed file's kind: `WebDataset tar, gzip`.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Gzip => ", gzip",
            Self::Zstd => ", zstd",
        }
    }

    /// The unpacked bytes of `stream`.
    pub(super) fn unpacked(self, stream: impl BufRead + 'static) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::Plain => Box::new(stream),
            Self::Gzip => Box::new(MultiGzDecoder::new(stream)),
            // Its window, and so its memory, is 128 MiB at most unless more is allowed.
            Self::Zstd => Box::new(zstd::Decoder::with_buffer(stream)?),
        })
    }
}

/// The first bytes of a stream, at most `length`, and the stream from its beginning again.
pub(super) fn peeked(
    mut stream: impl Read + 'static,
    length: u64,
) -> io::Result<(Vec<u8>, impl BufRead)> {
    let mut start = Vec::new();
    (&mut stream).take(length).read_to_end(&mut start)?;
    let whole = io::Cursor::new(start.clone()).chain(BufReader::with_capacity(1 << 18, stream));
    Ok((start, whole))
}
