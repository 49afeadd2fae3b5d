//! A file elsewhere as a stream: its parts are asked ahead of the reader, and handed out in order.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;

use super::file::RemoteFile;
use crate::storage::Pending;

/// Bytes of a part. Large enough for a store to be quick, small enough for a slow line.
const PART: u64 = 8 << 20;
/// Parts that are under way or wait for the reader.
const AHEAD: usize = 4;

pub(crate) struct Stream {
    file: Arc<RemoteFile>,
    /// What is handed out next.
    part: Bytes,
    ahead: VecDeque<Pending<Bytes>>,
    /// Where the next part begins that nobody asked for yet.
    next: u64,
}

impl Stream {
    pub(super) fn new(file: Arc<RemoteFile>) -> Self {
        Self { file, part: Bytes::new(), ahead: VecDeque::new(), next: 0 }
    }

    /// The next part, or nothing at the end.
    fn advance(&mut self) -> io::Result<()> {
        while self.ahead.len() < AHEAD && self.next < self.file.size() {
            // The first part is short: who looks at the beginning wants no more.
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
