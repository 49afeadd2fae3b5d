//! What a client is told when something fails: a gRPC status whose code drivers turn into their own kinds of errors.

use std::fmt::Display;

use diptych_pipeline::sql::SqlError;
use tonic::Status;

use crate::query::{Failure, FailureKind};

/// A message travels in a header, and clients bound those (8 KiB and more): it is cut in the middle of nothing important.
const LONGEST_MESSAGE: usize = 2000;

pub(super) const READ_ONLY: &str = "only reading is allowed: this service changes no data. Ask with SELECT, EXPLAIN, SHOW TABLES or DESCRIBE";

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

/// The session could not be made: a dataset that is not there, or cannot be read.
pub(super) fn of_session(error: &anyhow::Error) -> Status {
    match error.downcast_ref::<SqlError>() {
        Some(error) => of_failure(&error.into()),
        None => Status::failed_precondition(short(format!("{error:#}"))),
    }
}

/// What a client can only have brought about by breaking the protocol, or we by a bug.
pub(super) fn internal(error: impl Display) -> Status {
    Status::internal(short(format!("an internal error, please report it: {error}")))
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
