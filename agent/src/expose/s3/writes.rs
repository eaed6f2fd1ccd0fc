//! Writes, passed through to the bucket behind a mount that may be written.
//!
//! A small object is one request to the store; a larger one goes in parts as it comes, and becomes an object only
//! when all of it has come and is what the client promised. An upload in parts is the store's own, under its own id:
//! any node can take the next part.
//!
//! Invariant: a write that began goes on to its end or is undone, even if its client has gone.

use std::sync::Arc;

use s3s::{
    S3Error, S3ErrorCode, S3Request, S3Response, S3Result,
    dto::{
        AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
        CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
        DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETag,
        ETagCondition, Error as Failure, PutObjectInput, PutObjectOutput, UploadPartInput, UploadPartOutput,
    },
};

use super::{
    attributes,
    errors::{said, told},
    inner::Inner,
    uploads::Upload,
};
use crate::{
    namespace::NamespacePath,
    origin::{Described, Writer, Written},
};

/// Objects up to here are written in one request; larger ones in parts of this size.
const PIECE_BYTES: usize = 16 << 20;
/// The largest part that a client may send: it is in memory until the store has it.
const MAX_PART_BYTES: u64 = 64 << 20;
/// Keys of one request to delete, as S3 has it.
const MAX_DELETES: usize = 1000;
const MAX_PARTS: usize = 10_000;

/// Nothing is removed that was not meant: there are no versions behind the door, and no conditions on removal.
fn check_unconditional(version: Option<&str>, has_conditions: bool) -> S3Result<()> {
    if has_conditions || version.is_some_and(|version| version != "null") {
        return Err(said(
            S3ErrorCode::NotImplemented,
            "objects are removed without conditions and versions only: do it at the origin",
        ));
    }
    Ok(())
}

impl Inner {
    /// # Errors
    /// `AccessDenied`, saying what to set.
    pub(super) fn check_writable(&self, bucket: &str) -> S3Result<()> {
        if self.writable.iter().any(|mount| mount == bucket) {
            return Ok(());
        }
        let what = match (self.buckets.is_mount(bucket), self.credentials.is_some()) {
            (true, true) => format!("add {bucket:?} to s3.writable_mounts of the agent's configuration"),
            (true, false) => format!(
                "set s3.access_key_id and s3.secret_key_file in the agent's configuration, and add {bucket:?} to \
                 s3.writable_mounts"
            ),
            (false, _) => "mount the bucket under a name in [mounts] of the agent's configuration, and add that name to \
                           s3.writable_mounts"
                .to_owned(),
        };
        Err(said(
            S3ErrorCode::AccessDenied,
            format!("bucket {bucket:?} cannot be written through here: {what}"),
        ))
    }

    fn writer(&self, bucket: &str, key: &str) -> S3Result<(NamespacePath, Writer)> {
        self.check_writable(bucket)?;
        let path = self.buckets.object(bucket, key).map_err(|e| nameless(e, key))?;
        let writer = self.agent()?.namespace().writer(&path).map_err(|e| told(&e))?;
        Ok((path, writer))
    }

    /// What was remembered of the place is of yesterday.
    fn forget(&self, path: &NamespacePath) {
        if let Ok(agent) = self.agent()
            && let Err(e) = agent.namespace().forget_path(path)
        {
            tracing::debug!(%path, error = %e, "what was written there is seen later");
        }
    }

    pub(super) async fn put(
        self: &Arc<Self>,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let inner = self.clone();
        self.uploads.finish(async move { inner.put_to_the_end(request).await }).await
    }

    async fn put_to_the_end(
        &self,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let body = request.input.body.take();
        let input = &request.input;
        let (path, writer) = self.writer(&input.bucket, &input.key)?;
        let is_new = is_new(input.if_none_match.as_ref(), input.if_match.as_ref())?;
        let described = attributes::described(&request.headers, &request.uri)?;
        let mut upload = Upload::new(&request, body, input.content_length)?;
        let _room = self.uploads.room(PIECE_BYTES).await?;
        let first = upload.next(PIECE_BYTES).await?;
        let tag = if (first.len() as u64) < upload.length() {
            self.put_in_parts(&writer, upload, first, is_new, &described).await?
        } else {
            // The end of the body, and with it its trailers.
            upload.next(1).await?;
            upload.check()?;
            match writer.put(first, is_new, &described).await.map_err(|e| told(&e))? {
                Written::Done(tag) => tag,
                Written::Exists => return Err(exists()),
            }
        };
        self.forget(&path);
        Ok(S3Response::new(PutObjectOutput { e_tag: tag.as_deref().map(etag), ..PutObjectOutput::default() }))
    }

