//! SQL over a dataset: the session with its tables and functions, queries, their errors and their
//! output.
//!
//! It reads and never writes. No statement can change data or reach a file that the dataset does
//! not name. DataFusion computes on the tokio runtime of the caller; a server gives it a separate
//! runtime.

mod complexity;
mod content;
mod error;
mod explain;
mod files;
mod function;
mod functions_content;
mod functions_distance;
mod functions_identity;
mod given;
mod output;
mod place;
mod prepared;
mod query;
mod row_numbers;
mod scored;
mod session;
mod table_text;
mod tables;
mod top_fraction;

pub use content::{content_functions, phash_of_file};
pub use error::{SqlError, StatementError};
pub use files::{allow_files, file_table, register_named_files};
pub use function::functions;
pub use functions_content::{ContentFunctions, ImageHash, ImageSize, TokenCount};
pub(crate) use functions_identity::hash_fraction;
pub use given::register_pairs;
pub use output::{OutputFormat, write_file, write_output};
pub use place::Place;
pub use prepared::{Parameter, Prepared, prepare};
pub(crate) use query::{Planned, execute, plan};
pub use query::{Rows, query};
pub use session::{SessionSpec, Spill, default_memory, session};
pub use table_text::TableLimits;
pub(crate) use tables::DatasetTables;
pub use tables::parquet_file_table;
pub(crate) use top_fraction::TOP_FRACTION;
