//! Conditional and range requests: what part of a file a request is answered with.
//!
//! Pure: headers, size and validators in, a decision out. Follows RFC 9110 sections 13 and 14 and,
//! where it leaves a choice, the one that costs the less: a range set that is malformed, too long or
//! outside of the file is refused with 416 rather than answered with a hundred gigabytes.
//!
//! Invariants: ranges in an answer are not empty, lie within the file, do not overlap, and are at
//! most [`MAX_RANGES`]; so an answer is never larger than the file plus its part headers.

use std::{ops::Range, time::SystemTime};

use axum::http::{HeaderMap, HeaderName, Method, header};

/// The most ranges one request may ask for. Readers of model files ask for one; sixteen leave room
/// for readers of column formats, and bound the memory an answer takes.
pub const MAX_RANGES: usize = 16;

/// What a file is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Validators<'a> {
    /// The strong entity tag, quotes included.
    pub etag: &'a str,
    /// When it was published; whole seconds.
    pub modified: SystemTime,
    /// Size in bytes.
    pub bytes: u64,
}

/// How to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// 200 with the whole file.
    Whole,
    /// 206 with these parts, in this order.
    Parts(Vec<Range<u64>>),
    /// 304 without body.
    NotModified,
    /// 412: not the version the client wants.
    PreconditionFailed,
    /// 416: no part that could be sent.
    Unsatisfiable,
}

