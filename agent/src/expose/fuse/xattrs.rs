//! Extended attributes: where a file is, and how its content is called.
//!
//! `user.emberline.state` is `sealed`, `coming` or `origin`; `user.emberline.hash` is the BLAKE3 name of a sealed
//! file, `user.emberline.etag` its tag as every door gives it.

use std::ffi::OsStr;

use fuser::{Errno, ReplyXattr};

use super::inodes::Kind;
use crate::reader::Whereabouts;

const STATE: &str = "user.emberline.state";
const HASH: &str = "user.emberline.hash";
const ETAG: &str = "user.emberline.etag";

/// A name that is one of ours.
pub(super) fn known(name: &OsStr) -> Option<&'static str> {
    [STATE, HASH, ETAG].into_iter().find(|known| OsStr::new(known) == name)
}

/// The names an inode has, each ended by a zero.
pub(super) fn names(kind: &Kind) -> Vec<u8> {
    match kind {
        Kind::Directory => Vec::new(),
        Kind::File(_) => [STATE, HASH, ETAG].map(|name| format!("{name}\0")).concat().into_bytes(),
    }
}

/// The value of one of them; `None` where there is none now.
pub(super) fn value(name: &str, kind: &Kind, whereabouts: &Whereabouts) -> Option<String> {
    let Kind::File(facts) = kind else { return None };
    match (name, whereabouts) {
        (STATE, Whereabouts::Sealed(_)) => Some("sealed".to_owned()),
        (STATE, Whereabouts::Coming) => Some("coming".to_owned()),
        (STATE, Whereabouts::Origin) => Some("origin".to_owned()),
        (HASH, Whereabouts::Sealed(opened)) => Some(opened.etag.to_string()),
        (ETAG, _) => Some(facts.etag.to_string()),
        _ => None,
    }
}

/// A value, or how long it is where that is asked.
pub(super) fn answer(reply: ReplyXattr, size: u32, value: &[u8]) {
    match value.len() as u32 {
        length if size == 0 => reply.size(length),
        length if length <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}
