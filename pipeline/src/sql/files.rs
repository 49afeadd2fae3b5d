//! Files that a query names itself: `FROM 'pairs.parquet'`, `FROM 'parts/*.csv'`,
//! `read_parquet('…')`, `read_csv('…')`, `read_json('…')`.
//!
//! Only for users of the command line on this machine. A session has no access to files until it is
//! enabled here. The service never enables it, so its clients reach only the files of datasets.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::csv::reader::Format;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::reader::infer_json_schema;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{
    DataFusionError, Result as SqlResult, ScalarValue, TableReference, plan_err,
};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::logical_expr::Expr;
use datafusion::prelude::SessionContext;
use diptych_schemas::SchemaError;

use super::error::{SqlError, StatementError};
use super::query::one_statement;
use super::session::setting_up;
use super::tables::{listed_files, parquet_file_table, parquet_files_table, plain_path};

/// Rows from which the column types of a CSV or JSON file are inferred.
const INFERRED_ROWS: usize = 100_000;

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Parquet,
    Csv {
        delimiter: u8,
    },
    /// One object per line.
    Json,
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        let ending = Path::new(name).extension()?.to_str()?.to_lowercase();
        match ending.as_str() {
            "parquet" | "pq" => Some(Self::Parquet),
            "csv" => Some(Self::Csv { delimiter: b',' }),
            "tsv" => Some(Self::Csv { delimiter: b'\t' }),
            "json" | "jsonl" | "ndjson" => Some(Self::Json),
            _ => None,
        }
    }
}

/// Adds `read_parquet`, `read_csv` and `read_json` to a session.
pub fn allow_files(context: &SessionContext) {
    for (name, kind) in [
        ("read_parquet", Kind::Parquet),
        ("read_csv", Kind::Csv { delimiter: b',' }),
        ("read_json", Kind::Json),
    ] {
        context.register_udtf(name, Arc::new(ReadFiles { name, kind }));
    }
}

/// Registers the files that a query uses as tables. Errors in the query itself are left to its
/// execution.
pub fn register_named_files(context: &SessionContext, sql: &str) -> Result<(), SqlError> {
    let state = context.state();
    let Ok(statement) = one_statement(&state, sql) else { return Ok(()) };
    let Ok(references) = state.resolve_table_references(&statement) else { return Ok(()) };
    for reference in references {
        match &reference {
            TableReference::Bare { table } => {
                let Some(kind) = Kind::of(table) else { continue };
                let provider = table_of(table, kind)?;
                // The file may have changed since it was last used.
                context.deregister_table(reference.clone()).map_err(setting_up)?;
                context.register_table(reference, provider).map_err(setting_up)?;
            }
            TableReference::Partial { schema, table } => {
                let name = format!("{schema}.{table}");
                if Kind::of(&name).is_some() && Path::new(&name).is_file() {
                    return Err(StatementError {
                        message: format!("{name} is a file"),
                        place: None,
                        advice: Some(format!("put it in single quotes: FROM '{name}'")),
                    }
                    .into());
                }
            }
            TableReference::Full { .. } => {}
        }
    }
    Ok(())
}

/// Opens a file that is not part of a dataset as a table: Parquet, or the format of its extension.
pub fn file_table(path: &Path) -> Result<Arc<dyn TableProvider>, SqlError> {
    match path.to_str().and_then(|name| Some((name, Kind::of(name)?))) {
        Some((name, kind)) => table_of(name, kind),
        None => parquet_file_table(path),
    }
}

struct ReadFiles {
    name: &'static str,
    kind: Kind,
}

impl fmt::Debug for ReadFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl TableFunctionImpl for ReadFiles {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> SqlResult<Arc<dyn TableProvider>> {
        let [Expr::Literal(ScalarValue::Utf8(Some(name)) | ScalarValue::LargeUtf8(Some(name)), _)] =
            args.exprs()
        else {
            return plan_err!("{0} needs the name of a file: {0}('FILE')", self.name);
        };
        // The name decides between tabs and commas. The function decides between Parquet, CSV and
        // JSON.
        let kind = match (self.kind, Kind::of(name)) {
            (Kind::Csv { .. }, Some(known @ Kind::Csv { .. })) => known,
            (kind, _) => kind,
        };
        table_of(name, kind).map_err(|error| DataFusionError::Plan(error.to_string()))
    }
}

/// Opens a file, or all files that match a pattern, as a table.
fn table_of(name: &str, kind: Kind) -> Result<Arc<dyn TableProvider>, SqlError> {
    let files = files_of(name)?;
    match (kind, files.as_slice()) {
        (Kind::Parquet, [one]) => parquet_file_table(one),
        (Kind::Parquet, several) => parquet_files_table(several),
        (Kind::Csv { delimiter }, files) => {
            let format = Format::default().with_header(true).with_delimiter(delimiter);
            let schema =
                inferred(files, |file| Ok(format.infer_schema(file, Some(INFERRED_ROWS))?.0))?;
            let format = CsvFormat::default().with_has_header(true).with_delimiter(delimiter);
            listed_files(files, Arc::new(format) as Arc<dyn FileFormat>, schema)
        }
        (Kind::Json, files) => {
            let schema = inferred(files, |file| {
                Ok(infer_json_schema(BufReader::new(file), Some(INFERRED_ROWS))?.0)
            })?;
            listed_files(files, Arc::new(JsonFormat::default()) as Arc<dyn FileFormat>, schema)
        }
    }
}

/// Returns absolute paths, ordered by name.
fn files_of(name: &str) -> Result<Vec<PathBuf>, SqlError> {
    let path = Path::new(name);
    if path.is_file() {
        return Ok(vec![plain_path(path)?]);
    }
    let refuse = |message: &str| SqlError::File { path: path.to_owned(), message: message.into() };
    if !name.contains(['*', '?', '[']) {
        return Err(refuse("there is no such file"));
    }
    let found = glob::glob(name).map_err(|error| refuse(error.msg))?;
    let mut files = Vec::new();
    for path in found {
        let path = path.map_err(|error| {
            let path = error.path().to_owned();
            SqlError::from(SchemaError::io(path)(error.into()))
        })?;
        if path.is_file() {
            files.push(plain_path(&path)?);
        }
    }
    if files.is_empty() { Err(refuse("no file matches")) } else { Ok(files) }
}

/// Infers the columns of all files together.
fn inferred(
    files: &[PathBuf],
    infer: impl Fn(File) -> Result<Schema, ArrowError>,
) -> Result<SchemaRef, SqlError> {
    let mut schemas = Vec::new();
    for path in files {
        let file = File::open(path).map_err(SchemaError::io(path))?;
        let schema = infer(file)
            .map_err(|error| SqlError::File { path: path.clone(), message: error.to_string() })?;
        schemas.push(schema);
    }
    let merged = Schema::try_merge(schemas).map_err(|error| SqlError::File {
        path: files.first().cloned().unwrap_or_default(),
        message: format!("the files have columns with equal names and different types: {error}"),
    })?;
    Ok(Arc::new(merged))
}
