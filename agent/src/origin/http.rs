//! Plain HTTP servers: one file by its URL, or a base URL with a listing file beside the files.
//!
//! The base ends in a slash; its listing, [`LISTING_FILE`](super::listing::LISTING_FILE), is
//! `{"files":[{"path":"a/b.safetensors","size":123,"sha256":"…"}]}` with `sha256` optional. Each file is
//! pinned to the ETag that it had when it was listed, else to its modification time, else to its size.

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use http::{HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use url::Url;

use super::{
    Origin, changed,
    client::{Answer, Ask, Client, kind_of},
    guard::shown,
    listing,
};
use crate::{
    error::{Error, ErrorKind, Result},
    snapshot::{Digest, FileVersion, RelativePath, Snapshot, SnapshotFile},
};

/// The longest listing file, in bytes.
const MAX_LISTING_BYTES: usize = 64 << 20;
/// Heads asked for at once while listing.
const HEADS_AT_ONCE: usize = 16;
/// What is said of a name that a server leads on from to the same with a slash.
pub(crate) const DIRECTORY_AT_SERVER: &str = "is a directory at its server";
/// Marks a version that is a modification time, for want of an ETag.
const LAST_MODIFIED: &str = "last-modified: ";

/// One file, or all that a listing names.
pub(super) struct HttpOrigin {
    client: Client,
    reference: String,
    url: Url,
    authorization: Option<HeaderValue>,
    patience: Duration,
    warned_of_ignored_range: AtomicBool,
}

#[derive(Deserialize)]
struct Listing {
    files: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    path: RelativePath,
    size: Option<u64>,
    sha256: Option<String>,
}

impl HttpOrigin {
    pub(super) fn new(
        client: Client,
        reference: String,
        url: Url,
        authorization: Option<HeaderValue>,
        patience: Duration,
    ) -> Self {
        Self {
            client,
            reference,
            url,
            authorization,
            patience,
            warned_of_ignored_range: AtomicBool::new(false),
        }
    }

    fn is_base(&self) -> bool {
        self.url.path().ends_with('/')
    }

    fn ask(&self, method: Method, url: Url) -> Ask {
        Ask { method, authorization: self.authorization.clone(), ..Ask::get(url) }
    }

    fn url_of(&self, path: &RelativePath) -> Result<Url> {
        if !self.is_base() {
            return Ok(self.url.clone());
        }
        let mut url = self.url.clone();
        url.path_segments_mut()
            .map_err(|()| Error::new(ErrorKind::Invalid, format!("{} has no path", shown(&self.url))))?
            .pop_if_empty()
            .extend(path.as_str().split('/'));
        Ok(url)
    }

    async fn listing(&self) -> Result<Vec<Listed>> {
        let url = self.url_of(&listing::LISTING_FILE.parse()?)?;
        let what = shown(&url);
        let answer = self.client.send(self.ask(Method::GET, url)).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "{what} is not there: a URL that ends in / needs a listing of its files; for one file leave out the /"
                ),
            ));
        }
        let text = accepted(answer, &what)?.into_bytes(MAX_LISTING_BYTES, self.patience).await?;
        let listing: Listing = serde_json::from_slice(&text)
            .map_err(|e| Error::with_source(ErrorKind::Invalid, format!("listing {what}"), e))?;
        listing::check_count(&self.reference, listing.files.len())?;
        Ok(listing.files)
    }

    /// Size and version of one file, by HEAD, or by its first byte where HEAD is not to be had.
    async fn head(&self, path: RelativePath) -> Result<SnapshotFile> {
        let url = self.url_of(&path)?;
        let what = shown(&url);
        let answer = self.client.send(self.ask(Method::HEAD, url.clone())).await?;
        if answer.response.url().path() == format!("{}/", url.path()) {
            let text = format!(
                "{what} is a folder, says the server: write it with a / at its end, and put a listing of its files there, \
                 {}",
                listing::LISTING_FILE
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let status = answer.status();
        // A server leads to the page of a directory by its slash.
        let is_directory = !self.is_base() && answer.response.url().path() == format!("{}/", url.path());
        if is_directory {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "{what} {DIRECTORY_AT_SERVER}: with a / behind it, it is listed by its {}",
                    listing::LISTING_FILE
                ),
            ));
        }
        // hyper answers the content length of a HEAD only through the header itself.
        let size = answer.header("content-length").and_then(|v| v.parse().ok());
        if let (true, Some(size)) = (status.is_success(), size) {
            return Ok(SnapshotFile { path, size, version: version_of(&answer), digest: None });
        }
        // Signed URLs allow one method; some servers know no HEAD or stream without a length.
        if !status.is_success() && !matches!(status.as_u16(), 400 | 403 | 405 | 501) {
            accepted(answer, &what)?;
        }
        let mut ask = self.ask(Method::GET, url);
        ask.headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        let answer = self.client.send(ask).await?;
        let size = match answer.status() {
            StatusCode::PARTIAL_CONTENT => content_range(&answer).and_then(|(_, total)| total),
            // The only file without a first byte is the empty one.
            StatusCode::RANGE_NOT_SATISFIABLE => Some(0),
            _ => {
                let answer = accepted(answer, &what)?;
                let size = answer.response.content_length();
                let version = version_of(&answer);
                return sized(path, size, version, &what);
            }
        };
        let version = version_of(&answer);
        sized(path, size, version, &what)
    }

    async fn described(&self, listed: Listed) -> Result<SnapshotFile> {
        let name = listed.path.to_string();
        let mut file = self.head(listed.path).await?;
        if let Some(size) = listed.size.filter(|size| *size != file.size) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{}: listing says {name} has {size} bytes, the server says {}",
                    self.reference, file.size
                ),
            ));
        }
        if let Some(hex) = listed.sha256 {
            let digest = hex.parse::<coordinatorless_p2p::ChunkHash>().map_err(|_| {
                Error::new(
                    ErrorKind::Invalid,
                    format!("{}: sha256 of {name} is not 64 hex digits", self.reference),
                )
            })?;
            file.digest = Some(Digest::Sha256(digest.0));
        }
        Ok(file)
    }
}