    async fn put_in_parts(
        &self,
        writer: &Writer,
        mut upload: Upload,
        first: bytes::Bytes,
        is_new: bool,
        described: &Described,
    ) -> S3Result<Option<String>> {
        // Before so much is sent.
        if is_new && writer.exists().await.map_err(|e| told(&e))? {
            return Err(exists());
        }
        let id = writer.begin(described).await.map_err(|e| told(&e))?;
        let parts = async {
            let (mut tags, mut piece) = (Vec::new(), first);
            while !piece.is_empty() {
                if tags.len() == MAX_PARTS {
                    return Err(said(S3ErrorCode::EntityTooLarge, "send an object of this size in parts"));
                }
                tags.push(writer.part(&id, tags.len(), piece).await.map_err(|e| told(&e))?);
                piece = upload.next(PIECE_BYTES).await?;
            }
            upload.check()?;
            complete_upload(writer, &id, tags, is_new).await
        };
        let put = parts.await;
        if put.is_err()
            && let Err(e) = writer.abort(&id).await
        {
            tracing::warn!(error = %e, "parts of an upload that failed are left at the origin");
        }
        put
    }

    pub(super) async fn begin(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let CreateMultipartUploadInput { bucket, key, .. } = request.input;
        let (_, writer) = self.writer(&bucket, &key)?;
        let described = attributes::described(&request.headers, &request.uri)?;
        let id = writer.begin(&described).await.map_err(|e| told(&e))?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(bucket),
            key: Some(key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    pub(super) async fn part(
        &self,
        mut request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let body = request.input.body.take();
        let input = &request.input;
        let (_, writer) = self.writer(&input.bucket, &input.key)?;
        let index = usize::try_from(input.part_number).ok().filter(|number| (1..=MAX_PARTS).contains(number));
        let index =
            index.ok_or_else(|| said(S3ErrorCode::InvalidArgument, "partNumber must be 1 to 10000"))? - 1;
        attributes::check(&request.headers, &request.uri)?;
        let mut upload = Upload::new(&request, body, input.content_length)?;
        if upload.length() > MAX_PART_BYTES {
            let message = "parts of at most 64 MiB go through here: set a smaller part size in the client";
            return Err(said(S3ErrorCode::EntityTooLarge, message));
        }
        let length = upload.length() as usize;
        let _room = self.uploads.room(length).await?;
        let bytes = upload.next(length).await?;
        upload.next(1).await?;
        upload.check()?;
        let tag = writer.part(&input.upload_id, index, bytes).await.map_err(|e| told(&e))?;
        Ok(S3Response::new(UploadPartOutput { e_tag: Some(etag(&tag)), ..UploadPartOutput::default() }))
    }

    pub(super) async fn complete(
        self: &Arc<Self>,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let inner = self.clone();
        self.uploads.finish(async move { inner.complete_to_the_end(request).await }).await
    }

    async fn complete_to_the_end(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let (path, writer) = self.writer(&input.bucket, &input.key)?;
        let is_new = is_new(input.if_none_match.as_ref(), input.if_match.as_ref())?;
        let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let mut tags = Vec::new();
        for (part, number) in parts.into_iter().zip(1..) {
            let (true, Some(tag)) = (part.part_number == Some(number), part.e_tag) else {
                let message = "parts must be numbered from 1 without a gap, each with its tag";
                return Err(said(S3ErrorCode::InvalidPart, message));
            };
            tags.push(format!("\"{}\"", tag.value()));
        }
        if tags.is_empty() {
            return Err(said(S3ErrorCode::InvalidPart, "an upload has at least one part"));
        }
        let tag = complete_upload(&writer, &input.upload_id, tags, is_new).await?;
        self.forget(&path);
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: tag.as_deref().map(etag),
            ..CompleteMultipartUploadOutput::default()
        }))
    }

    pub(super) async fn abort(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = request.input;
        let (_, writer) = self.writer(&input.bucket, &input.key)?;
        writer.abort(&input.upload_id).await.map_err(|e| told(&e))?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    pub(super) async fn delete(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = request.input;
        let conditions = input.if_match.is_some()
            || input.if_match_last_modified_time.is_some()
            || input.if_match_size.is_some();
        check_unconditional(input.version_id.as_deref(), conditions)?;
        self.remove(&input.bucket, &input.key).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    pub(super) async fn delete_many(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let DeleteObjectsInput { bucket, delete, .. } = request.input;
        self.check_writable(&bucket)?;
        if delete.objects.len() > MAX_DELETES {
            return Err(said(S3ErrorCode::MalformedXML, "at most 1000 keys a request"));
        }
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for object in delete.objects {
            let conditions =
                object.e_tag.is_some() || object.last_modified_time.is_some() || object.size.is_some();
            let removed = match check_unconditional(object.version_id.as_deref(), conditions) {
                Ok(()) => self.remove(&bucket, &object.key).await,
                Err(e) => Err(e),
            };
            match removed {
                Ok(()) => deleted.push(DeletedObject { key: Some(object.key), ..DeletedObject::default() }),
                Err(e) => errors.push(Failure {
                    key: Some(object.key),
                    code: Some(e.code().as_str().to_owned()),
                    message: e.message().map(str::to_owned),
                    version_id: None,
                }),
            }
        }
        if delete.quiet == Some(true) {
            deleted.clear();
        }
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: Some(deleted),
            errors: Some(errors),
            ..DeleteObjectsOutput::default()
        }))
    }

    async fn remove(&self, bucket: &str, key: &str) -> S3Result<()> {
        self.check_writable(bucket)?;
        // What cannot be there is gone.
        if matches!(self.buckets.object(bucket, key), Err(e) if e.code() == &S3ErrorCode::NoSuchKey) {
            return Ok(());
        }
        let (path, writer) = match self.writer(bucket, key) {
            Err(e) if e.code() == &S3ErrorCode::NoSuchKey => return Ok(()),
            found => found?,
        };
        writer.delete().await.map_err(|e| told(&e))?;
        self.forget(&path);
        Ok(())
    }
}

