//! Checks that every request passes before it is answered: its origin, its token, and the number of
//! simultaneous requests.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use diptych_schemas::Listen;
use diptych_schemas::Scope;

use super::give_way::GIVE_WAY;
use super::problem::Problem;
use super::rows::ROWS;
use crate::clients::{Client, NoPlace, Places};
use crate::flight::HANDSHAKE;
use crate::shared::Shared;

/// Prefix of the paths of Flight SQL.
pub(super) const FLIGHT: &str = "/arrow.flight.protocol.FlightService/";

/// Limits the number of requests that are answered at once, in total and for each client. Requests
/// above a limit are answered with 503.
pub(super) async fn limit(
    State(places): State<Arc<Places>>,
    request: Request,
    next: Next,
) -> Response {
    // Health checks must work even if the service is overloaded.
    if matches!(request.uri().path(), "/healthz" | "/readyz") {
        return next.run(request).await;
    }
    let client = request.extensions().get::<Client>().copied().unwrap_or(Client::Socket);
    let limit = match places.take(client) {
        Ok(_place) => return next.run(request).await,
        Err(NoPlace::AllTaken) => "http.concurrent",
        Err(NoPlace::ClientShareTaken) => {
            "http.client_share: other requests of this client are still being answered"
        }
    };
    Problem::busy(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("too many requests at once ({limit}): try again"),
    )
    .into_response()
}

