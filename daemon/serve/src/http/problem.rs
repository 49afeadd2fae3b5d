//! Errors as problem details (RFC 9457).

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use diptych_store::StoreError;
use serde::Serialize;

use crate::jobs::QueueError;
use crate::query::{Failure, FailureKind};

/// An error of a request, with advice on what to do.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Problem {
    /// `about:blank`: the status tells the kind of error.
    #[serde(rename = "type")]
    kind: &'static str,
    title: String,
    status: u16,
    detail: String,
    /// A code for errors that a client can react to.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    /// Seconds after which the request may be repeated.
    #[serde(skip)]
    retry_after: Option<u32>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        Self {
            kind: "about:blank",
            title,
            status: status.as_u16(),
            detail: detail.into(),
            code: None,
            retry_after: None,
        }
    }

    pub(super) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// Adds a code.
    pub(super) fn coded(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// Returns the problem of a request that may be repeated after a second.
    pub(super) fn busy(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { retry_after: Some(1), ..Self::new(status, detail) }
    }

    pub(super) fn internal(detail: impl std::fmt::Display) -> Self {
        tracing::error!("a request failed: {detail}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        let detail = error.to_string();
        match error {
            QueueError::Unknown(_) => Self::not_found(detail),
            QueueError::State(_) => Self::new(StatusCode::CONFLICT, detail),
            QueueError::Wrong(_) => Self::bad(detail),
            QueueError::NoService(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail),
            QueueError::Full | QueueError::Leaving => {
                Self::busy(StatusCode::SERVICE_UNAVAILABLE, detail)
            }
            QueueError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::RunName(_) => Self::bad(error.to_string()),
            StoreError::Exists { .. } => Self::new(StatusCode::CONFLICT, error.to_string()),
            StoreError::Unavailable { .. } => {
                Self::busy(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
            _ => Self::internal(error),
        }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
        match failure.kind {
            FailureKind::Statement => Self::bad(failure.message).coded("wrong_statement"),
            FailureKind::Run => Self::new(unprocessable, failure.message).coded("query_failed"),
            FailureKind::Memory => Self::new(unprocessable, failure.message).coded("out_of_memory"),
            FailureKind::Damaged => Self::internal(failure).coded("damaged_file"),
            FailureKind::Session => Self::internal(failure).coded("unreadable_tables"),
            FailureKind::Internal => Self::internal(failure).coded("query_bug"),
        }
    }
}
