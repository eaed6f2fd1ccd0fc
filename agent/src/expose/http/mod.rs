//! The HTTP door: `/v1`, files with ranges, health, metrics, and a description of itself.
//!
//! Owns the routes and how they are guarded, limited and described. Holds no logic: every handler
//! parses, asks the [`Agent`], and prints. What a request may not do is said once, in front of all
//! routes: [`guard`] (who), [`server`] (how many), [`extract`] (how much).
//!
//! Invariants: every route is in `/openapi.json`; every error is a [`Problem`](crate::api::Problem);
//! no body is ever compressed.

mod artifacts;
pub mod body;
mod cluster;
mod copies;
pub mod extract;
pub mod files;
mod fs;
pub mod guard;
mod hugging_face;
mod jobs;
pub(super) mod lazy_body;
mod observe;
mod presence;
mod problem;
pub mod ranges;
pub mod server;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::{HeaderName, HeaderValue, Method, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use tokio_util::sync::CancellationToken;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{guard::Guard, problem::Failure};
use crate::{
    agent::Agent,
    config::HttpConfig,
    error::{Error, ErrorKind, Result},
};

pub use self::server::serve;

/// How long a request may take until its answer begins. Streams, waits for a pull, plans and
/// verification take as long as they take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A header of answers that say only that the agent is still starting: nothing was done, ask again.
pub const STARTING_HEADER: &str = "x-emberline-starting";

/// The agent behind the door, which may still be starting: opening a large store takes a while, and
/// until then `/healthz` says yes, `/readyz` no, and everything else 503.
#[derive(Clone, Default)]
pub struct AgentSlot(Arc<OnceLock<Agent>>);

impl AgentSlot {
    /// Lets requests through to `agent`. The first call counts.
    pub fn fill(&self, agent: Agent) {
        let _ = self.0.set(agent);
    }

    /// The agent, once it has started.
    pub(super) fn get(&self) -> Option<&Agent> {
        self.0.get()
    }
}

impl From<Agent> for AgentSlot {
    fn from(agent: Agent) -> Self {
        let slot = Self::default();
        slot.fill(agent);
        slot
    }
}

/// What every handler gets.
#[derive(Clone)]
struct Door {
    agent: AgentSlot,
    openapi: Arc<OnceLock<String>>,
    stopping: CancellationToken,
}

impl Door {
    fn agent(&self) -> Result<&Agent, Failure> {
        let starting = ErrorKind::Unavailable { retry_after: Some(Duration::from_secs(1)) };
        self.agent.0.get().ok_or_else(|| {
            Failure::from(Error::new(starting, "the agent is still starting"))
                .header(HeaderName::from_static(STARTING_HEADER), HeaderValue::from_static("1"))
        })
    }
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Emberline agent", description = "One node's agent: pulls, warm-ups, artifacts and their files."),
    tags(
        (name = "pulls", description = "bring artifacts to this node"),
        (name = "warm", description = "have other nodes pull"),
        (name = "artifacts", description = "what is on this node"),
        (name = "files", description = "the bytes"),
        (name = "cluster", description = "this node and the others"),
        (name = "observe", description = "health, metrics, description"),
    ),
    modifiers(&Bearer),
    security(("bearer" = []), ())
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        openapi.components.get_or_insert_default().add_security_scheme("bearer", bearer);
    }
}

/// The routes with their guard. `listen` is the address the door was bound to; event streams end
/// when `stopping` is cancelled.
///
/// # Errors
/// As [`Guard::new`].
pub fn router(
    agent: impl Into<AgentSlot>,
    config: &HttpConfig,
    listen: SocketAddr,
    stopping: CancellationToken,
) -> Result<Router> {
    let guard = Guard::new(config, listen)?;
    let door = Door { agent: agent.into(), openapi: Arc::default(), stopping };
    let (quick, quick_openapi) = quick_routes().split_for_parts();
    let (patient, patient_openapi) = patient_routes().split_for_parts();
    let mut openapi = Description::openapi();
    openapi.merge(quick_openapi);
    openapi.merge(patient_openapi);
    let _ = door.openapi.set(describe(openapi)?);

    Ok(quick
        .layer(middleware::from_fn(answer_in_time))
        .merge(patient)
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(extract::MAX_BODY_BYTES))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(after_panic))
        .layer(middleware::from_fn_with_state(guard, guard::stand))
        .layer(middleware::from_fn(observe::count))
        .with_state(door))
}