#[async_trait]
impl Origin for HttpOrigin {
    async fn snapshot(&self) -> Result<Snapshot> {
        let files = if self.is_base() {
            let listed = self.listing().await?;
            stream::iter(listed)
                .map(|one| self.described(one))
                .buffer_unordered(HEADS_AT_ONCE)
                .try_collect()
                .await?
        } else {
            let last = self.url.path_segments().and_then(Iterator::last).unwrap_or_default();
            let name = percent_decode_str(last).decode_utf8_lossy();
            vec![self.head(name.parse()?).await?]
        };
        listing::snapshot(&self.reference, None, files)
    }

    async fn read(
        &self,
        file: &SnapshotFile,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let url = self.url_of(&file.path)?;
        let what = shown(&url);
        let mut ask = self.ask(Method::GET, url);
        set_range(&mut ask, &range)?;
        // A weak ETag never matches; it is compared with the answer's instead.
        if let Some(etag) = file.version.etag.as_deref().filter(|etag| etag.starts_with('"')) {
            let value = HeaderValue::from_str(etag).map_err(|e| {
                Error::with_source(ErrorKind::Invalid, format!("{what}: ETag cannot be sent back"), e)
            })?;
            ask.headers.insert(header::IF_MATCH, value);
        }
        let answer = self.client.send(ask).await?;
        if matches!(answer.status(), StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE) {
            return Err(changed(&self.reference, file, &format!("the server answers {}", answer.status())));
        }
        let answer = accepted(answer, &what)?;
        let seen = version_of(&answer);
        if file.version.etag.is_some() && seen != file.version {
            return Err(changed(&self.reference, file, "its ETag or modification time is another"));
        }
        ranged_body(answer, file, range, &self.reference, &self.warned_of_ignored_range)
    }
}

/// Asks for `range`, which must not be empty.
pub(super) fn set_range(ask: &mut Ask, range: &Range<u64>) -> Result<()> {
    let text = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
    let value = HeaderValue::from_str(&text)
        .map_err(|e| Error::with_source(ErrorKind::Invalid, format!("range {text}"), e))?;
    ask.headers.insert(header::RANGE, value);
    Ok(())
}

