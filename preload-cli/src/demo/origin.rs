//! The demo's origin: a directory over HTTP with ranges, that counts what it gives away.
//!
//! Serving is tower-http's; the count is of body bytes handed to the connection, so bytes that a
//! reader did not wait for are counted, and none that were sent are missed.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::Response,
    middleware::{self, Next},
};
use emberline_agent::error::IoContext;
use futures::TryStreamExt;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tower_http::services::ServeDir;

use super::proof::Digests;
use crate::failure::{Failure, Result};

/// What an HTTP origin calls its listing.
const LISTING: &str = "emberline-files.json";

/// A running origin; stops when dropped.
pub(super) struct OriginServer {
    addr: SocketAddr,
    counts: Arc<Counts>,
    _server: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    body_bytes: AtomicU64,
    requests: AtomicU64,
}

/// Writes the listing that tells an HTTP origin's files, sizes and digests.
///
/// # Errors
/// As writing to `dir`.
pub(super) fn write_listing(dir: &Path, digests: &Digests) -> Result<()> {
    let files: Vec<_> = digests
        .files()
        .map(|(path, file)| json!({ "path": path, "size": file.bytes, "sha256": file.sha256 }))
        .collect();
    let path = dir.join(LISTING);
    let text = serde_json::to_vec_pretty(&json!({ "files": files }))
        .map_err(|e| Failure::internal(format!("{LISTING}: {e}")))?;
    Ok(fs::write(&path, text).at(|| format!("write {}", path.display()))?)
}

impl OriginServer {
    /// Serves `dir` on a free port of loopback.
    ///
    /// # Errors
    /// As binding the port.
    pub(super) async fn start(dir: PathBuf) -> Result<Self> {
        let at = || "port for the origin".to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.at(at)?;
        let addr = listener.local_addr().at(at)?;
        let counts = Arc::new(Counts::default());
        let counter = counts.clone();
        let count = middleware::from_fn(move |request: Request, next: Next| {
            let counts = counter.clone();
            async move { counted(next.run(request).await, counts) }
        });
        let routes = Router::new().fallback_service(ServeDir::new(dir)).layer(count);
        let server = tokio::spawn(async move {
            // Ends with the demo, by being aborted.
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Self { addr, counts, _server: AbortOnDropHandle::new(server) })
    }

    /// What to pull.
    pub(super) fn reference(&self) -> String {
        format!("http://{}/", self.addr)
    }

    /// Body bytes sent so far, the listing included.
    pub(super) fn body_bytes(&self) -> u64 {
        self.counts.body_bytes.load(Ordering::Relaxed)
    }

    /// Requests answered so far.
    pub(super) fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::Relaxed)
    }
}

fn counted(response: Response<Body>, counts: Arc<Counts>) -> Response<Body> {
    counts.requests.fetch_add(1, Ordering::Relaxed);
    response.map(|body| {
        let pieces = body.into_data_stream().inspect_ok(move |piece| {
            counts.body_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        });
        Body::from_stream(pieces)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ranges_are_answered_and_counted_to_the_byte() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("model"), vec![7; 100_000]).unwrap();
        let origin = OriginServer::start(dir.path().to_owned()).await.unwrap();
        coordinatorless_p2p::identity::install_crypto_provider();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("{}model", origin.reference());
        let part = client.get(&url).header("range", "bytes=10-99").send().await.unwrap();
        assert_eq!(part.status(), 206);
        assert_eq!(part.content_length(), Some(90));
        assert_eq!(part.bytes().await.unwrap().len(), 90);
        let head = client.head(&url).send().await.unwrap();
        assert_eq!(head.headers()["content-length"], "100000");
        assert_eq!((origin.body_bytes(), origin.requests()), (90, 2));
        client.get(&url).send().await.unwrap().bytes().await.unwrap();
        assert_eq!(origin.body_bytes(), 100_090);
    }
}
