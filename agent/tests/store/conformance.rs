//! What holds on any file system; run on whatever the temporary directory is on, and by
//! `file_systems` on ext4, xfs, btrfs and tmpfs.

use std::{os::unix::fs::MetadataExt, path::Path, sync::Arc};

use coordinatorless_p2p::{ChunkStore, VerifiedChunk};
use emberline_agent::error::ErrorKind;

use crate::artifact::{CHUNK_BYTES, TestArtifact, assert_published_are_clean, close, open};

/// Every claim of this page, in a data directory of its own below `root`.
pub(crate) async fn run_all(root: &Path) {
    let dir = |name: &str| root.join(name);
    a_pull_ends_with_the_right_bytes_read_only_under_the_path_people_use(&dir("pull")).await;
    nothing_has_a_path_before_it_is_whole(&dir("whole")).await;
    many_writers_of_distinct_and_equal_chunks_all_succeed(&dir("many")).await;
    chunks_outlive_closing_and_reopening(&dir("reopen")).await;
    a_chunk_of_another_artifact_is_adopted_without_being_written(&dir("adopt")).await;
    a_rotten_source_is_not_adopted_and_loses_its_chunk(&dir("rotten")).await;
    rot_is_found_and_mended_under_the_eyes_of_a_reader(&dir("rot")).await;
    a_file_without_the_origins_digest_is_not_published(&dir("digest")).await;
    removing_unlinks_everything_and_spares_who_has_it_open(&dir("remove")).await;
}

macro_rules! claims {
    ($($claim:ident),* $(,)?) => {
        mod here {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $claim() {
                    let dir = tempfile::tempdir().unwrap();
                    super::$claim(dir.path()).await;
                }
            )*
        }
    };
}

claims!(
    a_pull_ends_with_the_right_bytes_read_only_under_the_path_people_use,
    nothing_has_a_path_before_it_is_whole,
    many_writers_of_distinct_and_equal_chunks_all_succeed,
    chunks_outlive_closing_and_reopening,
    a_chunk_of_another_artifact_is_adopted_without_being_written,
    a_rotten_source_is_not_adopted_and_loses_its_chunk,
    rot_is_found_and_mended_under_the_eyes_of_a_reader,
    a_file_without_the_origins_digest_is_not_published,
    removing_unlinks_everything_and_spares_who_has_it_open,
    a_wrong_length_index_or_file_is_refused,
    a_discarded_chunk_takes_its_files_path_away,
    a_manifest_that_disagrees_drops_what_is_wrong,
    a_second_store_on_the_same_directory_is_refused,
    a_pull_of_what_is_here_writes_nothing,
    a_later_pull_widens_an_earlier_one,
    an_artifact_is_found_by_reference_swarm_and_manifest,
);

async fn a_pull_ends_with_the_right_bytes_read_only_under_the_path_people_use(dir: &Path) {
    let store = open(dir).await;
    let model = TestArtifact::varied("varied", 1);
    let (_lease, published) = model.pull(&store).await.unwrap();
    model.assert_at(&published.path);
    assert!(published.path.starts_with(dir.canonicalize().unwrap().join("models")));
    assert!(published.path.read_link().unwrap().is_relative());
    assert_eq!(published.manifest, Some(model.manifest().id()));
    for file in &model.blueprint.files {
        let meta = published.path.join(file.path.as_str()).metadata().unwrap();
        assert_eq!(meta.mode() & 0o777, 0o444);
        let opened = store.open_file(model.swarm(), &file.path).await.unwrap();
        assert_eq!(opened.bytes, file.size);
        let number = model.blueprint.find(&file.path).unwrap();
        assert_eq!(opened.etag, model.manifest().file_etag(number));
    }
    assert_eq!(std::fs::read_dir(model.dir(dir).join("partial")).unwrap().count(), 0);
    assert_eq!(*store.manifest(model.swarm()).unwrap(), model.manifest());
    let info = store.artifacts(true).await.remove(0);
    assert!(info.complete && info.total_bytes == model.blueprint.total_bytes());
    assert_eq!((info.done_bytes, info.files), (info.total_bytes, 5));
    assert_eq!(info.path, Some(published.path));
    assert!(info.resident_bytes.unwrap() > 0);
    close(store).await;
}