/// The body of an accepted answer to a ranged request, cut to the range where the server ignored it.
///
/// # Errors
/// `Corrupt` with `origin changed` when the whole has another size than was listed; `Invalid` for an
/// encoded body or another range than was asked for.
pub(super) fn ranged_body(
    answer: Answer,
    file: &SnapshotFile,
    range: Range<u64>,
    reference: &str,
    warned: &AtomicBool,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    if let Some(encoding) = answer.header("content-encoding").filter(|e| *e != "identity") {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{reference}: {} comes encoded as {encoding}, although that was declined", file.path),
        ));
    }
    if answer.status() == StatusCode::PARTIAL_CONTENT {
        let Some((got, total)) = content_range(&answer) else {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{reference}: {} comes in part without saying which", file.path),
            ));
        };
        if total.is_some_and(|total| total != file.size) {
            return Err(changed(reference, file, "its size is another"));
        }
        if got != range {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{reference}: asked for bytes {range:?} of {}, got {got:?}", file.path),
            ));
        }
        return Ok(answer.into_stream());
    }
    if answer.response.content_length().is_some_and(|whole| whole != file.size) {
        return Err(changed(reference, file, "its size is another"));
    }
    if range != (0..file.size) && !warned.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            origin = reference,
            "the server ignores ranges: every read fetches its file from the start, which is slow"
        );
    }
    Ok(cut(answer.into_stream(), range))
}

/// The part `range` of a whole body; what is behind it is never read.
fn cut(whole: BoxStream<'static, Result<Bytes>>, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
    stream::try_unfold((whole, 0u64), move |(mut whole, mut at)| {
        let range = range.clone();
        async move {
            while at < range.end {
                let Some(mut piece) = whole.try_next().await? else { return Ok(None) };
                let (start, end) = (at, at + piece.len() as u64);
                at = end;
                if end <= range.start {
                    continue;
                }
                piece.truncate((range.end.min(end) - start) as usize);
                let _ = piece.split_to(range.start.saturating_sub(start) as usize);
                return Ok(Some((piece, (whole, at))));
            }
            Ok(None)
        }
    })
    .boxed()
}

/// The range of a 206 and the whole's size, where it is told.
fn content_range(answer: &Answer) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = answer.header("content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    Some((first..last.checked_add(1)?, total.trim().parse().ok()))
}

fn version_of(answer: &Answer) -> FileVersion {
    let etag = answer.header("etag").map(str::to_owned);
    let modified = || answer.header("last-modified").map(|date| format!("{LAST_MODIFIED}{date}"));
    FileVersion { etag: etag.or_else(modified), object_version: None }
}

fn sized(path: RelativePath, size: Option<u64>, version: FileVersion, what: &str) -> Result<SnapshotFile> {
    let size = size.ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("{what}: the server does not say how large it is"))
    })?;
    Ok(SnapshotFile { path, size, version, digest: None })
}

fn accepted(answer: Answer, what: &str) -> Result<Answer> {
    let status = answer.status();
    let Some(kind) = kind_of(status, answer.response.headers()) else {
        if status.is_success() {
            return Ok(answer);
        }
        return Err(Error::new(ErrorKind::Invalid, format!("{what}: unexpected answer {status}")));
    };
    let advice = match kind {
        ErrorKind::NotFound => ": check the URL",
        ErrorKind::Denied => {
            ": the server wants credentials; set origins.http.bearer_token_file and bearer_hosts"
        }
        _ => "",
    };
    Err(Error::new(kind, format!("{what}: server answers {status}{advice}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn cut_to(pieces: &[&'static [u8]], range: Range<u64>) -> Vec<u8> {
        let whole = stream::iter(pieces.to_vec()).map(|p| Ok(Bytes::from_static(p))).boxed();
        cut(whole, range).try_collect::<Vec<_>>().await.unwrap().concat()
    }

    #[tokio::test]
    async fn a_whole_body_is_cut_to_the_range_wherever_its_pieces_end() {
        let pieces: &[&[u8]] = &[b"0123", b"", b"4567", b"89"];
        for start in 0..10u64 {
            for end in start + 1..=10 {
                let expected = &b"0123456789"[start as usize..end as usize];
                assert_eq!(cut_to(pieces, start..end).await, expected, "{start}..{end}");
            }
        }
    }
}
