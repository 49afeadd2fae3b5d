//! What every request passes before it is answered: how many there are at once, where it comes from, who asks.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use diptych_schemas::Listen;
use diptych_schemas::Scope;
use tokio::sync::Semaphore;

use super::problem::Problem;
use crate::flight::HANDSHAKE;
use crate::shared::Shared;

/// Answers at most so many requests at once; who comes too many is told to come again.
pub(super) async fn limit(
    State(slots): State<Arc<Semaphore>>,
    request: Request,
    next: Next,
) -> Response {
    // Health must be seen when it is bad.
    if matches!(request.uri().path(), "/healthz" | "/readyz") {
        return next.run(request).await;
    }
    match slots.try_acquire() {
        Ok(_slot) => next.run(request).await,
        Err(_) => Problem::busy(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many requests at once (http.concurrent): try again",
        )
        .into_response(),
    }
}

/// Lets a request through that its token allows.
pub(super) async fn authorize(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    match check(&shared, request.method(), request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check(shared: &Shared, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Problem> {
    let current = shared.current();
    if !current.tokens.are_asked() {
        // Without tokens, the address is the only wall, and a browser on this machine is inside of it.
        from_here(&shared.listen, headers)
            .map_err(|why| Problem::new(StatusCode::FORBIDDEN, why))?;
    }
    let Some(needed) = needed(method, path) else { return Ok(()) };
    let token =
        headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer);
    match current.tokens.scope(token) {
        Some(scope) if scope >= needed => Ok(()),
        Some(scope) => Err(Problem::new(
            StatusCode::FORBIDDEN,
            format!(
                "this token's scope is {}; {method} {path} wants {}",
                scope.as_str(),
                needed.as_str()
            ),
        )),
        None => Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "a token is wanted: Authorization: Bearer dpt_…, as `diptych token` makes it",
        )),
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The scope that a request wants; none: it is open. What is not named here wants the highest.
fn needed(method: &Method, path: &str) -> Option<Scope> {
    const FLIGHT: &str = "/arrow.flight.protocol.FlightService/";
    let reads = method == Method::GET || method == Method::HEAD;
    match path {
        // The page itself holds nothing; what it shows, it asks for.
        "/" | "/healthz" | "/readyz" | "/openapi.json" if reads => None,
        _ if reads && path.starts_with("/assets/") => None,
        // It is what gives a token.
        _ if path == HANDSHAKE => None,
        _ if path.starts_with(FLIGHT) => Some(Scope::Read),
        "/metrics" if reads => Some(Scope::Read),
        "/v1/sql" | "/v1/search" => Some(Scope::Read),
        "/v1/backup" | "/v1/reload" => Some(Scope::Admin),
        _ if path.starts_with("/v1/") => Some(if reads { Scope::Read } else { Scope::Submit }),
        _ if reads => Some(Scope::Read),
        _ => Some(Scope::Admin),
    }
}

/// Refuses what a foreign page in a browser on this machine sends: a name that leads here by rebinding, or a form's request from
/// elsewhere.
fn from_here(listen: &Listen, headers: &HeaderMap) -> Result<(), String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Listen::Tcp(address) = listen else { return Ok(()) };
    let is_here = |host: &str| {
        let name = host
            .rsplit_once(':')
            .map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
        let name = name.trim_matches(['[', ']']);
        name.eq_ignore_ascii_case("localhost") || name.parse() == Ok(address.ip())
    };
    if let Some(host) = text(header::HOST)
        && !is_here(host)
    {
        return Err(format!(
            "asked for as {host}: without tokens, only localhost and {} are answered",
            address.ip()
        ));
    }
    if let Some(origin) = text(header::ORIGIN)
        && !origin.split_once("://").is_some_and(|(_, host)| is_here(host))
    {
        return Err(format!("asked by a page of {origin}: only pages of this service may"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_submitting_and_the_rest_want_their_scopes() {
        let scope = |method: Method, path| needed(&method, path);
        for (method, path, wants) in [
            (Method::GET, "/", None),
            (Method::GET, "/assets/app.js", None),
            (Method::GET, "/healthz", None),
            (Method::POST, "/healthz", Some(Scope::Admin)),
            (Method::GET, "/metrics", Some(Scope::Read)),
            (Method::GET, "/v1/runs", Some(Scope::Read)),
            (Method::POST, "/v1/sql", Some(Scope::Read)),
            (Method::POST, "/v1/jobs", Some(Scope::Submit)),
            (Method::PATCH, "/v1/jobs/3", Some(Scope::Submit)),
            (Method::POST, "/v1/runs/a/pause", Some(Scope::Submit)),
            (Method::POST, "/v1/backup", Some(Scope::Admin)),
            (Method::POST, "/arrow.flight.protocol.FlightService/Handshake", None),
            (Method::POST, "/arrow.flight.protocol.FlightService/DoGet", Some(Scope::Read)),
            (Method::POST, "/anything", Some(Scope::Admin)),
        ] {
            assert_eq!(scope(method.clone(), path), wants, "{method} {path}");
        }
    }

    #[test]
    fn foreign_pages_are_refused_where_no_token_is_asked_for() {
        let listen = Listen::parse("127.0.0.1:8723").unwrap();
        let asked = |pairs: &[(&'static str, &str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect();
            from_here(&listen, &headers).is_ok()
        };
        assert!(
            asked(&[])
                && asked(&[("host", "127.0.0.1:8723")])
                && asked(&[("host", "localhost:9000")])
        );
        assert!(asked(&[("host", "localhost:8723"), ("origin", "http://localhost:8723")]));
        assert!(!asked(&[("host", "evil.example")]) && !asked(&[("host", "evil.example:8723")]));
        assert!(!asked(&[("host", "127.0.0.1:8723"), ("origin", "https://evil.example")]));
        assert!(!asked(&[("host", "127.0.0.1:8723"), ("origin", "null")]));
        let six = Listen::parse("[::1]:8723").unwrap();
        let headers =
            [("host".parse().unwrap(), "[::1]:8723".parse().unwrap())].into_iter().collect();
        assert!(from_here(&six, &headers).is_ok());
    }
}
