//! Listings by pages, in S3's two versions.
//!
//! A page goes on behind a name: the token of version 2 is that name in hexadecimal, so that any node can
//! answer the next page. `/` is the only delimiter.

use std::{
    ops::RangeInclusive,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::{
    S3ErrorCode, S3Result,
    dto::{CommonPrefix, ETag, EncodingType, Object, ObjectStorageClass, Timestamp},
};

use super::{
    buckets::Scope,
    errors::{said, told_of_bucket},
};
use crate::{
    namespace::{Entry, Named, Namespace, Page},
    origin::catalogue::MAX_PAGE_NAMES,
};

/// What stays as it is with `encoding-type=url`.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
/// Dates that S3 can tell, in seconds.
const DATES: RangeInclusive<u64> = 0..=253_402_300_799;

/// What is wanted of a listing, both versions alike.
pub(super) struct Wanted {
    pub(super) prefix: String,
    pub(super) is_delimited: bool,
    pub(super) limit: usize,
    encoded: bool,
}

/// A page in S3's words.
pub(super) struct Listed {
    pub(super) contents: Vec<Object>,
    pub(super) prefixes: Vec<CommonPrefix>,
    /// The name to go on behind, not encoded.
    pub(super) next: Option<String>,
}

impl Wanted {
    /// # Errors
    /// `InvalidArgument` for a number of keys below nothing or an unknown encoding; `NotImplemented` for a
    /// delimiter other than `/`.
    pub(super) fn new(
        prefix: Option<String>,
        delimiter: Option<&str>,
        max_keys: Option<i32>,
        encoding: Option<&EncodingType>,
    ) -> S3Result<Self> {
        let is_delimited = match delimiter {
            None | Some("") => false,
            Some("/") => true,
            Some(other) => {
                let message = format!("keys can be grouped by / only, not by {other:?}");
                return Err(said(S3ErrorCode::NotImplemented, message));
            }
        };
        let encoded = match encoding.map(EncodingType::as_str) {
            None | Some("") => false,
            Some("url") => true,
            Some(other) => {
                let message = format!("encoding-type can be url only, not {other:?}");
                return Err(said(S3ErrorCode::InvalidArgument, message));
            }
        };
        let Ok(limit) = usize::try_from(max_keys.unwrap_or(1000)) else {
            return Err(said(S3ErrorCode::InvalidArgument, "max-keys must not be negative"));
        };
        let limit = limit.min(MAX_PAGE_NAMES);
        Ok(Self { prefix: prefix.unwrap_or_default(), is_delimited, limit, encoded })
    }

    /// What the answer says of the number of keys.
    pub(super) fn max_keys(&self) -> Option<i32> {
        i32::try_from(self.limit).ok()
    }

    /// What the answer says of the delimiter.
    pub(super) fn delimiter(&self) -> Option<String> {
        self.is_delimited.then(|| "/".to_owned())
    }

    /// What the answer says of the encoding.
    pub(super) fn encoding(&self) -> Option<EncodingType> {
        self.encoded.then(|| EncodingType::from_static(EncodingType::URL))
    }

    /// A name as the answer has it.
    pub(super) fn shown(&self, name: &str) -> String {
        if self.encoded { utf8_percent_encode(name, PLAIN).to_string() } else { name.to_owned() }
    }

    /// One page of `scope`, behind the name `after`.
    ///
    /// # Errors
    /// As the namespace says.
    pub(super) async fn page(
        &self,
        namespace: &Namespace,
        scope: &Scope,
        after: Option<&str>,
    ) -> S3Result<Listed> {
        let after = match after {
            Some(after) => match after.strip_prefix(&scope.above) {
                Some(after) => Some(after),
                // Everything here comes behind it, or before it.
                None if after < scope.above.as_str() => None,
                None => return Ok(Listed { contents: Vec::new(), prefixes: Vec::new(), next: None }),
            },
            None => None,
        };
        let after = after.filter(|after| !after.is_empty());
        if self.limit == 0 {
            return Ok(Listed { contents: Vec::new(), prefixes: Vec::new(), next: None });
        }
        let page = if scope.is_names {
            self.names(namespace, scope, after).await
        } else {
            let Scope { root, prefix, .. } = scope;
            namespace.list_objects(root, prefix, self.is_delimited, after, self.limit).await
        };
        let page = page.map_err(|e| told_of_bucket(&e))?;
        Ok(self.told(page, &scope.above))
    }

    /// Names that are not of an origin yet, as directories.
    async fn names(
        &self,
        namespace: &Namespace,
        scope: &Scope,
        after: Option<&str>,
    ) -> crate::error::Result<Page> {
        let after = after.map(|after| after.trim_end_matches('/'));
        let mut page = namespace.list(&scope.root, after, self.limit).await?;
        page.names.retain(|named| named.name.starts_with(&scope.prefix));
        page.names.iter_mut().for_each(|named| named.name.push('/'));
        Ok(page)
    }

    fn told(&self, page: Page, above: &str) -> Listed {
        let (mut contents, mut prefixes) = (Vec::new(), Vec::new());
        for Named { name, entry } in page.names {
            let name = self.shown(&format!("{above}{name}"));
            match entry {
                Entry::Directory => prefixes.push(CommonPrefix { prefix: Some(name) }),
                Entry::File(file) => contents.push(Object {
                    key: Some(name),
                    size: i64::try_from(file.bytes).ok(),
                    e_tag: Some(ETag::Strong(file.etag)),
                    last_modified: Some(date(file.modified)),
                    storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
                    ..Object::default()
                }),
            }
        }
        Listed { contents, prefixes, next: page.next.map(|next| format!("{above}{next}")) }
    }
}

/// When something was changed last; clients want a date even of what has none.
pub(super) fn date(modified: Option<SystemTime>) -> Timestamp {
    Timestamp::from(told_date(modified))
}

/// See [`date`].
pub(super) fn told_date(modified: Option<SystemTime>) -> SystemTime {
    let since = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs().clamp(*DATES.start(), *DATES.end()))
}

