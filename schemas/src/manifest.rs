//! `dataset.json`, the list of a dataset's files.
//!
//! It is written last, by rename. A file that it does not name is not part of the dataset.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::datatypes::{DataType, SchemaRef};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::tables::typed_meta_schema;
use crate::{ContentHash, DATASET_VERSION, SchemaError, durable, is_url};

/// The manifest of a dataset folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetManifest {
    pub version: u32,
    /// Number of pairs in all shards.
    pub pairs: u64,
    /// Number of rows in all ledger files.
    pub ledger_rows: u64,
    /// Names of the sources' own columns in meta, in order of first appearance.
    pub source_columns: Vec<String>,
    /// Arrow's names of the column types (`Int64`, `Timestamp(Millisecond, None)`). A column that
    /// is not listed is text, as all columns were in older versions. A shard may hold a narrower
    /// type, or text that can be read as this type.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub source_types: BTreeMap<String, String>,
    /// Shards, ordered by number.
    pub shards: Vec<ShardEntry>,
    pub ledgers: Vec<LedgerFile>,
    /// Every source that was read, completely or in part.
    pub sources: Vec<SourceEntry>,
}

/// A pair of files `meta/NNNNN.parquet` and `blob/NNNNN.parquet`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    pub shard: u32,
    pub pairs: u64,
    /// Hash over the uids in their order. It identifies the shard's content, whatever the
    /// compression.
    pub uids_hash: ContentHash,
    /// Length of the blob file in bytes, a cheap check for truncated copies.
    pub blob_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerFile {
    pub number: u32,
    pub rows: u64,
}

/// The progress of reading a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceEntry {
    /// The path as it was given, or as a pattern expanded it.
    pub path: String,
    /// Size in bytes and modification time (milliseconds since 1970) when it was read. If they
    /// change, the source is read again, and known pairs are recognised by uid.
    pub size: u64,
    pub modified: u64,
    /// ETag of a remote file, or the time of its last change according to its server. Empty for
    /// local files.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Columns and limits that were used, in words. If they change, the source is read again.
    #[serde(default)]
    pub options: String,
    /// Number of finished records. All of them are in a shard or a ledger file of this manifest.
    pub records: u64,
    pub done: bool,
    /// Number of shards and ledger files when a changed source was started again. Records of it in
    /// these files are recognised. 0 for a source that is read for the first time.
    #[serde(default)]
    pub known_shards: u32,
    #[serde(default)]
    pub known_ledgers: u32,
}

impl DatasetManifest {
    pub fn empty() -> Self {
        Self {
            version: DATASET_VERSION,
            pairs: 0,
            ledger_rows: 0,
            source_columns: Vec::new(),
            source_types: BTreeMap::new(),
            shards: Vec::new(),
            ledgers: Vec::new(),
            sources: Vec::new(),
        }
    }

    /// Returns the type of a source's own column.
    pub fn source_type(&self, name: &str) -> DataType {
        let named = self.source_types.get(name).and_then(|kind| kind.parse().ok());
        named.unwrap_or(DataType::Utf8)
    }

    /// Returns the schema of the table meta, over all shards.
    pub fn meta_schema(&self) -> SchemaRef {
        let kinds = self.source_columns.iter().map(|name| (name.as_str(), self.source_type(name)));
        typed_meta_schema(kinds)
    }