async fn nothing_has_a_path_before_it_is_whole(dir: &Path) {
    let store = open(dir).await;
    let model = TestArtifact::varied("varied", 2);
    let _lease = store.admit(model.blueprint.clone(), &model.all_files()).await.unwrap();
    let files = model.dir(dir).join("files");
    for index in model.chunks() {
        let file = model.blueprint.place(index).unwrap().file;
        let last = model.blueprint.chunks_of(file).end - 1;
        model.write(&store, [index]).await.unwrap();
        let outcome = store.publish_file(model.swarm(), file).await;
        if index == last {
            assert!(outcome.unwrap());
            assert!(!store.publish_file(model.swarm(), file).await.unwrap());
        } else {
            assert!(matches!(outcome.unwrap_err().kind(), ErrorKind::Unavailable { .. }));
            assert!(!files.join(model.blueprint.files[file].path.as_str()).exists());
        }
        let early = store.publish(model.swarm(), &model.all_files()).await.unwrap_err();
        assert!(matches!(early.kind(), ErrorKind::Unavailable { .. }));
        assert!(std::fs::read_dir(dir.join("models")).unwrap().next().is_none());
        assert_published_are_clean(dir, &[&model]);
    }
    let empty = model.blueprint.find(&"empty".parse().unwrap()).unwrap();
    assert!(store.publish_file(model.swarm(), empty).await.unwrap());
    model.assert_at(&store.publish(model.swarm(), &model.all_files()).await.unwrap().path);
    close(store).await;
}

async fn many_writers_of_distinct_and_equal_chunks_all_succeed(dir: &Path) {
    let store = open(dir).await;
    let model = TestArtifact::single("many", 3, CHUNK_BYTES, 200);
    let _lease = store.admit(model.blueprint.clone(), &vec![0]).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        for index in model.chunks() {
            // Two write each chunk at the same time, one forwards and one backwards.
            if (index + writer) % 2 == 0 {
                continue;
            }
            let index = if writer < 2 { index } else { model.blueprint.chunk_count() - 1 - index };
            let (store, chunk, swarm) = (store.clone(), model.chunk(index), model.swarm());
            writers.spawn(async move {
                store.write(swarm, index, chunk.clone()).await.unwrap();
                let (hash, bytes) = store.read(swarm, index).await.unwrap();
                assert!(hash == chunk.hash() && bytes == *chunk.bytes());
            });
        }
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let inventory = store.inventory(model.swarm()).unwrap();
    assert!(inventory.held.is_full());
    assert_eq!(inventory.hashes, model.chunks().map(|n| Some(model.hash(n))).collect::<Vec<_>>());
    model.publish(&store).await.unwrap();
    assert_eq!(assert_published_are_clean(dir, &[&model]), 1);
    close(store).await;
}

async fn chunks_outlive_closing_and_reopening(dir: &Path) {
    let model = TestArtifact::varied("varied", 4);
    let store = open(dir).await;
    let lease = store.admit(model.blueprint.clone(), &model.all_files()).await.unwrap();
    model.write(&store, model.chunks().step_by(2)).await.unwrap();
    drop(lease);
    close(store).await;
    let store = open(dir).await;
    let held = store.inventory(model.swarm()).unwrap().held;
    assert_eq!(held.iter().collect::<Vec<_>>(), model.chunks().step_by(2).collect::<Vec<_>>());
    for index in held.iter() {
        assert_eq!(store.read(model.swarm(), index).await.unwrap().1, *model.chunk(index).bytes());
    }
    let (_lease, published) = model.pull(&store).await.unwrap();
    model.assert_at(&published.path);
    close(store).await;
    let store = open(dir).await;
    assert!(store.artifacts(false).await[0].complete);
    assert_eq!(store.manifest(model.swarm()).unwrap().id(), published.manifest.unwrap());
    close(store).await;
}

async fn a_chunk_of_another_artifact_is_adopted_without_being_written(dir: &Path) {
    let store = open(dir).await;
    // Aligned chunks, which can be shared by reference, and odd ones, which must be copied.
    for chunk_bytes in [65_536, CHUNK_BYTES] {
        let base = TestArtifact::single(&format!("base-{chunk_bytes}"), 5, chunk_bytes, 6);
        base.pull(&store).await.unwrap();
        let mut content = base.contents[0].clone();
        content[chunk_bytes * 2] ^= 1;
        let name = format!("tuned-{chunk_bytes}");
        let tuned = TestArtifact::new(&name, chunk_bytes, vec![("other/name".to_owned(), content)]);
        let lease = store.admit(tuned.blueprint.clone(), &vec![0]).await.unwrap();
        for index in tuned.chunks() {
            let hash = tuned.hash(index);
            let expected = index != 2;
            assert_eq!(store.knows(&hash), expected);
            assert_eq!(store.adopt(tuned.swarm(), index, hash).await.unwrap(), expected, "chunk {index}");
        }
        tuned.write(&store, [2]).await.unwrap();
        tuned.assert_at(&tuned.publish(&store).await.unwrap().path);
        assert!(store.verify(base.swarm(), &|_| {}).await.unwrap().is_empty());
        drop(lease);
    }
    close(store).await;
}

