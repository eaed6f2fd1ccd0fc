//! Somebody else removes, replaces or writes to what the store has put on the disk.

use std::path::{Path, PathBuf};

use coordinatorless_p2p::ChunkStore;
use emberline_agent::{
    error::ErrorKind,
    store::{Published, Store},
};

use crate::artifact::{CHUNK_BYTES, TestArtifact, assert_published_are_clean, bytes_of, close, open};

const VICTIM: &str = "deep/several";

/// A whole artifact whose files the store has open.
async fn published(dir: &Path, seed: u64) -> (Store, TestArtifact, Published) {
    let store = open(dir).await;
    let model = TestArtifact::varied("model", seed);
    let (_, published) = model.pull(&store).await.unwrap();
    assert!(store.verify(model.swarm(), &|_| {}).await.unwrap().is_empty());
    (store, model, published)
}

fn victim(model: &TestArtifact, data: &Path) -> (usize, PathBuf) {
    let file = model.blueprint.find(&VICTIM.parse().unwrap()).unwrap();
    (file, model.dir(data).join("files").join(VICTIM))
}

fn missing(store: &Store, model: &TestArtifact) -> Vec<u32> {
    let held = store.inventory(model.swarm()).unwrap().held;
    model.chunks().filter(|index| !held.contains(*index)).collect()
}

