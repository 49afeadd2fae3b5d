//! The files that scoring adds to a dataset: scores and embeddings.
//!
//! Each file belongs to one producer and one shard. Its rows are pairs of that shard, in the
//! shard's order, each at most once; [`key::SHARD`] names the shard. So scores are joined to meta
//! by walking both, without a hash table. The files of a folder are numbered in the order of
//! writing. `dataset.json` does not list them: a file with its final name is complete.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::{column, key};

/// Version of the layout of score and embedding files.
pub const SCORE_VERSION: u32 = 1;

/// The kind of a score's values: the type of its column `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScoreValue {
    /// A number: a similarity, an entropy.
    Number,
    /// A word: a language.
    Text,
    /// 64 bits that are not a number: a perceptual hash.
    Bits,
}

impl ScoreValue {
    pub const ALL: [Self; 3] = [Self::Number, Self::Text, Self::Bits];

    pub fn data_type(self) -> DataType {
        match self {
            Self::Number => DataType::Float64,
            Self::Text => DataType::Utf8,
            Self::Bits => DataType::UInt64,
        }
    }

    /// Returns the column of the SQL table `scores` that has values of this kind.
    pub fn column(self) -> &'static str {
        match self {
            Self::Number => column::VALUE,
            Self::Text => column::TEXT,
            Self::Bits => column::BITS,
        }
    }
}

fn uid() -> Field {
    Field::new(column::UID, DataType::FixedSizeBinary(16), false)
}

fn text(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}

/// Returns the schema of `scores/NAME/NNNNN.parquet`. All files of a NAME have values of the same
/// kind.
///
/// If `value` is null, `error` says why, for example that an image cannot be decoded. The same
/// producer does not try such a pair again.
pub fn score_file_schema(value: ScoreValue) -> SchemaRef {
    Arc::new(Schema::new(vec![
        uid(),
        Field::new(column::VALUE, value.data_type(), true),
        text(column::PRODUCER, false),
        text(column::ERROR, true),
    ]))
}

/// Returns the schema of the SQL table `scores`: all scores in long form. One of `value`, `text`
/// and `bits` is filled, depending on the kind.
pub fn scores_schema() -> SchemaRef {
    let mut fields = vec![text(column::NAME, false), uid()];
    fields.extend(ScoreValue::ALL.map(|value| Field::new(value.column(), value.data_type(), true)));
    fields.extend([text(column::PRODUCER, false), text(column::ERROR, true)]);
    Arc::new(Schema::new(fields))
}

/// Returns the schema of `embeddings/PRODUCER/NNNNN.parquet`: unit vectors of length D in half
/// precision.
///
/// A vector is null if the image cannot be decoded; then `error` says why.
pub fn embedding_file_schema(dimension: usize) -> SchemaRef {
    let vector = |name| Field::new(name, embedding_type(dimension), true);
    Arc::new(Schema::new(vec![
        uid(),
        vector(column::IMAGE),
        vector(column::TEXT),
        text(column::ERROR, true),
    ]))
}

/// Returns the type of the vectors in embedding files.
pub fn embedding_type(dimension: usize) -> DataType {
    DataType::FixedSizeList(
        Arc::new(Field::new("item", DataType::Float16, false)),
        dimension as i32,
    )
}

/// Returns `FOLDER/scores`.
pub fn scores_folder(dataset: &Path) -> PathBuf {
    dataset.join("scores")
}

/// Returns `FOLDER/scores/NAME`.
pub fn score_folder(dataset: &Path, name: &str) -> PathBuf {
    scores_folder(dataset).join(name)
}

/// Returns `FOLDER/embeddings`.
pub fn embeddings_folder(dataset: &Path) -> PathBuf {
    dataset.join("embeddings")
}

/// Returns `FOLDER/embeddings/PRODUCER`.
pub fn embedding_folder(dataset: &Path, producer: &str) -> PathBuf {
    embeddings_folder(dataset).join(producer)
}

/// Returns `FOLDER/NNNNN.parquet`.
pub fn numbered_file(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:05}.parquet"))
}

/// The Parquet key-value metadata of a score or embedding file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreFileMetadata {
    /// The shard of its pairs.
    pub shard: u32,
    /// The producer: sha256 in hexadecimal over model, preprocessing and version of the algorithm.
    pub producer: String,
    /// The producer in words, for people.
    pub made_by: String,
}

impl ScoreFileMetadata {
    pub fn to_pairs(&self) -> Vec<(&'static str, String)> {
        vec![
            (key::VERSION, SCORE_VERSION.to_string()),
            (key::SHARD, self.shard.to_string()),
            (key::PRODUCER, self.producer.clone()),
            (key::MADE_BY, self.made_by.clone()),
        ]
    }

    /// Reads the metadata of a file. The error says what is wrong with it.
    pub fn from_pairs<'a>(find: impl Fn(&str) -> Option<&'a str>) -> Result<Self, String> {
        let need =
            |name: &str| find(name).ok_or_else(|| format!("it lacks {name} in its metadata"));
        let version = need(key::VERSION)?;
        if version != SCORE_VERSION.to_string() {
            return Err(format!(
                "it has version {version}, but this binary reads version {SCORE_VERSION}"
            ));
        }
        let shard = need(key::SHARD)?;
        Ok(Self {
            shard: shard
                .parse()
                .map_err(|_| format!("{} is {shard:?}, not the number of a shard", key::SHARD))?,
            producer: need(key::PRODUCER)?.to_owned(),
            made_by: need(key::MADE_BY)?.to_owned(),
        })
    }
}

/// Returns whether a score can have this name, which becomes a column of SQL and a folder.
///
/// Allowed are `a-z`, `0-9` and `_`, with a letter first, at most 64 characters.
pub fn is_score_name(name: &str) -> bool {
    let part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    name.len() <= 64
        && name.bytes().all(part)
        && name.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_comes_back_as_written_and_another_version_is_refused() {
        let metadata =
            ScoreFileMetadata { shard: 7, producer: "ab".into(), made_by: "entropy v1".into() };
        let pairs = metadata.to_pairs();
        let find = |name: &str| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
        };
        assert_eq!(ScoreFileMetadata::from_pairs(find).unwrap(), metadata);
        let other = |name: &str| if name == key::VERSION { Some("9") } else { find(name) };
        assert!(ScoreFileMetadata::from_pairs(other).unwrap_err().contains("version 9"));
    }

    #[test]
    fn names_that_are_no_columns_or_leave_the_folder_are_refused() {
        assert!(["clip", "clip_l14", "a"].into_iter().all(is_score_name));
        assert!(
            ["", "../x", "Clip", "1st", "a b", "_x", "é"]
                .into_iter()
                .all(|name| !is_score_name(name))
        );
    }
}

/// The file format of exported embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbeddingFormat {
    /// The layout of clip-retrieval and autofaiss: `img_emb` and `text_emb` (half precision), and
    /// `metadata` (Parquet with the same rows).
    Npy,
    /// `pairs_N.parquet` with uid, `image_path`, caption, `image_embedding`, `text_embedding`.
    Parquet,
    /// Arrow IPC files (Feather) with the columns of `Parquet`.
    Arrow,
}