async fn a_rotten_source_is_not_adopted_and_loses_its_chunk(dir: &Path) {
    let store = open(dir).await;
    for chunk_bytes in [65_536, CHUNK_BYTES] {
        let base = TestArtifact::single(&format!("base-{chunk_bytes}"), 6, chunk_bytes, 4);
        let (_, published) = base.pull(&store).await.unwrap();
        flip(&published.path.join("model"), chunk_bytes as u64 + 5);
        let files = vec![("other".to_owned(), base.contents[0].clone())];
        let copy = TestArtifact::new(&format!("copy-{chunk_bytes}"), chunk_bytes, files);
        let _lease = store.admit(copy.blueprint.clone(), &vec![0]).await.unwrap();
        for index in copy.chunks() {
            assert_eq!(store.adopt(copy.swarm(), index, copy.hash(index)).await.unwrap(), index != 1);
        }
        assert!(!store.inventory(base.swarm()).unwrap().held.contains(1));
        assert!(!store.inventory(copy.swarm()).unwrap().held.contains(1));
        assert!(!published.path.exists(), "a rotten file kept its path");
    }
    close(store).await;
}

async fn rot_is_found_and_mended_under_the_eyes_of_a_reader(dir: &Path) {
    let store = open(dir).await;
    let model = TestArtifact::varied("varied", 7);
    let (_lease, published) = model.pull(&store).await.unwrap();
    let path = published.path.join("deep/several");
    flip(&path, 3 * CHUNK_BYTES as u64 + 9);
    flip(&path, 5 * CHUNK_BYTES as u64);
    let reader = std::fs::File::open(&path).unwrap();
    // SAFETY: the store never writes to a published file, which is what is being shown.
    let mapped = unsafe { memmap2::Mmap::map(&reader).unwrap() };
    let before = mapped.to_vec();
    let seen = std::sync::atomic::AtomicU64::new(0);
    let corrupt = store
        .verify(model.swarm(), &|bytes| seen.store(bytes, std::sync::atomic::Ordering::Relaxed))
        .await
        .unwrap();
    assert_eq!(seen.into_inner(), model.blueprint.total_bytes());
    let offsets: Vec<u64> = corrupt.iter().map(|c| c.offset).collect();
    assert_eq!(offsets, [3 * CHUNK_BYTES as u64, 5 * CHUNK_BYTES as u64]);
    assert!(corrupt.iter().all(|c| c.path == "deep/several"));
    assert!(!published.path.exists() && !store.artifacts(false).await[0].complete);
    // Only what was wrong is missing.
    let missing: Vec<u32> = {
        let held = store.inventory(model.swarm()).unwrap().held;
        model.chunks().filter(|n| !held.contains(*n)).collect()
    };
    assert_eq!(missing.len(), 2);
    model.write(&store, missing).await.unwrap();
    model.assert_at(&model.publish(&store).await.unwrap().path);
    assert!(mapped[..] == before[..], "a byte changed under a reader");
    assert!(store.verify(model.swarm(), &|_| {}).await.unwrap().is_empty());
    close(store).await;
}

async fn a_file_without_the_origins_digest_is_not_published(dir: &Path) {
    let store = open(dir).await;
    let model = TestArtifact::varied("varied", 8);
    let file = model.blueprint.find(&"deep/several".parse().unwrap()).unwrap();
    let _lease = store.admit(model.blueprint.clone(), &model.all_files()).await.unwrap();
    let mut wrong = model.clone();
    wrong.contents[file][CHUNK_BYTES] ^= 1;
    wrong.write(&store, model.chunks()).await.unwrap();
    let err = store.publish_file(model.swarm(), file).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Corrupt);
    assert!(err.to_string().contains("deep/several"), "{err}");
    let held = store.inventory(model.swarm()).unwrap().held;
    assert!(model.blueprint.chunks_of(file).all(|n| !held.contains(n)), "all came from a lying origin");
    model.write(&store, model.chunks()).await.unwrap();
    // Rot between writing and publishing costs only the rotten chunk.
    flip(&model.dir(dir).join("partial").join(file.to_string()), 7);
    assert_eq!(store.publish_file(model.swarm(), file).await.unwrap_err().kind(), ErrorKind::Corrupt);
    let held = store.inventory(model.swarm()).unwrap().held;
    assert_eq!(model.blueprint.chunks_of(file).filter(|n| !held.contains(*n)).count(), 1);
    model.write(&store, model.chunks()).await.unwrap();
    model.assert_at(&model.publish(&store).await.unwrap().path);
    close(store).await;
}