/// As a pull does it: only what is missing is written.
async fn pull_again(store: &Store, model: &TestArtifact, expected: &[u32]) -> Published {
    let _lease = store.admit(model.blueprint.clone(), &model.all_files()).await.unwrap();
    assert_eq!(missing(store, model), expected);
    model.write(store, expected.iter().copied()).await.unwrap();
    let published = model.publish(store).await.unwrap();
    model.assert_at(&published.path);
    assert!(store.artifacts(false).await[0].complete);
    assert!(store.broken(model.swarm()).is_empty() && store.ailing(model.swarm()).is_empty());
    assert!(store.verify(model.swarm(), &|_| {}).await.unwrap().is_empty());
    published
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_removed_is_neither_verified_nor_called_whole_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, model, _) = published(dir.path(), 41).await;
    let (file, path) = victim(&model, dir.path());
    let chunks: Vec<u32> = model.blueprint.chunks_of(file).collect();
    std::fs::remove_file(&path).unwrap();
    let wrong = store.verify(model.swarm(), &|_| {}).await.unwrap();
    assert_eq!(wrong.len(), chunks.len());
    assert!(wrong.iter().all(|chunk| chunk.path == VICTIM && !chunk.hash.is_empty()), "{wrong:?}");
    assert_eq!(store.lost(model.swarm()), [file]);
    let published = pull_again(&store, &model, &chunks).await;

    // Nobody verifies: a list, and whoever opens it, do not say what is not so either.
    std::fs::remove_file(&path).unwrap();
    let listed = &store.artifacts(false).await[0];
    assert!(!listed.complete && listed.path.is_none(), "{listed:?}");
    assert!(!published.path.exists(), "a path to half a model");
    pull_again(&store, &model, &chunks).await;
    std::fs::remove_file(&path).unwrap();
    let refused = store.open_file(model.swarm(), &VICTIM.parse().unwrap()).await.err().unwrap();
    assert!(matches!(refused.kind(), ErrorKind::Unavailable { .. }), "{refused}");
    pull_again(&store, &model, &chunks).await;
    std::fs::remove_file(&path).unwrap();
    pull_again(&store, &model, &chunks).await;
    close(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_replaced_is_hashed_and_only_what_is_wrong_is_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let (store, model, _) = published(dir.path(), 42).await;
    let (file, path) = victim(&model, dir.path());
    let first = model.blueprint.chunks_of(file).start;
    let right = &model.contents[file];
    let replace = |content: &[u8]| {
        let fresh = path.with_extension("other");
        std::fs::write(&fresh, content).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
    };
    let mut other = right.clone();
    other[2 * CHUNK_BYTES + 5] ^= 1;
    let cases = [
        (other, vec![first + 2]),
        // Cut in the middle of the fourth chunk.
        (right[..3 * CHUNK_BYTES + 7].to_vec(), vec![first + 3, first + 4, first + 5]),
        ([right.as_slice(), b"more"].concat(), vec![]),
        (right.clone(), vec![]),
    ];
    for (content, wrong) in cases {
        replace(&content);
        let refused = store.open_file(model.swarm(), &VICTIM.parse().unwrap()).await.err().unwrap();
        assert!(matches!(refused.kind(), ErrorKind::Unavailable { .. }), "{refused}");
        pull_again(&store, &model, &wrong).await;
        // Whoever replaced it may have it open for writing still.
        replace(&content);
        let stranger = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        let found = store.verify(model.swarm(), &|_| {}).await.unwrap();
        assert_eq!(found.len(), wrong.len(), "{found:?}");
        pull_again(&store, &model, &wrong).await;
        std::io::Write::write_all(&mut &stranger, b"late").unwrap();
        model.assert_at(&store.artifacts(false).await[0].path.clone().unwrap());
    }
    close(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_written_to_is_hashed_before_it_is_given_out() {
    let dir = tempfile::tempdir().unwrap();
    let (store, model, _) = published(dir.path(), 43).await;
    let (file, path) = victim(&model, dir.path());
    let first = model.blueprint.chunks_of(file).start;
    let writing = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&writing, b"not the model's", CHUNK_BYTES as u64).unwrap();
    let refused = store.open_file(model.swarm(), &VICTIM.parse().unwrap()).await.err().unwrap();
    assert!(matches!(refused.kind(), ErrorKind::Unavailable { .. }), "{refused}");
    pull_again(&store, &model, &[first + 1]).await;
    // A new time alone costs a look at the bytes, and nothing else.
    let touched = std::fs::File::open(&path).unwrap();
    touched.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    pull_again(&store, &model, &[]).await;
    close(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_went_while_the_store_was_closed_is_missed_and_is_all_that_is_fetched() {
    for has_index in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (store, model, published) = published(dir.path(), 44).await;
        let (file, path) = victim(&model, dir.path());
        let empty = model.blueprint.find(&"empty".parse().unwrap()).unwrap();
        close(store).await;
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(model.dir(dir.path()).join("files/empty")).unwrap();
        if !has_index {
            std::fs::remove_file(dir.path().join("index.redb")).unwrap();
        }
        let store = open(dir.path()).await;
        let listed = &store.artifacts(false).await[0];
        assert!(!listed.complete && listed.path.is_none(), "{listed:?}");
        assert_eq!((listed.files, listed.total_bytes), (5, model.blueprint.total_bytes()), "only smaller");
        assert!(!published.path.exists());
        let mut lost = vec![file, empty];
        lost.sort_unstable();
        assert_eq!(store.lost(model.swarm()), lost);
        assert_eq!(store.broken(model.swarm()).len(), model.blueprint.chunks_of(file).len());
        let chunks: Vec<u32> = model.blueprint.chunks_of(file).collect();
        pull_again(&store, &model, &chunks).await;
        close(store).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_was_removed_is_made_again_and_holds_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (store, model, _) = published(dir.path(), 45).await;
    let all: Vec<u32> = model.chunks().collect();
    for below in ["files", "partial", ""] {
        let removed = model.dir(dir.path()).join(below);
        std::fs::remove_dir_all(&removed).unwrap();
        let expected = if below == "partial" { &[][..] } else { &all[..] };
        pull_again(&store, &model, expected).await;
    }
    // In the middle of a pull, whoever has it open.
    let other = TestArtifact::varied("other", 46);
    let lease = store.admit(other.blueprint.clone(), &other.all_files()).await.unwrap();
    other.write(&store, other.chunks()).await.unwrap();
    std::fs::remove_dir_all(other.dir(dir.path())).unwrap();
    let refused = other.publish(&store).await.unwrap_err();
    assert!(refused.to_string().contains("removed from the disk"), "{refused}");
    let again = store.admit(other.blueprint.clone(), &other.all_files()).await.unwrap();
    assert_eq!(store.inventory(other.swarm()).unwrap().held.len(), 0);
    other.write(&store, other.chunks()).await.unwrap();
    other.assert_at(&other.publish(&store).await.unwrap().path);
    drop((lease, again));
    close(store).await;
    let store = open(dir.path()).await;
    assert!(store.artifacts(false).await.iter().all(|artifact| artifact.complete));
    assert_eq!(assert_published_are_clean(dir.path(), &[&model, &other]), 10);
    close(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_never_came_is_not_broken() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let model =
        TestArtifact::new("half", CHUNK_BYTES, vec![("model".to_owned(), bytes_of(47, 6 * CHUNK_BYTES))]);
    let _lease = store.admit(model.blueprint.clone(), &vec![0]).await.unwrap();
    model.write(&store, [0, 1, 2]).await.unwrap();
    assert!(store.verify(model.swarm(), &|_| {}).await.unwrap().is_empty());
    assert!(store.broken(model.swarm()).is_empty() && store.ailing(model.swarm()).is_empty());
    // One of those that did come is.
    let partial = model.dir(dir.path()).join("partial/0");
    let writing = std::fs::OpenOptions::new().write(true).open(partial).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&writing, b"rot", CHUNK_BYTES as u64).unwrap();
    assert_eq!(store.verify(model.swarm(), &|_| {}).await.unwrap().len(), 1);
    // Said again for as long as it is so.
    assert!(store.verify(model.swarm(), &|_| {}).await.unwrap().is_empty());
    assert_eq!(store.broken(model.swarm()).iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1]);
    model.write(&store, [1]).await.unwrap();
    assert!(store.broken(model.swarm()).is_empty());
    close(store).await;
}
