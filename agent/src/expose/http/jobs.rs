//! Pulls and warm-ups: start, list, one, follow by server-sent events, cancel; and plans.

use std::{convert::Infallible, time::Duration};

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::Stream;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::{
    Door,
    extract::{Asked, Told},
    problem::Failure,
};
use crate::{
    api::{
        JobState, Phase, Plan, PlanRequest, Problem, PullRequest, PullStatus, ScaleHook, WarmRequest,
        WarmStatus,
    },
    error::{Error, ErrorKind},
};

/// Real clients give up after ten silent seconds.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long a stopping agent waits for a job to say how it ended.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A job that can be followed to its end.
trait Job: Serialize + Clone + Send + Sync + 'static {
    fn is_over(&self) -> bool;
}

impl Job for PullStatus {
    fn is_over(&self) -> bool {
        self.phase.is_over()
    }
}

impl Job for WarmStatus {
    fn is_over(&self) -> bool {
        match self.state {
            JobState::Running => false,
            JobState::Complete | JobState::Failed | JobState::Cancelled => true,
        }
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wait {
    /// Answer only when the pull has ended.
    #[serde(default)]
    wait: bool,
}

/// Starts a pull, or joins the one under way for the same artifact.
#[utoipa::path(
    post,
    path = "/v1/pulls",
    tag = "pulls",
    params(Wait),
    responses(
        (status = 202, description = "under way; Location names it", body = PullStatus),
        (status = 200, description = "with wait: complete", body = PullStatus),
        (status = 400, description = "reference or pattern that cannot be", body = Problem),
        (status = 409, description = "with wait: cancelled", body = Problem),
    )
)]
pub(super) async fn start_pull(
    State(door): State<Door>,
    Asked(Wait { wait }): Asked<Wait>,
    Told(request): Told<PullRequest>,
) -> Result<Response, Failure> {
    let mut status = door.agent()?.pull(request)?;
    let now = status.borrow_and_update().clone();
    let location = location("pulls", &now.id);
    if !wait {
        return Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(now)).into_response());
    }
    let end = until_over(status).await;
    match (end.phase, end.error.clone()) {
        (Phase::Complete, _) => {
            Ok((StatusCode::OK, [(header::LOCATION, location)], Json(end)).into_response())
        }
        (_, Some(problem)) => Err(Failure::of_problem(problem).header(header::LOCATION, location)),
        (Phase::Cancelled, None) => {
            let error = Error::new(ErrorKind::Cancelled, format!("pull {} was cancelled", end.id));
            Err(Failure::from(error).header(header::LOCATION, location))
        }
        (_, None) => {
            let error = Error::new(ErrorKind::UNAVAILABLE, format!("pull {} ended without a word", end.id));
            Err(Failure::from(error).header(header::LOCATION, location))
        }
    }
}

/// The last state of a job: the first that is over, or where it stood when the agent let go of it.
async fn until_over<T: Job>(mut status: watch::Receiver<T>) -> T {
    loop {
        let now = status.borrow_and_update().clone();
        if now.is_over() || status.changed().await.is_err() {
            return status.borrow().clone();
        }
    }
}

/// Pulls that run or ended lately, oldest first.
#[utoipa::path(get, path = "/v1/pulls", tag = "pulls", responses((status = 200, body = Vec<PullStatus>)))]
pub(super) async fn list_pulls(State(door): State<Door>) -> Result<Json<Vec<PullStatus>>, Failure> {
    Ok(Json(door.agent()?.pulls()))
}

/// Where one pull stands.
#[utoipa::path(
    get,
    path = "/v1/pulls/{id}",
    tag = "pulls",
    params(("id" = String, Path, description = "the pull")),
    responses((status = 200, body = PullStatus), (status = 404, body = Problem))
)]
pub(super) async fn one_pull(
    State(door): State<Door>,
    Path(id): Path<String>,
) -> Result<Json<PullStatus>, Failure> {
    let status = door.agent()?.watch_pull(&id)?;
    Ok(Json(status.borrow().clone()))
}