async fn removing_unlinks_everything_and_spares_who_has_it_open(dir: &Path) {
    let store = open(dir).await;
    let model = TestArtifact::varied("varied", 9);
    let (lease, published) = model.pull(&store).await.unwrap();
    let several = "deep/several".parse().unwrap();
    let opened = store.open_file(model.swarm(), &several).await.unwrap();
    drop(lease);
    let refused = store.remove(model.swarm(), false).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    store.pin(model.swarm(), true).await.unwrap();
    store.remove(model.swarm(), true).await.unwrap();
    assert!(!published.path.is_symlink() && !model.dir(dir).exists());
    assert_eq!(store.lease(model.swarm()).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!store.knows(&model.hash(0)));
    let mut left = vec![0; opened.bytes as usize];
    std::os::unix::fs::FileExt::read_exact_at(&*opened.file, &mut left, 0).unwrap();
    assert!(left == model.contents[model.blueprint.find(&several).unwrap()]);
    // Its old self is forgotten: a new one starts with nothing.
    let _lease = store.admit(model.blueprint.clone(), &model.all_files()).await.unwrap();
    assert!(store.inventory(model.swarm()).unwrap().held.is_empty());
    assert!(!store.artifacts(false).await[0].pinned);
    close(store).await;
}

async fn a_wrong_length_index_or_file_is_refused(dir: &Path) {
    let store = open(dir).await;
    let model = TestArtifact::varied("varied", 10);
    let swarm = model.swarm();
    assert_eq!(store.inventory(swarm).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.write(swarm, 0, model.chunk(0)).await.unwrap_err().kind(), ErrorKind::NotFound);
    let bad = store.admit(model.blueprint.clone(), &vec![5]).await.unwrap_err();
    assert_eq!(bad.kind(), ErrorKind::Invalid);
    let one = model.blueprint.find(&"one".parse().unwrap()).unwrap();
    let _lease = store.admit(model.blueprint.clone(), &vec![one]).await.unwrap();
    let index = model.blueprint.chunks_of(one).start;
    for (index, len) in [(index, 0), (index, 2), (model.blueprint.chunk_count(), 1), (u32::MAX, 1)] {
        let chunk = VerifiedChunk::hashed(vec![1; len].into());
        assert_eq!(store.write(swarm, index, chunk).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(store.adopt(swarm, u32::MAX, model.hash(0)).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    // A file nobody asked for has no room.
    assert_eq!(store.write(swarm, 0, model.chunk(0)).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(store.read(swarm, index).await.unwrap_err().kind(), ErrorKind::NotFound);
    close(store).await;
}

async fn a_discarded_chunk_takes_its_files_path_away(dir: &Path) {
    let store = open(dir).await;
    let model = TestArtifact::varied("varied", 11);
    let (_lease, published) = model.pull(&store).await.unwrap();
    let several = model.blueprint.find(&"deep/several".parse().unwrap()).unwrap();
    let index = model.blueprint.chunks_of(several).start + 1;
    store.discard(model.swarm(), index).unwrap();
    let path = &model.blueprint.files[several].path;
    let refused = store.open_file(model.swarm(), path).await.err().unwrap();
    assert!(matches!(refused.kind(), ErrorKind::Unavailable { .. }));
    model.write(&store, [index]).await.unwrap();
    assert!(store.publish_file(model.swarm(), several).await.unwrap(), "it had lost its path");
    model.publish(&store).await.unwrap();
    model.assert_at(&published.path);
    // Across a restart, too.
    store.discard(model.swarm(), index).unwrap();
    close(store).await;
    let store = open(dir).await;
    assert!(!store.inventory(model.swarm()).unwrap().held.contains(index));
    assert!(!store.artifacts(false).await[0].complete);
    close(store).await;
}

async fn a_manifest_that_disagrees_drops_what_is_wrong(dir: &Path) {
    let store = open(dir).await;
    let model = TestArtifact::single("learned", 12, CHUNK_BYTES, 4);
    let mut wrong = model.clone();
    wrong.contents[0][0] ^= 1;
    let _lease = store.admit(model.blueprint.clone(), &vec![0]).await.unwrap();
    wrong.write(&store, [0, 1]).await.unwrap();
    let foreign = TestArtifact::single("foreign", 12, CHUNK_BYTES, 4).manifest();
    let refused = store.learn_manifest(model.swarm(), &foreign).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    store.learn_manifest(model.swarm(), &model.manifest()).await.unwrap();
    let inventory = store.inventory(model.swarm()).unwrap();
    assert_eq!(inventory.held.iter().collect::<Vec<_>>(), [1]);
    assert!(inventory.hashes.iter().all(Option::is_some));
    let refused = store.write(model.swarm(), 0, wrong.chunk(0)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    model.write(&store, model.chunks()).await.unwrap();
    model.assert_at(&model.publish(&store).await.unwrap().path);
    close(store).await;
}

async fn a_second_store_on_the_same_directory_is_refused(dir: &Path) {
    let store = open(dir).await;
    let refused = emberline_agent::store::Store::open(dir.to_owned(), Default::default()).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
    close(store).await;
    close(open(dir).await).await;
}

async fn a_pull_of_what_is_here_writes_nothing(dir: &Path) {
    let store = open(dir).await;
    let model = TestArtifact::varied("varied", 13);
    let (_, first) = model.pull(&store).await.unwrap();
    let before: Vec<_> = model.blueprint.files.iter().map(|f| stamp(&first.path.join(f.path.as_str()))).collect();
    let began = std::time::Instant::now();
    let (_, again) = model.pull(&store).await.unwrap();
    assert!(began.elapsed() < std::time::Duration::from_millis(100));
    assert_eq!(first, again);
    let after: Vec<_> = model.blueprint.files.iter().map(|f| stamp(&first.path.join(f.path.as_str()))).collect();
    assert_eq!(before, after);
    close(store).await;
}

async fn a_later_pull_widens_an_earlier_one(dir: &Path) {
    let store = open(dir).await;
    let model = TestArtifact::varied("varied", 14);
    let one = model.blueprint.find(&"one".parse().unwrap()).unwrap();
    let lease = store.admit(model.blueprint.clone(), &vec![one]).await.unwrap();
    let small = store.space().used_bytes;
    model.write(&store, model.blueprint.chunks_of(one)).await.unwrap();
    store.publish_file(model.swarm(), one).await.unwrap();
    let published = store.publish(model.swarm(), &vec![one]).await.unwrap();
    assert_eq!(published.manifest, None, "most hashes are unknown");
    assert!(store.artifacts(false).await[0].complete);
    drop(lease);
    let (_lease, published) = model.pull(&store).await.unwrap();
    assert!(published.manifest.is_some());
    assert!(store.space().used_bytes >= small + model.blueprint.total_bytes() - 1);
    model.assert_at(&published.path);
    close(store).await;
}

async fn an_artifact_is_found_by_reference_swarm_and_manifest(dir: &Path) {
    let store = open(dir).await;
    let old = TestArtifact::varied("same", 15);
    let new = TestArtifact::varied("same", 16);
    assert_ne!(old.swarm(), new.swarm());
    old.pull(&store).await.unwrap();
    // Newer, but not whole.
    let lease = store.admit(new.blueprint.clone(), &new.all_files()).await.unwrap();
    assert_eq!(store.find("file:///models/same"), Some(old.swarm()));
    new.write(&store, new.chunks()).await.unwrap();
    new.publish(&store).await.unwrap();
    drop(lease);
    assert_eq!(store.find("file:///models/same"), Some(new.swarm()));
    assert_eq!(store.find(&old.swarm().to_string()), Some(old.swarm()));
    assert_eq!(store.find(&old.manifest().id().to_string()), Some(old.swarm()));
    assert_eq!(store.find("file:///models/other"), None);
    assert_eq!(Arc::as_ref(&store.blueprint(old.swarm()).unwrap()), &*old.blueprint);
    close(store).await;
}

/// What changes when somebody writes.
fn stamp(path: &Path) -> (u64, i64, i64) {
    let meta = path.metadata().unwrap();
    (meta.ino(), meta.mtime_nsec(), meta.ctime_nsec())
}

/// Changes a byte on disk behind the store's back, as only root or a broken disk can.
pub(crate) fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    let mode = path.metadata().unwrap().permissions();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    std::fs::set_permissions(path, mode).unwrap();
}
