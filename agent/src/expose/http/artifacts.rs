//! What is on this disk: list, one, where, verify, pin, remove.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Door,
    extract::{Asked, NamedAnywhere, NamedInQuery, Told},
    files::NamedQuery,
    problem::Failure,
};
use crate::api::{
    ArtifactInfo, HeldFile, Named, PathAnswer, Problem, PublishReport, ReadingOrderInfo, VerifyReport,
    VerifyRequest,
};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Resident {
    /// Also count pages in the page cache, which costs a walk over the files.
    #[serde(default)]
    pub(super) resident: bool,
}

/// What is on this disk.
#[utoipa::path(
    get,
    path = "/v1/artifacts",
    tag = "artifacts",
    params(Resident),
    responses((status = 200, body = Vec<ArtifactInfo>))
)]
pub(super) async fn list(
    State(door): State<Door>,
    Asked(Resident { resident }): Asked<Resident>,
) -> Result<Json<Vec<ArtifactInfo>>, Failure> {
    Ok(Json(door.agent()?.artifacts(resident).await))
}

/// One artifact.
#[utoipa::path(
    get,
    path = "/v1/artifacts/{id}",
    tag = "artifacts",
    params(("id" = String, Path, description = "swarm id, manifest hash, or a reference with its slashes escaped")),
    responses((status = 200, body = ArtifactInfo), (status = 404, body = Problem))
)]
pub(super) async fn one(
    State(door): State<Door>,
    Path(id): Path<String>,
) -> Result<Json<ArtifactInfo>, Failure> {
    Ok(Json(door.agent()?.artifact(&id).await?))
}

/// Which bytes of each file are here, whole or not.
#[utoipa::path(
    get,
    path = "/v1/artifacts/{id}/held",
    tag = "artifacts",
    params(("id" = String, Path, description = "swarm id, manifest hash, or a reference with its slashes escaped")),
    responses((status = 200, body = Vec<HeldFile>), (status = 404, body = Problem))
)]
pub(super) async fn held(
    State(door): State<Door>,
    Path(id): Path<String>,
) -> Result<Json<Vec<HeldFile>>, Failure> {
    Ok(Json(door.agent()?.held(&id)?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Removal {
    /// Reference, swarm id or manifest hash.
    reference: String,
    /// Even while it is pinned or read.
    #[serde(default)]
    force: bool,
}

/// Removes an artifact from this disk. Readers keep what they have mapped.
#[utoipa::path(
    delete,
    path = "/v1/artifacts",
    tag = "artifacts",
    params(Removal),
    responses(
        (status = 204),
        (status = 403, description = "pinned or leased", body = Problem),
        (status = 404, body = Problem),
    )
)]
pub(super) async fn remove(
    State(door): State<Door>,
    Asked(Removal { reference, force }): Asked<Removal>,
) -> Result<StatusCode, Failure> {
    door.agent()?.remove(&reference, force).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Where a complete artifact is.
#[utoipa::path(
    get,
    path = "/v1/path",
    tag = "artifacts",
    params(NamedQuery),
    responses(
        (status = 200, body = PathAnswer),
        (status = 404, body = Problem),
        (status = 503, description = "not whole yet", body = Problem),
    )
)]
pub(super) async fn path(
    State(door): State<Door>,
    Asked(NamedQuery { reference }): Asked<NamedQuery>,
) -> Result<Json<PathAnswer>, Failure> {
    Ok(Json(door.agent()?.path(&reference).await?))
}

/// Hashes an artifact again and, with `repair`, fetches what is wrong.
#[utoipa::path(
    post,
    path = "/v1/verify",
    tag = "artifacts",
    responses((status = 200, body = VerifyReport), (status = 404, body = Problem))
)]
pub(super) async fn verify(
    State(door): State<Door>,
    Told(VerifyRequest { reference, repair }): Told<VerifyRequest>,
) -> Result<Json<VerifyReport>, Failure> {
    Ok(Json(door.agent()?.verify(&reference, repair).await?))
}

/// Writes the manifest of a model beside it at its origin, pulling the model first if it is not here.
#[utoipa::path(
    post,
    path = "/v1/publish",
    tag = "artifacts",
    responses(
        (status = 200, body = PublishReport),
        (status = 400, description = "an origin that cannot be written", body = Problem),
    )
)]
pub(super) async fn publish(
    State(door): State<Door>,
    Told(Named { reference }): Told<Named>,
) -> Result<Json<PublishReport>, Failure> {
    Ok(Json(door.agent()?.publish(&reference).await?))
}

/// In which order an artifact was read: the order in which the next node fetches it.
#[utoipa::path(
    get,
    path = "/v1/orders",
    tag = "artifacts",
    params(NamedQuery),
    responses((status = 200, body = ReadingOrderInfo), (status = 404, body = Problem))
)]
pub(super) async fn reading_order(
    State(door): State<Door>,
    Asked(query): Asked<NamedQuery>,
) -> Result<Json<ReadingOrderInfo>, Failure> {
    Ok(Json(door.agent()?.reading_order(&query.reference).await?))
}

/// Records in which order an artifact has been read so far, instead of what was recorded.
#[utoipa::path(
    put,
    path = "/v1/orders",
    tag = "artifacts",
    params(NamedInQuery),
    request_body(content = Option<Named>, description = "instead of the query"),
    responses((status = 200, body = ReadingOrderInfo), (status = 404, body = Problem))
)]
pub(super) async fn record_order(
    State(door): State<Door>,
    NamedAnywhere(Named { reference }): NamedAnywhere,
) -> Result<Json<ReadingOrderInfo>, Failure> {
    Ok(Json(door.agent()?.record_reading_order(&reference).await?))
}

/// Forgets in which order an artifact was read.
#[utoipa::path(
    delete,
    path = "/v1/orders",
    tag = "artifacts",
    params(NamedInQuery),
    request_body(content = Option<Named>, description = "instead of the query"),
    responses((status = 204), (status = 404, body = Problem))
)]
pub(super) async fn forget_order(
    State(door): State<Door>,
    NamedAnywhere(Named { reference }): NamedAnywhere,
) -> Result<StatusCode, Failure> {
    door.agent()?.forget_reading_order(&reference).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Keeps an artifact from eviction.
#[utoipa::path(
    put,
    path = "/v1/pins",
    tag = "artifacts",
    params(NamedInQuery),
    request_body(content = Option<Named>, description = "instead of the query"),
    responses((status = 204), (status = 404, body = Problem))
)]
pub(super) async fn pin(
    State(door): State<Door>,
    NamedAnywhere(Named { reference }): NamedAnywhere,
) -> Result<StatusCode, Failure> {
    door.agent()?.pin(&reference, true).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets an artifact go again.
#[utoipa::path(
    delete,
    path = "/v1/pins",
    tag = "artifacts",
    params(NamedInQuery),
    request_body(content = Option<Named>, description = "instead of the query"),
    responses((status = 204), (status = 404, body = Problem))
)]
pub(super) async fn unpin(
    State(door): State<Door>,
    NamedAnywhere(Named { reference }): NamedAnywhere,
) -> Result<StatusCode, Failure> {
    door.agent()?.pin(&reference, false).await?;
    Ok(StatusCode::NO_CONTENT)
}
