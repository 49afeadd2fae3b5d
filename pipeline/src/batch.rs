//! What the loader hands to the trainer: pixels as bytes and token ids, never floats. The device normalises.

use diptych_schemas::{LedgerEntry, SampleIndex, Uid};

use crate::scores::Measures;

/// N pairs, ready for the device. N is smaller than the batch size where a corrupt image was met, or at the end of an
/// evaluation.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Place in the stream of the first sample that this batch covers.
    pub first: SampleIndex,
    /// Place in the stream after this batch: what a checkpoint stores.
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
    /// [N]: what was asked for of each image; empty values where nothing was.
    pub measures: Vec<Measures>,
    /// The samples of this stretch of the stream whose image turned out to be unusable.
    pub skipped: Vec<LedgerEntry>,
}

impl Batch {
    /// N: pairs that are really in it.
    pub fn len(&self) -> usize {
        self.uids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.uids.is_empty()
    }

    /// Bytes that it holds in memory, for queues that are bounded in bytes.
    pub fn bytes(&self) -> usize {
        self.images.len() + 4 * self.tokens.len() + 64 * self.uids.len()
    }
}
