//! This node and the others as it sees them.

use axum::{Json, extract::State};

use super::{Door, artifacts::Resident, extract::Asked, problem::Failure};
use crate::api::{Member, Status};

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