/// Decides in the order of RFC 9110 section 13.2.2.
pub fn decide(method: &Method, headers: &HeaderMap, file: &Validators<'_>) -> Decision {
    if headers.contains_key(header::IF_MATCH) {
        if !names_tag(headers, header::IF_MATCH, file.etag, Comparison::Strong) {
            return Decision::PreconditionFailed;
        }
    } else if let Some(date) = date(headers, header::IF_UNMODIFIED_SINCE)
        && file.modified > date
    {
        return Decision::PreconditionFailed;
    }
    if headers.contains_key(header::IF_NONE_MATCH) {
        if names_tag(headers, header::IF_NONE_MATCH, file.etag, Comparison::Weak) {
            return Decision::NotModified;
        }
    } else if let Some(date) = date(headers, header::IF_MODIFIED_SINCE)
        && file.modified <= date
    {
        return Decision::NotModified;
    }
    // Range is defined for GET alone (RFC 9110 section 14.2).
    if method != Method::GET || !if_range_holds(headers, file) {
        return Decision::Whole;
    }
    let mut ranges = headers.get_all(header::RANGE).iter();
    match (ranges.next(), ranges.next()) {
        (None, _) => Decision::Whole,
        (Some(range), None) => parts_of(range.as_bytes(), file.bytes),
        (Some(_), Some(_)) => Decision::Unsatisfiable,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    /// Weak tags equal nothing.
    Strong,
    /// `W/` is looked past.
    Weak,
}

/// Whether a list header is `*` or has a tag that equals `etag`.
fn names_tag(headers: &HeaderMap, name: HeaderName, etag: &str, how: Comparison) -> bool {
    headers.get_all(name).iter().any(|value| {
        let mut rest = value.as_bytes().trim_ascii();
        if rest == b"*" {
            return true;
        }
        // Tags may contain commas, so the list is walked tag by tag.
        while !rest.is_empty() {
            let (weak, tag) = match rest.strip_prefix(b"W/") {
                Some(tag) => (true, tag),
                None => (false, rest),
            };
            let Some(end) = tag
                .strip_prefix(b"\"")
                .and_then(|t| t.iter().position(|&byte| byte == b'"').map(|at| at + 2))
            else {
                return false;
            };
            if &tag[..end] == etag.as_bytes() && (how == Comparison::Weak || !weak) {
                return true;
            }
            rest = tag[end..].trim_ascii_start();
            rest = rest.strip_prefix(b",").unwrap_or(rest).trim_ascii_start();
        }
        false
    })
}

/// A date header; one that cannot be read counts as absent, as RFC 9110 wants.
fn date(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

/// Whether the client's copy is of this version, so that a part is of use to it.
fn if_range_holds(headers: &HeaderMap, file: &Validators<'_>) -> bool {
    let Some(value) = headers.get(header::IF_RANGE) else { return true };
    let value = value.as_bytes().trim_ascii();
    if value.starts_with(b"\"") || value.starts_with(b"W/") {
        return value == file.etag.as_bytes();
    }
    let date = std::str::from_utf8(value).ok().and_then(|text| httpdate::parse_http_date(text).ok());
    date == Some(file.modified)
}

/// The parts a `Range` header asks for.
fn parts_of(value: &[u8], bytes: u64) -> Decision {
    let Some(equals) = value.iter().position(|&b| b == b'=') else { return Decision::Unsatisfiable };
    // A unit we do not know is as if there were no Range at all.
    if !value[..equals].trim_ascii().eq_ignore_ascii_case(b"bytes") {
        return Decision::Whole;
    }
    let mut parts = Vec::new();
    let mut asked = 0;
    for spec in value[equals + 1..].split(|&b| b == b',') {
        let spec = spec.trim_ascii();
        if spec.is_empty() {
            continue;
        }
        asked += 1;
        if asked > MAX_RANGES {
            return Decision::Unsatisfiable;
        }
        match part_of(spec, bytes) {
            Part::Within(range) => parts.push(range),
            Part::Outside => {}
            // An empty file has no byte that a Content-Range could name: all of it is sent instead.
            Part::AllOfNothing => return Decision::Whole,
            Part::Malformed => return Decision::Unsatisfiable,
        }
    }
    merge_if_overlapping(&mut parts);
    if parts.is_empty() { Decision::Unsatisfiable } else { Decision::Parts(parts) }
}

enum Part {
    Within(Range<u64>),
    Outside,
    AllOfNothing,
    Malformed,
}

/// One of `first-`, `first-last`, `-suffix`.
fn part_of(spec: &[u8], bytes: u64) -> Part {
    let Some(dash) = spec.iter().position(|&b| b == b'-') else { return Part::Malformed };
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    if first.is_empty() {
        return match number(last) {
            None => Part::Malformed,
            Some(0) => Part::Outside,
            Some(_) if bytes == 0 => Part::AllOfNothing,
            Some(suffix) => Part::Within(bytes.saturating_sub(suffix)..bytes),
        };
    }
    let Some(first) = number(first) else { return Part::Malformed };
    let end = if last.is_empty() {
        bytes
    } else {
        match number(last) {
            Some(last) if last >= first => last.saturating_add(1).min(bytes),
            Some(_) | None => return Part::Malformed,
        }
    };
    match () {
        () if first == 0 && bytes == 0 => Part::AllOfNothing,
        () if first >= bytes => Part::Outside,
        () => Part::Within(first..end),
    }
}

/// Decimal digits and nothing else; more than a `u64` holds counts as `u64::MAX`, which is beyond
/// every file.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, &digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        Some(value.saturating_mul(10).saturating_add(digit))
    })
}

