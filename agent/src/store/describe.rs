//! Artifacts as others see them: listings, names, and open files.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    sync::{Arc, atomic::Ordering},
};

use coordinatorless_p2p::{ChunkHash, SwarmId};

use super::{Lease, OpenedFile, artifact::Artifact, resident::resident_bytes, shelf::Shelf};
use crate::{
    api::ArtifactInfo,
    error::{Error, ErrorKind, IoContext, Result},
    manifest::Manifest,
    snapshot::RelativePath,
};

impl Shelf {
    /// See [`Store::find`](super::Store::find).
    pub(super) fn find(&self, named: &str) -> Option<SwarmId> {
        let all = self.all();
        if let Ok(ChunkHash(hash)) = named.parse::<ChunkHash>() {
            let is_it = |a: &&Arc<Artifact>| a.swarm.0 == hash || a.state().manifest == Some(ChunkHash(hash));
            return all.iter().find(is_it).map(|a| a.swarm);
        }
        let newest = |a: &&Arc<Artifact>| (a.is_complete(), a.admitted_us.load(Ordering::Relaxed));
        all.iter().filter(|a| a.blueprint.reference == named).max_by_key(newest).map(|a| a.swarm)
    }

    /// See [`Store::artifacts`](super::Store::artifacts).
    pub(super) fn describe_all(&self, resident: bool) -> Vec<ArtifactInfo> {
        let mut all = self.all();
        all.sort_by(|a, b| (&a.blueprint.reference, a.swarm).cmp(&(&b.blueprint.reference, b.swarm)));
        all.iter().map(|artifact| self.describe(artifact, resident)).collect()
    }

    fn describe(&self, artifact: &Artifact, resident: bool) -> ArtifactInfo {
        let wanted = artifact.wanted_files();
        // What is told next is true of the disk, not of what was there once.
        if let Err(e) = self.look(artifact, &wanted) {
            tracing::warn!(artifact = %artifact.name(), error = %e, "what is on the disk cannot be looked at");
        }
        let (manifest, done_bytes, lacks_manifest) = {
            let state = artifact.state();
            (state.manifest, state.held_bytes, state.manifest.is_none() && state.all_hashes().is_some())
        };
        // What could not be sealed, on a full disk, has no path as a whole.
        let complete = artifact.is_complete() && !lacks_manifest;
        let mut total_bytes = 0u64;
        let mut disk_bytes = 0u64;
        let mut resident_sum = 0u64;
        for file in &wanted {
            let size = artifact.blueprint.files[*file].size;
            total_bytes = total_bytes.saturating_add(size);
            let Some(path) = artifact.current_path(*file) else { continue };
            disk_bytes += fs::metadata(&path).map_or(0, |meta| meta.blocks() * 512);
            if resident {
                // A file that is moved or evicted meanwhile counts as not resident.
                resident_sum += File::open(&path).and_then(|f| resident_bytes(&f, size)).unwrap_or(0);
            }
        }
        ArtifactInfo {
            swarm: artifact.swarm.to_string(),
            manifest: manifest.map(|id| id.to_string()),
            reference: artifact.blueprint.reference.clone(),
            revision: artifact.blueprint.revision.clone(),
            complete,
            total_bytes,
            done_bytes,
            disk_bytes,
            resident_bytes: resident.then_some(resident_sum),
            files: wanted.len() as u64,
            all_files: artifact.blueprint.files.len() as u64,
            pinned: artifact.pinned.load(Ordering::Acquire),
            leases: artifact.leases.load(Ordering::Acquire),
            last_used: artifact.last_used_us.load(Ordering::Relaxed) / 1_000_000,
            path: self.linked(artifact).filter(|_| complete),
        }
    }

    /// See [`Store::open_file`](super::Store::open_file).
    ///
    /// # Errors
    /// As there.
    pub(super) fn open_file(&self, swarm: SwarmId, path: &RelativePath) -> Result<OpenedFile> {
        let lease = self.lease(swarm)?;
        let artifact = &lease.artifact;
        let number = artifact.blueprint.find(path).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("{path} is not a file of {}", artifact.name()))
        })?;
        let etag = {
            let state = artifact.state();
            if !state.is_published(number) {
                return Err(Error::new(
                    ErrorKind::UNAVAILABLE,
                    format!("{} is not whole yet", artifact.file_name(number)),
                ));
            }
            let chunks = artifact.chunks_of(number);
            Manifest::etag_of(state.hashes[chunks.start as usize..chunks.end as usize].iter().flatten())
        };
        let at = || format!("{} cannot be opened", artifact.file_name(number));
        let opened =
            File::open(artifact.published_path(number)).and_then(|file| Ok((file.metadata()?, file)));
        let (meta, file) = match opened {
            Ok((meta, file)) if self.is_stamped(artifact, number, &meta) => (meta, file),
            Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(e).at(at);
            }
            Ok(_) | Err(_) => {
                self.look(artifact, &[number])?;
                let text = format!(
                    "{} is not what was published any more; pull it again",
                    artifact.file_name(number)
                );
                return Err(Error::new(ErrorKind::UNAVAILABLE, text));
            }
        };
        let modified = meta.mtime().max(0) as u64;
        let bytes = artifact.file(number)?.size;
        artifact.touch();
        Ok(OpenedFile { file: Arc::new(file), bytes, etag, modified, lease: Arc::new(lease) })
    }
}

impl Lease {
    /// Claims `artifact`; to be called while it cannot leave the shelf.
    pub(super) fn new(artifact: Arc<Artifact>) -> Self {
        artifact.leases.fetch_add(1, Ordering::AcqRel);
        Self { swarm: artifact.swarm, artifact }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.artifact.touch();
        self.artifact.leases.fetch_sub(1, Ordering::AcqRel);
    }
}
