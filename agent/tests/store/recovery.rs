//! The index is a convenience: without it, or with a broken one, everything is found again.

use std::time::{Duration, Instant};

use coordinatorless_p2p::ChunkStore;

use crate::artifact::{TestArtifact, assert_published_are_clean, close, open};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_the_index_what_is_here_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let whole = TestArtifact::varied("whole", 31);
    let half = TestArtifact::varied("half", 32);
    let store = open(dir.path()).await;
    let (_, published) = whole.pull(&store).await.unwrap();
    let lease = store.admit(half.blueprint.clone(), &half.all_files()).await.unwrap();
    half.write(&store, half.chunks().step_by(2)).await.unwrap();
    drop(lease);
    close(store).await;
    let index = dir.path().join("index.redb");
    let good = std::fs::read(&index).unwrap();
    let mut flipped = good.clone();
    flipped.iter_mut().skip(64).step_by(509).for_each(|b| *b ^= 0xff);
    let broken = [
        None,
        Some(vec![]),
        Some(b"no index".to_vec()),
        Some(good[..good.len() / 2].to_vec()),
        Some(flipped),
    ];
    for content in broken {
        match &content {
            None => std::fs::remove_file(&index).unwrap(),
            Some(content) => std::fs::write(&index, content).unwrap(),
        }
        let store = open(dir.path()).await;
        let told = content.map(|c| c.len());
        assert!(store.inventory(whole.swarm()).unwrap().held.is_full(), "{told:?}");
        whole.assert_at(&published.path);
        let _lease = store.admit(half.blueprint.clone(), &half.all_files()).await.unwrap();
        let held = store.inventory(half.swarm()).unwrap().held;
        assert_eq!(held.iter().collect::<Vec<_>>(), half.chunks().step_by(2).collect::<Vec<_>>(), "{told:?}");
        assert_eq!(store.find("file:///models/whole"), Some(whole.swarm()));
        close(store).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_artifact_that_cannot_be_read_is_removed_and_one_of_a_later_version_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let model = TestArtifact::varied("model", 33);
    let store = open(dir.path()).await;
    let (_, published) = model.pull(&store).await.unwrap();
    close(store).await;
    let blueprint = model.dir(dir.path()).join("blueprint");
    let mut raw = std::fs::read(&blueprint).unwrap();
    raw[4..6].copy_from_slice(&u16::MAX.to_le_bytes());
    std::fs::write(&blueprint, &raw).unwrap();
    let refused = emberline_agent::store::Store::open(dir.path().to_owned(), Default::default()).await.err().unwrap();
    assert!(refused.to_string().contains("later version"), "{refused}");
    assert!(published.path.exists());
    std::fs::write(&blueprint, b"garbage").unwrap();
    std::fs::create_dir(dir.path().join("artifacts/stray")).unwrap();
    let store = open(dir.path()).await;
    assert!(store.artifacts(false).await.is_empty() && !published.path.is_symlink());
    assert_eq!(std::fs::read_dir(dir.path().join("artifacts")).unwrap().count(), 0);
    model.pull(&store).await.unwrap();
    assert_eq!(assert_published_are_clean(dir.path(), &[&model]), 5);
    close(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_files_are_served_within_thirty_seconds_of_a_start_without_index() {
    let dir = tempfile::tempdir().unwrap();
    let file = |n: u32| (format!("d{:03}/file-{n:06}", n % 500), n.to_le_bytes().to_vec());
    let model = TestArtifact::new("many", 1000, (0..100_000).map(file).collect());
    // Made by hand: publishing each with its syncs is not what is measured.
    let at = model.dir(dir.path());
    std::fs::create_dir_all(at.join("partial")).unwrap();
    std::fs::write(at.join("blueprint"), model.blueprint.encode()).unwrap();
    std::fs::write(at.join("manifest"), model.manifest().encode()).unwrap();
    for d in 0..500 {
        std::fs::create_dir_all(at.join(format!("files/d{d:03}"))).unwrap();
    }
    for (file, content) in model.blueprint.files.iter().zip(&model.contents) {
        std::fs::write(at.join("files").join(file.path.as_str()), content).unwrap();
    }
    for with_index in [false, true] {
        let began = Instant::now();
        let store = open(dir.path()).await;
        let path = &model.blueprint.files[77_777].path;
        assert_eq!(store.open_file(model.swarm(), path).await.unwrap().bytes, 4);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(30), "{took:?} with index: {with_index}");
        assert!(store.inventory(model.swarm()).unwrap().held.is_full());
        close(store).await;
    }
}
