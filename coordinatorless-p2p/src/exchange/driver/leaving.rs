//! Leaving: asks for nothing more, says so, reads to its end what it reads, and serves until nothing is only
//! here.
//!
//! How long that may take is for whoever told it to leave.

use tokio::sync::watch;

use super::{Driver, STORING_MAX};
use crate::swarm::Input;

impl Driver {
    pub(super) fn leave(&mut self, told: watch::Sender<u64>) {
        self.swarm.handle(self.now(), Input::Leave);
        for (_, request) in self.requests.drain() {
            request.abort();
        }
        self.leaving = Some(told);
        self.say_leaving();
        self.tell_what_would_go();
    }

    /// Gives up what it still reads: half of the time is over, and what comes must be taken, too.
    pub(super) fn leave_now(&mut self) {
        self.swarm.handle(self.now(), Input::LeaveNow);
        self.act();
    }

    /// Tells whoever waits what would be lost with this node now: what it alone holds, or is about to.
    pub(super) fn tell_what_would_go(&self) {
        let Some(told) = &self.leaving else { return };
        let storing = STORING_MAX - self.storing.available_permits();
        // What is being stored has no size here; one byte each keeps the sum from being nothing.
        let bytes = self.swarm.only_here_bytes() + storing as u64;
        told.send_if_modified(|last| std::mem::replace(last, bytes) != bytes);
    }
}
