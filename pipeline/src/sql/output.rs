//! Output of query results as a table, CSV, JSON, JSON lines or Parquet.
//!
//! All formats except the table are written as the rows come, so a result may be larger than
//! memory. In text, bytes are hexadecimal.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;

use arrow::json::writer::{JsonArray, JsonFormat, LineDelimited, Writer, WriterBuilder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use diptych_schemas::{SchemaError, durable};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::error::SqlError;
use super::query::Rows;
use super::table_text::{TableLimits, write_table};
use crate::checksums::ParquetWriter;

/// The format of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// For people: cut to limits.
    Table,
    /// RFC 4180 with a header; null is empty.
    Csv,
    /// One array of objects.
    Json,
    /// One object per line.
    JsonLines,
    /// Compressed with zstd.
    Parquet,
}

impl FromStr for OutputFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "table" => Ok(Self::Table),
            "csv" => Ok(Self::Csv),
            "json" => Ok(Self::Json),
            "jsonl" => Ok(Self::JsonLines),
            "parquet" => Ok(Self::Parquet),
            other => {
                Err(format!("{other:?} is not a format: use table, csv, json, jsonl or parquet"))
            }
        }
    }
}

/// Writes all rows (or, for a table, as many as its limit). Returns their number.
pub async fn write_output(
    rows: Rows,
    format: OutputFormat,
    limits: TableLimits,
    out: &mut (dyn Write + Send),
) -> Result<u64, SqlError> {
    match format {
        OutputFormat::Table => write_table(rows, limits, out).await,
        OutputFormat::Csv => write_csv(rows, out).await,
        OutputFormat::Json => {
            let written = write_json::<JsonArray>(rows, out).await?;
            writeln!(out).map_err(SqlError::Output)?;
            Ok(written)
        }
        OutputFormat::JsonLines => write_json::<LineDelimited>(rows, out).await,
        OutputFormat::Parquet => write_parquet(rows, out).await,
    }
}

/// Writes a file, as a whole or not at all. Returns the number of its rows.
pub async fn write_file(
    rows: Rows,
    format: OutputFormat,
    limits: TableLimits,
    path: &Path,
) -> Result<u64, SqlError> {
    let temporary = durable::unfinished(path);
    let written = async {
        let mut file = std::fs::File::create(&temporary).map_err(SchemaError::io(path))?;
        let written = write_output(rows, format, limits, &mut file).await?;
        file.sync_all().map_err(SchemaError::io(path))?;
        Ok(written)
    };
    match written.await {
        Ok(written) => {
            durable::publish(&temporary, path)?;
            Ok(written)
        }
        Err(error) => {
            // The first error is reported. A leftover file can be recognised by its name.
            let _ = std::fs::remove_file(&temporary);
            Err(error)
        }
    }
}

async fn write_csv(mut rows: Rows, out: &mut (dyn Write + Send)) -> Result<u64, SqlError> {
    let failed = |error: csv::Error| SqlError::Output(error.into());
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(rows.schema().fields().iter().map(|field| field.name())).map_err(failed)?;
    let options = FormatOptions::new().with_null("");
    let mut written = 0;
    let mut cell = String::new();
    while let Some(batch) = rows.next().await? {
        let columns =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(unprintable)?;
        for row in 0..batch.num_rows() {
            for column in &columns {
                cell.clear();
                write!(cell, "{}", column.value(row))
                    .map_err(|error| SqlError::Output(io::Error::other(error)))?;
                writer.write_field(&cell).map_err(failed)?;
            }
            writer.write_record(None::<&[u8]>).map_err(failed)?;
        }
        written += batch.num_rows() as u64;
    }
    writer.flush().map_err(SqlError::Output)?;
    Ok(written)
}

async fn write_json<F: JsonFormat>(
    mut rows: Rows,
    out: &mut (dyn Write + Send),
) -> Result<u64, SqlError> {
    // Nulls are written, so that every object has every column.
    let mut writer: Writer<_, F> = WriterBuilder::new().with_explicit_nulls(true).build(&mut *out);
    let mut written = 0;
    while let Some(batch) = rows.next().await? {
        writer.write(&batch).map_err(unprintable)?;
        written += batch.num_rows() as u64;
    }
    writer.finish().map_err(unprintable)?;
    drop(writer);
    out.flush().map_err(SqlError::Output)?;
    Ok(written)
}

async fn write_parquet(mut rows: Rows, out: &mut (dyn Write + Send)) -> Result<u64, SqlError> {
    let failed = |error: parquet::errors::ParquetError| match error {
        parquet::errors::ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(inner) => SqlError::Output(*inner),
            Err(inner) => SqlError::Output(io::Error::other(inner)),
        },
        other => SqlError::Output(io::Error::other(other)),
    };
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by("diptych".into());
    let mut writer =
        ParquetWriter::try_new(out, rows.schema(), Some(properties.build())).map_err(failed)?;
    let mut written = 0;
    while let Some(batch) = rows.next().await? {
        writer.write(&batch).map_err(failed)?;
        written += batch.num_rows() as u64;
    }
    writer.close().map_err(failed)?;
    Ok(written)
}

pub(super) fn unprintable(error: arrow::error::ArrowError) -> SqlError {
    match error {
        arrow::error::ArrowError::IoError(_, error) => SqlError::Output(error),
        other => SqlError::Output(io::Error::other(other)),
    }
}
