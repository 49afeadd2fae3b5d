//! The batches that the loader passes to the trainer: pixels as bytes and token ids, never floats.
//! The device normalises them.

use diptych_schemas::{LedgerEntry, SampleIndex, Uid};

use crate::scores::Measures;

/// N pairs, ready for the device. N is smaller than the batch size after a corrupt image and at the
/// end of an evaluation.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Place in the stream of the first sample of this batch.
    pub first: SampleIndex,
    /// Place in the stream after this batch, which a checkpoint stores.
    pub next: SampleIndex,
    pub epoch: u64,
    /// H = W, in pixels.
    pub image_size: u32,
    /// L.
    pub context_length: usize,
    /// u8 [N, H, W, 3], RGB.
    pub images: Vec<u8>,
    /// [N, L].
    pub tokens: Vec<i32>,
    /// [N].
    pub uids: Vec<Uid>,
    /// [N].
    pub captions: Vec<String>,
    /// [N]: the requested measures of each image; empty values if none were requested.
    pub measures: Vec<Measures>,
    /// Samples of this part of the stream whose image cannot be used.
    pub skipped: Vec<LedgerEntry>,
}

impl Batch {
    /// Returns N, the number of pairs in the batch.
    pub fn len(&self) -> usize {
        self.uids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.uids.is_empty()
    }

    /// Returns the bytes that the batch holds in memory, for queues that are bounded in bytes.
    pub fn bytes(&self) -> usize {
        self.images.len() + 4 * self.tokens.len() + 64 * self.uids.len()
    }
}
