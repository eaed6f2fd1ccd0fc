//! Checking a file against the digest that its origin promised, as its bytes stream by.

use std::fmt;

use md5::Md5;
use ring::digest::{Context, SHA256};
use sha1::{Digest as _, Sha1};

use crate::snapshot::Digest;

/// A running check: feed it the file in order, then ask [`matches`](Self::matches).
///
/// On one core SHA-256 makes some 1.8 GB/s, a sixth of that where the processor has no instructions for it, and the
/// others are slower: keep it off the runtime.
#[derive(Clone)]
pub struct DigestCheck {
    state: State,
    /// Bytes still to come; `None` once there were too many.
    missing: Option<u64>,
}

#[derive(Clone)]
enum State {
    Sha256(Context, [u8; 32]),
    GitSha1(Sha1, [u8; 20]),
    Md5(Md5, [u8; 16]),
}

impl DigestCheck {
    /// A check of a file that should have `digest` and `size` bytes.
    pub fn new(digest: &Digest, size: u64) -> Self {
        let state = match *digest {
            Digest::Sha256(wanted) => State::Sha256(Context::new(&SHA256), wanted),
            Digest::GitSha1(wanted) => {
                State::GitSha1(Sha1::new().chain_update(format!("blob {size}\0")), wanted)
            }
            Digest::Md5(wanted) => State::Md5(md5::Digest::new(), wanted),
        };
        Self { state, missing: Some(size) }
    }

    /// The next bytes of the file.
    pub fn update(&mut self, bytes: &[u8]) {
        self.missing = self.missing.and_then(|missing| missing.checked_sub(bytes.len() as u64));
        match &mut self.state {
            State::Sha256(hasher, _) => hasher.update(bytes),
            State::GitSha1(hasher, _) => hasher.update(bytes),
            State::Md5(hasher, _) => md5::Digest::update(hasher, bytes),
        }
    }

    /// Whether what came has the size and the digest.
    pub fn matches(self) -> bool {
        let same = match self.state {
            State::Sha256(hasher, wanted) => hasher.finish().as_ref() == wanted,
            State::GitSha1(hasher, wanted) => hasher.finalize().as_slice() == wanted,
            State::Md5(hasher, wanted) => md5::Digest::finalize(hasher).as_slice() == wanted,
        };
        same && self.missing == Some(0)
    }
}

impl fmt::Debug for DigestCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DigestCheck").field("missing", &self.missing).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }

    fn check(digest: &Digest, size: u64, pieces: &[&[u8]]) -> bool {
        let mut check = DigestCheck::new(digest, size);
        pieces.iter().for_each(|piece| check.update(piece));
        check.matches()
    }

    #[test]
    fn the_digests_of_hello_are_those_of_sha256sum_git_and_md5sum() {
        // printf 'hello\n' | sha256sum; … | git hash-object --stdin; … | md5sum
        let digests = [
            Digest::Sha256(hex("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03")),
            Digest::GitSha1(hex("ce013625030ba8dba906f756967f9e9ca394464a")),
            Digest::Md5(hex("b1946ac92492d2347c6235b4d2611184")),
        ];
        for digest in digests {
            assert!(check(&digest, 6, &[b"hello\n"]));
            assert!(check(&digest, 6, &[b"he", b"", b"llo\n"]));
            assert!(!check(&digest, 6, &[b"hellO\n"]), "a changed byte");
            assert!(!check(&digest, 6, &[b"hello"]), "a missing byte");
            assert!(!check(&digest, 5, &[b"hello\n"]), "more bytes than promised");
        }
    }
}
