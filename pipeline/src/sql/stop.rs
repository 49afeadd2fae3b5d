//! Ending a query that computes.
//!
//! A task that is dropped ends where it waits, and DataFusion lets its operators wait at their inputs. A join can compute for minutes
//! on one batch of its input: there, it is made to wait after some batches of its output, and its condition fails once its
//! session's [`Stop`] was called.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DataFusionError, Result as SqlResult};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder, SortMergeJoinExec,
};
use datafusion::prelude::SessionContext;

/// Ends the queries of a session that compute. For the rest it is enough to drop them.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// That of a session which [`super::session`] made.
    pub fn of(context: &SessionContext) -> Option<Self> {
        context.state().config().get_extension::<Self>().map(|stop| stop.as_ref().clone())
    }

    /// For good: the session runs nothing with such a join any more.
    pub fn call(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn called(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Makes joins stop where they compute.
#[derive(Debug)]
pub(super) struct StoppingJoins(pub(super) Stop);

impl PhysicalOptimizerRule for StoppingJoins {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> SqlResult<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| {
            if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
                let filter = join.filter().map(|filter| self.stopping(filter));
                let join = NestedLoopJoinExecBuilder::from(join).with_filter(filter).build()?;
                return Ok(Transformed::yes(waiting(Arc::new(join))));
            }
            let joins = plan.is::<CrossJoinExec>()
                || plan.is::<HashJoinExec>()
                || plan.is::<SortMergeJoinExec>();
            Ok(if joins { Transformed::yes(waiting(plan)) } else { Transformed::no(plan) })
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "stopping_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

impl StoppingJoins {
    fn stopping(&self, filter: &JoinFilter) -> JoinFilter {
        let expression =
            Stopping { stop: self.0.clone(), expression: Arc::clone(filter.expression()) };
        JoinFilter::new(
            Arc::new(expression),
            filter.column_indices().to_vec(),
            Arc::clone(filter.schema()),
        )
    }
}

fn waiting(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    Arc::new(CooperativeExec::new(plan))
}

/// A condition that fails when it was called for.
#[derive(Debug)]
struct Stopping {
    stop: Stop,
    expression: Arc<dyn PhysicalExpr>,
}

impl fmt::Display for Stopping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expression.fmt(f)
    }
}

impl PartialEq for Stopping {
    fn eq(&self, other: &Self) -> bool {
        self.expression.eq(&other.expression)
    }
}

impl Eq for Stopping {}

impl Hash for Stopping {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expression.hash(state);
    }
}

impl PhysicalExpr for Stopping {
    fn evaluate(&self, batch: &RecordBatch) -> SqlResult<ColumnarValue> {
        if self.stop.called() {
            return Err(DataFusionError::Execution("the query was ended".into()));
        }
        self.expression.evaluate(batch)
    }

    fn return_field(&self, input: &Schema) -> SqlResult<FieldRef> {
        self.expression.return_field(input)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.expression]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> SqlResult<Arc<dyn PhysicalExpr>> {
        let expression = children.pop().ok_or_else(|| {
            DataFusionError::Internal("a condition without its expression".into())
        })?;
        Ok(Arc::new(Self { stop: self.stop.clone(), expression }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expression.fmt_sql(f)
    }
}
