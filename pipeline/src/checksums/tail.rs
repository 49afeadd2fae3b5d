//! What stands behind the pages of a file, from the Bloom filters to the last byte, and the checksums that stand in it.
//!
//! The value of [`KEY`] in the footer is, in hexadecimal digits: where the tail begins, the CRC-32 of all before it, and the
//! CRC-32 of the tail itself, whose own digits count as zeros.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::KEY;

/// Where the parts of the value stand in it.
const START: Range<usize> = 0..16;
const BODY: Range<usize> = 16..24;
const TAIL: Range<usize> = 24..32;
/// Length of the footer, and "PAR1".
const END: u64 = 8;

/// What a file says of the part before its tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    pub(super) bytes: u64,
    pub(super) crc: u32,
}

/// The value, still without the checksum of the tail.
pub(super) fn value(body: Body) -> String {
    format!("{:016x}{:08x}{:08x}", body.bytes, body.crc, 0)
}

/// Puts the checksum of the tail into its value. `None`: it has no value.
pub(super) fn seal(tail: &mut [u8]) -> Option<()> {
    let at = place(tail)?;
    let digits = format!("{:08x}", crc32(tail));
    tail.get_mut(at + TAIL.start..at + TAIL.end)?.copy_from_slice(digits.as_bytes());
    Some(())
}

/// Where the value stands: behind the key, the type of the next field and its length, each a byte.
fn place(bytes: &[u8]) -> Option<usize> {
    let key = bytes.windows(KEY.len()).rposition(|window| window == KEY.as_bytes())?;
    let at = key + KEY.len() + 2;
    (at + TAIL.end <= bytes.len()).then_some(at)
}

/// Whether one byte of [`KEY`] is another: a file whose key is damaged would pass for one without checksums.
fn has_damaged_key(bytes: &[u8]) -> bool {
    let key = KEY.as_bytes();
    let differ = |window: &[u8]| window.iter().zip(key).filter(|(a, b)| a != b).count();
    bytes.windows(key.len()).any(|window| differ(window) == 1)
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Checks what stands behind the pages, and returns what it says of the pages; `None`: it has no checksums. Wrong ones are an
/// error of kind [`io::ErrorKind::InvalidData`].
pub(crate) fn check_tail(path: &Path) -> io::Result<Option<Body>> {
    let damaged = |message: &str| io::Error::new(io::ErrorKind::InvalidData, message.to_owned());
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let end_at =
        length.checked_sub(END).ok_or_else(|| damaged("it is too short to be a Parquet file"))?;
    let mut end = [0; END as usize];
    file.read_exact_at(&mut end, end_at)?;
    let footer = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    let footer_at = end_at.checked_sub(footer).filter(|_| &end[4..] == b"PAR1");
    let footer_at = footer_at.ok_or_else(|| damaged("it does not end as a Parquet file does"))?;
    let from = |start: u64| {
        let mut bytes = vec![0; (length - start) as usize];
        file.read_exact_at(&mut bytes, start).map(|()| bytes)
    };
    let mut tail = from(footer_at)?;
    let Some(mut at) = place(&tail) else {
        if has_damaged_key(&tail) {
            return Err(damaged("the name of the checksums in its footer is damaged"));
        }
        return Ok(None);
    };
    let number = |part: Range<usize>| {
        let digits = std::str::from_utf8(&tail[at + part.start..at + part.end]).ok()?;
        u64::from_str_radix(digits, 16).ok()
    };
    let start = number(START).filter(|start| *start <= footer_at);
    let (Some(bytes), Some(body), Some(expected)) = (start, number(BODY), number(TAIL)) else {
        return Err(damaged("the checksums in its footer cannot be read"));
    };
    if bytes < footer_at {
        at += (footer_at - bytes) as usize;
        tail = from(bytes)?;
    }
    tail[at + TAIL.start..at + TAIL.end].fill(b'0');
    if u64::from(crc32(&tail)) != expected {
        return Err(damaged(
            "its footer, page index or Bloom filters do not have the checksum that they were written with",
        ));
    }
    Ok(Some(Body { bytes, crc: body as u32 }))
}
