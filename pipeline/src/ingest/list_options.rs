//! Options for reading lists (CSV, TSV, JSON).

use std::path::PathBuf;

use encoding_rs::Encoding;
use serde::{Deserialize, Serialize};

/// Properties of lists that the user sets. All others are recognised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListOptions {
    /// The character between two fields.
    pub separator: Option<char>,
    /// Names of the columns of a list without a header line, in order.
    pub columns: Option<Vec<String>>,
    /// Whether the first line is a record.
    pub no_header: bool,
    /// Columns of CSV and TSV that stay text, whatever their values; `*`: all.
    pub text_columns: Vec<String>,
    /// WHATWG's name of the text's encoding, if it is neither UTF-8 nor UTF-16: `windows-1252`.
    pub encoding: Option<String>,
    /// Folder that paths are relative to and that must contain the images, instead of the list's
    /// own folder.
    pub images_root: Option<PathBuf>,
    /// Whether images may be anywhere.
    pub allow_outside: bool,
}

impl ListOptions {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(separator) = self.separator
            && (!separator.is_ascii() || ['"', '\n', '\r'].contains(&separator))
        {
            return Err(format!(
                "--separator {separator:?}: it must be one ASCII character other than a quote or \
                 line feed"
            ));
        }
        if let Some(columns) = &self.columns {
            let empty = columns.iter().any(|name| name.trim().is_empty());
            let twice = columns.iter().enumerate().find(|(at, name)| columns[..*at].contains(name));
            if empty || columns.len() < 2 {
                return Err("--columns needs the names of all columns, as in caption,url".into());
            }
            if let Some((_, name)) = twice {
                return Err(format!("--columns names {name} twice"));
            }
        }
        if let Some(name) = &self.encoding
            && Encoding::for_label(name.as_bytes()).is_none()
        {
            return Err(format!(
                "--encoding {name}: unknown encoding. Use one of WHATWG's names, such as utf-8, \
                 utf-16le, windows-1252, shift_jis, gb18030"
            ));
        }
        Ok(())
    }

    pub(super) fn text_encoding(&self) -> Option<&'static Encoding> {
        self.encoding.as_ref().and_then(|name| Encoding::for_label(name.as_bytes()))
    }
}
