//! A remote file as a stream. Parts are requested ahead of the reader and returned in order.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;

use super::file::RemoteFile;
use crate::storage::Pending;

/// Bytes of a part: large enough for the throughput of a store, small enough for a slow connection.
const PART: u64 = 8 << 20;
/// Parts that are requested or wait for the reader.
const AHEAD: usize = 4;

pub(crate) struct Stream {
    file: Arc<RemoteFile>,
    /// The bytes that are returned next.
    part: Bytes,
    ahead: VecDeque<Pending<Bytes>>,
    /// Start of the first part that is not requested yet.
    next: u64,
}

impl Stream {
    pub(super) fn new(file: Arc<RemoteFile>) -> Self {
        Self { file, part: Bytes::new(), ahead: VecDeque::new(), next: 0 }
    }

    /// Returns the next part, or nothing at the end.
    fn advance(&mut self) -> io::Result<()> {
        while self.ahead.len() < AHEAD && self.next < self.file.size() {
            // The first part is short, for readers that look only at the start.
            let length = if self.next == 0 { PART / 8 } else { PART };
            let end = (self.next + length).min(self.file.size());
            self.ahead.push_back(self.file.ask(self.next..end)?);
            let first = self.next == 0;
            self.next = end;
            if first {
                break;
            }
        }
        self.part = match self.ahead.pop_front() {
            Some(pending) => self.file.answer(pending.wait())?,
            None => Bytes::new(),
        };
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.part.is_empty() {
            self.advance()?;
        }
        let length = buffer.len().min(self.part.len());
        buffer[..length].copy_from_slice(&self.part.split_to(length));
        Ok(length)
    }
}
