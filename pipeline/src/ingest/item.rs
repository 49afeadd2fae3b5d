//! The items that the readers of all layouts produce: records in the order of their source, and
//! inputs that are not records.
//!
//! A reader numbers its items. The number after the last item that is safe on disk is all that is
//! needed to continue. So a source must always give equal items.

use diptych_schemas::Reason;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::list_options::ListOptions;
use super::own_value::{self, OwnValue};
use super::report::IngestError;
use super::text;

/// Longest caption in bytes.
pub const MAX_CAPTION_BYTES: usize = 1 << 20;
/// Longest value of a source's own column in bytes.
pub const MAX_COLUMN_BYTES: usize = 1 << 20;
/// Longest line of a list and largest JSON member in bytes.
pub const MAX_RECORD_BYTES: u64 = 16 << 20;

/// The reason why a part of a record cannot be used: the ledger's code, and the details.
pub(super) type Flaw = (Reason, String);

/// One image with its caption, as far as they were found. Nothing has been checked yet.
#[derive(Debug)]
pub(super) struct Record {
    /// The place in the source, in words.
    pub(super) position: String,
    pub(super) key: String,
    /// The image file's bytes. Between the reader of a URL list and the downloader: its URL.
    pub(super) image: Result<Vec<u8>, Flaw>,
    pub(super) caption: Result<String, Flaw>,
    /// The source's own columns under their own names.
    pub(super) columns: Vec<(String, OwnValue)>,
}

impl Default for Record {
    fn default() -> Self {
        let (image, caption) = (Ok(Vec::new()), Ok(String::new()));
        Self { position: String::new(), key: String::new(), image, caption, columns: Vec::new() }
    }
}

/// An input that is not even a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) position: String,
    pub(super) key: String,
    pub(super) reason: Reason,
    pub(super) detail: String,
}

#[derive(Debug)]
pub(super) enum Item {
    Record(Record),
    Rejected(Rejection),
    /// A row of a URL list whose image is in the dataset from an earlier state of the list.
    Known,
}

impl Item {
    /// Returns the approximate number of bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Record(record) => {
                let text: usize = record
                    .columns
                    .iter()
                    .map(|(name, value)| name.len() + own_value::bytes(value))
                    .sum();
                record.image.as_ref().map_or(0, Vec::len)
                    + record.caption.as_ref().map_or(0, String::len)
                    + text
            }
            Self::Rejected(rejection) => rejection.detail.len(),
            Self::Known => 0,
        }
    }
}

/// A function that takes an item, and the number from which to continue when this item is done.
pub(super) type Sink<'a> = dyn FnMut(Item, u64) -> Result<(), IngestError> + 'a;

/// The end of reading a source.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The number after the last item.
    pub(super) records: u64,
    /// An error of the source as a whole. It is in the ledger already.
    pub(super) fault: Option<Fault>,
    /// Further notes for the user, for example on data that was not kept.
    pub(super) notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A part could be read.
    Partial(String),
    /// Nothing could be read.
    Unreadable(String),
}

/// The treatment of a list of captions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Captions {
    /// The first non-empty one is the caption; the others are dropped.
    #[default]
    First,
    /// The others become columns: `caption_2`, `caption_3`, ….
    AllColumns,
    /// Like `First`. An image of a folder without a text gets the name of its subfolder as caption,
    /// for folders by class.
    Folder,
}

impl Captions {
    /// Chooses the caption of a list. Further ones are added to `columns` if requested.
    pub(super) fn choose(
        self,
        list: impl Iterator<Item = String>,
        columns: &mut Vec<(String, OwnValue)>,
    ) -> Option<String> {
        let mut texts = list.filter(|text| !text.trim().is_empty());
        let first = texts.next();
        if self == Self::AllColumns {
            columns.extend(texts.enumerate().map(|(index, text)| {
                (format!("caption_{}", index + 2), own_value::text(text.trim()))
            }));
        }
        first
    }

    /// Returns the caption in a JSON value: a text, or a list of texts.
    pub(super) fn of_json(
        self,
        value: &Value,
        columns: &mut Vec<(String, OwnValue)>,
    ) -> Option<String> {
        match value {
            Value::Array(list) => self.choose(list.iter().filter_map(text::of_json), columns),
            other => text::of_json(other),
        }
    }
}

/// The options of a request that readers need.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadOptions<'a> {
    pub(super) image_column: Option<&'a str>,
    pub(super) caption_column: Option<&'a str>,
    pub(super) url_column: Option<&'a str>,
    pub(super) captions: Captions,
    pub(super) lists: &'a ListOptions,
    /// Whether keys of a tar's members end at the last dot of their names, not at the first.
    pub(super) dotted_keys: bool,
    pub(super) max_image_bytes: u64,
}

/// Reports a source that cannot be read at all.
pub(super) fn unreadable(
    reason: Reason,
    message: String,
    sink: &mut Sink,
) -> Result<Outcome, IngestError> {
    let rejection = Rejection {
        position: "the beginning".into(),
        key: String::new(),
        reason,
        detail: message.clone(),
    };
    sink(Item::Rejected(rejection), 1)?;
    Ok(Outcome { records: 1, fault: Some(Fault::Unreadable(message)), notes: Vec::new() })
}
