//! Health, metrics, and the door's description of itself; and the counting of requests.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Door, problem::Failure};
use crate::{
    api::Problem,
    error::{Error, ErrorKind},
    metrics as recorded,
};

const TEXT: (header::HeaderName, &str) = (header::CONTENT_TYPE, "text/plain; charset=utf-8");

/// Where to look.
#[utoipa::path(get, path = "/", tag = "observe", responses((status = 200, description = "one line", body = String)))]
pub(super) async fn pointer() -> Response {
    let line = concat!(
        "Emberline agent ",
        env!("CARGO_PKG_VERSION"),
        ": /openapi.json describes the routes below /v1\n"
    );
    ([TEXT], line).into_response()
}

/// Whether the process answers.
#[utoipa::path(get, path = "/healthz", tag = "observe", security(()), responses((status = 200, description = "alive", body = String)))]
pub(super) async fn healthz() -> Response {
    ([TEXT], "ok\n").into_response()
}

/// Whether pulls can be served now.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "observe",
    security(()),
    responses(
        (status = 200, description = "ready", body = String),
        (status = 503, description = "starting or stopping", body = Problem),
        (status = 507, description = "the disk cannot take a byte", body = Problem),
    )
)]
pub(super) async fn readyz(State(door): State<Door>) -> Result<Response, Failure> {
    if door.stopping.is_cancelled() {
        return Err(Error::new(ErrorKind::UNAVAILABLE, "the agent is stopping").into());
    }
    door.agent()?.ready()?;
    Ok(([TEXT], "ready\n").into_response())
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "observe", responses((status = 200, description = "Prometheus text format", body = String)))]
pub(super) async fn metrics(State(door): State<Door>) -> Response {
    if let Ok(agent) = door.agent() {
        recorded::observe(&agent.status(false).await);
    }
    let content_type = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    ([content_type], recorded::render()).into_response()
}

/// The description of every route.
#[utoipa::path(get, path = "/openapi.json", tag = "observe", responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
pub(super) async fn openapi(State(door): State<Door>) -> Response {
    let description = door.openapi.get().cloned().unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], description).into_response()
}

/// Counts every request by route pattern, never by path: paths are the clients' to choose.
pub(super) async fn count(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("unknown", MatchedPath::as_str);
    recorded::http_request(&method, route, response.status().as_u16());
    tracing::debug!(
        %method, route, status = response.status().as_u16(), seconds = started.elapsed().as_secs_f64(),
        "request"
    );
    response
}
