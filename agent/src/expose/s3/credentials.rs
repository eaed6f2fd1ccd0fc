//! Who may ask: whoever signs with the one key of the configuration; without one, everybody on this machine.
//!
//! Invariant: the secret is in memory only, and in no message. Does not check signatures: that is s3s'.

use async_trait::async_trait;
use http::{Uri, header, uri::PathAndQuery};
use s3s::{
    S3ErrorCode, S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
};

use super::errors::said;

/// The key that callers sign with.
#[derive(Clone)]
pub(super) struct Credentials {
    key: String,
    secret: SecretKey,
}

impl Credentials {
    pub(super) fn new((key, secret): (String, String)) -> Self {
        Self { key, secret: SecretKey::from(secret) }
    }
}

#[async_trait]
impl S3Auth for Credentials {
    async fn get_secret_key(&self, key: &str) -> S3Result<SecretKey> {
        if key == self.key {
            return Ok(self.secret.clone());
        }
        let message = "this agent does not know the access key: it knows the one in its s3.access_key_id";
        Err(said(S3ErrorCode::InvalidAccessKeyId, message))
    }
}

#[async_trait]
impl S3Access for Credentials {
    async fn check(&self, request: &mut S3AccessContext<'_>) -> S3Result<()> {
        require(request.credentials().is_some())
    }
}

/// Lets in who signed.
pub(super) fn require(is_signed: bool) -> S3Result<()> {
    if is_signed {
        return Ok(());
    }
    let message = "this agent wants signed requests: use the key in its s3.access_key_id and the secret that goes with it";
    Err(said(S3ErrorCode::AccessDenied, message))
}

/// Takes off what would be checked, where nobody can say what is right: clients sign with whatever they have.
pub(super) fn unsign<B>(request: &mut http::Request<B>) {
    request.headers_mut().remove(header::AUTHORIZATION);
    if let Some(uri) = unsigned(request.uri()) {
        *request.uri_mut() = uri;
    }
}

fn unsigned(uri: &Uri) -> Option<Uri> {
    let query = uri.query()?;
    let is_signature = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        name.eq_ignore_ascii_case("X-Amz-Signature") || name == "Signature"
    };
    if !query.split('&').any(|pair| is_signature(&pair)) {
        return None;
    }
    let kept: Vec<&str> = query.split('&').filter(|pair| !is_signature(pair)).collect();
    let path = format!("{}?{}", uri.path(), kept.join("&"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path.parse::<PathAndQuery>().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_signatures_are_taken_off() {
        for (before, after) in [
            ("/b/k?X-Amz-Date=1&X-Amz-Signature=abc&x-id=GetObject", "/b/k?X-Amz-Date=1&x-id=GetObject"),
            ("/b/k?AWSAccessKeyId=a&Signature=b%2F&Expires=1", "/b/k?AWSAccessKeyId=a&Expires=1"),
            ("http://h:1/b/k?X-Amz-Signature=abc", "http://h:1/b/k?"),
            ("/b/?prefix=Signature", "/b/?prefix=Signature"),
            ("/b/k", "/b/k"),
        ] {
            let mut request =
                http::Request::builder().uri(before).header("authorization", "AWS4").body(()).unwrap();
            unsign(&mut request);
            assert_eq!(request.uri().to_string(), after);
            assert!(request.headers().is_empty());
        }
    }
}