/// Lets a request through if its token allows it, and records the client.
pub(super) async fn authorize(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    match check(&shared, &request) {
        Ok(client) => {
            request.extensions_mut().insert(client);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn check(shared: &Shared, request: &Request) -> Result<Client, Problem> {
    let (method, path, headers) = (request.method(), request.uri().path(), request.headers());
    let current = shared.current();
    // HTTP/2 requests have an authority instead of this header.
    let host = headers
        .get(header::HOST)
        .and_then(|value| value.to_str().ok())
        .or_else(|| request.uri().authority().map(axum::http::uri::Authority::as_str));
    let forbidden = |why| Problem::new(StatusCode::FORBIDDEN, why);
    if !current.tokens.are_required() {
        // Without tokens the address is the only protection, and a browser on this machine is
        // behind it.
        asked_for_here(&shared.listen, host).map_err(forbidden)?;
    }
    asked_by_own_page(method, host, headers).map_err(forbidden)?;
    let address = request.extensions().get::<ConnectInfo<Client>>().map(|info| info.0);
    let address = address.unwrap_or(Client::Socket);
    let token =
        headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer);
    let client = current.tokens.holder(token).map_or(address, |(hash, _)| Client::Token(hash));
    let Some(needed) = needed(method, path) else { return Ok(client) };
    match current.tokens.scope(token) {
        Some(scope) if scope >= needed => Ok(client),
        Some(scope) => Err(Problem::new(
            StatusCode::FORBIDDEN,
            format!(
                "this token has the scope {}, but {method} {path} needs {}",
                scope.as_str(),
                needed.as_str()
            ),
        )),
        None => Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "a token is needed: send Authorization: Bearer dpt_… with a token made by `diptych \
             token`",
        )),
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Returns the scope that a request needs, or `None` if it is open to all. Paths that are not
/// listed need the highest scope.
fn needed(method: &Method, path: &str) -> Option<Scope> {
    let reads = method == Method::GET || method == Method::HEAD;
    match path {
        // The page itself holds no data; it requests everything.
        "/" | "/docs" | "/healthz" | "/readyz" | "/openapi.json" if reads => None,
        _ if reads && (path.starts_with("/assets/") || path.starts_with("/docs/")) => None,
        // It is what gives a token.
        _ if path == HANDSHAKE => None,
        _ if path.starts_with(FLIGHT) => Some(Scope::Read),
        "/metrics" if reads => Some(Scope::Read),
        "/v1/sql" | "/v1/search" | ROWS => Some(Scope::Read),
        "/v1/backup" | "/v1/reload" | GIVE_WAY => Some(Scope::Admin),
        _ if path.starts_with("/v1/") => Some(if reads { Scope::Read } else { Scope::Submit }),
        _ if reads => Some(Scope::Read),
        _ => Some(Scope::Admin),
    }
}

/// Refuses host names that lead here by DNS rebinding. `diptych ui` forwards a browser's requests
/// to a Unix socket.
fn asked_for_here(listen: &Listen, host: Option<&str>) -> Result<(), String> {
    let is_here = |host: &str| {
        let name = host
            .rsplit_once(':')
            .map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
        let name = name.trim_matches(['[', ']']);
        let by_address = |ip: IpAddr| match listen {
            Listen::Tcp(address) => ip == address.ip(),
            Listen::Unix(_) => ip.is_loopback(),
        };
        name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(by_address)
    };
    match host {
        Some(host) if !is_here(host) => {
            let own = match listen {
                Listen::Tcp(address) => address.ip().to_string(),
                Listen::Unix(_) => "loopback addresses".into(),
            };
            Err(format!(
                "the host {host} is refused: without tokens, only localhost and {own} are answered"
            ))
        }
        _ => Ok(()),
    }
}

/// Refuses requests that a page of another origin makes a browser send. Browsers set
/// `Sec-Fetch-Site` and `Origin`, and pages cannot change them. Another port of this machine is
/// another origin. Programs send neither header.
fn asked_by_own_page(
    method: &Method,
    host: Option<&str>,
    headers: &HeaderMap,
) -> Result<(), String> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let site = text("sec-fetch-site");
    if site == Some("same-origin") {
        return Ok(());
    }
    if let Some(origin) = text("origin") {
        let of_origin = origin.split_once("://").map(|(_, host)| host);
        let own = of_origin.zip(host).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b));
        if !own {
            return Err(format!(
                "requests from pages of {origin} are refused: only this service's own pages may \
                 send them"
            ));
        }
    }
    let reads = method == Method::GET || method == Method::HEAD;
    match site {
        Some(site) if site != "none" && !reads => Err(format!(
            "requests from pages of another origin ({site}) are refused: only this service's own \
             pages may send them"
        )),
        _ => Ok(()),
    }
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
    fn names_that_lead_here_by_rebinding_are_refused() {
        let listen = Listen::parse("127.0.0.1:8723").unwrap();
        let asked = |host| asked_for_here(&listen, host).is_ok();
        assert!(asked(None) && asked(Some("127.0.0.1:8723")) && asked(Some("localhost:9000")));
        assert!(!asked(Some("evil.example")) && !asked(Some("evil.example:8723")));
        let six = Listen::parse("[::1]:8723").unwrap();
        assert!(asked_for_here(&six, Some("[::1]:8723")).is_ok());
        let socket = Listen::parse("unix:socket").unwrap();
        for here in ["localhost", "127.0.0.1:40001", "[::1]:40001"] {
            assert!(asked_for_here(&socket, Some(here)).is_ok(), "{here}");
        }
        assert!(asked_for_here(&socket, Some("evil.example:40001")).is_err());
    }

    #[test]
    fn pages_of_other_origins_and_ports_change_nothing() {
        const HOST: &str = "localhost:8723";
        let asked = |method: Method, pairs: &[(&'static str, &str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect();
            asked_by_own_page(&method, Some(HOST), &headers).is_ok()
        };
        let origin = |origin: &'static str| [("origin", origin)];
        let site = |site: &'static str| [("sec-fetch-site", site)];
        for method in [Method::GET, Method::POST, Method::PATCH, Method::DELETE] {
            assert!(asked(method.clone(), &[]), "a program");
            assert!(asked(method.clone(), &origin("http://localhost:8723")));
            assert!(asked(method.clone(), &origin("https://LOCALHOST:8723")));
            assert!(asked(method.clone(), &site("same-origin")));
            for foreign in
                ["https://evil.example", "http://localhost:3000", "http://localhost", "null", ""]
            {
                assert!(!asked(method.clone(), &origin(foreign)), "{method} {foreign}");
            }
        }
        for foreign in ["cross-site", "same-site"] {
            assert!(!asked(Method::POST, &site(foreign)), "{foreign}");
            // A link on another page may lead to the dashboard. That page cannot see the answer.
            assert!(asked(Method::GET, &site(foreign)), "{foreign}");
        }
        assert!(asked(Method::GET, &site("none")));
        // The name of the origin alone is not enough if the host is unknown.
        let headers =
            [("origin".parse().unwrap(), "http://a".parse().unwrap())].into_iter().collect();
        assert!(asked_by_own_page(&Method::POST, None, &headers).is_err());
    }
}
