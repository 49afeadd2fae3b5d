//! The score and embedding files of a dataset, and their metadata.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use arrow::datatypes::DataType;
use diptych_schemas::{
    SchemaError, ScoreFileMetadata, ScoreValue, column, embeddings_folder, is_score_name,
    scores_folder,
};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};

use crate::checksums::check_tail;
use crate::footer;

use super::ScoreError;

/// A score of a dataset: the files of `scores/NAME`.
#[derive(Clone, Debug)]
pub struct ScoreFiles {
    pub name: String,
    pub value: ScoreValue,
    /// Metadata of the newest file; other files may have older producers.
    pub newest: ScoreFileMetadata,
    /// In the order of writing.
    pub files: Vec<PathBuf>,
}

/// The embeddings of one producer: the files of `embeddings/PRODUCER`.
#[derive(Clone, Debug)]
pub struct EmbeddingFiles {
    pub producer: String,
    /// The producer in words.
    pub made_by: String,
    /// D.
    pub dimension: usize,
    /// In the order of writing.
    pub files: Vec<PathBuf>,
}

/// An open file. Its footer has been read, its rows have not.
pub(crate) struct OpenFile {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) footer: ArrowReaderMetadata,
    pub(crate) says: ScoreFileMetadata,
}

/// Returns all scores of a dataset, ordered by name. Reads one footer per score.
pub fn score_files(dataset: &Path) -> Result<Vec<ScoreFiles>, ScoreError> {
    let mut found = Vec::new();
    for folder in subfolders(&scores_folder(dataset))? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files: Vec<PathBuf> =
            numbered_files(&folder)?.into_iter().map(|(_, path)| path).collect();
        let Some(last) = files.last() else { continue };
        let newest = open(last)?;
        let damaged = |message: String| ScoreError::Damaged { path: last.clone(), message };
        if !is_score_name(&name) {
            return Err(damaged(format!(
                "{name:?} is not a valid name of a score: use a-z, 0-9 and _"
            )));
        }
        let field = newest
            .footer
            .schema()
            .field_with_name(column::VALUE)
            .map_err(|_| damaged("it has no column value".into()))?;
        let value =
            ScoreValue::ALL.into_iter().find(|value| value.data_type() == *field.data_type());
        let value = value.ok_or_else(|| {
            damaged(format!("its column value has the type {}", field.data_type()))
        })?;
        found.push(ScoreFiles { name, value, newest: newest.says, files });
    }
    Ok(found)
}

/// Returns all embeddings of a dataset. They are ordered by the time of their newest file, then by
/// producer: the newest come last.
pub fn embedding_files(dataset: &Path) -> Result<Vec<EmbeddingFiles>, ScoreError> {
    let mut found = Vec::new();
    for folder in subfolders(&embeddings_folder(dataset))? {
        let files: Vec<PathBuf> =
            numbered_files(&folder)?.into_iter().map(|(_, path)| path).collect();
        let Some(last) = files.last() else { continue };
        let newest = open(last)?;
        let damaged = |message: String| ScoreError::Damaged { path: last.clone(), message };
        if folder.file_name().is_none_or(|name| name != newest.says.producer.as_str()) {
            return Err(damaged(format!(
                "it is of producer {}, but in the folder of another",
                newest.says.producer
            )));
        }
        let field = newest
            .footer
            .schema()
            .field_with_name(column::IMAGE)
            .map_err(|_| damaged("it has no column image".into()))?;
        let DataType::FixedSizeList(_, dimension) = field.data_type() else {
            return Err(damaged(format!("its column image has the type {}", field.data_type())));
        };
        let dimension = *dimension as usize;
        let modified =
            fs::metadata(last).and_then(|found| found.modified()).map_err(SchemaError::io(last))?;
        let ScoreFileMetadata { producer, made_by, .. } = newest.says;
        found.push((modified, EmbeddingFiles { producer, made_by, dimension, files }));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.producer.cmp(&b.1.producer)));
    Ok(found.into_iter().map(|(_, files)| files).collect())
}

/// Opens a score or embedding file and reads its footer.
pub(crate) fn open(path: &Path) -> Result<OpenFile, ScoreError> {
    let damaged = |message: String| ScoreError::Damaged { path: path.to_owned(), message };
    let file = File::open(path).map_err(SchemaError::io(path))?;
    check_tail(path).map_err(|error| damaged(error.to_string()))?;
    let footer = footer::load(&file, ArrowReaderOptions::new())
        .map_err(|error| damaged(error.to_string()))?;
    let pairs = footer.metadata().file_metadata().key_value_metadata();
    let find = |name: &str| pairs?.iter().find(|pair| pair.key == name)?.value.as_deref();
    let says = ScoreFileMetadata::from_pairs(find).map_err(damaged)?;
    Ok(OpenFile { path: path.to_owned(), file, footer, says })
}

/// Returns the files `FOLDER/NNNNN.parquet`, ordered by number. An unfinished file has another
/// extension.
pub(super) fn numbered_files(folder: &Path) -> Result<Vec<(u32, PathBuf)>, ScoreError> {
    let mut found = Vec::new();
    for path in entries(folder)? {
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(".parquet"));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

fn subfolders(folder: &Path) -> Result<Vec<PathBuf>, ScoreError> {
    let mut found = entries(folder)?;
    found.retain(|path| path.is_dir());
    found.sort();
    Ok(found)
}

/// Returns the entries of a folder, none if it does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, ScoreError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(SchemaError::io(folder)(error).into()),
    };
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    Ok(paths.map_err(SchemaError::io(folder))?)
}
