//! What is asked of the door as a whole and of buckets.
//!
//! Objects are read past this, in [`objects`](super::objects). What is not here does not exist at this door,
//! and s3s says so.

use std::sync::Arc;

use async_trait::async_trait;
use s3s::{
    S3, S3ErrorCode, S3Request, S3Response, S3Result,
    dto::{
        AbortMultipartUploadInput, AbortMultipartUploadOutput, Bucket, CompleteMultipartUploadInput,
        CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput, CreateBucketInput,
        CreateBucketOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteBucketInput,
        DeleteBucketOutput, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput,
        GetBucketLocationInput, GetBucketLocationOutput, GetBucketVersioningInput, GetBucketVersioningOutput,
        HeadBucketInput, HeadBucketOutput, ListBucketsInput, ListBucketsOutput, ListObjectsInput,
        ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output, Owner, PutObjectInput, PutObjectOutput,
        UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
    },
};

use super::{
    errors::{said, told_of_bucket},
    inner::Inner,
    listing::{Listed, Wanted, date, name_in, token},
};
use crate::error::ErrorKind;

/// Where clients may believe to be.
const REGION: &str = "us-east-1";
const NO_BUCKETS: &str =
    "buckets are made and removed at the origin; name them in [mounts] of the agent's configuration";
const NO_COPIES: &str = "objects are not copied within the origin through here: read them and write them";

/// Answers for the door and its buckets.
#[derive(Clone)]
pub(super) struct Operations(pub(super) Arc<Inner>);

impl Operations {
    /// Whether a bucket is there, as far as its origin tells.
    async fn check_bucket(&self, bucket: &str) -> S3Result<()> {
        let scope = self.0.buckets.scope(bucket, "")?;
        let namespace = self.0.agent()?.namespace();
        if scope.is_names {
            return Ok(());
        }
        match namespace.list_objects(&scope.root, "", true, None, 1).await {
            Ok(_) => Ok(()),
            // What cannot be listed may be there nevertheless.
            Err(e) if e.kind() == ErrorKind::Invalid => {
                namespace.stat(&scope.root).await.map(drop).map_err(|e| told_of_bucket(&e))
            }
            Err(e) => Err(told_of_bucket(&e)),
        }
    }

    async fn page(&self, bucket: &str, wanted: &Wanted, after: Option<&str>) -> S3Result<Listed> {
        let scope = self.0.buckets.scope(bucket, &wanted.prefix)?;
        wanted.page(self.0.agent()?.namespace(), &scope, after).await
    }
}

#[async_trait]
impl S3 for Operations {
    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let bucket = |name: &str| Bucket {
            name: Some(name.to_owned()),
            creation_date: Some(date(None)),
            ..Bucket::default()
        };
        let named = |name: &str| Some(name.to_owned());
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(self.0.buckets.known().map(bucket).collect()),
            owner: Some(Owner { display_name: named("emberline"), id: named("emberline") }),
            ..ListBucketsOutput::default()
        }))
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.check_bucket(&request.input.bucket).await?;
        let bucket_region = Some(REGION.to_owned());
        Ok(S3Response::new(HeadBucketOutput { bucket_region, ..HeadBucketOutput::default() }))
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.check_bucket(&request.input.bucket).await?;
        // Nothing stands for the region above.
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn get_bucket_versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        self.check_bucket(&request.input.bucket).await?;
        Ok(S3Response::new(GetBucketVersioningOutput::default()))
    }

    async fn list_objects(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let ListObjectsInput { bucket, prefix, delimiter, max_keys, encoding_type, marker, .. } =
            request.input;
        let wanted = Wanted::new(prefix, delimiter.as_deref(), max_keys, encoding_type.as_ref())?;
        let page = self.page(&bucket, &wanted, marker.as_deref()).await?;
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(bucket),
            prefix: Some(wanted.shown(&wanted.prefix)),
            marker: Some(wanted.shown(&marker.unwrap_or_default())),
            delimiter: wanted.delimiter(),
            encoding_type: wanted.encoding(),
            max_keys: wanted.max_keys(),
            is_truncated: Some(page.next.is_some()),
            next_marker: page.next.map(|next| wanted.shown(&next)),
            contents: Some(page.contents),
            common_prefixes: Some(page.prefixes),
            ..ListObjectsOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let ListObjectsV2Input {
            bucket,
            prefix,
            delimiter,
            max_keys,
            encoding_type,
            continuation_token,
            start_after,
            ..
        } = request.input;
        let wanted = Wanted::new(prefix, delimiter.as_deref(), max_keys, encoding_type.as_ref())?;
        let behind = continuation_token.as_deref().map(name_in).transpose()?;
        let page = self.page(&bucket, &wanted, behind.as_deref().or(start_after.as_deref())).await?;
        let count = page.contents.len() + page.prefixes.len();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(bucket),
            prefix: Some(wanted.shown(&wanted.prefix)),
            delimiter: wanted.delimiter(),
            encoding_type: wanted.encoding(),
            max_keys: wanted.max_keys(),
            key_count: i32::try_from(count).ok(),
            continuation_token,
            start_after: start_after.map(|after| wanted.shown(&after)),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.as_deref().map(token),
            contents: Some(page.contents),
            common_prefixes: Some(page.prefixes),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        self.0.put(request).await
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.0.begin(request).await
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.0.part(request).await
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.0.complete(request).await
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.0.abort(request).await
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.0.delete(request).await
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.0.delete_many(request).await
    }

    async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        self.0.check_writable(&request.input.bucket)?;
        Err(said(S3ErrorCode::NotImplemented, NO_COPIES))
    }

    async fn create_bucket(
        &self,
        _: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        Err(said(S3ErrorCode::AccessDenied, NO_BUCKETS))
    }

    async fn delete_bucket(
        &self,
        _: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        Err(said(S3ErrorCode::AccessDenied, NO_BUCKETS))
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        self.0.check_writable(&request.input.bucket)?;
        Err(said(S3ErrorCode::NotImplemented, NO_COPIES))
    }
}
