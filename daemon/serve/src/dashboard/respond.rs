//! An answer with a file, and the headers that all pages have.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

/// The content security policy. Images come from the service or were fetched with a token
/// (`blob:`). Scripts cannot turn text into markup (`trusted-types`), so the text of a caption or a
/// log stays text even if a script has a bug.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' \
     blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// Answers with a file and the headers of all pages, or that a browser has it already.
pub(super) fn respond(status: StatusCode, name: &str, bytes: &[u8], asked: &HeaderMap) -> Response {
    let tag = tag(bytes);
    let headers = [
        (header::CONTENT_TYPE, content_type(name)),
        // Another version of the binary has other files under the same names. So browsers may keep
        // a file, but must check it each time.
        (header::CACHE_CONTROL, "no-cache"),
        (header::ETAG, &tag),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    let known = asked.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    let is_known =
        |known: &str| known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag);
    let mut response = if status == StatusCode::OK && known.is_some_and(is_known) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        (status, bytes.to_vec()).into_response()
    };
    for (name, value) in headers {
        match HeaderValue::from_str(value) {
            Ok(value) => response.headers_mut().insert(name, value),
            Err(error) => {
                return (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("the header {name}: {error}\n"),
                )
                    .into_response();
            }
        };
    }
    response
}

fn tag(bytes: &[u8]) -> String {
    format!("\"{}\"", hex::encode(&Sha256::digest(bytes)[..12]))
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        _ => "text/plain; charset=utf-8",
    }
}
