//! Records of any length as values of limited length. The JSON of a record is split into numbered
//! chunks under one identity.
//!
//! key = identity ‖ number (u16), value = number of chunks (u16) ‖ bytes. All chunks of a record
//! change together.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::engine::{BLOCK_BYTES, Change};
use super::error::StoreError;
use super::{Store, guard};

const HEADER: usize = 2;
const PAYLOAD: usize = BLOCK_BYTES - HEADER;

impl Store {
    /// Returns the changes that replace a record. The caller holds the writer's lock.
    pub(super) fn replace<T: Serialize>(
        &self,
        tree: &sled::Tree,
        identity: &[u8],
        record: &T,
    ) -> Result<Vec<Change>, StoreError> {
        let damaged =
            |error: serde_json::Error| StoreError::damaged(self.folder(), error.to_string());
        let bytes = serde_json::to_vec(record).map_err(damaged)?;
        let mut changes = split(identity, &bytes)?;
        let before =
            self.call(|| tree.get(key(identity, 0)))?.map_or(0, |first| count(&first).unwrap_or(0));
        for number in changes.len() as u16..before {
            changes.push((key(identity, number), None));
        }
        Ok(changes)
    }

    /// Returns the changes that remove a record. The list is empty if the record does not exist.
    pub(super) fn removal(
        &self,
        tree: &sled::Tree,
        identity: &[u8],
    ) -> Result<Vec<Change>, StoreError> {
        let before =
            self.call(|| tree.get(key(identity, 0)))?.map_or(0, |first| count(&first).unwrap_or(1));
        Ok((0..before).map(|number| (key(identity, number), None)).collect())
    }

    /// Reads all records of a tree whose identity begins with `prefix`, in order of their
    /// identities. Waits for the writer: otherwise a scan could meet the old first half of a record
    /// and its new second half.
    pub(super) fn records<T: DeserializeOwned>(
        &self,
        tree: &sled::Tree,
        prefix: &[u8],
    ) -> Result<Vec<T>, StoreError> {
        let _writer = self.writer();
        self.noting_damage(read(self.folder(), tree, prefix))
    }
}

/// Reads all records whose identity begins with `prefix`. Nobody may write meanwhile.
pub(super) fn read<T: DeserializeOwned>(
    state: &Path,
    tree: &sled::Tree,
    prefix: &[u8],
) -> Result<Vec<T>, StoreError> {
    let mut found = Vec::new();
    let mut bytes = Vec::new();
    let mut expected = 0;
    let mut entries = tree.scan_prefix(prefix);
    while let Some((key, value)) = guard::call(state, || entries.next().transpose())? {
        let torn = || StoreError::damaged(state, format!("a record lacks its chunk {expected}"));
        let (_, number) = key.split_last_chunk::<2>().ok_or_else(torn)?;
        let chunks = count(&value).ok_or_else(torn)?;
        if u16::from_be_bytes(*number) != expected {
            return Err(torn());
        }
        bytes.extend(&value[HEADER..]);
        expected += 1;
        if expected == chunks {
            let unreadable = |error: serde_json::Error| {
                StoreError::damaged(state, format!("a record cannot be read: {error}"))
            };
            found.push(serde_json::from_slice(&bytes).map_err(unreadable)?);
            bytes.clear();
            expected = 0;
        }
    }
    if expected == 0 {
        Ok(found)
    } else {
        Err(StoreError::damaged(state, "the last record is cut short"))
    }
}

/// Returns those entries of a damaged tree that make up complete records of this type.
pub(super) fn whole_records<T: DeserializeOwned>(
    entries: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Vec<Change> {
    let mut changes = Vec::new();
    for (first, value) in entries {
        let Some((identity, [0, 0])) = first.split_last_chunk::<2>() else { continue };
        let keys = (0..count(value).unwrap_or(0)).map(|number| key(identity, number));
        let Some(chunks) = keys.map(|key| entries.get_key_value(&key)).collect::<Option<Vec<_>>>()
        else {
            continue;
        };
        let bytes: Vec<u8> = chunks
            .iter()
            .flat_map(|(_, value)| value.get(HEADER..).unwrap_or_default())
            .copied()
            .collect();
        if serde_json::from_slice::<T>(&bytes).is_ok() {
            changes
                .extend(chunks.into_iter().map(|(key, value)| (key.clone(), Some(value.clone()))));
        }
    }
    changes
}

fn split(identity: &[u8], bytes: &[u8]) -> Result<Vec<Change>, StoreError> {
    let chunks = bytes.len().div_ceil(PAYLOAD).max(1);
    let limit = PAYLOAD * usize::from(u16::MAX);
    let too_large = |_| StoreError::TooLarge {
        what: "a record in bytes".into(),
        found: bytes.len() as u64,
        limit: limit as u64,
    };
    let count = u16::try_from(chunks).map_err(too_large)?;
    let values = (0..count).map(|number| {
        let start = usize::from(number) * PAYLOAD;
        let end = bytes.len().min(start + PAYLOAD);
        (key(identity, number), Some([&count.to_be_bytes(), &bytes[start..end]].concat()))
    });
    Ok(values.collect())
}

fn key(identity: &[u8], number: u16) -> Vec<u8> {
    [identity, &number.to_be_bytes()].concat()
}

fn count(value: &[u8]) -> Option<u16> {
    value.first_chunk::<HEADER>().map(|count| u16::from_be_bytes(*count))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::engine::MAX_VALUE_BYTES;
    use super::*;

    #[test]
    fn of_a_damaged_tree_only_whole_records_are_kept() {
        let long = "x".repeat(20_000);
        let entries = |identity: &[u8], record: &str| {
            split(identity, &serde_json::to_vec(record).unwrap()).unwrap()
        };
        let whole = entries(b"a", &long);
        let mut torn = entries(b"b", &long);
        torn.remove(1);
        let other = split(b"c", b"{not json").unwrap();
        let all = [whole.clone(), torn, other].concat();
        let all = all.into_iter().map(|(key, value)| (key, value.unwrap())).collect();
        assert_eq!(whole_records::<String>(&all), whole);
    }

    proptest! {
        #[test]
        fn chunks_are_small_and_make_up_the_whole(length in 0usize..40_000) {
            let bytes: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let chunks = split(b"id", &bytes).unwrap();
            let mut whole: Vec<u8> = Vec::new();
            for (number, (key, value)) in chunks.iter().enumerate() {
                let value = value.as_ref().unwrap();
                prop_assert!(value.len() <= MAX_VALUE_BYTES);
                prop_assert_eq!(key, &[b"id".as_slice(), &(number as u16).to_be_bytes()].concat());
                prop_assert_eq!(count(value), Some(chunks.len() as u16));
                whole.extend(&value[HEADER..]);
            }
            prop_assert_eq!(whole, bytes);
        }
    }
}
