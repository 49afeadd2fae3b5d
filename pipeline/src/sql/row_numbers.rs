//! row_number() over sorted rows, without state for each partition.
//!
//! Duplicates are dropped in SQL by keeping the best row of each group, `row_number() OVER
//! (PARTITION BY sha256 ORDER BY …) = 1`. DataFusion's own operator keeps batches and states for
//! every partition. With millions of partitions it costs five times the sort before it. Over rows
//! sorted by the partition's columns, a number is a count since the last change.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::compute::{concat, partition};
use arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result as SqlResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::window::{StandardWindowExpr, WindowExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{CardinalityEffect, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowUDFExpr};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, InputOrderMode, PlanProperties,
};
use futures::StreamExt;

/// Replaces DataFusion's operator by [`RowNumbers`] if it computes only row numbers of sorted rows.
#[derive(Debug)]
pub(super) struct CountRows;

impl PhysicalOptimizerRule for CountRows {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> SqlResult<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| {
            match plan.downcast_ref::<BoundedWindowAggExec>().and_then(RowNumbers::instead_of) {
                Some(counting) => {
                    Ok(Transformed::yes(Arc::new(counting) as Arc<dyn ExecutionPlan>))
                }
                None => Ok(Transformed::no(plan)),
            }
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "count_rows"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Appends columns of row numbers to sorted rows.
#[derive(Clone, Debug)]
struct RowNumbers {
    input: Arc<dyn ExecutionPlan>,
    /// The columns by which the rows are sorted, in any order, and within which they are numbered.
    partition_by: Vec<Arc<dyn PhysicalExpr>>,
    /// The columns of the input, followed by the numbers, which are all equal.
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl RowNumbers {
    fn instead_of(window: &BoundedWindowAggExec) -> Option<Self> {
        let partition_by = window.window_expr().first()?.partition_by().to_vec();
        let sorted = window.input_order_mode == InputOrderMode::Sorted && !partition_by.is_empty();
        (sorted && window.window_expr().iter().all(is_row_number)).then(|| Self {
            input: Arc::clone(window.input()),
            partition_by,
            schema: window.schema(),
            properties: Arc::clone(window.properties()),
        })
    }
}

fn is_row_number(expression: &Arc<dyn WindowExpr>) -> bool {
    let standard = expression.as_any().downcast_ref::<StandardWindowExpr>();
    let function = standard.and_then(|expression| {
        expression.get_standard_func_expr().as_any().downcast_ref::<WindowUDFExpr>()
    });
    function.is_some_and(|function| function.fun().name() == "row_number")
}

impl DisplayAs for RowNumbers {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let partition_by: Vec<String> = self.partition_by.iter().map(ToString::to_string).collect();
        write!(f, "RowNumbers: partition_by=[{}]", partition_by.join(", "))
    }
}

impl ExecutionPlan for RowNumbers {
    fn name(&self) -> &'static str {
        "RowNumbers"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> SqlResult<TreeNodeRecursion>,
    ) -> SqlResult<TreeNodeRecursion> {
        for expression in &self.partition_by {
            if f(expression)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> SqlResult<Arc<dyn ExecutionPlan>> {
        let input = children
            .pop()
            .ok_or_else(|| DataFusionError::Internal("RowNumbers without an input".into()))?;
        Ok(Arc::new(Self { input, ..Self::clone(&self) }))
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> SqlResult<Arc<dyn ExecutionPlan>> {
        let input = children
            .pop()
            .ok_or_else(|| DataFusionError::Internal("RowNumbers without an input".into()))?;
        Ok(Arc::new(Self { input, ..Self::clone(&self) }))
    }

    fn execute(
        &self,
        index: usize,
        context: Arc<TaskContext>,
    ) -> SqlResult<SendableRecordBatchStream> {
        let input = self.input.execute(index, context)?;
        let (partition_by, schema) = (self.partition_by.clone(), Arc::clone(&self.schema));
        let mut counter = Counter::default();
        let numbered = input.map(move |batch| {
            let batch = batch?;
            let keys = partition_by
                .iter()
                .map(|expression| expression.evaluate(&batch)?.into_array(batch.num_rows()));
            let numbers: ArrayRef =
                Arc::new(counter.number(&keys.collect::<SqlResult<Vec<_>>>()?)?);
            let mut columns = batch.columns().to_vec();
            columns.resize(schema.fields().len(), numbers);
            Ok(RecordBatch::try_new(Arc::clone(&schema), columns)?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), numbered)))
    }
}

/// Counts rows since the last change of their keys, across batches.
#[derive(Default)]
struct Counter {
    /// Keys of the last row, and its number.
    last: Option<(Vec<ArrayRef>, u64)>,
}

impl Counter {
    fn number(&mut self, keys: &[ArrayRef]) -> SqlResult<UInt64Array> {
        let rows = keys.first().map_or(0, |key| key.len());
        if rows == 0 {
            return Ok(UInt64Array::from(Vec::<u64>::new()));
        }
        let mut numbers = Vec::with_capacity(rows);
        for range in partition(keys)?.ranges() {
            let before = if range.start == 0 { self.before(keys)? } else { 0 };
            numbers.extend((1..=range.len() as u64).map(|number| before + number));
        }
        let last_row = keys.iter().map(|key| key.slice(rows - 1, 1)).collect();
        self.last = numbers.last().map(|number| (last_row, *number));
        Ok(UInt64Array::from(numbers))
    }

    /// Returns the number of rows of the first row's partition in earlier batches.
    fn before(&self, keys: &[ArrayRef]) -> SqlResult<u64> {
        let Some((last, number)) = &self.last else { return Ok(0) };
        let both: Vec<ArrayRef> = last
            .iter()
            .zip(keys)
            .map(|(last, key)| concat(&[last.as_ref(), key.slice(0, 1).as_ref()]))
            .collect::<Result<_, _>>()?;
        Ok(if partition(&both)?.len() == 1 { *number } else { 0 })
    }
}