/// Follows one pull: `progress` at every change, `end` with the last state.
#[utoipa::path(
    get,
    path = "/v1/pulls/{id}/events",
    tag = "pulls",
    params(("id" = String, Path, description = "the pull")),
    responses(
        (status = 200, description = "server-sent events, each with a PullStatus", content_type = "text/event-stream"),
        (status = 404, body = Problem),
    )
)]
pub(super) async fn pull_events(
    State(door): State<Door>,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let status = door.agent()?.watch_pull(&id)?;
    Ok(events(status, door.stopping))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Withdrawal {
    /// End it although others asked for it, too.
    #[serde(default)]
    all: bool,
}

/// Takes back that a pull was asked for; it ends when all who asked have. What is here stays.
#[utoipa::path(
    delete,
    path = "/v1/pulls/{id}",
    tag = "pulls",
    params(("id" = String, Path, description = "the pull"), Withdrawal),
    responses((status = 204), (status = 404, body = Problem))
)]
pub(super) async fn cancel_pull(
    State(door): State<Door>,
    Path(id): Path<String>,
    Asked(Withdrawal { all }): Asked<Withdrawal>,
) -> Result<StatusCode, Failure> {
    door.agent()?.cancel_pull(&id, all)?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a pull would do: what is here, what would come from where.
#[utoipa::path(
    post,
    path = "/v1/plan",
    tag = "pulls",
    responses((status = 200, body = Plan), (status = 400, body = Problem), (status = 404, body = Problem))
)]
pub(super) async fn plan(
    State(door): State<Door>,
    Told(request): Told<PlanRequest>,
) -> Result<Json<Plan>, Failure> {
    Ok(Json(door.agent()?.plan(request).await?))
}

/// Has other nodes pull.
#[utoipa::path(
    post,
    path = "/v1/warm",
    tag = "warm",
    responses(
        (status = 202, description = "under way; Location names it", body = WarmStatus),
        (status = 400, description = "a selector that names nobody, or more than one way", body = Problem),
    )
)]
pub(super) async fn start_warm(
    State(door): State<Door>,
    Told(request): Told<WarmRequest>,
) -> Result<Response, Failure> {
    let status = door.agent()?.warm(request)?;
    Ok(accepted(&status))
}

/// An autoscaler says that replicas are about to start: picks nodes and warms them.
#[utoipa::path(
    post,
    path = "/v1/hooks/scale",
    tag = "warm",
    responses(
        (status = 202, description = "under way; Location names the warm-up", body = WarmStatus),
        (status = 400, description = "neither count nor selector, or both", body = Problem),
    )
)]
pub(super) async fn scale(
    State(door): State<Door>,
    Told(hook): Told<ScaleHook>,
) -> Result<Response, Failure> {
    let status = door.agent()?.scale(hook)?;
    Ok(accepted(&status))
}

fn accepted(status: &watch::Receiver<WarmStatus>) -> Response {
    let now = status.borrow().clone();
    (StatusCode::ACCEPTED, [(header::LOCATION, location("warm", &now.id))], Json(now)).into_response()
}

/// Warm-ups that run or ended lately, oldest first.
#[utoipa::path(get, path = "/v1/warm", tag = "warm", responses((status = 200, body = Vec<WarmStatus>)))]
pub(super) async fn list_warms(State(door): State<Door>) -> Result<Json<Vec<WarmStatus>>, Failure> {
    Ok(Json(door.agent()?.warms()))
}

/// Where one warm-up stands.
#[utoipa::path(
    get,
    path = "/v1/warm/{id}",
    tag = "warm",
    params(("id" = String, Path, description = "the warm-up")),
    responses((status = 200, body = WarmStatus), (status = 404, body = Problem))
)]
pub(super) async fn one_warm(
    State(door): State<Door>,
    Path(id): Path<String>,
) -> Result<Json<WarmStatus>, Failure> {
    let status = door.agent()?.watch_warm(&id)?;
    Ok(Json(status.borrow().clone()))
}

/// Follows one warm-up: `progress` at every change, `end` with the last state.
#[utoipa::path(
    get,
    path = "/v1/warm/{id}/events",
    tag = "warm",
    params(("id" = String, Path, description = "the warm-up")),
    responses(
        (status = 200, description = "server-sent events, each with a WarmStatus", content_type = "text/event-stream"),
        (status = 404, body = Problem),
    )
)]
pub(super) async fn warm_events(
    State(door): State<Door>,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let status = door.agent()?.watch_warm(&id)?;
    Ok(events(status, door.stopping))
}

