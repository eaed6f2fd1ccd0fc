//! The quota at every moment, and who goes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use emberline_agent::{
    error::ErrorKind,
    store::{Store, StoreConfig},
};

use crate::artifact::{TestArtifact, close, disk_usage, open_with};

const MIB: u64 = 1 << 20;

fn model(n: u64) -> TestArtifact {
    // Four files of 1 MiB in chunks of 256 KiB.
    let file = |f: u64| (format!("shard-{f}"), crate::artifact::bytes_of(n * 16 + f, MIB as usize));
    TestArtifact::new(&format!("model-{n}"), 256 << 10, (0..4).map(file).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_pulls_of_four_times_the_quota_never_pass_it() {
    let dir = tempfile::tempdir().unwrap();
    let quota = 14 * MIB;
    let store = open_with(dir.path(), quota).await;
    let done = Arc::new(AtomicBool::new(false));
    let peak = Arc::new(AtomicU64::new(0));
    let sampler = {
        let (dir, done, peak) = (dir.path().to_owned(), done.clone(), peak.clone());
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(disk_usage(&dir), Ordering::Relaxed);
            }
        })
    };
    let mut pulls = tokio::task::JoinSet::new();
    for n in 0..8 {
        let store = store.clone();
        pulls.spawn(async move {
            let model = model(n);
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
            while std::time::Instant::now() < deadline {
                match model.pull(&store).await {
                    Ok(_) => return true,
                    Err(e) if e.kind() == ErrorKind::Full => {}
                    Err(e) => panic!("{e}"),
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            false
        });
    }
    while let Some(pull) = pulls.join_next().await {
        assert!(pull.unwrap(), "a pull never found room");
    }
    done.store(true, Ordering::Relaxed);
    sampler.join().unwrap();
    let peak = peak.load(Ordering::Relaxed);
    assert!(peak <= quota, "{peak} bytes on disk, {quota} allowed");
    assert!(peak > quota / 2, "the quota was never near: {peak} bytes at most");
    assert!(store.space().used_bytes <= quota && store.artifacts(false).await.len() < 8);
    close(store).await;
}

/// Four models, and room for no fifth.
async fn four(dir: &std::path::Path) -> (Store, Vec<TestArtifact>) {
    let store = open_with(dir, 0).await;
    let models: Vec<_> = (0..4).map(model).collect();
    for model in &models {
        model.pull(&store).await.unwrap();
    }
    let quota_bytes = store.space().used_bytes + 2 * MIB;
    close(store).await;
    (full(dir, quota_bytes).await, models)
}

/// Evicts no more than it must.
async fn full(dir: &std::path::Path, quota_bytes: u64) -> Store {
    let config =
        StoreConfig { quota_bytes, high_watermark: 1.0, low_watermark: 1.0, ..StoreConfig::default() };
    Store::open(dir.to_owned(), config).await.unwrap()
}

#[tokio::test]
async fn the_least_recently_used_goes_and_the_pinned_and_leased_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (store, models) = four(dir.path()).await;
    store.pin(models[0].swarm(), true).await.unwrap();
    let lease = store.lease(models[1].swarm()).unwrap();
    // Used again, so that 3 is older.
    drop(store.lease(models[2].swarm()).unwrap());
    let fifth = model(5);
    fifth.pull(&store).await.unwrap();
    let here = |m: &TestArtifact| store.lease(m.swarm()).is_ok();
    assert_eq!(models.iter().map(here).collect::<Vec<_>>(), [true, true, true, false]);
    assert!(!models[3].dir(dir.path()).exists());
    // With everybody held, there is no room, and the message says what to do.
    let _held: Vec<_> = [&models[2], &fifth].map(|m| store.lease(m.swarm()).unwrap()).into();
    let last = model(6);
    let refused = store.admit(last.blueprint.clone(), &vec![0, 1, 2, 3]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Full);
    for part in ["wanted", "free", "evictable", "raise `store.quota_bytes`"] {
        assert!(refused.to_string().contains(part), "{part} is not in: {refused}");
    }
    assert!(!last.dir(dir.path()).exists());
    drop(lease);
    last.pull(&store).await.unwrap();
    assert!(store.lease(models[1].swarm()).is_err());
    close(store).await;
}

#[tokio::test]
async fn what_cannot_be_unlinked_counts_until_it_is_gone_and_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = full(dir.path(), 7 * MIB).await;
    let (first, second) = (model(1), model(2));
    first.pull(&store).await.unwrap();
    // In the way of the directory that evicted artifacts are moved to first.
    let in_the_way = dir.path().join("artifacts").join(format!(".gone-0-{}", first.swarm()));
    std::fs::create_dir_all(in_the_way.join("full")).unwrap();
    let refused = second.pull(&store).await.expect_err("there is no room");
    assert_eq!(refused.kind(), ErrorKind::Full, "{refused}");
    assert!(store.lease(first.swarm()).is_err(), "it was not chosen: {refused}");
    assert!(disk_usage(dir.path()) > 4 * MIB && store.space().used_bytes > 4 * MIB);

    std::fs::remove_dir_all(&in_the_way).unwrap();
    second.pull(&store).await.unwrap();
    assert!(!first.dir(dir.path()).exists());
    assert!(disk_usage(dir.path()) <= store.space().used_bytes && store.space().used_bytes <= 7 * MIB);
    close(store).await;
}

#[tokio::test]
async fn pins_and_the_order_of_use_outlive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (store, models) = four(dir.path()).await;
    let quota_bytes = store.space().quota_bytes;
    store.pin(models[0].swarm(), true).await.unwrap();
    drop(store.lease(models[1].swarm()).unwrap());
    close(store).await;
    let store = full(dir.path(), quota_bytes).await;
    model(5).pull(&store).await.unwrap();
    let here: Vec<_> = models.iter().map(|m| store.lease(m.swarm()).is_ok()).collect();
    assert_eq!(here, [true, true, false, true]);
    close(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapping_outlives_eviction_and_refilling_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), 12 * MIB).await;
    let first = model(1);
    let (_, published) = first.pull(&store).await.unwrap();
    let file = std::fs::File::open(published.path.join("shard-2")).unwrap();
    // SAFETY: the store never writes to or truncates a published file, which is what is being shown.
    let mapped = unsafe { memmap2::Mmap::map(&file).unwrap() };
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (done, expected) = (done.clone(), first.contents[2].clone());
        std::thread::spawn(move || {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds == 0 {
                assert!(mapped[..] == expected[..], "a byte changed under a reader");
                rounds += 1;
            }
        })
    };
    for n in 2..8 {
        model(n).pull(&store).await.unwrap();
    }
    assert!(store.lease(first.swarm()).is_err() && !published.path.exists(), "it was not evicted");
    done.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    close(store).await;
}

#[tokio::test]
async fn a_quota_larger_than_the_disk_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { quota_bytes: u64::MAX, ..StoreConfig::default() };
    let refused = Store::open(dir.path().to_owned(), config).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("store.quota_bytes"), "{refused}");
}
