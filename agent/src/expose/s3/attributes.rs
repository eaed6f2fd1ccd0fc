//! What a write says of its object besides the bytes: passed on to the store, or refused.
//!
//! Pure. Invariant: nothing that a caller asks for is left out in silence where leaving it out would matter: who
//! may read the object, how it is encrypted and kept. Looks at the address too, where signed ones carry headers.

use http::{HeaderMap, HeaderName, Uri, header};
use object_store::{Attribute, Attributes, TagSet};
use s3s::{S3ErrorCode, S3Result};

use super::errors::said;
use crate::origin::Described;

/// Headers, by their beginnings, that ask for what does not go through here, and the values that ask for nothing.
const REFUSED: [(&str, &[&str]); 9] = [
    // What every object has anyway, and what some clients send unasked.
    ("x-amz-acl", &["private", "bucket-owner-full-control"]),
    ("x-amz-storage-class", &["STANDARD"]),
    ("x-amz-grant-", &[]),
    ("x-amz-object-lock-", &[]),
    ("x-amz-server-side-encryption", &[]),
    ("x-amz-website-redirect-location", &[]),
    ("x-amz-write-offset-bytes", &[]),
    // Checksums that nobody here can compute; the others are held to in `uploads`.
    ("x-amz-checksum-", &[]),
    ("x-amz-trailer", &[]),
];
const USER_METADATA: &str = "x-amz-meta-";
const TAGGING: &str = "x-amz-tagging";
/// The digests that a body is held to.
pub(super) const CHECKSUMS: [&str; 5] = [
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
];
/// Begin like digests and are none.
const ABOUT_CHECKSUMS: [&str; 3] = ["x-amz-checksum-algorithm", "x-amz-checksum-mode", "x-amz-checksum-type"];

/// Lets pass what asks for nothing that is not done.
///
/// # Errors
/// `NotImplemented`, naming the header.
pub(super) fn check(headers: &HeaderMap, uri: &Uri) -> S3Result<()> {
    for (name, value) in headers {
        check_one(name.as_str(), value.to_str().unwrap_or_default())?;
    }
    for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        check_one(&name.to_ascii_lowercase(), &value)?;
    }
    Ok(())
}

fn check_one(name: &str, value: &str) -> S3Result<()> {
    let Some((_, harmless)) = REFUSED.iter().find(|(beginning, _)| name.starts_with(beginning)) else {
        return Ok(());
    };
    let is_done = match name {
        "x-amz-trailer" => value.split(',').all(|name| is_known_checksum(&name.trim().to_ascii_lowercase())),
        name if name.starts_with("x-amz-checksum-") => is_known_checksum(name),
        _ => harmless.contains(&value),
    };
    if is_done {
        return Ok(());
    }
    let message = format!("{name}: {value} does not go through here: leave it out, or write to the origin");
    Err(said(S3ErrorCode::NotImplemented, message))
}

fn is_known_checksum(name: &str) -> bool {
    CHECKSUMS.contains(&name) || ABOUT_CHECKSUMS.contains(&name)
}

