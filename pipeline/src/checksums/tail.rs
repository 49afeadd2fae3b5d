//! The tail of a file, from the Bloom filters to the last byte, and the checksums in it.
//!
//! The value of [`KEY`] in the footer consists of hexadecimal digits: the start of the tail, the
//! CRC-32 of everything before it, and the CRC-32 of the tail itself. The digits of the latter
//! count as zeros.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::KEY;

/// Positions of the parts in the value.
const START: Range<usize> = 0..16;
const BODY: Range<usize> = 16..24;
const TAIL: Range<usize> = 24..32;
/// Length of the footer's length and "PAR1".
const END: u64 = 8;

/// The checksum of the part before the tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    pub(super) bytes: u64,
    pub(super) crc: u32,
}

/// Returns the value, still without the checksum of the tail.
pub(super) fn value(body: Body) -> String {
    format!("{:016x}{:08x}{:08x}", body.bytes, body.crc, 0)
}

/// Writes the checksum of the tail into its value. Returns `None` if there is no value.
pub(super) fn seal(tail: &mut [u8]) -> Option<()> {
    let at = place(tail)?;
    let digits = format!("{:08x}", crc32(tail));
    tail.get_mut(at + TAIL.start..at + TAIL.end)?.copy_from_slice(digits.as_bytes());
    Some(())
}

/// Returns the position of the value: after the key, the type of the next field and its length, one
/// byte each.
fn place(bytes: &[u8]) -> Option<usize> {
    let key = bytes.windows(KEY.len()).rposition(|window| window == KEY.as_bytes())?;
    let at = key + KEY.len() + 2;
    (at + TAIL.end <= bytes.len()).then_some(at)
}

/// Returns whether [`KEY`] is there with one byte changed.
///
/// A file with a damaged key would pass for one without checksums.
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

/// Checks the tail of a file and returns the expected checksum of its pages, or `None` if it has no
/// checksums.
///
/// Wrong checksums are an error of kind [`io::ErrorKind::InvalidData`].
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
    let footer_at = footer_at.ok_or_else(|| damaged("it does not end like a Parquet file"))?;
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
        return Err(damaged("its footer, page index or Bloom filters do not match their checksum"));
    }
    Ok(Some(Body { bytes, crc: body as u32 }))
}
