//! This node and the others as it sees them.

use axum::{Json, extract::State};

use super::{
    Door,
    artifacts::Resident,
    extract::{Asked, Told},
    problem::Failure,
};
use crate::api::{DrainHook, DrainReport, LimitChange, Limits, Member, Problem, Status};

/// The members this node sees, itself first.
#[utoipa::path(get, path = "/v1/members", tag = "cluster", responses((status = 200, body = Vec<Member>)))]
pub(super) async fn members(State(door): State<Door>) -> Result<Json<Vec<Member>>, Failure> {
    Ok(Json(door.agent()?.members()))
}

/// The agent in one glance.
#[utoipa::path(
    get,
    path = "/v1/status",
    tag = "cluster",
    params(Resident),
    responses((status = 200, body = Status))
)]
pub(super) async fn status(
    State(door): State<Door>,
    Asked(Resident { resident }): Asked<Resident>,
) -> Result<Json<Status>, Failure> {
    Ok(Json(door.agent()?.status(resident).await))
}

/// The most payload a second that passes between this node and the others.
#[utoipa::path(get, path = "/v1/limits", tag = "cluster", responses((status = 200, body = Limits)))]
pub(super) async fn limits(State(door): State<Door>) -> Result<Json<Limits>, Failure> {
    Ok(Json(door.agent()?.limits()))
}

/// Changes it, for transfers under way as well; what is left out stays.
#[utoipa::path(
    put,
    path = "/v1/limits",
    tag = "cluster",
    responses((status = 200, body = Limits), (status = 400, body = Problem))
)]
pub(super) async fn limit(
    State(door): State<Door>,
    Told(change): Told<LimitChange>,
) -> Result<Json<Limits>, Failure> {
    Ok(Json(door.agent()?.limit(change)))
}

/// Leaves the cluster: ends the pulls, refuses new ones, gives others time to take what only this node
/// holds, says goodbye. Answers when that is done. What is here is served on to this machine.
#[utoipa::path(
    post,
    path = "/v1/hooks/drain",
    tag = "cluster",
    responses((status = 200, body = DrainReport), (status = 400, body = Problem))
)]
pub(super) async fn drain(
    State(door): State<Door>,
    Told(hook): Told<DrainHook>,
) -> Result<Json<DrainReport>, Failure> {
    Ok(Json(door.agent()?.drain(hook).await?))
}
