//! Artifacts made for tests: every byte is a function of a seed, so any of them can be checked.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use coordinatorless_p2p::{ChunkHash, ChunkStore, SwarmId, VerifiedChunk};
use emberline_agent::{
    error::Result,
    manifest::{Blueprint, BlueprintFile, Manifest},
    snapshot::{Digest, FileVersion},
    store::{Lease, Published, Store, StoreConfig},
};
use sha2::{Digest as _, Sha256};

/// Bytes of a chunk in tests: not a power of two, so that places are not all on a block.
pub(crate) const CHUNK_BYTES: usize = 40_000;

/// A blueprint with its bytes.
#[derive(Clone)]
pub(crate) struct TestArtifact {
    pub(crate) blueprint: Arc<Blueprint>,
    pub(crate) contents: Vec<Vec<u8>>,
}

/// Bytes that no other seed has.
pub(crate) fn bytes_of(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    reader.fill(&mut out);
    out
}

impl TestArtifact {
    /// Files by path and content, cut every `chunk_bytes`.
    pub(crate) fn new(name: &str, chunk_bytes: usize, mut files: Vec<(String, Vec<u8>)>) -> Self {
        files.sort();
        let entry = |(path, content): &(String, Vec<u8>)| BlueprintFile {
            path: path.parse().unwrap(),
            size: content.len() as u64,
            version: FileVersion::default(),
            digest: Some(Digest::Sha256(Sha256::digest(content).into())),
            chunk_bytes: content.chunks(chunk_bytes).map(|c| c.len() as u32).collect(),
        };
        let entries = files.iter().map(entry).collect();
        let blueprint = Blueprint::new(format!("file:///models/{name}"), Some("1".to_owned()), entries).unwrap();
        Self { blueprint: Arc::new(blueprint), contents: files.into_iter().map(|(_, c)| c).collect() }
    }

    /// Five files: empty, one byte, one chunk, one chunk and a byte, several chunks in a directory.
    pub(crate) fn varied(name: &str, seed: u64) -> Self {
        let file = |path: &str, len: usize| (path.to_owned(), bytes_of(seed ^ (len as u64) << 8, len));
        Self::new(
            name,
            CHUNK_BYTES,
            vec![
                file("empty", 0),
                file("one", 1),
                file("chunk", CHUNK_BYTES),
                file("deep/er/over", CHUNK_BYTES + 1),
                file("deep/several", 5 * CHUNK_BYTES + 77),
            ],
        )
    }

    /// One file of `chunks` chunks.
    pub(crate) fn single(name: &str, seed: u64, chunk_bytes: usize, chunks: usize) -> Self {
        Self::new(name, chunk_bytes, vec![("model".to_owned(), bytes_of(seed, chunk_bytes * chunks))])
    }

    pub(crate) fn swarm(&self) -> SwarmId {
        self.blueprint.swarm_id()
    }

    pub(crate) fn all_files(&self) -> Vec<usize> {
        (0..self.contents.len()).collect()
    }

    pub(crate) fn chunk(&self, index: u32) -> VerifiedChunk {
        let place = self.blueprint.place(index).unwrap();
        let start = place.offset as usize;
        let bytes = &self.contents[place.file][start..start + place.bytes as usize];
        VerifiedChunk::hashed(Bytes::copy_from_slice(bytes))
    }

    pub(crate) fn hash(&self, index: u32) -> ChunkHash {
        self.chunk(index).hash()
    }

    pub(crate) fn chunks(&self) -> std::ops::Range<u32> {
        0..self.blueprint.chunk_count()
    }

    pub(crate) fn manifest(&self) -> Manifest {
        Manifest::new((*self.blueprint).clone(), self.chunks().map(|n| self.hash(n)).collect()).unwrap()
    }

    pub(crate) async fn write(&self, store: &Store, chunks: impl IntoIterator<Item = u32>) -> Result<()> {
        for index in chunks {
            store.write(self.swarm(), index, self.chunk(index)).await?;
        }
        Ok(())
    }

    pub(crate) async fn publish(&self, store: &Store) -> Result<Published> {
        for file in self.all_files() {
            store.publish_file(self.swarm(), file).await?;
        }
        store.publish(self.swarm(), &self.all_files()).await
    }

    /// The whole way.
    pub(crate) async fn pull(&self, store: &Store) -> Result<(Lease, Published)> {
        let lease = store.admit(self.blueprint.clone(), &self.all_files()).await?;
        self.write(store, self.chunks()).await?;
        let published = self.publish(store).await?;
        Ok((lease, published))
    }

    /// Whether every file below `dir` has exactly its bytes.
    pub(crate) fn assert_at(&self, dir: &Path) {
        for (file, content) in self.blueprint.files.iter().zip(&self.contents) {
            let found = std::fs::read(dir.join(file.path.as_str())).unwrap();
            assert!(found == *content, "{} at {}", file.path, dir.display());
        }
    }

    /// The store's own directory of this artifact.
    pub(crate) fn dir(&self, data: &Path) -> std::path::PathBuf {
        data.join("artifacts").join(self.swarm().to_string())
    }
}

/// Every file that can be reached under `files/` or `models/` has its bytes. How many there are.
pub(crate) fn assert_published_are_clean(data: &Path, artifacts: &[&TestArtifact]) -> usize {
    let mut found = 0;
    for artifact in artifacts {
        let files = artifact.dir(data).join("files");
        for (file, content) in artifact.blueprint.files.iter().zip(&artifact.contents) {
            if let Ok(bytes) = std::fs::read(files.join(file.path.as_str())) {
                assert!(bytes == *content, "{} is published with wrong bytes", file.path);
                found += 1;
            }
        }
    }
    let mut dirs = vec![data.join("models")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_symlink() {
                assert!(path.exists(), "{} leads nowhere", path.display());
            } else if path.is_dir() {
                dirs.push(path);
            }
        }
    }
    found
}

pub(crate) async fn open(data: &Path) -> Store {
    open_with(data, 0).await
}

pub(crate) async fn open_with(data: &Path, quota_bytes: u64) -> Store {
    let config = StoreConfig { quota_bytes, ..StoreConfig::default() };
    Store::open(data.to_owned(), config).await.unwrap()
}

pub(crate) async fn close(store: Store) {
    store.close(Duration::from_secs(30)).await;
}

/// `du`: allocated bytes of everything below, each inode once.
pub(crate) fn disk_usage(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::HashSet::new();
    let mut sum = 0;
    let mut paths = vec![dir.to_owned()];
    while let Some(path) = paths.pop() {
        // What is unlinked while we look is not there.
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        if seen.insert(meta.ino()) {
            sum += meta.blocks() * 512;
        }
        if meta.is_dir() {
            paths.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
        }
    }
    sum
}
