//! Taking in and giving out manifests for others: a home's part.
//!
//! What is kept where, and what goes first, is [`kept`](super::kept)'s.

use std::{fs, sync::Arc};

use coordinatorless_p2p::{ChunkHash, SwarmId};

use super::{journal::replace_file, shelf::Shelf, space::file_charge};
use crate::{
    error::{Error, ErrorKind, IoContext, Result},
    manifest::Manifest,
};

/// What became of a manifest that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// It is kept.
    Kept,
    /// It contradicts the one that was kept: neither is any more.
    Disputed,
    /// There is no room for it.
    NoRoom,
}

impl Shelf {
    /// See [`Store::keep_manifest`](super::Store::keep_manifest).
    ///
    /// # Errors
    /// As there.
    pub(super) fn keep_for_others(&self, encoded: &[u8]) -> Result<Keeping> {
        self.ensure_open()?;
        let swarm = Manifest::decode(encoded)?.blueprint.swarm_id();
        let id = ChunkHash::of(encoded);
        match self.kept.id_of(swarm) {
            Some(known) if known == id => return Ok(Keeping::Kept),
            Some(known) => {
                tracing::warn!(swarm = %swarm.short(), known = %known.short(), offered = %id.short(), "two manifests for one swarm: neither is kept");
                self.kept.give_up(swarm);
                return Ok(Keeping::Disputed);
            }
            None => {}
        }
        // Nobody else takes room meanwhile; nothing of the model is given up for a manifest.
        let _admission = self.admission.lock();
        let bytes = file_charge(encoded.len() as u64);
        if bytes > self.kept.most_bytes {
            return Ok(Keeping::NoRoom);
        }
        self.kept.shrink(self.kept.most_bytes - bytes);
        if self.used_bytes().saturating_add(2 * bytes) > self.limits.quota_bytes {
            return Ok(Keeping::NoRoom);
        }
        let path = self.kept.path(swarm);
        replace_file(&path.with_extension("new"), &path, encoded)?;
        self.kept.note(swarm, id, bytes);
        Ok(Keeping::Kept)
    }

    /// See [`Store::kept_manifest`](super::Store::kept_manifest).
    ///
    /// # Errors
    /// As there.
    pub(super) fn kept_for_others(&self, named: ChunkHash) -> Result<Arc<Manifest>> {
        let missing =
            || Error::new(ErrorKind::NotFound, format!("manifest {} is not kept here", named.short()));
        let swarm = self.kept.use_of(named).ok_or_else(missing)?;
        let path = self.kept.path(swarm);
        let encoded = fs::read(&path).at(|| path.display().to_string())?;
        match Manifest::decode(&encoded) {
            Ok(manifest) if ChunkHash::of(&encoded) == named => Ok(Arc::new(manifest)),
            _ => {
                self.kept.give_up(swarm);
                Err(missing())
            }
        }
    }

    /// The id of the manifest that is kept for a swarm.
    pub(super) fn kept_id(&self, swarm: SwarmId) -> Option<ChunkHash> {
        self.kept.id_of(swarm)
    }

    /// Every manifest known here, sealed or kept: swarm and manifest hash.
    pub(super) fn known_manifests(&self) -> Vec<(SwarmId, ChunkHash)> {
        let mut known = self.kept.ids();
        known.extend(self.all().iter().filter_map(|a| Some((a.swarm, a.state().manifest?))));
        known.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        manifest::{Blueprint, BlueprintFile},
        snapshot::FileVersion,
        store::{Store, StoreConfig},
    };

    /// A manifest of one file in `chunks` chunks, whose hashes depend on `salt`.
    fn manifest(name: &str, chunks: u32, salt: u8) -> Manifest {
        let file = BlueprintFile {
            path: "model.bin".parse().unwrap(),
            size: u64::from(chunks) * 1024,
            version: FileVersion::default(),
            digest: None,
            chunk_bytes: vec![1024; chunks as usize],
        };
        let blueprint = Blueprint::new(format!("s3://models/{name}"), None, vec![file]).unwrap();
        let hashes = (0..chunks).map(|n| ChunkHash::of(&[n as u8, salt])).collect();
        Manifest::new(blueprint, hashes).unwrap()
    }

    async fn store(dir: &Path, quota_bytes: u64) -> Store {
        Store::open(dir.to_owned(), StoreConfig { quota_bytes, ..StoreConfig::default() }).await.unwrap()
    }

    #[tokio::test]
    async fn a_kept_manifest_outlives_a_restart_and_needs_no_data() {
        let dir = tempfile::tempdir().unwrap();
        let kept = manifest("llama", 3, 0);
        let before = store(dir.path(), 64 << 20).await;
        assert_eq!(before.keep_manifest(kept.encode().into()).await.unwrap(), Keeping::Kept);
        assert_eq!(before.keep_manifest(kept.encode().into()).await.unwrap(), Keeping::Kept, "again");
        before.close(std::time::Duration::from_secs(5)).await;
        drop(before);
        let after = store(dir.path(), 64 << 20).await;
        assert_eq!(after.kept_id(kept.blueprint.swarm_id()), Some(kept.id()));
        assert_eq!(*after.kept_manifest(kept.id()).await.unwrap(), kept);
        assert!(after.swarms().is_empty());
        assert!(after.space().used_bytes > 0, "what is kept counts");
    }

    #[tokio::test]
    async fn two_manifests_for_one_swarm_cancel_each_other_out() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), 64 << 20).await;
        let (truth, lie) = (manifest("llama", 3, 0), manifest("llama", 3, 1));
        assert_eq!(store.keep_manifest(truth.encode().into()).await.unwrap(), Keeping::Kept);
        assert_eq!(store.keep_manifest(lie.encode().into()).await.unwrap(), Keeping::Disputed);
        assert_eq!(store.kept_id(truth.blueprint.swarm_id()), None);
        assert_eq!(store.kept_manifest(lie.id()).await.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_hundredth_of_the_quota_is_kept_and_the_least_used_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        // Room for three of one block each.
        let store = store(dir.path(), 1_400_000).await;
        let all: Vec<Manifest> = (0..4).map(|n| manifest(&format!("m{n}"), 2, 0)).collect();
        for one in &all[..3] {
            assert_eq!(store.keep_manifest(one.encode().into()).await.unwrap(), Keeping::Kept);
        }
        store.kept_manifest(all[0].id()).await.unwrap();
        assert_eq!(store.keep_manifest(all[3].encode().into()).await.unwrap(), Keeping::Kept);
        let here: Vec<bool> = all.iter().map(|m| store.kept_id(m.blueprint.swarm_id()).is_some()).collect();
        assert_eq!(here, [true, false, true, true]);
        let large = manifest("large", 1000, 0);
        assert_eq!(store.keep_manifest(large.encode().into()).await.unwrap(), Keeping::NoRoom);
    }

    #[tokio::test]
    async fn rubbish_is_neither_kept_nor_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("manifests")).unwrap();
        fs::write(dir.path().join("manifests").join("00".repeat(32)), "rubbish").unwrap();
        let store = store(dir.path(), 64 << 20).await;
        assert_eq!(store.kept_id(SwarmId([0; 32])), None);
        assert_eq!(store.keep_manifest("rubbish".into()).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(fs::read_dir(dir.path().join("manifests")).unwrap().count(), 0);
    }
}