/// What the store is told of a new object.
///
/// # Errors
/// As [`check`]; `InvalidArgument`, naming the header, for a value that is no text.
pub(super) fn described(headers: &HeaderMap, uri: &Uri) -> S3Result<Described> {
    check(headers, uri)?;
    let mut attributes = Attributes::new();
    for (name, attribute) in [
        (header::CONTENT_TYPE, Attribute::ContentType),
        (header::CACHE_CONTROL, Attribute::CacheControl),
        (header::CONTENT_DISPOSITION, Attribute::ContentDisposition),
        (header::CONTENT_LANGUAGE, Attribute::ContentLanguage),
    ] {
        if let Some(value) = text(headers, &name)? {
            attributes.insert(attribute, value.into());
        }
    }
    // How the body was cut for its signature is not how the object is encoded.
    let encodings = text(headers, &header::CONTENT_ENCODING)?.unwrap_or_default();
    let encodings: Vec<&str> = encodings
        .split(',')
        .map(str::trim)
        .filter(|encoding| !encoding.is_empty() && !encoding.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    if !encodings.is_empty() {
        attributes.insert(Attribute::ContentEncoding, encodings.join(",").into());
    }
    for name in headers.keys() {
        if let Some(suffix) = name.as_str().strip_prefix(USER_METADATA)
            && let Some(value) = text(headers, name)?
        {
            attributes.insert(Attribute::Metadata(suffix.to_owned().into()), value.into());
        }
    }
    let mut tags = TagSet::default();
    let told = text(headers, &HeaderName::from_static(TAGGING))?.unwrap_or_default();
    for (key, value) in url::form_urlencoded::parse(told.as_bytes()) {
        tags.push(&key, &value);
    }
    Ok(Described { attributes, tags })
}

/// The value of a header that an object is described by; several become one, as HTTP has it.
fn text(headers: &HeaderMap, name: &HeaderName) -> S3Result<Option<String>> {
    let values: Result<Vec<&str>, _> = headers.get_all(name).iter().map(|value| value.to_str()).collect();
    let values =
        values.map_err(|_| said(S3ErrorCode::InvalidArgument, format!("the value of {name} is no ASCII")))?;
    Ok((!values.is_empty()).then(|| values.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn at(query: &str) -> Uri {
        format!("http://localhost/b/k?{query}").parse().unwrap()
    }

    #[test]
    fn what_would_not_be_done_is_refused_by_name() {
        for (name, value) in [
            ("x-amz-acl", "public-read"),
            ("x-amz-acl", ""),
            ("x-amz-grant-read", "id=1"),
            ("x-amz-object-lock-mode", "COMPLIANCE"),
            ("x-amz-object-lock-legal-hold", "ON"),
            ("x-amz-server-side-encryption", "AES256"),
            ("x-amz-server-side-encryption", "aws:kms"),
            ("x-amz-server-side-encryption-customer-key", "AAAA"),
            ("x-amz-storage-class", "GLACIER"),
            ("x-amz-website-redirect-location", "/"),
            ("x-amz-write-offset-bytes", "7"),
            ("x-amz-checksum-md5", "AAAA"),
            ("x-amz-checksum-xxhash64", "AAAA"),
            ("x-amz-trailer", "x-amz-checksum-sha512"),
            ("x-amz-trailer", "x-amz-checksum-crc32, x-amz-meta-late"),
        ] {
            let refused = check(&headers(&[(name, value)]), &at("")).expect_err(name);
            assert_eq!(refused.code(), &S3ErrorCode::NotImplemented, "{name}: {value}");
            assert!(refused.message().unwrap().starts_with(name), "{refused:?}");
        }
        let refused = check(&headers(&[]), &at("X-Amz-Acl=public-read&X-Amz-Signature=1")).unwrap_err();
        assert!(refused.message().unwrap().contains("x-amz-acl: public-read"), "{refused:?}");
    }

    #[test]
    fn what_real_clients_send_unasked_passes() {
        let sent = headers(&[
            ("host", "localhost"),
            ("authorization", "AWS4-HMAC-SHA256 …"),
            ("amz-sdk-invocation-id", "1"),
            ("x-amz-acl", "private"),
            ("x-amz-storage-class", "STANDARD"),
            ("x-amz-date", "20261125T000000Z"),
            ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
            ("x-amz-decoded-content-length", "5"),
            ("x-amz-trailer", "X-Amz-Checksum-CRC64NVME"),
            ("x-amz-sdk-checksum-algorithm", "CRC64NVME"),
            ("x-amz-checksum-algorithm", "CRC32"),
            ("x-amz-checksum-type", "COMPOSITE"),
            ("x-amz-checksum-sha256", "AAAA"),
        ]);
        check(&sent, &at("x-id=PutObject&X-Amz-SignedHeaders=host&partNumber=1")).unwrap();
        assert_eq!(described(&sent, &at("")).unwrap(), Described::default());
    }

    #[test]
    fn an_object_is_described_as_its_writer_did() {
        let sent = headers(&[
            ("content-type", "application/x-parquet"),
            ("cache-control", "no-store"),
            ("content-encoding", "aws-chunked, gzip"),
            ("content-length", "9"),
            ("x-amz-meta-step", "1200"),
            ("x-amz-tagging", "team=llm&note=a%20b"),
        ]);
        let Described { attributes, tags } = described(&sent, &at("")).unwrap();
        let expected = [
            (Attribute::ContentType, "application/x-parquet"),
            (Attribute::CacheControl, "no-store"),
            (Attribute::ContentEncoding, "gzip"),
            (Attribute::Metadata("step".into()), "1200"),
        ];
        assert_eq!(attributes, Attributes::from_iter(expected));
        assert_eq!(tags.encoded(), "team=llm&note=a+b");
        let mut odd = HeaderMap::new();
        odd.insert("x-amz-meta-name", http::HeaderValue::from_bytes("ü".as_bytes()).unwrap());
        let refused = described(&odd, &at("")).unwrap_err();
        assert!(
            refused.code() == &S3ErrorCode::InvalidArgument
                && refused.message().unwrap().contains("meta-name")
        );
    }
}
