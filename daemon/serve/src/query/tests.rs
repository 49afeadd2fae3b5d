//! Queries from the service's side, with real processes.

use std::ffi::OsString;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::DataFusionError;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use datafusion::prelude::SessionContext;

use super::Program;

/// Returns this test program as a worker.
pub(crate) fn program() -> Program {
    let args = ["--exact", "query::tests::is_a_worker", "--ignored", "--nocapture"];
    Program { path: std::env::current_exe().unwrap(), args: args.map(OsString::from).into() }
}

#[test]
#[ignore = "no test: the process of the queries of other tests"]
fn is_a_worker() {
    crate::confinement::apply().unwrap();
    super::run_worker(&bugs).unwrap();
}

/// Registers a function with a bug.
fn bugs(context: &SessionContext) {
    let panics =
        |_: &[ColumnarValue]| -> Result<ColumnarValue, DataFusionError> { panic!("a bug") };
    context.register_udf(create_udf(
        "panics",
        vec![DataType::Int64],
        DataType::Int64,
        Volatility::Volatile,
        Arc::new(panics),
    ));
}
