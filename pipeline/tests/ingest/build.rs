//! Sources for the tests, and a folder in which they become a dataset.

use std::fs::{self};
use std::io::{Cursor, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use diptych_pipeline::ingest::{IngestError, IngestReport, IngestRequest, ingest};
use diptych_schemas::durable;
use flate2::Compression;
use flate2::write::GzEncoder;
use image::{DynamicImage, Rgb, RgbImage};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use tempfile::TempDir;

/// A PNG whose pixels, and so whose hash, depend on `number`.
pub(crate) fn png(number: u32) -> Vec<u8> {
    let [_, r, g, b] = number.to_be_bytes();
    let mut bytes = Cursor::new(Vec::new());
    let image = DynamicImage::from(RgbImage::from_pixel(6, 4, Rgb([r, g, b])));
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A PNG header that claims 60,000 × 60,000 pixels. Its checksum is wrong, which must never be
/// checked.
pub(crate) fn bomb() -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    bytes.extend(60_000_u32.to_be_bytes());
    bytes.extend(60_000_u32.to_be_bytes());
    bytes.extend([8, 2, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

pub(crate) fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A tar of pairs with the given numbers.
pub(crate) fn tar_of_pairs(numbers: std::ops::Range<u32>) -> Vec<u8> {
    let members: Vec<(String, Vec<u8>)> = numbers
        .flat_map(|n| {
            [
                (format!("{n:04}.png"), png(n)),
                (format!("{n:04}.txt"), format!("caption {n}\n").into_bytes()),
            ]
        })
        .collect();
    tar(&members.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect::<Vec<_>>())
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

pub(crate) fn parquet(columns: Vec<(&str, ArrayRef)>, rows_of_a_group: usize) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap();
    let properties =
        WriterProperties::builder().set_max_row_group_row_count(Some(rows_of_a_group)).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

pub(crate) fn strings(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// A folder of sources next to the dataset made from them.
pub(crate) struct Bench {
    pub(crate) folder: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sources")).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("sources").join(name)
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        durable::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn dataset(&self) -> PathBuf {
        self.folder.path().join("dataset")
    }

    pub(crate) fn request(&self, sources: &[&str]) -> IngestRequest {
        IngestRequest::new(
            sources.iter().map(|&source| source.to_owned()).collect(),
            self.dataset(),
        )
    }

    pub(crate) fn ingest(&self, sources: &[&str]) -> IngestReport {
        run(&self.request(sources)).unwrap()
    }

    pub(crate) fn error(&self, request: &IngestRequest) -> String {
        let before = self.dataset().exists();
        let message = run(request).unwrap_err().to_string();
        assert_eq!(self.dataset().exists(), before, "something was written before: {message}");
        message
    }
}

pub(crate) fn run(request: &IngestRequest) -> Result<IngestReport, IngestError> {
    ingest(request, &mut |_| ControlFlow::Continue(()))
}
