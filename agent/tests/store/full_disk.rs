//! A disk that is full, out of inodes, or failing.

use std::path::Path;

use coordinatorless_p2p::ChunkStore;
use emberline_agent::error::ErrorKind;

use crate::{
    artifact::{TestArtifact, assert_published_are_clean, close, open},
    mounts::Mount,
};

const MIB: usize = 1 << 20;

/// Fills what is left of a file system but for `spare` bytes.
fn fill(dir: &Path, spare: u64) -> std::path::PathBuf {
    let stat = rustix::fs::statvfs(dir).unwrap();
    let len = (stat.f_bavail * stat.f_frsize).saturating_sub(spare);
    let path = dir.join("filler");
    let file = std::fs::File::create(&path).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_filled_by_others_serves_what_is_here_and_recovers() {
    let Some(mount) = Mount::tmpfs("size=32m") else { return };
    let data = mount.at.join("data");
    let store = open(&data).await;
    let here = TestArtifact::single("here", 1, MIB, 4);
    let (_lease, published) = here.pull(&store).await.unwrap();
    let next = TestArtifact::single("next", 2, MIB, 8);
    // From no block to nearly enough: every step of an admission runs out once.
    for spare in [0u64, 4 << 10, 8 << 10, 16 << 10, 24 << 10, 40 << 10, 100 << 10, 1 << 20, 7 << 20] {
        let filler = fill(&mount.at, spare);
        let refused = store.admit(next.blueprint.clone(), &vec![0]).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Full, "{spare}: {refused}");
        assert!(refused.to_string().contains("free"), "{refused}");
        assert!(!next.dir(&data).exists(), "{spare} left something behind");
        here.assert_at(&published.path);
        assert_eq!(store.read(here.swarm(), 1).await.unwrap().1, *here.chunk(1).bytes());
        std::fs::remove_file(filler).unwrap();
    }
    let (_lease, published) = next.pull(&store).await.unwrap();
    next.assert_at(&published.path);
    close(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_sealed_on_a_full_disk_does_not_count_as_whole() {
    let Some(mount) = Mount::tmpfs("size=32m") else { return };
    let store = open(&mount.at.join("data")).await;
    let model = TestArtifact::single("model", 5, MIB, 4);
    let _lease = store.admit(model.blueprint.clone(), &vec![0]).await.unwrap();
    model.write(&store, model.chunks()).await.unwrap();
    store.publish_file(model.swarm(), 0).await.unwrap();
    let filler = fill(&mount.at, 0);
    let refused = store.publish(model.swarm(), &vec![0]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Full, "{refused}");
    let info = store.artifacts(false).await.remove(0);
    assert!(!info.complete && info.path.is_none() && info.done_bytes == info.total_bytes, "{info:?}");
    std::fs::remove_file(filler).unwrap();
    let published = model.publish(&store).await.unwrap();
    model.assert_at(&published.path);
    assert!(store.artifacts(false).await[0].complete);
    close(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_in_the_middle_of_a_pull_keeps_what_it_has_even_across_a_restart() {
    let Some(mount) = Mount::tmpfs("size=32m") else { return };
    let data = mount.at.join("data");
    let store = open(&data).await;
    let model = TestArtifact::single("model", 3, MIB, 8);
    let lease = store.admit(model.blueprint.clone(), &vec![0]).await.unwrap();
    model.write(&store, 0..4).await.unwrap();
    let filler = fill(&mount.at, 0);
    // The file is preallocated; journal, index and directories are not.
    let mut outcome = Ok(());
    for index in 4..8 {
        outcome = outcome.and(store.write(model.swarm(), index, model.chunk(index)).await);
    }
    outcome = outcome.and(model.publish(&store).await.map(|_| ()));
    if let Err(e) = &outcome {
        assert_eq!(e.kind(), ErrorKind::Full, "{e}");
    }
    assert_published_are_clean(&data, &[&model]);
    let held = store.inventory(model.swarm()).unwrap().held;
    assert!((0..4).all(|n| held.contains(n)));
    drop(lease);
    close(store).await;
    // Also a restart finds it all, without a byte to spare.
    let store = open(&data).await;
    let _lease = store.lease(model.swarm()).unwrap();
    std::fs::remove_file(filler).unwrap();
    let (_lease, published) = model.pull(&store).await.unwrap();
    assert!(held.iter().all(|n| store.inventory(model.swarm()).unwrap().held.contains(n)));
    model.assert_at(&published.path);
    store.sync().await.unwrap();
    close(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_inodes_is_said_and_leaves_nothing_behind() {
    let Some(mount) = Mount::tmpfs("size=64m,nr_inodes=60") else { return };
    let data = mount.at.join("data");
    let store = open(&data).await;
    let small = TestArtifact::single("small", 4, 1000, 3);
    let (_lease, published) = small.pull(&store).await.unwrap();
    let file = |n: u64| (format!("file-{n:03}"), vec![n as u8; 10]);
    let many = TestArtifact::new("many", 1000, (0..50).map(file).collect());
    let refused = store.admit(many.blueprint.clone(), &many.all_files()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Full);
    assert!(refused.to_string().contains("inodes"), "{refused}");
    assert!(!many.dir(&data).exists());
    small.assert_at(&published.path);
    // Fewer fit.
    store.admit(many.blueprint.clone(), &vec![0, 1, 2]).await.unwrap();
    close(store).await;
}

/// A real EIO: ext4 in an image that lies sparse on a tmpfs too small for it. Writing succeeds, into the
/// page cache; what is behind it has no room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_fsync_nothing_is_published_until_it_was_read_back_from_the_disk() {
    let Some(thin) = Mount::tmpfs("size=40m") else { return };
    let Some(mount) = Mount::image("ext4", &thin.at, 200 << 20) else { return };
    let data = mount.at.join("data");
    let store = open(&data).await;
    let model = TestArtifact::single("model", 5, MIB, 16);
    let _lease = store.admit(model.blueprint.clone(), &vec![0]).await.unwrap();
    store.sync().await.unwrap();
    let filler = fill(&thin.at, 2 << 20);
    let mut failure = None;
    let written = model.write(&store, model.chunks()).await;
    match written {
        Ok(()) => failure = model.publish(&store).await.err(),
        Err(e) => drop(failure.insert(e)),
    }
    let failure = failure.expect("the disk took 16 MiB with 2 MiB left");
    assert!(
        matches!(failure.kind(), ErrorKind::Unavailable { .. } | ErrorKind::Full | ErrorKind::Denied),
        "{failure}"
    );
    assert!(!data.join("models/file").exists(), "published in spite of {failure}");
    assert_eq!(assert_published_are_clean(&data, &[&model]), 0);
    // There is room again: what is on the disk is found out by reading it, the rest comes anew.
    std::fs::remove_file(filler).unwrap();
    let mut last = None;
    for _ in 0..20 {
        match model.pull(&store).await {
            Ok((_, published)) => {
                model.assert_at(&published.path);
                assert!(store.verify(model.swarm(), &|_| {}).await.unwrap().is_empty());
                close(store).await;
                return;
            }
            Err(e) => last = Some(e),
        }
    }
    // ext4 may have gone read-only by then; then nothing may ever be published.
    let last = last.unwrap();
    assert!(!matches!(last.kind(), ErrorKind::Corrupt | ErrorKind::Invalid), "{last}");
    assert_eq!(assert_published_are_clean(&data, &[&model]), 0);
    close(store).await;
}
