//! Prepared statements, with the values that were bound to them.
//!
//! Their number and bytes are limited, no matter what clients forget to close. The statement that
//! was unused for longest is dropped first, and any after an hour.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use bytes::Bytes;
use tonic::Status;

/// Most statements that are kept.
const MOST: usize = 1024;
/// Most bytes of the texts and bound values of all statements together.
const MOST_BYTES: usize = 64 << 20;
/// How long a statement is kept after its last use.
const UNUSED: Duration = Duration::from_hours(1);

/// A statement, ready to run.
#[derive(Clone, Default)]
pub(super) struct Statement {
    pub(super) dataset: Option<String>,
    pub(super) sql: String,
    /// One row for each run. Empty until values are bound.
    pub(super) bound: Vec<RecordBatch>,
}

#[derive(Default)]
pub(super) struct PreparedStatements {
    held: Mutex<HashMap<Bytes, Held>>,
}

struct Held {
    statement: Statement,
    used: Instant,
}

impl Statement {
    fn bytes(&self) -> usize {
        self.sql.len() + self.bound.iter().map(RecordBatch::get_array_memory_size).sum::<usize>()
    }
}

impl PreparedStatements {
    /// Keeps a statement and returns its handle.
    pub(super) fn keep(&self, statement: Statement) -> Bytes {
        let handle = Bytes::copy_from_slice(&rand::random::<[u8; 16]>());
        self.put(handle.clone(), statement);
        handle
    }

    pub(super) fn get(&self, handle: &Bytes) -> Result<Statement, Status> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match held.get_mut(handle).filter(|held| held.used.elapsed() < UNUSED) {
            Some(held) => {
                held.used = Instant::now();
                Ok(held.statement.clone())
            }
            None => Err(Status::not_found(
                "this prepared statement is unknown or has expired: prepare it again",
            )),
        }
    }

    pub(super) fn bind(&self, handle: &Bytes, bound: Vec<RecordBatch>) -> Result<(), Status> {
        let statement = Statement { bound, ..self.get(handle)? };
        self.put(handle.clone(), statement);
        Ok(())
    }

    pub(super) fn close(&self, handle: &Bytes) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(handle);
    }

    fn put(&self, handle: Bytes, statement: Statement) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(handle, Held { statement, used: Instant::now() });
        held.retain(|_, held| held.used.elapsed() < UNUSED);
        let mut bytes: usize = held.values().map(|held| held.statement.bytes()).sum();
        while held.len() > MOST || bytes > MOST_BYTES {
            let oldest =
                held.iter().min_by_key(|(_, held)| held.used).map(|(handle, _)| handle.clone());
            let Some(gone) = oldest.and_then(|oldest| held.remove(&oldest)) else { return };
            bytes -= gone.statement.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, UInt8Array};

    use super::*;

    fn statement(sql: &str) -> Statement {
        Statement { sql: sql.into(), ..Statement::default() }
    }

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let statements = PreparedStatements::default();
        let handles: Vec<Bytes> =
            (0..MOST).map(|n| statements.keep(statement(&n.to_string()))).collect();
        statements.get(&handles[0]).unwrap();
        statements.keep(statement("one more"));
        assert_eq!(statements.get(&handles[0]).unwrap().sql, "0");
        assert!(statements.get(&handles[1]).is_err());
        assert_eq!(statements.get(&handles[2]).unwrap().sql, "2");
    }

    #[test]
    fn bound_values_are_bounded_together() {
        let statements = PreparedStatements::default();
        let values: ArrayRef = Arc::new(UInt8Array::from(vec![0; MOST_BYTES / 3]));
        let bound = vec![RecordBatch::try_from_iter([("1", values)]).unwrap()];
        let keep = |n: usize| {
            let handle = statements.keep(statement(&n.to_string()));
            statements.bind(&handle, bound.clone()).unwrap();
            handle
        };
        let handles: Vec<Bytes> = (0..4).map(keep).collect();
        let left: Vec<bool> = handles.iter().map(|handle| statements.get(handle).is_ok()).collect();
        assert_eq!(left, [false, false, true, true]);
    }

    #[test]
    fn closing_twice_is_fine() {
        let statements = PreparedStatements::default();
        let handle = statements.keep(statement("SELECT 1"));
        statements.close(&handle);
        statements.close(&handle);
        assert!(statements.get(&handle).is_err());
    }
}
