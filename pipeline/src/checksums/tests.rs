//! Files with checksums are read like any other, and damage never goes unnoticed.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Float64Array, ListArray, RecordBatch, StringArray, UInt32Array,
    UInt64Array,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int32Type, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};

use super::tail::check_tail;
use super::*;

/// Columns of every shape: with and without a dictionary, text, bytes, nulls, lists.
fn rows(count: u32) -> RecordBatch {
    let text = |n: u32| (n % 7 != 3).then(|| format!("caption number {}", n % 11));
    let list =
        |n: u32| Some((0..n % 4).map(move |item| Some((n * item) as i32)).collect::<Vec<_>>());
    RecordBatch::try_from_iter([
        ("number", Arc::new((0..count).collect::<UInt32Array>()) as ArrayRef),
        ("text", Arc::new((0..count).map(text).collect::<StringArray>())),
        (
            "hash",
            Arc::new(
                (0..count)
                    .map(|n| u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15))
                    .collect::<UInt64Array>(),
            ),
        ),
        (
            "bytes",
            Arc::new(BinaryArray::from_iter_values(
                (0..count).map(|n| vec![n as u8; 40 + n as usize % 9]),
            )),
        ),
        (
            "score",
            Arc::new(
                (0..count)
                    .map(|n| (n % 5 > 0).then(|| f64::from(n) / 7.0))
                    .collect::<Float64Array>(),
            ),
        ),
        ("list", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>((0..count).map(list)))),
        ("nothing", Arc::new(StringArray::new_null(count as usize))),
    ])
    .unwrap()
}

fn properties(version: WriterVersion, compression: Compression) -> WriterProperties {
    WriterProperties::builder()
        .set_writer_version(version)
        .set_compression(compression)
        .set_column_dictionary_enabled("hash".into(), false)
        .set_column_bloom_filter_enabled("hash".into(), true)
        .set_data_page_row_count_limit(30)
        .set_write_batch_size(10)
        .set_max_row_group_row_count(Some(100))
        .build()
}

fn written(batches: &[RecordBatch], properties: WriterProperties) -> Vec<u8> {
    let mut writer =
        ParquetWriter::try_new(Vec::new(), batches[0].schema(), Some(properties)).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.close().unwrap()
}

fn read(bytes: &[u8]) -> Result<RecordBatch, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::copy_from_slice(bytes))
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|error| error.to_string())?;
    let schema =
        Arc::new(Schema::new(arrow::array::RecordBatchReader::schema(&reader).fields().clone()));
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    concat_batches(&schema, &batches).map_err(|error| error.to_string())
}

#[test]
fn files_are_read_as_if_parquet_had_written_them() {
    let all = rows(250);
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        for compression in [Compression::UNCOMPRESSED, Compression::ZSTD(ZstdLevel::default())] {
            let parts = [all.slice(0, 33), all.slice(33, 0), all.slice(33, 217)];
            let bytes = written(&parts, properties(version, compression));
            assert_eq!(read(&bytes).unwrap(), all);

            // The pages, row groups and statistics equal those of parquet's own writer.
            let mut plain = Vec::new();
            let mut writer = ArrowWriter::try_new(
                &mut plain,
                all.schema(),
                Some(properties(version, compression)),
            )
            .unwrap();
            for part in &parts {
                writer.write(part).unwrap();
            }
            writer.close().unwrap();
            let open = |bytes: &[u8]| {
                let options = ReadOptionsBuilder::new().with_page_index().build();
                SerializedFileReader::new_with_options(
                    bytes::Bytes::copy_from_slice(bytes),
                    options,
                )
                .unwrap()
            };
            let (ours, theirs) = (open(&bytes), open(&plain));
            assert_eq!(ours.num_row_groups(), 3);
            let (of_ours, of_theirs) = (ours.metadata(), theirs.metadata());
            for group in 0..3 {
                for column in 0..all.num_columns() {
                    let chunks = [of_ours, of_theirs]
                        .map(|metadata| metadata.row_group(group).column(column));
                    assert_eq!(chunks[0].statistics(), chunks[1].statistics());
                    let locations = [of_ours, of_theirs].map(|metadata| {
                        metadata.offset_index().unwrap()[group][column].page_locations().clone()
                    });
                    let rows = |at: usize| {
                        locations[at].iter().map(|page| page.first_row_index).collect::<Vec<_>>()
                    };
                    assert_eq!(rows(0), rows(1));
                    let pages = |reader: &SerializedFileReader<bytes::Bytes>| {
                        let mut pages = reader
                            .get_row_group(group)
                            .unwrap()
                            .get_column_page_reader(column)
                            .unwrap();
                        std::iter::from_fn(move || pages.get_next_page().unwrap())
                            .map(|page| (page.page_type(), page.buffer().clone()))
                            .collect::<Vec<_>>()
                    };
                    assert_eq!(pages(&ours), pages(&theirs));
                }
            }
            assert!(of_ours.row_group(0).column(2).bloom_filter_offset().is_some());
        }
    }
}

#[test]
fn single_pages_are_found_by_the_index() {
    let all = rows(250);
    let bytes = written(
        std::slice::from_ref(&all),
        properties(WriterVersion::PARQUET_1_0, Compression::UNCOMPRESSED),
    );
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    for start in [0, 29, 30, 95, 130, 249] {
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(
            bytes::Bytes::from(bytes.clone()),
            options.clone(),
        )
        .unwrap();
        let selection =
            RowSelection::from_consecutive_ranges(std::iter::once(start..start + 1), 250);
        let row = builder.with_row_selection(selection).build().unwrap().next().unwrap().unwrap();
        assert_eq!(row, all.slice(start, 1));
    }
}

#[test]
fn every_flipped_bit_is_found_by_reading_all_and_none_changes_what_a_reader_gets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.parquet");
    let all = rows(120);
    let bytes = written(
        std::slice::from_ref(&all),
        properties(WriterVersion::PARQUET_1_0, Compression::ZSTD(ZstdLevel::default())),
    );
    let put = |bytes: &[u8]| diptych_schemas::durable::write_expendable(&path, &[bytes]).unwrap();
    put(&bytes);
    assert_eq!(verify_file(&path), Ok(Checksums::Right));
    let mut wrong = Vec::new();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        put(&flipped);
        match verify_file(&path) {
            Err(_) => {}
            found => panic!("byte {at}: {found:?}"),
        }
        let readers_see_it = check_tail(&path).is_err();
        // Parquet's decoders may also panic if the header of a page has a wrong encoding.
        let found = std::panic::catch_unwind(|| read(&flipped));
        if !readers_see_it && matches!(found, Ok(Ok(rows)) if rows != all) {
            wrong.push(at);
        }
    }
    assert_eq!(wrong, Vec::<usize>::new(), "of {} bytes", bytes.len());
}

#[test]
fn files_of_other_writers_are_read_and_said_to_have_no_checksums() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.parquet");
    let all = rows(10);
    let mut writer =
        ArrowWriter::try_new(File::create(&path).unwrap(), all.schema(), None).unwrap();
    writer.write(&all).unwrap();
    writer.close().unwrap();
    assert_eq!(verify_file(&path), Ok(Checksums::Missing));
    let whole = std::fs::read(&path).unwrap();
    for (cut, says) in [(whole.len() - 3, "does not end"), (5, "too short")] {
        diptych_schemas::durable::write_expendable(&path, &[&whole[..cut]]).unwrap();
        let error = verify_file(&path).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}
