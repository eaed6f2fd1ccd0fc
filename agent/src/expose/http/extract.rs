//! What handlers take from a request, each refusal being a `Problem` in JSON rather than plain text.
//!
//! Bodies are JSON of at most [`MAX_BODY_BYTES`] that must arrive within [`BODY_TIMEOUT`], so that a
//! dripping client cannot hold a handler.

use std::time::Duration;

use axum::{
    Json, RequestExt,
    extract::{
        FromRequest, FromRequestParts, Query, Request,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{StatusCode, request::Parts},
};
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::IntoParams;

use super::problem::Failure;
use crate::{
    api::Named,
    error::{Error, ErrorKind},
};

/// The largest request body, in bytes. The largest honest one is a list of patterns.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// How long a request body may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// A JSON body.
pub(super) struct Told<T>(pub(super) T);

impl<T: DeserializeOwned + Send + 'static, S: Send + Sync> FromRequest<S> for Told<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let body = tokio::time::timeout(BODY_TIMEOUT, request.extract::<Json<T>, _>()).await;
        match body {
            Ok(Ok(Json(told))) => Ok(Self(told)),
            Ok(Err(rejection)) => Err(refuse_body(&rejection)),
            Err(_) => {
                let error = Error::new(
                    ErrorKind::Timeout,
                    format!("the request body did not arrive within {} s", BODY_TIMEOUT.as_secs()),
                );
                Err(Failure::with_status(StatusCode::REQUEST_TIMEOUT, &error))
            }
        }
    }
}

fn refuse_body(rejection: &JsonRejection) -> Failure {
    // Well-formed JSON that is not what the route takes is the caller's mistake like any other: 400.
    let status = match rejection.status() {
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        status => status,
    };
    let error = Error::new(ErrorKind::Invalid, format!("request body: {}", rejection.body_text()));
    let failure = Failure::with_status(status, &error);
    match status {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            failure.advice("send JSON with `Content-Type: application/json`")
        }
        StatusCode::PAYLOAD_TOO_LARGE => failure.advice(format!("at most {MAX_BODY_BYTES} bytes are read")),
        _ => failure.advice("/openapi.json describes what each route takes"),
    }
}

/// A query string.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let query: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        query.map(|Query(asked)| Self(asked)).map_err(|rejection| {
            let error = Error::new(ErrorKind::Invalid, format!("query: {}", rejection.body_text()));
            Failure::from(error).advice("/openapi.json describes what each route takes")
        })
    }
}

/// [`Named`] as a query that may be absent.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct NamedInQuery {
    /// Reference, swarm id or manifest hash.
    reference: Option<String>,
}

/// [`Named`] from the query, else from the body: some clients cannot send a body with `DELETE`.
pub(super) struct NamedAnywhere(pub(super) Named);

impl<S: Send + Sync> FromRequest<S> for NamedAnywhere {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let (mut parts, body) = request.into_parts();
        let Asked(query) = Asked::<NamedInQuery>::from_request_parts(&mut parts, state).await?;
        match query.reference {
            Some(reference) => Ok(Self(Named { reference })),
            None => {
                let Told(named) = Told::from_request(Request::from_parts(parts, body), state).await?;
                Ok(Self(named))
            }
        }
    }
}
