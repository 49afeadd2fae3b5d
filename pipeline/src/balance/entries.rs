//! MetaCLIP's list of entries, and the search for them in captions. Pure, except for reading the
//! list.
//!
//! It follows `spacing` and `substr_matching` in metaclip/substr_matching.py of
//! facebookresearch/MetaCLIP. An entry matches with a space on either side, in a caption with
//! spaces at its ends and around `, . ; : ? ! backtick`. Matching is case-sensitive.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use aho_corasick::AhoCorasick;
use diptych_schemas::{ContentHash, SchemaError};

/// An error in a list of entries.
#[derive(Debug, thiserror::Error)]
pub enum EntriesError {
    #[error(
        "{path}: not a list of entries: {message}. Use a JSON array of texts, or a text file with \
         one entry per line"
    )]
    Unreadable { path: PathBuf, message: String },
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// Entries, prepared for the search.
#[derive(Debug)]
pub struct Entries {
    names: Vec<String>,
    /// The entry of each pattern.
    ids: Vec<u32>,
    automaton: AhoCorasick,
}

impl Entries {
    /// Reads a JSON array of texts, such as MetaCLIP's metadata.json, or a text file with one entry
    /// per line.
    pub fn read(path: &Path) -> Result<Self, EntriesError> {
        let bad = |message: String| EntriesError::Unreadable { path: path.to_owned(), message };
        let bytes = std::fs::read(path).map_err(SchemaError::io(path))?;
        let text = String::from_utf8(bytes).map_err(|_| bad("it is not text in UTF-8".into()))?;
        let names: Vec<String> = if path.extension().is_some_and(|extension| extension == "json") {
            serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?
        } else {
            text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
        };
        Self::new(names).map_err(bad)
    }

    /// Prepares entries. Of equal entries, the last one counts, as in MetaCLIP's automaton.
    pub fn new(names: Vec<String>) -> Result<Self, String> {
        if names.is_empty() {
            return Err("it is empty".into());
        }
        let last: HashMap<&str, usize> =
            names.iter().enumerate().map(|(id, name)| (name.as_str(), id)).collect();
        let mut ids: Vec<u32> = last.into_values().map(|id| id as u32).collect();
        ids.sort_unstable();
        let patterns = ids.iter().map(|id| format!(" {} ", names[*id as usize]));
        let automaton = AhoCorasick::new(patterns).map_err(|error| error.to_string())?;
        Ok(Self { names, ids, automaton })
    }

    /// Returns the number of entries, including equal ones.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub fn name(&self, id: u32) -> &str {
        &self.names[id as usize]
    }

    /// Returns a hash of the list.
    pub fn hash(&self) -> ContentHash {
        ContentHash::of(serde_json::Value::from(self.names.clone()).to_string().as_bytes())
    }

    /// Finds the entries in a caption. Stores them in `found` in ascending order, each once.
    pub fn matches(&self, caption: &str, found: &mut Vec<u32>) {
        found.clear();
        let text = spaced(caption);
        found.extend(
            self.automaton
                .find_overlapping_iter(&text)
                .map(|found| self.ids[found.pattern().as_usize()]),
        );
        found.sort_unstable();
        found.dedup();
    }
}

fn spaced(text: &str) -> String {
    let mut spaced = String::with_capacity(text.len() + 16);
    spaced.push(' ');
    for char in text.chars() {
        match char {
            ',' | '.' | ';' | ':' | '?' | '!' | '`' => {
                spaced.push(' ');
                spaced.push(char);
                spaced.push(' ');
            }
            '\t' | '\n' | '\r' => spaced.push(' '),
            other => spaced.push(other),
        }
    }
    spaced.push(' ');
    spaced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stand_as_words_and_may_overlap() {
        let entries = ["dog", "hot dog", "dog house", "Dog", "a", "dog", "."].map(str::to_owned);
        let entries = Entries::new(entries.into()).unwrap();
        let mut found = Vec::new();
        for (caption, expected) in [
            ("a hot dog house", vec![1, 2, 4, 5]),
            ("hotdog", vec![]),
            ("dog, a Dog.", vec![3, 4, 5, 6]),
            ("dog\tdog", vec![5]),
            ("dog's", vec![]),
            ("", vec![]),
        ] {
            entries.matches(caption, &mut found);
            assert_eq!(found, expected, "{caption}");
        }
    }
}
