//! Object stores: S3 and what speaks it, Google Cloud Storage, Azure Blob Storage.
//!
//! Owns what a bucket and a prefix mean as a model, and the pinning of each read to the ETag of the
//! listing. Which store, where, and with what credentials is [`stores`](super::stores)' business; retries
//! are a decorator's, so the library's own are off.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, path::Path as Key};

use super::{Origin, changed, listing, stores::Store};
use crate::{
    error::{Error, ErrorKind, Result},
    reference::Bucket,
    snapshot::{FileVersion, Snapshot, SnapshotFile},
};

/// Zero-byte objects looked at again at once while listing.
const HEADS_AT_ONCE: usize = 8;

/// A prefix of a bucket, or one object.
pub(super) struct ObjectOrigin {
    store: Arc<Store>,
    reference: String,
    prefix: Key,
}

impl ObjectOrigin {
    /// # Errors
    /// `Invalid` for a prefix that no key can have.
    pub(super) fn new(store: Arc<Store>, reference: String, bucket: &Bucket) -> Result<Self> {
        let prefix = Key::parse(&bucket.prefix).map_err(|e| {
            Error::with_source(ErrorKind::Invalid, format!("{reference}: prefix {:?}", bucket.prefix), e)
        })?;
        Ok(Self { store, reference, prefix })
    }

    async fn below_prefix(&self) -> Result<Vec<SnapshotFile>> {
        let prefix = (!self.prefix.as_ref().is_empty()).then_some(&self.prefix);
        let mut listed = self.store.objects.list(prefix);
        let (mut files, mut empty) = (Vec::new(), Vec::new());
        while let Some(object) = listed.try_next().await.map_err(|e| self.failed(e, "listing"))? {
            // The marker of the prefix itself.
            let Some(path) = self.below(&object.location) else { continue };
            if object.size == 0 {
                empty.push((path, object))
            } else {
                files.push(described(&path, object)?)
            }
            listing::check_count(&self.reference, files.len() + empty.len())?;
        }
        // A key that ends in `/` comes without it: an empty object is either a file or such a marker, and
        // only asking for the name without the `/` tells them apart.
        let real: Vec<Option<SnapshotFile>> = stream::iter(empty)
            .map(|(path, object)| async move {
                match self.store.objects.head(&object.location).await {
                    Ok(_) => described(&path, object).map(Some),
                    Err(e) => match self.failed(e, &path) {
                        gone if gone.kind() == ErrorKind::NotFound => Ok(None),
                        other => Err(other),
                    },
                }
            })
            .buffer_unordered(HEADS_AT_ONCE)
            .try_collect()
            .await?;
        files.extend(real.into_iter().flatten());
        files.sort_by(|a, b| (&a.path, a.size).cmp(&(&b.path, b.size)));
        // A file and a marker of one name: the larger is the file.
        files.reverse();
        files.dedup_by(|later, kept| later.path == kept.path && later.size == 0);
        Ok(files)
    }

    fn below(&self, key: &Key) -> Option<String> {
        let rest = key.as_ref().strip_prefix(self.prefix.as_ref())?;
        let rest = if self.prefix.as_ref().is_empty() { rest } else { rest.strip_prefix('/')? };
        (!rest.is_empty()).then(|| rest.to_owned())
    }

    /// The keys that `file` may have. Two where the reference may be a directory that holds a file of its
    /// own name, or that file itself; another node's listing does not say which it was.
    fn keys(&self, file: &SnapshotFile) -> Result<Vec<Key>> {
        let prefix = self.prefix.as_ref();
        let below = if prefix.is_empty() { file.path.to_string() } else { format!("{prefix}/{}", file.path) };
        let mut keys = vec![Key::parse(&below).map_err(|e| {
            Error::with_source(ErrorKind::Invalid, format!("{}: no key for {}", self.reference, file.path), e)
        })?];
        if self.prefix.filename() == Some(file.path.as_str()) {
            keys.push(self.prefix.clone());
        }
        Ok(keys)
    }

    async fn read_key(
        &self,
        key: &Key,
        file: &SnapshotFile,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let options = GetOptions {
            if_match: file.version.etag.as_deref().map(quoted),
            version: file.version.object_version.clone(),
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        let got = self.store.objects.get_opts(key, options).await.map_err(|e| {
            let error = self.failed(e, file.path.as_str());
            if error.kind() == ErrorKind::Corrupt {
                return changed(&self.reference, file, &error.to_string());
            }
            error
        })?;
        if got.meta.size != file.size {
            return Err(changed(&self.reference, file, "its size is another"));
        }
        // Servers exist that ignore If-Match.
        if let (Some(listed), Some(got)) = (&file.version.etag, &got.meta.e_tag)
            && quoted(listed) != quoted(got)
        {
            return Err(changed(&self.reference, file, "its ETag is another"));
        }
        let (store, what) = (self.store.clone(), format!("{}: {}", self.reference, file.path));
        Ok(got.into_stream().map_err(move |e| store.explain(e, &what)).boxed())
    }

    fn failed(&self, error: object_store::Error, what: &str) -> Error {
        self.store.explain(error, &format!("{}: {what}", self.reference))
    }
}

#[async_trait]
impl Origin for ObjectOrigin {
    async fn snapshot(&self) -> Result<Snapshot> {
        let mut files = self.below_prefix().await?;
        if let (true, Some(name)) = (files.is_empty(), self.prefix.filename()) {
            match self.store.objects.head(&self.prefix).await {
                Ok(object) => files.push(described(name, object)?),
                Err(e) => {
                    let error = self.failed(e, "head");
                    if error.kind() != ErrorKind::NotFound {
                        return Err(error);
                    }
                }
            }
        }
        if files.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "{} is neither an object nor a prefix with objects below it: check bucket and prefix",
                    self.reference
                ),
            ));
        }
        listing::snapshot(&self.reference, None, files)
    }

    async fn read(
        &self,
        file: &SnapshotFile,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let mut outcome = Err(Error::new(ErrorKind::NotFound, format!("{}: {}", self.reference, file.path)));
        for key in self.keys(file)? {
            outcome = self.read_key(&key, file, range.clone()).await;
            match &outcome {
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {}
                _ => break,
            }
        }
        match outcome {
            // It was there when it was listed.
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Err(changed(&self.reference, file, &format!("it is gone ({e})")))
            }
            other => other,
        }
    }
}

/// An ETag as RFC 9110 wants it: some stores list them without their quotes.
fn quoted(etag: &str) -> String {
    if etag.starts_with('"') || etag.starts_with("W/") { etag.to_owned() } else { format!("\"{etag}\"") }
}

fn described(path: &str, object: ObjectMeta) -> Result<SnapshotFile> {
    Ok(SnapshotFile {
        path: path.parse()?,
        size: object.size,
        version: FileVersion { etag: object.e_tag, object_version: object.version },
        digest: None,
    })
}