/// Leaves disjoint parts in the order asked for; overlapping ones are sorted and merged, so that no
/// byte is sent twice.
fn merge_if_overlapping(parts: &mut Vec<Range<u64>>) {
    let mut sorted = parts.clone();
    sorted.sort_unstable_by_key(|part| part.start);
    if sorted.windows(2).all(|pair| pair[0].end <= pair[1].start) {
        return;
    }
    parts.clear();
    for part in sorted {
        match parts.last_mut() {
            Some(last) if part.start < last.end => last.end = last.end.max(part.end),
            _ => parts.push(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const ETAG: &str = "\"3fa9\"";
    const DATE: &str = "Sun, 22 Nov 2026 09:00:00 GMT";
    const EARLIER: &str = "Sun, 22 Nov 2026 08:59:59 GMT";
    const LATER: &str = "Sun, 22 Nov 2026 09:00:01 GMT";

    fn ask(method: &Method, bytes: u64, headers: &[(&str, &str)]) -> Decision {
        let map: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect();
        let modified = httpdate::parse_http_date(DATE).unwrap();
        decide(method, &map, &Validators { etag: ETAG, modified, bytes })
    }

    fn range(bytes: u64, value: &str) -> Decision {
        ask(&Method::GET, bytes, &[("range", value)])
    }

    fn parts(ranges: &[Range<u64>]) -> Decision {
        Decision::Parts(ranges.to_vec())
    }

    #[test]
    fn ranges_of_a_ten_byte_file_are_answered_as_the_rfc_says() {
        let many = |n: u64| format!("bytes={}", (0..n).map(|_| "0-0").collect::<Vec<_>>().join(","));
        let cases: &[(&str, Decision)] = &[
            ("bytes=0-0", parts(&[0..1])),
            ("bytes=0-9", parts(&[0..10])),
            ("bytes=0-", parts(&[0..10])),
            ("bytes=9-", parts(&[9..10])),
            ("BYTES = 1-2", parts(&[1..3])),
            // The last range of some clients ends at the size: clamped.
            ("bytes=5-10", parts(&[5..10])),
            ("bytes=5-99999999999999999999", parts(&[5..10])),
            ("bytes=5-18446744073709551615", parts(&[5..10])),
            ("bytes=-1", parts(&[9..10])),
            ("bytes=-10", parts(&[0..10])),
            ("bytes=-99999999999999999999", parts(&[0..10])),
            ("bytes=-0", Decision::Unsatisfiable),
            ("bytes=10-", Decision::Unsatisfiable),
            ("bytes=10-20", Decision::Unsatisfiable),
            ("bytes=99999999999999999999-", Decision::Unsatisfiable),
            ("bytes=5-2", Decision::Unsatisfiable),
            ("bytes=", Decision::Unsatisfiable),
            ("bytes=,,,", Decision::Unsatisfiable),
            ("bytes=-", Decision::Unsatisfiable),
            ("bytes=a-b", Decision::Unsatisfiable),
            ("bytes=1", Decision::Unsatisfiable),
            ("bytes=+1-2", Decision::Unsatisfiable),
            ("bytes=1-2-3", Decision::Unsatisfiable),
            ("bytes=0x1-2", Decision::Unsatisfiable),
            ("bytes=1 - 2", Decision::Unsatisfiable),
            ("bytes 0-1", Decision::Unsatisfiable),
            ("items=0-1", Decision::Whole),
            ("bytes=0-1,4-5", parts(&[0..2, 4..6])),
            ("bytes=4-5, ,0-1", parts(&[4..6, 0..2])),
            ("bytes=0-1,20-30", parts(&[0..2])),
            ("bytes=0-1,5-2", Decision::Unsatisfiable),
            // Neighbours do not overlap; they stay two parts.
            ("bytes=0-4,5-9", parts(&[0..5, 5..10])),
            ("bytes=0-5,5-9", parts(&[0..10])),
            ("bytes=8-9,0-5,2-3", parts(&[0..6, 8..10])),
            ("bytes=0-,0-,0-,0-", parts(&[0..10])),
        ];
        for (value, expected) in cases {
            assert_eq!(&range(10, value), expected, "{value}");
        }
        assert_eq!(range(10, &many(16)), parts(&[0..1]));
        assert_eq!(range(10, &many(17)), Decision::Unsatisfiable);
        assert_eq!(range(10, &many(1000)), Decision::Unsatisfiable);
    }

    #[test]
    fn an_empty_file_is_sent_whole_unless_the_range_starts_behind_it() {
        for value in ["bytes=0-", "bytes=0-0", "bytes=-5"] {
            assert_eq!(range(0, value), Decision::Whole, "{value}");
        }
        for value in ["bytes=1-", "bytes=-0", "bytes=5-9"] {
            assert_eq!(range(0, value), Decision::Unsatisfiable, "{value}");
        }
    }

    #[test]
    fn a_range_counts_for_get_alone_and_once() {
        assert_eq!(ask(&Method::HEAD, 10, &[("range", "bytes=0-1")]), Decision::Whole);
        let twice = [("range", "bytes=0-1"), ("range", "bytes=2-3")];
        assert_eq!(ask(&Method::GET, 10, &twice), Decision::Unsatisfiable);
    }

    #[test]
    fn conditions_are_judged_before_ranges() {
        use Decision::{NotModified, PreconditionFailed, Whole};
        let cases: &[(&[(&str, &str)], Decision)] = &[
            (&[("if-match", ETAG)], Whole),
            (&[("if-match", "*")], Whole),
            (&[("if-match", "\"a,b\", \"3fa9\"")], Whole),
            (&[("if-match", "\"stale\"")], PreconditionFailed),
            (&[("if-match", "W/\"3fa9\"")], PreconditionFailed),
            (&[("if-match", "")], PreconditionFailed),
            (&[("if-match", "3fa9")], PreconditionFailed),
            (&[("if-match", "\"unclosed")], PreconditionFailed),
            (&[("if-match", "\"stale\""), ("range", "bytes=99-")], PreconditionFailed),
            (&[("if-match", ETAG), ("if-unmodified-since", EARLIER)], Whole),
            (&[("if-unmodified-since", DATE)], Whole),
            (&[("if-unmodified-since", EARLIER)], PreconditionFailed),
            (&[("if-unmodified-since", "yesterday")], Whole),
            (&[("if-none-match", ETAG)], NotModified),
            (&[("if-none-match", "W/\"3fa9\"")], NotModified),
            (&[("if-none-match", "*")], NotModified),
            (&[("if-none-match", "\"other\"")], Whole),
            (&[("if-none-match", "\"other\""), ("if-none-match", ETAG)], NotModified),
            (&[("if-none-match", "\"other\""), ("if-modified-since", LATER)], Whole),
            (&[("if-none-match", ETAG), ("range", "bytes=0-1")], NotModified),
            (&[("if-modified-since", DATE)], NotModified),
            (&[("if-modified-since", EARLIER)], Whole),
            (&[("if-range", ETAG), ("range", "bytes=0-1")], parts(&[0..2])),
            (&[("if-range", "\"stale\""), ("range", "bytes=0-1")], Whole),
            (&[("if-range", "W/\"3fa9\""), ("range", "bytes=0-1")], Whole),
            (&[("if-range", "\"stale\""), ("range", "bytes=99-")], Whole),
            (&[("if-range", DATE), ("range", "bytes=0-1")], parts(&[0..2])),
            (&[("if-range", EARLIER), ("range", "bytes=0-1")], Whole),
            (&[("if-range", LATER), ("range", "bytes=0-1")], Whole),
            (&[("if-range", "nonsense"), ("range", "bytes=0-1")], Whole),
        ];
        for (headers, expected) in cases {
            assert_eq!(&ask(&Method::GET, 10, headers), expected, "{headers:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_gets_more_than_the_file_or_a_byte_outside(value in "(bytes=)?[-0-9, ax]{0,200}", bytes in 0_u64..300) {
            let headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_str(&value).unwrap())]);
            let file = Validators { etag: ETAG, modified: UNIX_EPOCH + Duration::from_secs(1), bytes };
            if let Decision::Parts(parts) = decide(&Method::GET, &headers, &file) {
                prop_assert!(!parts.is_empty() && parts.len() <= MAX_RANGES);
                prop_assert!(parts.iter().all(|part| part.start < part.end && part.end <= bytes));
                prop_assert!(parts.iter().map(|part| part.end - part.start).sum::<u64>() <= bytes);
            }
        }
    }
}