    /// Reads `FOLDER/dataset.json`.
    pub fn read(folder: &Path) -> Result<Self, SchemaError> {
        if is_url(folder) {
            return Err(SchemaError::NotAFolder { path: folder.to_owned() });
        }
        let path = Self::path(folder);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(SchemaError::NoDataset { path: folder.to_owned() });
            }
            Err(error) => return Err(SchemaError::io(path)(error)),
        };
        Self::parse(&bytes, path)
    }

    /// Parses the content of a `dataset.json`. Errors name `path`.
    pub fn parse(bytes: &[u8], path: PathBuf) -> Result<Self, SchemaError> {
        let bad = |message: String| SchemaError::BadJson {
            path: path.clone(),
            what: "a dataset manifest",
            message,
        };
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        let found = value.get("version").and_then(serde_json::Value::as_u64).unwrap_or(0) as u32;
        if found != DATASET_VERSION {
            return Err(SchemaError::Version {
                path,
                what: "dataset",
                found,
                expected: DATASET_VERSION,
                advice: "Use the version of diptych that wrote it, or ingest the sources again",
            });
        }
        let manifest: Self = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
        for (name, kind) in &manifest.source_types {
            if let Err(error) = kind.parse::<DataType>() {
                return Err(bad(format!("the column {name} has the unknown type {kind}: {error}")));
            }
        }
        Ok(manifest)
    }

    /// Writes `FOLDER/dataset.json` atomically and durably.
    pub fn write(&self, folder: &Path) -> Result<(), SchemaError> {
        let path = Self::path(folder);
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| SchemaError::BadJson {
            path: path.clone(),
            what: "a dataset manifest",
            message: e.to_string(),
        })?;
        text.push(b'\n');
        durable::write(&path, &text)
    }

    /// Returns a hash of the dataset's content. It covers the uids of the shards, so it does not
    /// depend on where the sources were.
    pub fn content_hash(&self) -> ContentHash {
        let mut bytes = Vec::with_capacity(self.shards.len() * 44);
        for shard in &self.shards {
            bytes.extend(shard.shard.to_le_bytes());
            bytes.extend(shard.pairs.to_le_bytes());
            bytes.extend(shard.uids_hash.0);
        }
        ContentHash::of(&bytes)
    }

    /// Returns whether the dataset has this content, or had it before pairs were added. Ingest adds
    /// whole shards and never changes one.
    pub fn is_or_was(&self, content: ContentHash) -> bool {
        let mut hasher = Sha256::new();
        let is = |hasher: &Sha256| ContentHash(hasher.clone().finalize().into()) == content;
        if is(&hasher) {
            return true;
        }
        self.shards.iter().any(|shard| {
            hasher.update(shard.shard.to_le_bytes());
            hasher.update(shard.pairs.to_le_bytes());
            hasher.update(shard.uids_hash.0);
            is(&hasher)
        })
    }

    /// Returns `FOLDER/dataset.json`.
    pub fn path(folder: &Path) -> PathBuf {
        folder.join("dataset.json")
    }
}

/// Returns `FOLDER/meta/NNNNN.parquet`.
pub fn meta_path(dataset: &Path, shard: u32) -> PathBuf {
    dataset.join("meta").join(format!("{shard:05}.parquet"))
}

/// Returns `FOLDER/blob/NNNNN.parquet`.
pub fn blob_path(dataset: &Path, shard: u32) -> PathBuf {
    dataset.join("blob").join(format!("{shard:05}.parquet"))
}

/// Returns `FOLDER/ledger/NNNNN.parquet`.
pub fn ledger_path(dataset: &Path, number: u32) -> PathBuf {
    dataset.join("ledger").join(format!("{number:05}.parquet"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_comes_back_as_written_and_another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = DatasetManifest::empty();
        manifest.source_columns.extend(["category".into(), "similarity".into()]);
        manifest.write(folder.path()).unwrap();
        // Older manifests had no types.
        let text = std::fs::read_to_string(DatasetManifest::path(folder.path())).unwrap();
        assert!(!text.contains("source_types"));
        assert_eq!(manifest.source_type("similarity"), DataType::Utf8);
        manifest.source_types.insert("similarity".into(), DataType::Float64.to_string());
        manifest.write(folder.path()).unwrap();
        assert_eq!(DatasetManifest::read(folder.path()).unwrap(), manifest);
        let schema = manifest.meta_schema();
        assert_eq!(schema.field_with_name("similarity").unwrap().data_type(), &DataType::Float64);
        assert_eq!(schema.field_with_name("category").unwrap().data_type(), &DataType::Utf8);

        manifest.version = 99;
        manifest.write(folder.path()).unwrap();
        let error = DatasetManifest::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("version 99") && error.contains("dataset.json"), "{error}");
    }

    #[test]
    fn folder_without_a_manifest_says_how_to_make_one() {
        let folder = tempfile::tempdir().unwrap();
        assert!(
            DatasetManifest::read(folder.path())
                .unwrap_err()
                .to_string()
                .contains("diptych ingest")
        );
    }
}
