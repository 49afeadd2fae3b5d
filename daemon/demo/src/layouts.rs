//! Writers for the three common layouts of image-text pairs: WebDataset tars, Parquet as Hugging
//! Face writes it, and a folder with a CSV.
//!
//! They write records as given, damaged or not, in the given order, always with the same bytes.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, RecordBatch, StringArray, StringBuilder, StructArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use super::DemoError;
use super::sample::{COLUMNS, Sample};

/// Rows of a row group, and the most that wait in memory.
const PARQUET_ROWS: usize = 256;

/// A WebDataset shard: `KEY.jpg` or `KEY.png`, `KEY.txt` and `KEY.json` for each sample.
pub(super) struct TarWriter {
    path: PathBuf,
    tar: tar::Builder<BufWriter<File>>,
}

impl TarWriter {
    pub(super) fn create(path: &Path) -> Result<Self, DemoError> {
        let file = File::create(path).map_err(DemoError::io(path))?;
        Ok(Self { path: path.to_owned(), tar: tar::Builder::new(BufWriter::new(file)) })
    }

    pub(super) fn write(&mut self, key: &str, sample: &Sample) -> Result<(), DemoError> {
        let columns: serde_json::Map<String, serde_json::Value> = COLUMNS
            .iter()
            .zip(&sample.columns)
            .map(|(name, value)| ((*name).to_owned(), value.as_str().into()))
            .collect();
        let json = serde_json::Value::Object(columns).to_string();
        let members = [
            (sample.extension, sample.image.as_deref()),
            ("txt", sample.caption.as_deref().map(str::as_bytes)),
            ("json", Some(json.as_bytes())),
        ];
        for (extension, bytes) in members {
            let Some(bytes) = bytes else { continue };
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            self.tar
                .append_data(&mut header, format!("{key}.{extension}"), bytes)
                .map_err(DemoError::io(&self.path))?;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(), DemoError> {
        // Dropping the writer would hide a full disk.
        self.tar.into_inner().and_then(|mut file| file.flush()).map_err(DemoError::io(&self.path))
    }
}

/// A Parquet file with `image` as `struct<bytes: binary, path: string>`, `caption`, and the
/// columns.
pub(super) struct ParquetFile {
    path: PathBuf,
    schema: SchemaRef,
    writer: ArrowWriter<File>,
    waiting: Vec<(String, Sample)>,
}

impl ParquetFile {
    pub(super) fn create(path: &Path) -> Result<Self, DemoError> {
        let text = |name: &str| Field::new(name, DataType::Utf8, true);
        let mut fields =
            vec![Field::new("image", DataType::Struct(image_fields()), true), text("caption")];
        fields.extend(COLUMNS.iter().map(|name| text(name)));
        let schema = Arc::new(Schema::new(fields));
        let file = File::create(path).map_err(DemoError::io(path))?;
        let properties =
            WriterProperties::builder().set_max_row_group_row_count(Some(PARQUET_ROWS)).build();
        let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties))
            .map_err(|source| DemoError::Parquet { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), schema, writer, waiting: Vec::new() })
    }

    pub(super) fn write(&mut self, key: &str, sample: Sample) -> Result<(), DemoError> {
        self.waiting.push((key.to_owned(), sample));
        if self.waiting.len() == PARQUET_ROWS { self.flush() } else { Ok(()) }
    }

    pub(super) fn finish(mut self) -> Result<(), DemoError> {
        self.flush()?;
        self.writer.close().map_err(|source| DemoError::Parquet { path: self.path, source })?;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DemoError> {
        let (mut bytes, mut paths) = (BinaryBuilder::new(), StringBuilder::new());
        for (key, sample) in &self.waiting {
            bytes.append_option(sample.image.as_deref());
            paths.append_option(
                sample.image.is_some().then(|| format!("{key}.{}", sample.extension)),
            );
        }
        let present: NullBuffer =
            self.waiting.iter().map(|(_, sample)| sample.image.is_some()).collect();
        let parts: Vec<ArrayRef> = vec![Arc::new(bytes.finish()), Arc::new(paths.finish())];
        let written =
            StructArray::try_new(image_fields(), parts, Some(present)).and_then(|images| {
                let captions: StringArray =
                    self.waiting.iter().map(|(_, sample)| sample.caption.as_deref()).collect();
                let mut arrays: Vec<ArrayRef> = vec![Arc::new(images), Arc::new(captions)];
                for column in 0..COLUMNS.len() {
                    let values = self
                        .waiting
                        .iter()
                        .map(|(_, sample)| Some(sample.columns[column].as_str()));
                    arrays.push(Arc::new(values.collect::<StringArray>()));
                }
                RecordBatch::try_new(Arc::clone(&self.schema), arrays)
            });
        self.waiting.clear();
        written
            .map_err(parquet::errors::ParquetError::from)
            .and_then(|batch| self.writer.write(&batch))
            .map_err(|source| DemoError::Parquet { path: self.path.clone(), source })
    }
}

fn image_fields() -> Fields {
    Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ])
}

/// A folder with `images/KEY.jpg` or `.png`, and `captions.csv` with `file_name`, `caption` and the
/// columns.
pub(super) struct FolderWriter {
    folder: PathBuf,
    csv_path: PathBuf,
    csv: csv::Writer<File>,
}

impl FolderWriter {
    pub(super) fn create(folder: &Path) -> Result<Self, DemoError> {
        let images = folder.join("images");
        fs::create_dir_all(&images).map_err(DemoError::io(&images))?;
        let csv_path = folder.join("captions.csv");
        let mut csv =
            csv::Writer::from_writer(File::create(&csv_path).map_err(DemoError::io(&csv_path))?);
        csv.write_record(["file_name", "caption"].iter().chain(&COLUMNS))
            .map_err(|error| DemoError::io(&csv_path)(error.into()))?;
        Ok(Self { folder: folder.to_owned(), csv_path, csv })
    }

    pub(super) fn write(&mut self, key: &str, sample: &Sample) -> Result<(), DemoError> {
        let name = format!("images/{key}.{}", sample.extension);
        if let Some(bytes) = &sample.image {
            let path = self.folder.join(&name);
            File::create(&path)
                .and_then(|mut file| file.write_all(bytes))
                .map_err(DemoError::io(&path))?;
        }
        let caption = sample.caption.as_deref().unwrap_or_default();
        let row =
            [name.as_str(), caption].into_iter().chain(sample.columns.iter().map(String::as_str));
        self.csv.write_record(row).map_err(|error| DemoError::io(&self.csv_path)(error.into()))
    }

    pub(super) fn finish(mut self) -> Result<(), DemoError> {
        self.csv.flush().map_err(DemoError::io(&self.csv_path))
    }
}

/// Writes a small text file.
pub(super) fn write_text(path: &Path, text: &str) -> Result<(), DemoError> {
    let written: io::Result<()> =
        File::create(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(DemoError::io(path))
}
