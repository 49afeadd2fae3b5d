//! What the readers of all layouts hand on: records in the order of their source, and what could not be one.
//!
//! A reader numbers what it hands on. The number after the last item that is safe on the disk is all that is needed to go
//! on, so the same source must always give the same items.

use std::path::Path;

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
/// Longest line of a listing and largest JSON member in bytes.
pub const MAX_RECORD_BYTES: u64 = 16 << 20;

/// Why a part of a record cannot be used: the ledger's word, and what was found.
pub(super) type Flaw = (Reason, String);

/// One image with its caption, as far as they were found. Nothing is judged yet.
#[derive(Debug)]
pub(super) struct Record {
    /// Where in the source, in words.
    pub(super) position: String,
    pub(super) key: String,
    /// The image file's bytes; on the way from the reader of a URL list to the downloader, its address.
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
    /// Bytes that it holds in memory, roughly.
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

/// Takes an item and the number from which to go on when this item is done.
pub(super) type Sink<'a> = dyn FnMut(Item, u64) -> Result<(), IngestError> + 'a;

/// How the reading of a source ended.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The number behind the last item.
    pub(super) records: u64,
    /// What was wrong with the source as a whole; its ledger row has been handed on.
    pub(super) fault: Option<Fault>,
    /// What the user should know of it beside: what was not kept.
    pub(super) notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A part could be read.
    Partial(String),
    /// Nothing could be read.
    Unreadable(String),
}

/// What becomes of a list of captions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Captions {
    /// The first one that says something is the caption; the others are not kept.
    #[default]
    First,
    /// The others become columns: `caption_2`, `caption_3`, ….
    AllColumns,
    /// The same as `First`, and an image of a folder that has no text beside it is captioned with the name of its subfolder: folders by
    /// class.
    Folder,
}

impl Captions {
    /// The caption of a list; further ones go to `columns` where they are wanted.
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

    /// The caption of a JSON value: a text, or a list of texts.
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

/// What a reader needs to know of the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadOptions<'a> {
    pub(super) image_column: Option<&'a str>,
    pub(super) caption_column: Option<&'a str>,
    pub(super) url_column: Option<&'a str>,
    pub(super) captions: Captions,
    pub(super) lists: &'a ListOptions,
    /// Keys of a tar's members end at the last dot of their names, not at the first.
    pub(super) dotted_keys: bool,
    pub(super) max_image_bytes: u64,
    /// A copy on this machine of a source that lies elsewhere.
    pub(super) copy: Option<&'a Path>,
}

impl ReadOptions<'_> {
    /// The file to open for the source of this name.
    pub(super) fn file<'p>(&'p self, path: &'p Path) -> &'p Path {
        self.copy.unwrap_or(path)
    }
}

/// Tells of a source of which nothing can be read.
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