/// A name as a token.
pub(super) fn token(name: &str) -> String {
    name.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// The name in a token.
///
/// # Errors
/// `InvalidArgument` for one that is none of ours.
pub(super) fn name_in(token: &str) -> S3Result<String> {
    let bytes = token.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    let name = bytes.collect::<Option<Vec<u8>>>().and_then(|bytes| String::from_utf8(bytes).ok());
    name.filter(|name| !name.is_empty())
        .ok_or_else(|| said(S3ErrorCode::InvalidArgument, "the continuation token is none of this agent's"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_name_and_nothing_else_is_a_token() {
        for name in ["a", "dir/", "ü/é.bin", "a b"] {
            assert_eq!(name_in(&token(name)).unwrap(), name);
        }
        for bad in ["", "x", "zz", "abc", "ff", "é1"] {
            assert_eq!(name_in(bad).unwrap_err().code(), &S3ErrorCode::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_listed_so_is_refused_in_words() {
        let wanted = |delimiter, max_keys, encoding: Option<&'static str>| {
            let encoding = encoding.map(EncodingType::from_static);
            Wanted::new(None, delimiter, max_keys, encoding.as_ref())
        };
        assert!(!wanted(Some(""), None, None).unwrap().is_delimited);
        assert!(wanted(Some("/"), Some(0), Some("url")).unwrap().is_delimited);
        assert_eq!(wanted(None, Some(5000), None).unwrap().limit, 1000);
        assert_eq!(wanted(Some("-"), None, None).err().unwrap().code(), &S3ErrorCode::NotImplemented);
        assert_eq!(wanted(None, Some(-1), None).err().unwrap().code(), &S3ErrorCode::InvalidArgument);
        assert_eq!(wanted(None, None, Some("base64")).err().unwrap().code(), &S3ErrorCode::InvalidArgument);
    }

    #[test]
    fn names_are_encoded_as_a_url_only_where_it_is_asked_for() {
        let url = EncodingType::from_static("url");
        let encoded = Wanted::new(None, None, None, Some(&url)).unwrap();
        assert_eq!(encoded.shown("a b/ü+&.bin"), "a%20b/%C3%BC%2B%26.bin");
        assert_eq!(Wanted::new(None, None, None, None).unwrap().shown("a b"), "a b");
    }

    #[test]
    fn dates_are_those_that_can_be_told() {
        let far = UNIX_EPOCH + Duration::from_secs(1 << 60);
        let early = UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(told_date(Some(far)), UNIX_EPOCH + Duration::from_secs(*DATES.end()));
        assert_eq!((told_date(Some(early)), told_date(None)), (UNIX_EPOCH, UNIX_EPOCH));
        let _ = (date(Some(far)), date(None));
    }
}
