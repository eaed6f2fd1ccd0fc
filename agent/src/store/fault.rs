//! Named steps at which a test may have the process die or an fsync fail.
//!
//! Compiled to nothing without the `faults` feature, which only this crate's own tests turn on.
//! `EMBERLINE_FAULT=<step>:<n>` aborts at the n-th time `<step>` is reached (n from 1, default 1).

/// A step of the data's way to a published file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A chunk's bytes are in the file, nothing says so yet.
    AfterWrite,
    /// Its record is in the journal, it is not visible yet.
    AfterJournal,
    /// About to make a file durable.
    BeforeSync,
    /// A file is durable, the index does not know.
    AfterSync,
    /// About to commit the index.
    BeforeCommit,
    /// The index is durable.
    AfterCommit,
    /// A file is whole, checked, durable, and has no path yet.
    BeforeRename,
    /// It has its path, nothing else knows.
    AfterRename,
    /// About to make the artifact reachable.
    BeforeLink,
    /// The artifact is reachable.
    AfterLink,
}

#[cfg(feature = "faults")]
mod armed {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };

    use super::Step;

    fn plan() -> Option<&'static (String, u64)> {
        static PLAN: OnceLock<Option<(String, u64)>> = OnceLock::new();
        PLAN.get_or_init(|| {
            let text = std::env::var("EMBERLINE_FAULT").ok()?;
            let (step, nth) = text.split_once(':').unwrap_or((&text, "1"));
            Some((step.to_owned(), nth.parse().unwrap_or(1)))
        })
        .as_ref()
    }

    fn name(step: Step) -> &'static str {
        match step {
            Step::AfterWrite => "after-write",
            Step::AfterJournal => "after-journal",
            Step::BeforeSync => "before-sync",
            Step::AfterSync => "after-sync",
            Step::BeforeCommit => "before-commit",
            Step::AfterCommit => "after-commit",
            Step::BeforeRename => "before-rename",
            Step::AfterRename => "after-rename",
            Step::BeforeLink => "before-link",
            Step::AfterLink => "after-link",
        }
    }

    pub(in crate::store) fn reach(step: Step) {
        static HITS: AtomicU64 = AtomicU64::new(0);
        let Some((wanted, nth)) = plan() else { return };
        if wanted == name(step) && HITS.fetch_add(1, Ordering::Relaxed) + 1 == *nth {
            // SAFETY: raises a signal that cannot be caught; touches no memory.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
    }
}

#[cfg(feature = "faults")]
pub(super) use armed::reach;

/// Marks that `step` is reached.
#[cfg(not(feature = "faults"))]
pub(super) fn reach(_step: Step) {}
