//! The HTTP interface under `/v1`. Its description in `/openapi.json` is generated from the
//! handlers.
//!
//! Handlers wait but do not compute. Reads of the store and of files run on threads made for
//! blocking, queries in processes of their own.

mod admin;
mod body;
mod datasets;
mod embeddings;
mod events;
mod give_way;
mod guard;
mod jobs;
mod metrics;
mod page;
mod problem;
mod results;
mod rows;
mod runs;
mod sample_queries;
mod search;
mod series;
mod sql;
mod status;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa::openapi::RefOr;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::clients::Places;
use super::shared::Shared;
use body::BodyLimits;
pub use give_way::GIVE_WAY;
use problem::Problem;
pub use rows::{ROWS, ROWS_FORMAT};

/// Longest time of a handler. Queries have a shorter limit of their own.
const HANDLER_TIMEOUT: Duration = Duration::from_hours(1);

/// The OpenAPI description to which the routes are added.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Diptych",
        description = "Trains CLIP-style models unattended and answers queries about them. Lists \
             come in parts: pass `next` as `after` to get the following part. Errors are problem \
             details (RFC 9457)."
    ),
    modifiers(&BearerToken)
)]
struct Described;

struct BearerToken;

impl utoipa::Modify for BearerToken {
    fn modify(&self, described: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{
            HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
        };
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A token made by `diptych token`"))
            .build();
        let components = described.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
        described.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    }
}

/// Returns the requests under `/v1` with their description.
fn routes_under_v1() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::with_openapi(Described::openapi())
        .routes(routes!(status::healthz))
        .routes(routes!(status::readyz))
        .routes(routes!(metrics::metrics))
        .routes(routes!(status::status))
        .routes(routes!(runs::list))
        .routes(routes!(runs::one))
        .routes(routes!(runs::metrics, runs::record))
        .routes(routes!(runs::checkpoints))
        .routes(routes!(runs::events))
        .routes(routes!(sample_queries::list))
        .routes(routes!(results::list))
        .routes(routes!(embeddings::list))
        .routes(routes!(runs::act))
        .routes(routes!(jobs::list, jobs::submit))
        .routes(routes!(jobs::one, jobs::change))
        .routes(routes!(jobs::act))
        .routes(routes!(jobs::log))
        .routes(routes!(events::events))
        .routes(routes!(sql::sql))
        .routes(routes!(search::by_name, search::by_image))
        .routes(routes!(datasets::list))
        .routes(routes!(datasets::one))
        .routes(routes!(datasets::samples))
        .routes(routes!(datasets::image))
        .routes(routes!(admin::backup))
        .routes(routes!(admin::reload))
}

/// Returns the document of `/openapi.json`.
pub fn openapi() -> serde_json::Result<serde_json::Value> {
    serde_json::to_value(with_responses(routes_under_v1().into_openapi()))
}

/// Builds the router of all requests. `more` answers paths outside `/v1`: the dashboard and Flight
/// SQL.
pub(crate) fn router(shared: &Arc<Shared>, more: Router) -> Router {
    let (api, described) = routes_under_v1().with_state(Arc::clone(shared)).split_for_parts();
    let described = Arc::new(with_responses(described));
    let http = shared.current().config.http.clone();
    let places = Places::of_requests(&http);
    let limits = BodyLimits::from_config(&http);
    api.route("/openapi.json", get(move || async move { Json((*described).clone()) }))
        .merge(rows::routes(shared))
        .merge(give_way::routes(shared))
        .merge(more)
        .fallback(async |request: Request| {
            Problem::not_found(format!("no such path: {}", request.uri().path()))
        })
        .method_not_allowed_fallback(async |request: Request| {
            let detail = format!("{} does not support {}", request.uri().path(), request.method());
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
        })
        .layer(DefaultBodyLimit::max(limits.bytes()))
        .layer(middleware::from_fn_with_state(limits, body::limit_body))
        .layer(middleware::from_fn_with_state(places, guard::limit))
        .layer(middleware::from_fn_with_state(Arc::clone(shared), guard::authorize))
        .layer(middleware::from_fn_with_state(Arc::clone(shared), count))
        .layer(tower_http::timeout::TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            HANDLER_TIMEOUT,
        ))
        .layer(CatchPanicLayer::custom(|_| -> Response {
            axum::response::IntoResponse::into_response(Problem::internal(
                "internal error: please report it",
            ))
        }))
}

/// Adds descriptions to responses, since OpenAPI requires them. The content of a success is
/// described by its schema.
fn with_responses(mut described: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let items = described.paths.paths.values_mut();
    let operations = items.flat_map(|item| {
        [&mut item.get, &mut item.post, &mut item.patch, &mut item.put, &mut item.delete]
    });
    for (status, response) in
        operations.flatten().flat_map(|operation| operation.responses.responses.iter_mut())
    {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            let reason = status.parse().ok().and_then(|code: StatusCode| code.canonical_reason());
            reason.unwrap_or("An error, as problem details").clone_into(&mut response.description);
        }
    }
    described
}

async fn count(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let began = std::time::Instant::now();
    let method = request.method().clone();
    // Use the route and not the address: names of runs would create a metric each.
    let path = request
        .extensions()
        .get::<axum::extract::MatchedPath>()
        .map_or("other", axum::extract::MatchedPath::as_str)
        .to_owned();
    let response = next.run(request).await;
    shared.metrics.request(&method, path, response.status(), began.elapsed());
    response
}

/// Returns the query of an address.
fn given<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    Ok(query?.0)
}

/// Runs work that waits for the disk on a thread made for blocking.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Problem::internal(format!("the thread of a request ended early: {error}"))
    })?
}
