//! The store against a model of it that fits on a page: whatever is done, in whatever order, with
//! restarts in between, both agree on what is here, and what has a path has its bytes.

use std::collections::{BTreeMap, BTreeSet};

use coordinatorless_p2p::ChunkStore;
use proptest::prelude::*;

use crate::artifact::{CHUNK_BYTES, TestArtifact, assert_published_are_clean, bytes_of, close, open};

#[derive(Debug, Clone)]
enum Operation {
    Admit(usize, Vec<usize>),
    Write(usize, u32),
    Adopt(usize, u32),
    Discard(usize, u32),
    Publish(usize, usize),
    Remove(usize),
    LearnManifest(usize),
    Sync,
    Reopen,
    LoseIndex,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let artifact = 0..3usize;
    let chunk = 0..7u32;
    let operation = prop_oneof![
        3 => (artifact.clone(), proptest::sample::subsequence(vec![0, 1, 2], 0..=3))
            .prop_map(|(a, files)| Operation::Admit(a, files)),
        12 => (artifact.clone(), chunk.clone()).prop_map(|(a, c)| Operation::Write(a, c)),
        6 => (artifact.clone(), chunk.clone()).prop_map(|(a, c)| Operation::Adopt(a, c)),
        2 => (artifact.clone(), chunk).prop_map(|(a, c)| Operation::Discard(a, c)),
        6 => (artifact.clone(), 0..3usize).prop_map(|(a, f)| Operation::Publish(a, f)),
        1 => artifact.clone().prop_map(Operation::Remove),
        1 => artifact.prop_map(Operation::LearnManifest),
        1 => Just(Operation::Sync),
        1 => Just(Operation::Reopen),
        1 => Just(Operation::LoseIndex),
    ];
    proptest::collection::vec(operation, 1..60)
}

/// Three artifacts of three files that share most of their chunks.
fn artifacts() -> Vec<TestArtifact> {
    (0..3u8)
        .map(|n| {
            let mut long = bytes_of(99, 4 * CHUNK_BYTES);
            long[usize::from(n) * CHUNK_BYTES] = n;
            let files = vec![
                ("a".to_owned(), vec![]),
                ("b/long".to_owned(), long),
                ("c".to_owned(), bytes_of(98, 2 * CHUNK_BYTES + 5)),
            ];
            TestArtifact::new(&format!("model-{n}"), CHUNK_BYTES, files)
        })
        .collect()
}

#[derive(Default)]
struct Expected {
    admitted: BTreeSet<usize>,
    held: BTreeSet<u32>,
    published: BTreeSet<usize>,
}

async fn agree(operations: Vec<Operation>) {
    let dir = tempfile::tempdir().unwrap();
    let artifacts = artifacts();
    let mut expected: BTreeMap<usize, Expected> = BTreeMap::new();
    let mut store = open(dir.path()).await;
    for operation in operations {
        match &operation {
            Operation::Admit(a, files) => {
                store.admit(artifacts[*a].blueprint.clone(), files).await.unwrap();
                expected.entry(*a).or_default().admitted.extend(files);
            }
            Operation::Write(a, index) => {
                let model = &artifacts[*a];
                let file = model.blueprint.place(*index).unwrap().file;
                let written = store.write(model.swarm(), *index, model.chunk(*index)).await;
                let known = expected.get_mut(a).filter(|e| e.admitted.contains(&file));
                assert_eq!(written.is_ok(), known.is_some(), "{operation:?}");
                if let Some(known) = known {
                    known.held.insert(*index);
                }
            }
            Operation::Adopt(a, index) => {
                let model = &artifacts[*a];
                let (hash, file) = (model.hash(*index), model.blueprint.place(*index).unwrap().file);
                let anywhere = expected.iter().any(|(b, e)| e.held.iter().any(|n| artifacts[*b].hash(*n) == hash));
                assert_eq!(store.knows(&hash), anywhere, "{operation:?}");
                let adopted = store.adopt(model.swarm(), *index, hash).await;
                match expected.get_mut(a).filter(|e| e.admitted.contains(&file)) {
                    Some(known) => {
                        assert_eq!(adopted.unwrap(), anywhere, "{operation:?}");
                        if anywhere {
                            known.held.insert(*index);
                        }
                    }
                    None => assert!(adopted.is_err(), "{operation:?}"),
                }
            }
            Operation::Discard(a, index) => {
                let model = &artifacts[*a];
                assert_eq!(store.discard(model.swarm(), *index).is_ok(), expected.contains_key(a));
                if let Some(known) = expected.get_mut(a)
                    && known.held.remove(index)
                {
                    known.published.remove(&model.blueprint.place(*index).unwrap().file);
                }
            }
            Operation::Publish(a, file) => {
                let model = &artifacts[*a];
                let outcome = store.publish_file(model.swarm(), *file).await;
                let whole = |e: &&mut Expected| {
                    e.admitted.contains(file) && model.blueprint.chunks_of(*file).all(|n| e.held.contains(&n))
                };
                match expected.get_mut(a).filter(whole) {
                    Some(known) => {
                        assert_eq!(outcome.unwrap(), known.published.insert(*file), "{operation:?}");
                        let all: Vec<usize> = known.published.iter().copied().collect();
                        store.publish(model.swarm(), &all).await.unwrap();
                    }
                    None => assert!(outcome.is_err(), "{operation:?}"),
                }
            }
            Operation::Remove(a) => {
                let removed = store.remove(artifacts[*a].swarm(), false).await;
                assert_eq!(removed.is_ok(), expected.remove(a).is_some(), "{operation:?}");
            }
            Operation::LearnManifest(a) => {
                let model = &artifacts[*a];
                let learned = store.learn_manifest(model.swarm(), &model.manifest()).await;
                assert_eq!(learned.is_ok(), expected.contains_key(a), "{operation:?}");
            }
            Operation::Sync => store.sync().await.unwrap(),
            Operation::Reopen | Operation::LoseIndex => {
                close(store).await;
                if matches!(operation, Operation::LoseIndex) {
                    std::fs::remove_file(dir.path().join("index.redb")).unwrap();
                }
                store = open(dir.path()).await;
                // Has what is in doubt re-hashed.
                for (a, known) in &expected {
                    let files: Vec<usize> = known.admitted.iter().copied().collect();
                    store.admit(artifacts[*a].blueprint.clone(), &files).await.unwrap();
                }
            }
        }
        for (a, model) in artifacts.iter().enumerate() {
            match expected.get(&a) {
                None => assert!(store.inventory(model.swarm()).is_err(), "after {operation:?}"),
                Some(known) => {
                    let inventory = store.inventory(model.swarm()).unwrap();
                    let held: BTreeSet<u32> = inventory.held.iter().collect();
                    assert_eq!(held, known.held, "artifact {a} after {operation:?}");
                    assert!(held.iter().all(|n| inventory.hashes[*n as usize] == Some(model.hash(*n))));
                    for file in 0..3 {
                        let path = &model.blueprint.files[file].path;
                        let opens = store.open_file(model.swarm(), path).await.is_ok();
                        assert_eq!(opens, known.published.contains(&file), "{path} of {a} after {operation:?}");
                    }
                }
            }
        }
        assert_published_are_clean(dir.path(), &artifacts.iter().collect::<Vec<_>>());
    }
    close(store).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_store_agrees_with_its_model_whatever_is_done(operations in operations()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(agree(operations));
    }
}
