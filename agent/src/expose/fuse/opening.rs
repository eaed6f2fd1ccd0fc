//! How one inode is open: through the page cache of the mount, or passed through to the file behind it.
//!
//! The kernel holds every open handle of an inode to one way and answers the other with EIO, mappings included.
//! So the way is chosen at the first open and holds until the last release. Who opens a file that was sealed
//! in between is sent to look its name up again, where a new inode is waiting; who cannot (he came by a
//! handle, not by name) is served the old way. Pure: what a backing is does not matter here.

use std::sync::Arc;

/// A way of being open.
#[derive(Debug)]
pub(super) enum Mode<B> {
    /// Reads come to us, through the page cache of the mount.
    Cached,
    /// The kernel reads the file behind it; we see no read.
    Passthrough(Arc<B>),
}

impl<B> Clone for Mode<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Cached => Self::Cached,
            Self::Passthrough(backing) => Self::Passthrough(backing.clone()),
        }
    }
}

/// What becomes of an open.
#[derive(Debug)]
pub(super) enum Verdict<B> {
    /// It is open in this way, and counted until [`Opening::release`].
    Open(Mode<B>),
    /// The name should be looked up again, and lead to another inode.
    LookAgain,
}

/// The handles of one inode.
#[derive(Debug)]
pub(super) struct Opening<B> {
    mode: Option<Mode<B>>,
    handles: usize,
}

impl<B> Default for Opening<B> {
    fn default() -> Self {
        Self { mode: None, handles: 0 }
    }
}

impl<B> Opening<B> {
    /// One more open. `whole` is the file behind a sealed one, where it can be passed through; it is made a
    /// backing by `back`, which may fail. `is_current` says whether the name still leads to this inode.
    pub(super) fn open<F>(
        &mut self,
        whole: Option<F>,
        is_current: bool,
        back: impl FnOnce(F) -> Option<B>,
    ) -> Verdict<B> {
        let mode = match (&self.mode, whole) {
            (None, None) | (Some(Mode::Cached), None) => Mode::Cached,
            (None, Some(file)) => {
                back(file).map_or(Mode::Cached, |backing| Mode::Passthrough(Arc::new(backing)))
            }
            (Some(Mode::Cached), Some(_)) | (Some(Mode::Passthrough(_)), None) if is_current => {
                return Verdict::LookAgain;
            }
            (Some(Mode::Cached), Some(_)) => Mode::Cached,
            // All handles of an inode must have the same backing.
            (Some(Mode::Passthrough(backing)), _) => Mode::Passthrough(backing.clone()),
        };
        self.mode = Some(mode.clone());
        self.handles += 1;
        Verdict::Open(mode)
    }

    /// One handle less; after the last any way may be chosen again.
    pub(super) fn release(&mut self) {
        self.handles = self.handles.saturating_sub(1);
        if self.handles == 0 {
            self.mode = None;
        }
    }

    /// Whether somebody has it open.
    pub(super) fn is_open(&self) -> bool {
        self.handles > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(opening: &mut Opening<u32>, whole: Option<u32>, is_current: bool) -> Option<Option<u32>> {
        match opening.open(whole, is_current, Some) {
            Verdict::Open(Mode::Cached) => Some(None),
            Verdict::Open(Mode::Passthrough(backing)) => Some(Some(*backing)),
            Verdict::LookAgain => None,
        }
    }

    #[test]
    fn an_inode_is_open_in_one_way_until_its_last_release() {
        let mut opening = Opening::default();
        assert_eq!(open(&mut opening, None, true), Some(None));
        // Sealed by now: the name leads elsewhere, a handle does not.
        assert_eq!(open(&mut opening, Some(7), true), None);
        assert_eq!(open(&mut opening, Some(7), false), Some(None));
        opening.release();
        assert!(opening.is_open());
        assert_eq!(open(&mut opening, Some(7), false), Some(None));
        opening.release();
        opening.release();
        assert!(!opening.is_open());
        assert_eq!(open(&mut opening, Some(7), true), Some(Some(7)));
    }

    #[test]
    fn handles_that_are_passed_through_share_one_backing() {
        let mut opening = Opening::default();
        assert_eq!(open(&mut opening, Some(1), true), Some(Some(1)));
        assert_eq!(open(&mut opening, Some(2), true), Some(Some(1)));
        // It lost a chunk: whoever comes by name gets what is fetched anew.
        assert_eq!(open(&mut opening, None, true), None);
        assert_eq!(open(&mut opening, None, false), Some(Some(1)));
        (0..3).for_each(|_| opening.release());
        assert_eq!(open(&mut opening, Some(3), true), Some(Some(3)));
    }

    #[test]
    fn what_cannot_be_backed_is_read_through_the_cache() {
        let mut opening = Opening::<u32>::default();
        assert!(matches!(opening.open(Some(1), true, |_| None), Verdict::Open(Mode::Cached)));
    }
}
