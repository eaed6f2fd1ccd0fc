//! Listings of origins, under way and landed: one at a time for each reference, whoever asks.
//!
//! Bounded: beyond so many the oldest goes, which at worst costs its origin a listing more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use coordinatorless_p2p::SwarmId;
use tokio::sync::OnceCell;

use super::listing::{FRESH, Listed};

/// Listings remembered.
pub(super) const LISTINGS_MAX: usize = 4096;

/// One of them.
struct Listing {
    began: Instant,
    cell: Arc<OnceCell<Listed>>,
    /// The one before, for when the origin cannot be asked anew, and when that began.
    before: Option<(Instant, Listed)>,
}

/// All of them.
pub(super) struct Flights {
    listings: Mutex<HashMap<String, Listing>>,
    most: usize,
}

impl Default for Flights {
    fn default() -> Self {
        Self::with_room(LISTINGS_MAX)
    }
}

impl Flights {
    fn with_room(most: usize) -> Self {
        Self { listings: Mutex::default(), most }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Listing>> {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The flight for `name` that is under way or began less than `max_age` ago, else a new one.
    pub(super) fn join(&self, name: &str, max_age: Duration) -> Arc<OnceCell<Listed>> {
        let mut listings = self.lock();
        // A flight still under way is joined however old it is.
        let younger = |l: &Listing, age: Duration| !l.cell.initialized() || l.began.elapsed() < age;
        if let Some(listing) = listings.get(name).filter(|l| younger(l, max_age)) {
            return listing.cell.clone();
        }
        if listings.len() >= self.most {
            listings.retain(|_, l| younger(l, FRESH));
        }
        let before = listings.remove(name).and_then(|listing| match listing.cell.get() {
            Some(listed) => Some((listing.began, listed.clone())),
            None => listing.before,
        });
        while listings.len() >= self.most.max(1) {
            let oldest = listings.iter().min_by_key(|(_, l)| l.began).map(|(name, _)| name.clone());
            oldest.map(|name| listings.remove(&name));
        }
        let cell = Arc::new(OnceCell::new());
        listings.insert(name.to_owned(), Listing { began: Instant::now(), cell: cell.clone(), before });
        cell
    }

    /// Forgets a listing that failed; what was listed before holds on for its time, if that `may` be.
    pub(super) fn fall_back(&self, name: &str, failed: &Arc<OnceCell<Listed>>, may: bool) -> Option<Listed> {
        fall_back(&mut self.lock(), name, failed, may)
    }

    /// Whoever waited for a flight waits no more. It goes on where others do; else it is over, and what was listed
    /// before holds on for its time.
    pub(super) fn leave(&self, name: &str, left: &Arc<OnceCell<Listed>>) {
        let mut listings = self.lock();
        // Nobody joins while the lock is held. One is remembered, one is `left`.
        if !left.initialized() && Arc::strong_count(left) <= 2 {
            fall_back(&mut listings, name, left, true);
        }
    }

    /// What was heard before the flight that is under way.
    pub(super) fn before(&self, name: &str) -> Option<Listed> {
        self.lock().get(name)?.before.as_ref().map(|(_, listed)| listed.clone())
    }

    /// How long ago what holds now was asked for.
    pub(super) fn age(&self, name: &str) -> Option<Duration> {
        self.lock().get(name).filter(|listing| listing.cell.initialized()).map(|l| l.began.elapsed())
    }

    /// Forgets whatever was listed.
    pub(super) fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    /// Forgets a listing that the origin has left behind. One made since stays: a herd that learns of the
    /// change costs the origin one listing, too.
    pub(super) fn forget_outdated(&self, name: &str, outdated: SwarmId) {
        let mut listings = self.lock();
        let listed = listings.get(name).and_then(|listing| listing.cell.get());
        if listed.is_some_and(|listed| listed.blueprint.swarm_id() == outdated) {
            listings.remove(name);
        }
    }
}

/// See [`Flights::fall_back`].
fn fall_back(
    listings: &mut HashMap<String, Listing>,
    name: &str,
    failed: &Arc<OnceCell<Listed>>,
    may: bool,
) -> Option<Listed> {
    let listing = listings.get(name)?;
    let before = if Arc::ptr_eq(&listing.cell, failed) {
        let before = listings.remove(name)?.before;
        before.filter(|(began, _)| may && began.elapsed() < FRESH)
    } else {
        // Somebody else who waited for it was here first.
        let listed = listing.cell.get().cloned()?;
        return Some(listed).filter(|_| may);
    };
    let (began, listed) = before?;
    let cell = Arc::new(OnceCell::new_with(Some(listed.clone())));
    listings.insert(name.to_owned(), Listing { began, cell, before: None });
    Some(listed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Blueprint;

    #[test]
    fn a_flight_that_one_leaves_goes_on_while_others_wait_for_it() {
        let flights = Flights::default();
        let patient = flights.join("a", FRESH);
        flights.leave("a", &flights.join("a", Duration::ZERO));
        assert!(Arc::ptr_eq(&patient, &flights.join("a", Duration::ZERO)), "it would be listed twice");
        flights.leave("a", &patient);
        assert!(!Arc::ptr_eq(&patient, &flights.join("a", Duration::ZERO)), "nobody flies it any more");
    }

    #[test]
    fn a_listing_older_than_what_is_wanted_is_made_anew_and_one_under_way_is_joined() {
        let flights = Flights::default();
        let flying = flights.join("a", Duration::ZERO);
        assert!(Arc::ptr_eq(&flying, &flights.join("a", Duration::ZERO)));
        let file = crate::manifest::BlueprintFile {
            path: "f".parse().unwrap(),
            size: 1,
            version: crate::snapshot::FileVersion::default(),
            digest: None,
            chunk_bytes: vec![1],
        };
        let blueprint = Arc::new(Blueprint::new("a".to_owned(), None, vec![file]).unwrap());
        flying.set(Listed { blueprint, published: None }).ok().unwrap();
        assert!(Arc::ptr_eq(&flying, &flights.join("a", FRESH)));
        assert!(!Arc::ptr_eq(&flying, &flights.join("a", Duration::ZERO)));
        assert!(flights.before("a").is_some(), "the headers would be read again");
    }

    #[test]
    fn a_flood_of_references_is_remembered_within_bounds_and_the_newest_is_joined() {
        let flights = Flights::with_room(8);
        for n in 0..100 {
            flights.join(&format!("https://host/{n}"), FRESH);
            assert!(flights.lock().len() <= 8, "{} after {n}", flights.lock().len());
        }
        let newest = flights.join("https://host/99", FRESH);
        assert!(Arc::ptr_eq(&newest, &flights.join("https://host/99", FRESH)));
    }
}
