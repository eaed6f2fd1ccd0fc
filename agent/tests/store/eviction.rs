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
            let (model, mut refused) = (model(n), 0);
            for _ in 0..400 {
                match model.pull(&store).await {
                    Ok(_) => return (true, refused),
                    Err(e) if e.kind() == ErrorKind::Full => refused += 1,
                    Err(e) => panic!("{e}"),
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            (false, refused)
        });
    }
    let mut refused = 0;
    while let Some(pull) = pulls.join_next().await {
        let (succeeded, refusals) = pull.unwrap();
        assert!(succeeded, "a pull never found room");
        refused += refusals;
    }
    done.store(true, Ordering::Relaxed);
    sampler.join().unwrap();
    let peak = peak.load(Ordering::Relaxed);
    assert!(peak <= quota, "{peak} bytes on disk, {quota} allowed");
    assert!(peak > quota / 2 && refused > 0, "the quota was never reached: peak {peak}, {refused} refused");
    assert!(store.space().used_bytes <= quota && store.artifacts(false).await.len() < 8);
    close(store).await;
}

#[tokio::test]
async fn the_least_recently_used_goes_and_the_pinned_and_leased_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), 24 * MIB).await;
    let models: Vec<_> = (0..4).map(model).collect();
    for model in &models[..4] {
        model.pull(&store).await.unwrap();
    }
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
async fn pins_and_the_order_of_use_outlive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let models: Vec<_> = (0..4).map(model).collect();
    let store = open_with(dir.path(), 24 * MIB).await;
    for model in &models {
        model.pull(&store).await.unwrap();
    }
    store.pin(models[0].swarm(), true).await.unwrap();
    drop(store.lease(models[1].swarm()).unwrap());
    close(store).await;
    let store = open_with(dir.path(), 24 * MIB).await;
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
