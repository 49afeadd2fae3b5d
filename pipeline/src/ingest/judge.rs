//! Judges records: which become pairs, and which go to the ledger. It is a function of the record
//! alone, so it runs on all cores.

use diptych_sample::decode;
use diptych_schemas::{ContentHash, Reason, Uid};

use super::IngestRequest;
use super::item::{Item, MAX_CAPTION_BYTES, MAX_COLUMN_BYTES, Record, Rejection};
use super::own_value::{self, OwnValue};
use crate::header::{self, ImageHeader};

/// Below this many bytes, starting threads takes longer than the work.
const PARALLEL_BYTES: usize = 512 << 10;

/// A valid record.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) uid: Uid,
    pub(super) sha256: ContentHash,
    pub(super) header: ImageHeader,
    pub(super) phash: Option<u64>,
    /// Without surrounding white space.
    pub(super) caption: String,
    pub(super) image: Vec<u8>,
    pub(super) key: String,
    pub(super) position: String,
    pub(super) columns: Vec<(String, OwnValue)>,
}

impl Pair {
    /// Returns the bytes in the dataset, before compression.
    pub(super) fn bytes(&self) -> u64 {
        let text: usize =
            self.columns.iter().map(|(name, value)| name.len() + own_value::bytes(value)).sum();
        (self.image.len() + self.caption.len() + text) as u64
    }
}

pub(super) enum Verdict {
    Pair(Box<Pair>),
    Rejected(Rejection),
    Known,
}

impl Verdict {
    /// Returns position and key of the record.
    pub(super) fn place(&self) -> (&str, &str) {
        match self {
            Self::Pair(pair) => (&pair.position, &pair.key),
            Self::Rejected(rejection) => (&rejection.position, &rejection.key),
            Self::Known => ("", ""),
        }
    }
}

/// Judges items on `threads` threads. Returns the verdicts in order, with the items' numbers.
pub(super) fn judge_all(
    items: Vec<(Item, u64)>,
    request: &IngestRequest,
    threads: usize,
) -> Vec<(Verdict, u64)> {
    let bytes: usize = items.iter().map(|(item, _)| item.bytes()).sum();
    let one = |items: Vec<(Item, u64)>| {
        items.into_iter().map(|(item, next)| (judge(item, request), next)).collect::<Vec<_>>()
    };
    if threads <= 1 || items.len() <= 1 || bytes < PARALLEL_BYTES {
        return one(items);
    }
    let share = items.len().div_ceil(threads);
    let mut items = items.into_iter();
    let mut shares = Vec::with_capacity(threads);
    while items.len() > 0 {
        shares.push(items.by_ref().take(share).collect::<Vec<_>>());
    }
    std::thread::scope(|scope| {
        let workers: Vec<_> = shares.into_iter().map(|share| scope.spawn(|| one(share))).collect();
        let verdicts = workers.into_iter().flat_map(|worker| match worker.join() {
            Ok(verdicts) => verdicts,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        verdicts.collect()
    })
}

fn judge(item: Item, request: &IngestRequest) -> Verdict {
    let record = match item {
        Item::Record(record) => record,
        Item::Rejected(rejection) => return Verdict::Rejected(rejection),
        Item::Known => return Verdict::Known,
    };
    let Record { position, key, image, caption, columns } = record;
    let rejected = |(reason, detail)| {
        Verdict::Rejected(Rejection {
            position: position.clone(),
            key: key.clone(),
            reason,
            detail,
        })
    };
    let (image, caption) = match (image, caption) {
        (Ok(image), Ok(caption)) => (image, caption),
        (Err(flaw), _) | (_, Err(flaw)) => return rejected(flaw),
    };
    let caption = caption.trim();
    if caption.is_empty() {
        return rejected((Reason::EmptyCaption, "the caption is empty or only white space".into()));
    }
    if caption.len() > MAX_CAPTION_BYTES {
        let detail = format!(
            "the caption has {} bytes, above the limit of {MAX_CAPTION_BYTES}",
            caption.len()
        );
        return rejected((Reason::TooManyBytes, detail));
    }
    if let Some((name, value)) =
        columns.iter().find(|(_, value)| own_value::bytes(value) > MAX_COLUMN_BYTES)
    {
        let detail = format!(
            "the value of `{name}` has {} bytes, above the limit of {MAX_COLUMN_BYTES}",
            own_value::bytes(value)
        );
        return rejected((Reason::TooManyBytes, detail));
    }
    if image.len() as u64 > request.max_image_bytes {
        let detail = format!(
            "the image has {} bytes, above the limit of {}",
            image.len(),
            request.max_image_bytes
        );
        return rejected((Reason::TooManyBytes, detail));
    }
    let header = match header::probe(&image, request.max_pixels) {
        Ok(header) => header,
        Err(error) => return rejected((error.reason(), error.to_string())),
    };
    if request.verify
        && let Err(error) = decode(&image, request.max_pixels)
    {
        return rejected((error.reason(), error.to_string()));
    }
    let sha256 = ContentHash::of(&image);
    Verdict::Pair(Box::new(Pair {
        uid: Uid::of(&sha256, caption),
        sha256,
        header,
        phash: request.phash.and_then(|hash| hash(&image)),
        caption: caption.to_owned(),
        image,
        key,
        position,
        columns,
    }))
}