/// Ends a warm-up on every node it runs on.
#[utoipa::path(
    delete,
    path = "/v1/warm/{id}",
    tag = "warm",
    params(("id" = String, Path, description = "the warm-up")),
    responses((status = 204), (status = 404, body = Problem))
)]
pub(super) async fn cancel_warm(
    State(door): State<Door>,
    Path(id): Path<String>,
) -> Result<StatusCode, Failure> {
    door.agent()?.cancel_warm(&id)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ids are the agent's own; one that no header can carry is left out rather than a panic.
fn location(kind: &str, id: &str) -> HeaderValue {
    HeaderValue::try_from(format!("/v1/{kind}/{id}")).unwrap_or_else(|_| HeaderValue::from_static("/v1"))
}

fn events<T: Job>(status: watch::Receiver<T>, stopping: CancellationToken) -> Response {
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Sse::new(follow(status, stopping)).keep_alive(keep_alive).into_response()
}

/// The states of a job as events. Slow readers miss states in between, never the last. A stopping agent
/// ends its jobs; where one does not end soon, the stream ends without `end`, so that a client knows to
/// come back.
fn follow<T: Job>(
    status: watch::Receiver<T>,
    stopping: CancellationToken,
) -> impl Stream<Item = Result<Event, Infallible>> {
    struct Follower<T> {
        status: watch::Receiver<T>,
        stopping: CancellationToken,
        told: bool,
        over: bool,
    }
    let follower = Follower { status, stopping, told: false, over: false };
    futures::stream::unfold(follower, |mut follower| async move {
        if follower.over {
            return None;
        }
        if follower.told {
            let stopped = async {
                follower.stopping.cancelled().await;
                tokio::time::sleep(LAST_WORD).await;
            };
            tokio::select! {
                changed = follower.status.changed() => changed.ok()?,
                () = stopped => return None,
            }
        }
        let now = follower.status.borrow_and_update().clone();
        follower.told = true;
        follower.over = now.is_over();
        let name = if follower.over { "end" } else { "progress" };
        let event = Event::default()
            .event(name)
            .json_data(&now)
            .unwrap_or_else(|e| Event::default().comment(e.to_string()));
        Some((Ok(event), follower))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pull(phase: Phase) -> PullStatus {
        PullStatus { phase, total_bytes: 10, ..PullStatus::new("p1", "file:///m") }
    }

    async fn text_of(response: Response) -> String {
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_follower_hears_progress_and_then_the_end() {
        let (sender, receiver) = watch::channel(pull(Phase::Fetching));
        let body = tokio::spawn(text_of(events(receiver, CancellationToken::new())));
        sender.send(pull(Phase::Complete)).unwrap();
        let text = body.await.unwrap();
        let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        assert_eq!(names.last(), Some(&"end"), "{text}");
        assert!(text.contains("\"complete\""), "{text}");
    }

    #[tokio::test]
    async fn a_job_that_is_over_is_one_event() {
        let (_sender, receiver) = watch::channel(pull(Phase::Failed));
        let text = text_of(events(receiver, CancellationToken::new())).await;
        assert_eq!(text.matches("event: ").count(), 1, "{text}");
        assert!(text.starts_with("event: end\ndata: {"), "{text}");
    }

    #[tokio::test]
    async fn a_stopping_agent_ends_the_stream_without_saying_end() {
        let (_sender, receiver) = watch::channel(pull(Phase::Fetching));
        let stopping = CancellationToken::new();
        stopping.cancel();
        let text = text_of(events(receiver, stopping)).await;
        assert!(text.contains("event: progress") && !text.contains("event: end"), "{text}");
    }

    #[tokio::test]
    async fn a_job_that_a_stopping_agent_ends_says_so_to_its_followers() {
        let (sender, receiver) = watch::channel(pull(Phase::Fetching));
        let stopping = CancellationToken::new();
        let body = tokio::spawn(text_of(events(receiver, stopping.clone())));
        tokio::task::yield_now().await;
        stopping.cancel();
        tokio::task::yield_now().await;
        sender.send(pull(Phase::Failed)).unwrap();
        let text = body.await.unwrap();
        assert!(text.contains("event: end") && text.contains("\"failed\""), "{text}");
    }

    #[tokio::test]
    async fn waiting_ends_when_the_job_does_or_when_nobody_tells_any_more() {
        let (sender, receiver) = watch::channel(pull(Phase::Fetching));
        let waiting = tokio::spawn(until_over(receiver));
        sender.send(pull(Phase::Publishing)).unwrap();
        sender.send(pull(Phase::Complete)).unwrap();
        assert_eq!(waiting.await.unwrap().phase, Phase::Complete);

        let (sender, receiver) = watch::channel(pull(Phase::Fetching));
        drop(sender);
        assert_eq!(until_over(receiver).await.phase, Phase::Fetching);
    }
}
