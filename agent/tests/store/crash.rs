//! Killed at every named step: what was published is right, what was written is kept.
//!
//! The test runs itself again as a child, which dies by SIGKILL where `EMBERLINE_FAULT` says; a child
//! that does not die there fails the test.

use std::{
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use coordinatorless_p2p::ChunkStore;

use crate::artifact::{CHUNK_BYTES, TestArtifact, assert_published_are_clean, close, open};

const DIR: &str = "EMBERLINE_CRASH_DIR";
const STOP_AT: &str = "EMBERLINE_CRASH_STOP_AT";

fn model() -> TestArtifact {
    TestArtifact::varied("crash", 21)
}

fn large() -> TestArtifact {
    TestArtifact::single("large", 22, CHUNK_BYTES, 400)
}

/// Runs `child` of this page in a process of its own; true if a signal killed it.
fn run(child: &str, dir: &Path, variables: &[(&str, &str)]) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args([&format!("crash::{child}"), "--exact", "--include-ignored", "--nocapture"])
        .env(DIR, dir)
        .envs(variables.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success() || status.signal() == Some(9), "the child failed by itself: {status}");
    status.signal() == Some(9)
}

fn told_dir() -> Option<PathBuf> {
    std::env::var_os(DIR).map(PathBuf::from)
}

#[tokio::test]
#[ignore = "the child of the tests below"]
async fn pulls() {
    let Some(dir) = told_dir() else { return };
    let store = open(&dir).await;
    let model = model();
    let _lease = store.admit(model.blueprint.clone(), &model.all_files()).await.unwrap();
    for file in model.all_files() {
        model.write(&store, model.blueprint.chunks_of(file)).await.unwrap();
        store.sync().await.unwrap();
        store.publish_file(model.swarm(), file).await.unwrap();
    }
    store.publish(model.swarm(), &model.all_files()).await.unwrap();
    close(store).await;
}

#[tokio::test]
#[ignore = "the child of the tests below"]
async fn pulls_half() {
    let Some(dir) = told_dir() else { return };
    let store = open(&dir).await;
    let large = large();
    let _lease = store.admit(large.blueprint.clone(), &vec![0]).await.unwrap();
    let half: u32 = std::env::var(STOP_AT).unwrap().parse().unwrap();
    large.write(&store, (0..large.blueprint.chunk_count()).filter(|n| n % 2 == 0).take(half as usize)).await.unwrap();
    // SAFETY: ends this process.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_published_is_ever_incomplete_wherever_the_process_is_killed() {
    let steps = [
        "after-write", "after-journal", "before-sync", "after-sync", "before-commit", "after-commit",
        "before-rename", "after-rename", "before-link", "after-link",
    ];
    let mut deaths = 0;
    for step in steps {
        for nth in [1, 3] {
            let dir = tempfile::tempdir().unwrap();
            let fault = format!("{step}:{nth}");
            let died = run("pulls", dir.path(), &[("EMBERLINE_FAULT", &fault)]);
            // Only the link is made once in a pull.
            assert!(died || (nth > 1 && step.ends_with("-link")), "{fault} never came");
            deaths += u32::from(died);
            let model = model();
            let before = assert_published_are_clean(dir.path(), &[&model]);
            let store = open(dir.path()).await;
            let after = assert_published_are_clean(dir.path(), &[&model]);
            assert_eq!(before, after, "{fault}: opening took a path away");
            let lease = store.admit(model.blueprint.clone(), &model.all_files()).await.unwrap();
            let held = store.inventory(model.swarm()).unwrap().held;
            for index in held.iter() {
                assert_eq!(store.read(model.swarm(), index).await.unwrap().1, *model.chunk(index).bytes());
            }
            drop(lease);
            let (_lease, published) = model.pull(&store).await.unwrap();
            model.assert_at(&published.path);
            assert!(store.verify(model.swarm(), &|_| {}).await.unwrap().is_empty());
            close(store).await;
        }
    }
    assert!(deaths >= 18);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_killed_at_half_keeps_every_chunk_that_was_written() {
    let dir = tempfile::tempdir().unwrap();
    assert!(run("pulls_half", dir.path(), &[(STOP_AT, "200")]));
    let store = open(dir.path()).await;
    let large = large();
    let _lease = store.admit(large.blueprint.clone(), &vec![0]).await.unwrap();
    let held = store.inventory(large.swarm()).unwrap().held;
    // The promise is 95 %; a kill, unlike a loss of power, loses nothing.
    assert_eq!(held.iter().collect::<Vec<_>>(), (0..400).filter(|n| n % 2 == 0).collect::<Vec<_>>());
    large.write(&store, large.chunks()).await.unwrap();
    large.assert_at(&large.publish(&store).await.unwrap().path);
    close(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_journal_says_after_a_crash_is_re_hashed_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    // Before the first commit, so that only the journal knows of any chunk.
    assert!(run("pulls_half", dir.path(), &[(STOP_AT, "20")]));
    let large = large();
    std::fs::remove_file(dir.path().join("index.redb")).unwrap();
    crate::conformance::flip(&large.dir(dir.path()).join("partial/0"), 2 * CHUNK_BYTES as u64);
    let store = open(dir.path()).await;
    let _lease = store.admit(large.blueprint.clone(), &vec![0]).await.unwrap();
    let held = store.inventory(large.swarm()).unwrap().held;
    assert!(!held.contains(2), "a chunk torn by the crash was believed");
    assert_eq!(held.len(), 19);
    close(store).await;
}
