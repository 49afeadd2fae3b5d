//! Failures as gRPC statuses, whose codes drivers turn into their own kinds of errors.

use std::fmt::Display;

use diptych_pipeline::sql::SqlError;
use tonic::Status;

use crate::query::{Failure, FailureKind};

/// Longest message in bytes. Messages travel in headers, which clients limit (to 8 KiB and more).
const LONGEST_MESSAGE: usize = 2000;

pub(super) const READ_ONLY: &str = "only reading is allowed: this service changes no data. Use \
     SELECT, EXPLAIN, SHOW TABLES or DESCRIBE";

pub(super) fn of_failure(failure: &Failure) -> Status {
    let message = short(failure);
    match failure.kind {
        FailureKind::Statement | FailureKind::Run => Status::invalid_argument(message),
        FailureKind::Memory => Status::resource_exhausted(message),
        FailureKind::Damaged => Status::data_loss(message),
        FailureKind::Session => Status::failed_precondition(message),
        FailureKind::Internal => internal(failure),
    }
}

/// Returns the status for a session that could not be opened: its dataset is missing or cannot be
/// read.
pub(super) fn of_session(error: &anyhow::Error) -> Status {
    match error.downcast_ref::<SqlError>() {
        Some(error) => of_failure(&error.into()),
        None => Status::failed_precondition(short(format!("{error:#}"))),
    }
}

/// Returns the status for a failure that only a bug, or a client that breaks the protocol, can
/// cause.
pub(super) fn internal(error: impl Display) -> Status {
    Status::internal(short(format!("internal error, please report it: {error}")))
}

fn short(message: impl Display) -> String {
    let mut message = message.to_string();
    if message.len() > LONGEST_MESSAGE {
        let end =
            (0..=LONGEST_MESSAGE).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}
