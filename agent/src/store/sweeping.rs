//! Removing what is off the shelf, and giving its room back.

use std::io;

use super::{leftovers::Leftover, shelf::Shelf};

impl Shelf {
    /// Removes files and gives their room back, now or at a later [`sweep`](Self::sweep_leftovers). Called
    /// with the admission lock held.
    ///
    /// # Errors
    /// Those of the file system, this time.
    pub(super) fn clear(&self, mut leftover: Leftover) -> io::Result<()> {
        let cleared = leftover.clear();
        if cleared.is_ok() {
            let mut charged = self.charged.lock();
            *charged = charged.saturating_sub(leftover.charge_bytes);
        } else {
            self.leftovers.lock().push(leftover);
        }
        cleared
    }

    /// Tries again to remove what could not be removed. Called with the admission lock held, and before a
    /// directory that was in the way is made anew.
    pub(super) fn sweep_leftovers(&self) {
        let leftovers = std::mem::take(&mut *self.leftovers.lock());
        for leftover in leftovers {
            let dir = leftover.dir.clone();
            if let Err(e) = self.clear(leftover) {
                tracing::warn!(dir = %dir.display(), error = %e, "an artifact still cannot be removed; its bytes count against the quota");
            }
        }
    }
}
