//! The door on its socket, and what stands in front of s3s.

use std::{net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::{Body as _, Incoming};
use s3s::{
    Body, S3Error, S3ErrorCode,
    config::{S3Config, StaticConfigProvider},
    service::{S3Service, S3ServiceBuilder},
    validation::NameValidation,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::timeout::TimeoutBody;

use super::{
    buckets::Buckets,
    credentials::{Credentials, unsign},
    errors::{explained, said, told},
    hosts::Domains,
    inner::Inner,
    objects::Objects,
    operations::Operations,
    uploads::Uploads,
};
use crate::{
    config::{self, Config, S3DoorConfig},
    error::{Error, ErrorKind, IoContext, Result},
    expose::{
        http::{AgentSlot, guard},
        listener::{self, Answers, Limits, RETRY_AFTER},
    },
    metrics,
};

/// How long a read or listing may take until its answer begins.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// A body of which nothing comes for this long is given up.
const BODY_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest body that is read whole: the list of a thousand long keys, or of ten thousand parts.
const MAX_XML_BYTES: usize = 4 << 20;
/// Fields of a form; forms are refused, but looked at for their signature.
const MAX_FORM_BYTES: usize = 64 << 10;

/// A door that is bound and not open yet.
pub struct Door {
    listener: TcpListener,
    address: SocketAddr,
    requests: Requests,
    limits: Limits,
}

impl Door {
    /// Binds the door that the configuration asks for; `None` if it asks for none.
    ///
    /// # Errors
    /// `Invalid` off loopback without credentials; as reading the secret and binding.
    pub async fn bind(config: &Config, agent: AgentSlot) -> Result<Option<Self>> {
        let S3DoorConfig { listen, domain, max_connections, .. } = &config.s3;
        let Some(listen) = *listen else { return Ok(None) };
        let listener = TcpListener::bind(listen).await.at(|| format!("S3 door on {listen}"))?;
        let address = listener.local_addr().at(|| "address of the S3 door".to_owned())?;
        let credentials = config.s3.credentials()?.map(Credentials::new);
        if credentials.is_none() && !address.ip().to_canonical().is_loopback() {
            return Err(config::credentials_are_missing(address));
        }
        let inner = Arc::new(Inner {
            agent,
            buckets: Buckets::new(config.mounts.keys(), config.origins.s3.buckets.keys()),
            domains: Domains::new(domain.as_deref()),
            credentials,
            writable: config.s3.writable_mounts.clone(),
            uploads: Uploads::default(),
        });
        let limits = Limits {
            max_connections: *max_connections,
            idle_timeout: config.http.idle_timeout,
            drain_timeout: config.http.drain_timeout,
        };
        Ok(Some(Self { listener, address, requests: Requests::new(inner), limits }))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then lets running answers end. Not cancel-safe.
    ///
    /// # Errors
    /// None so far.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<()> {
        let (inner, drain_timeout) = (self.requests.inner.clone(), self.limits.drain_timeout);
        let uploads = async {
            shutdown.cancelled().await;
            inner.uploads.drain(drain_timeout).await;
        };
        let answers = listener::serve(self.requests, self.listener, self.limits, shutdown.clone(), "S3");
        tokio::join!(answers, uploads);
        Ok(())
    }
}

/// Names are the namespace's to refuse.
struct AnyName;

impl NameValidation for AnyName {
    fn validate_bucket_name(&self, name: &str) -> bool {
        !name.is_empty()
    }
}

/// What stands in front of s3s.
struct Requests {
    inner: Arc<Inner>,
    service: S3Service,
}

impl Requests {
    fn new(inner: Arc<Inner>) -> Self {
        let mut builder = S3ServiceBuilder::new(Operations(inner.clone()));
        let mut limits = S3Config::default();
        limits.xml_max_body_size = MAX_XML_BYTES;
        limits.post_object_max_file_size = 0;
        limits.form_max_field_size = MAX_FORM_BYTES;
        limits.form_max_fields_size = MAX_FORM_BYTES;
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(limits))));
        builder.set_host(inner.domains.clone());
        builder.set_validation(AnyName);
        builder.set_route(Objects(inner.clone()));
        if let Some(credentials) = inner.credentials.clone() {
            builder.set_auth(credentials.clone());
            builder.set_access(credentials);
        }
        Self { inner, service: builder.build() }
    }

    async fn pass(&self, mut request: Request<Body>) -> Response<Body> {
        if self.inner.credentials.is_none() {
            // Without a key only the name says that a browser's page did not lead here.
            if let Err(header) = guard::check_local(&request, |host| self.inner.domains.names(host)) {
                let message = format!(
                    "the request's {header} does not name this machine: use an address or localhost, or set s3.domain \
                     or s3.access_key_id"
                );
                return refused(said(S3ErrorCode::AccessDenied, message));
            }
            unsign(&mut request);
        }
        if request.method() == Method::POST && declared_bytes(&request) > MAX_XML_BYTES as u64 {
            let text = format!("a POST of more than {MAX_XML_BYTES} bytes is no list of keys or parts");
            return refused(said(S3ErrorCode::EntityTooLarge, text));
        }
        let is_upload = matches!(*request.method(), Method::PUT | Method::POST);
        let answer = AssertUnwindSafe(self.service.call(request)).catch_unwind();
        let answer = match is_upload {
            true => Ok(answer.await),
            false => tokio::time::timeout(ANSWER_TIMEOUT, answer).await,
        };
        match answer {
            Ok(Ok(Ok(response))) => explained(response),
            Ok(Ok(Err(e))) => {
                tracing::warn!(error = ?e, "S3 request could not be answered");
                refused(S3Error::new(S3ErrorCode::InternalError))
            }
            Ok(Err(_)) => {
                refused(said(S3ErrorCode::InternalError, "the agent made a mistake answering this"))
            }
            Err(_) => {
                let text = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
                refused(told(&Error::new(ErrorKind::Timeout, text)))
            }
        }
    }
}

impl Answers for Requests {
    type Body = Body;

    async fn answer(&self, request: Request<Incoming>, shed: bool) -> Response<Body> {
        if shed {
            metrics::http_shed();
            let busy = ErrorKind::Unavailable { retry_after: Some(RETRY_AFTER) };
            let text = "the agent has as many S3 connections as it may: come back later, or raise s3.max_connections";
            let mut response = refused(told(&Error::new(busy, text)));
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            return response;
        }
        let method = request.method().clone();
        let began = std::time::Instant::now();
        let response = self.pass(request.map(incoming)).await;
        metrics::http_request(&method, "s3", response.status().as_u16());
        tracing::debug!(
            %method, status = response.status().as_u16(), seconds = began.elapsed().as_secs_f64(),
            "S3 request"
        );
        response
    }
}

/// A body that is given up when it stalls. One that is empty stays known to be: signatures are held to lengths, and
/// a body in a time-out tells none.
fn incoming(body: Incoming) -> Body {
    match body.is_end_stream() {
        true => Body::empty(),
        false => Body::http_body(TimeoutBody::new(BODY_STALL_TIMEOUT, body)),
    }
}

/// The length that a request says its body has; 0 where it says none.
fn declared_bytes(request: &Request<Body>) -> u64 {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    length.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// An error as an answer.
fn refused(error: S3Error) -> Response<Body> {
    error.to_http_response().unwrap_or_else(|_| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}
