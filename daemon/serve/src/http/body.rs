//! Limits on the time and size of request bodies.

use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use diptych_schemas::HttpConfig;
use futures::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::guard::FLIGHT;
use super::problem::Problem;

/// The limits on a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimits {
    bytes: usize,
    within: Duration,
}

impl BodyLimits {
    pub(super) fn from_config(http: &HttpConfig) -> Self {
        let bytes = usize::try_from(http.max_body_mib << 20).unwrap_or(usize::MAX);
        Self { bytes, within: Duration::from_secs(http.body_seconds) }
    }

    pub(super) fn bytes(self) -> usize {
        self.bytes
    }

    fn too_late(self) -> String {
        format!(
            "the body did not arrive within {} seconds (http.body_seconds)",
            self.within.as_secs()
        )
    }

    fn too_large(self) -> Problem {
        let most = self.bytes >> 20;
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is larger than {most} MiB (http.max_body_mib)"),
        )
    }
}

/// Waits for the whole body before a request is handled. A body that comes too slowly is answered
/// with 408. Streams of Flight SQL are passed on as they come, and end at the same time.
pub(super) async fn limit_body(
    State(limits): State<BodyLimits>,
    request: Request,
    next: Next,
) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let deadline = Instant::now() + limits.within;
    let is_stream = request.uri().path().starts_with(FLIGHT);
    let (parts, body) = request.into_parts();
    let body = if is_stream {
        until(body, deadline, limits)
    } else {
        match whole(body, deadline, limits).await {
            Ok(bytes) => Body::from(bytes),
            Err(problem) => return problem.into_response(),
        }
    };
    next.run(Request::from_parts(parts, body)).await
}

async fn whole(body: Body, deadline: Instant, limits: BodyLimits) -> Result<Vec<u8>, Problem> {
    // Check the length first if the client declared it.
    if usize::try_from(body.size_hint().lower()).is_ok_and(|bytes| bytes > limits.bytes) {
        return Err(limits.too_large());
    }
    let mut pieces = body.into_data_stream();
    let mut bytes = Vec::new();
    loop {
        let next = timeout_at(deadline, pieces.next())
            .await
            .map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, limits.too_late()))?;
        let Some(piece) = next else { return Ok(bytes) };
        let piece =
            piece.map_err(|error| Problem::bad(format!("cannot read the body: {error}")))?;
        if bytes.len() + piece.len() > limits.bytes {
            return Err(limits.too_large());
        }
        bytes.extend_from_slice(&piece);
    }
}

fn until(body: Body, deadline: Instant, limits: BodyLimits) -> Body {
    let pieces = futures::stream::unfold(Some(body.into_data_stream()), move |pieces| async move {
        let mut pieces = pieces?;
        match timeout_at(deadline, pieces.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
            Ok(Some(Err(error))) => Some((Err(BoxError::from(error)), None)),
            Err(_) => Some((Err(BoxError::from(limits.too_late())), None)),
        }
    });
    Body::from_stream(pieces)
}
