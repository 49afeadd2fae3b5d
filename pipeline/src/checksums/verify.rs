//! Verification of a whole file, to the last byte.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use parquet::errors::ParquetError;

use crate::footer;

use super::tail::{Body, check_tail};

/// Rows that are decoded at once. Few, since a row of a blob is an image.
const ROWS_AT_ONCE: usize = 256;
const BYTES_AT_ONCE: usize = 1 << 20;

/// The result of a successful check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// Every byte is as it was written.
    Right,
    /// An earlier version or another program wrote the file without checksums, but all of it can be
    /// read.
    Missing,
}

/// Reads all of a file: its bytes against its checksums, and every value. The error says what is
/// wrong.
pub fn verify_file(path: &Path) -> Result<Checksums, String> {
    let body = check_tail(path).map_err(|error| error.to_string())?;
    if let Some(body) = body {
        let same = has_checksum(path, body).map_err(|error| error.to_string())?;
        if !same {
            return Err("its pages do not match their checksum".into());
        }
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    let rows = footer::rows_of(file)
        .and_then(|builder| builder.with_batch_size(ROWS_AT_ONCE).build())
        .map_err(|error| error.to_string())?;
    for batch in rows {
        batch.map_err(|error| error.to_string())?;
    }
    Ok(body.map_or(Checksums::Missing, |_| Checksums::Right))
}

/// Reads files until one cannot be read or the time is up. Returns the damaged file and the reason.
pub(crate) fn first_damaged(
    files: impl Iterator<Item = PathBuf>,
    until: Instant,
) -> Option<(PathBuf, String)> {
    for path in files {
        let rows = File::open(&path)
            .map_err(ParquetError::from)
            .and_then(|file| footer::rows_of(file)?.with_batch_size(ROWS_AT_ONCE).build());
        match rows {
            Err(error) => return Some((path, error.to_string())),
            Ok(rows) => {
                for batch in rows {
                    if Instant::now() >= until {
                        return None;
                    }
                    if let Err(error) = batch {
                        return Some((path, error.to_string()));
                    }
                }
            }
        }
    }
    None
}

fn has_checksum(path: &Path, body: Body) -> io::Result<bool> {
    let mut file = File::open(path)?.take(body.bytes);
    let mut crc = flate2::Crc::new();
    let mut bytes = vec![0; BYTES_AT_ONCE];
    loop {
        let read = file.read(&mut bytes)?;
        if read == 0 {
            return Ok(crc.sum() == body.crc);
        }
        crc.update(&bytes[..read]);
    }
}
