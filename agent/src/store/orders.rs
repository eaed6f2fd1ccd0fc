//! Reading orders on disk: beside the manifest of what is here, and for others as a home.
//!
//! One for others is a file `<data>/orders/<swarm id>`, so many at most, the oldest first to go. None is
//! believed: they are wishes. What cannot be read is no order.

use std::{fs, path::PathBuf, time::SystemTime};

use coordinatorless_p2p::SwarmId;

use super::{Store, journal::replace_file, shelf::Shelf};
use crate::{
    error::{IoContext, Result},
    order::{MAX_ENCODED_BYTES, ReadingOrder},
};

/// The file beside the manifest.
const OWN_FILE: &str = "order";
/// Orders kept for others.
const KEPT_MAX: usize = 256;

impl Store {
    /// The order in which an artifact was read, here or as another node told.
    pub(crate) async fn reading_order(&self, swarm: SwarmId) -> Option<ReadingOrder> {
        self.blocking(move |shelf| Ok(shelf.reading_order(swarm))).await.ok().flatten()
    }

    /// Whether one was recorded here.
    pub(crate) fn has_reading_order(&self, swarm: SwarmId) -> bool {
        self.shelf.own_order(swarm).is_some_and(|path| path.exists())
    }

    /// Keeps an order beside its artifact, until that goes.
    ///
    /// # Errors
    /// `NotFound` when the artifact is not here; those of the file system.
    pub(crate) async fn keep_reading_order(&self, order: ReadingOrder) -> Result<()> {
        self.blocking(move |shelf| {
            let own = shelf.artifact(order.swarm())?.dir.join(OWN_FILE);
            replace_file(&own.with_extension("new"), &own, &order.encode())
        })
        .await
    }

    /// Keeps an order as a home of its swarm, whether the artifact is here or not.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) async fn keep_order_for_others(&self, order: ReadingOrder) -> Result<()> {
        self.blocking(move |shelf| shelf.keep_order_for_others(&order)).await
    }

    /// Forgets the order of an artifact, whoever recorded it. True if there was one.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) async fn forget_reading_order(&self, swarm: SwarmId) -> Result<bool> {
        self.blocking(move |shelf| {
            let mut any = false;
            for path in [shelf.own_order(swarm), Some(shelf.kept_order(swarm))].into_iter().flatten() {
                match fs::remove_file(&path) {
                    Ok(()) => any = true,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e).at(|| path.display().to_string()),
                }
            }
            Ok(any)
        })
        .await
    }
}

impl Shelf {
    fn own_order(&self, swarm: SwarmId) -> Option<PathBuf> {
        Some(self.artifact(swarm).ok()?.dir.join(OWN_FILE))
    }

    fn kept_order(&self, swarm: SwarmId) -> PathBuf {
        self.dir.join("orders").join(swarm.to_string())
    }

    fn reading_order(&self, swarm: SwarmId) -> Option<ReadingOrder> {
        let read = |path: PathBuf| {
            let length = fs::metadata(&path).ok()?.len();
            let bytes = (length <= MAX_ENCODED_BYTES as u64).then(|| fs::read(&path).ok()).flatten()?;
            let order = ReadingOrder::decode(&bytes).ok()?;
            (order.swarm() == swarm).then_some(order)
        };
        self.own_order(swarm).and_then(read).or_else(|| read(self.kept_order(swarm)))
    }

    fn keep_order_for_others(&self, order: &ReadingOrder) -> Result<()> {
        self.ensure_open()?;
        let path = self.kept_order(order.swarm());
        let dir = self.dir.join("orders");
        let at = || dir.display().to_string();
        fs::create_dir_all(&dir).at(at)?;
        let mut kept: Vec<(SystemTime, PathBuf)> = fs::read_dir(&dir)
            .at(at)?
            .filter_map(|entry| {
                Some((entry.as_ref().ok()?.metadata().ok()?.modified().ok()?, entry.ok()?.path()))
            })
            .collect();
        kept.sort();
        for (_, oldest) in kept.iter().take((kept.len() + 1).saturating_sub(KEPT_MAX)) {
            let _ = fs::remove_file(oldest);
        }
        replace_file(&path.with_extension("new"), &path, &order.encode())
    }
}