/// Routes that answer within [`ANSWER_TIMEOUT`] or not at all.
fn quick_routes() -> OpenApiRouter<Door> {
    OpenApiRouter::new()
        .routes(routes!(observe::pointer))
        .routes(routes!(observe::healthz))
        .routes(routes!(observe::readyz))
        .routes(routes!(observe::metrics))
        .routes(routes!(observe::openapi))
        .routes(routes!(jobs::list_pulls))
        .routes(routes!(jobs::one_pull, jobs::cancel_pull))
        .routes(routes!(jobs::pull_events))
        .routes(routes!(jobs::start_warm, jobs::list_warms))
        .routes(routes!(jobs::one_warm, jobs::cancel_warm))
        .routes(routes!(jobs::warm_events))
        .routes(routes!(jobs::scale))
        .routes(routes!(artifacts::list, artifacts::remove))
        .routes(routes!(artifacts::one))
        .routes(routes!(artifacts::held))
        .routes(routes!(artifacts::path))
        .routes(routes!(artifacts::pin, artifacts::unpin))
        .routes(routes!(artifacts::reading_order, artifacts::record_order, artifacts::forget_order))
        .routes(routes!(cluster::members))
        .routes(routes!(cluster::status))
        .routes(routes!(cluster::limits, cluster::limit))
        .routes(routes!(files::by_reference))
        .routes(routes!(files::by_artifact))
        .routes(routes!(fs::file))
        .routes(routes!(fs::root))
        .routes(routes!(hugging_face::hub))
}

/// Routes whose honest work can take minutes: the agent's own deadlines bound them.
fn patient_routes() -> OpenApiRouter<Door> {
    OpenApiRouter::new()
        .routes(routes!(jobs::start_pull))
        .routes(routes!(jobs::plan))
        .routes(routes!(cluster::drain))
        .routes(routes!(artifacts::verify))
        .routes(routes!(artifacts::publish))
}

/// Prints the description, in OpenAPI's own path syntax and with one operation id a method.
fn describe(mut openapi: utoipa::openapi::OpenApi) -> Result<String> {
    let paths = std::mem::take(&mut openapi.paths.paths);
    openapi.paths.paths = paths
        .into_iter()
        .map(|(path, mut item)| {
            let named = item.get.as_ref().and_then(|get| get.operation_id.clone());
            for (operation, method) in [(&mut item.head, "head"), (&mut item.post, "post")] {
                if let Some(operation) = operation.as_mut().filter(|o| o.operation_id == named) {
                    operation.operation_id = named.as_ref().map(|id| format!("{id}_{method}"));
                }
            }
            (path.replace("{*", "{"), item)
        })
        .collect();
    openapi
        .to_pretty_json()
        .map_err(|e| Error::with_source(ErrorKind::Invalid, "the description cannot be printed", e))
}

async fn answer_in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let message = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
            Failure::from(Error::new(ErrorKind::Timeout, message)).into_response()
        }
    }
}

async fn unknown_path(request: Request) -> Failure {
    let error = Error::new(ErrorKind::NotFound, format!("no route {}", request.uri().path()));
    Failure::from(error).advice("/openapi.json lists the routes")
}

async fn wrong_method(method: Method, request: Request) -> Failure {
    let message = format!("{} does not take {method}", request.uri().path());
    Failure::with_status(StatusCode::METHOD_NOT_ALLOWED, &Error::new(ErrorKind::Invalid, message))
        .advice("/openapi.json lists the methods of each route")
}

fn after_panic(_: Box<dyn std::any::Any + Send>) -> Response {
    let error = Error::new(ErrorKind::UNAVAILABLE, "the agent made a mistake answering this");
    Failure::with_status(StatusCode::INTERNAL_SERVER_ERROR, &error)
        .advice("the agent's log has the place; please report it")
        .into_response()
}

#[cfg(test)]
mod tests;