/// To read a key that no file can have is to ask for what is not there; to write it is a mistake.
fn nameless(e: S3Error, key: &str) -> S3Error {
    if e.code() != &S3ErrorCode::NoSuchKey {
        return e;
    }
    let text = format!(
        "{key:?} has no file name here: write keys whose parts between the slashes are names, with no slash at the \
         end; a directory is there once something is in it"
    );
    said(S3ErrorCode::InvalidArgument, text)
}

/// Makes an object of parts. That there must be none is the store's to see to; one that passes the condition over
/// is asked right before.
async fn complete_upload(
    writer: &Writer,
    id: &String,
    tags: Vec<String>,
    is_new: bool,
) -> S3Result<Option<String>> {
    if is_new && writer.exists().await.map_err(|e| told(&e))? {
        return Err(exists());
    }
    match writer.complete(id, tags, is_new).await.map_err(|e| told(&e))? {
        Written::Done(tag) => Ok(tag),
        Written::Exists => Err(exists()),
    }
}

/// Whether a write must find nothing there.
fn is_new(if_none_match: Option<&ETagCondition>, if_match: Option<&ETagCondition>) -> S3Result<bool> {
    match (if_none_match, if_match) {
        (None, None) => Ok(false),
        (Some(ETagCondition::Any), None) => Ok(true),
        _ => Err(said(S3ErrorCode::NotImplemented, "the only condition of a write is If-None-Match: *")),
    }
}

fn exists() -> S3Error {
    said(S3ErrorCode::PreconditionFailed, "the object is there, and the request wants none there")
}

/// A tag of the store, whose quotes may be there or not.
fn etag(tag: &str) -> ETag {
    ETag::Strong(tag.trim_matches('"').to_owned())
}
