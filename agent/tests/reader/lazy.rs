//! Files that are read before they are here.

use std::{fs, path::Path, time::Duration};

use emberline_agent::{
    agent::Agent,
    config::Config,
    error::ErrorKind,
    metrics::Door,
    namespace::{Entry, NamespacePath},
    reader::{Caller, LazyFile},
};
use tokio::time::Instant;

pub(crate) const CALLER: Caller = Caller { door: Door::Http };
const CHUNK: usize = 4 << 20;

pub(crate) async fn agent(data: &Path, mount: &Path, fill_max_bytes: u64) -> Agent {
    let mut config = Config { data_dir: data.to_owned(), ..Config::default() };
    config.cluster.listen = ([127, 0, 0, 1], 0).into();
    config.mounts.insert("models".to_owned(), format!("file://{}", mount.display()));
    config.reader.fill_max_bytes = fill_max_bytes;
    Agent::start(config).await.expect("the agent starts")
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub(crate) fn path(text: &str) -> NamespacePath {
    text.parse().unwrap()
}

pub(crate) fn content(bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

pub(crate) async fn read_all(file: &LazyFile, step: usize) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let piece = file.read_at(all.len() as u64, step, soon()).await.unwrap();
        if piece.is_empty() {
            return all;
        }
        all.extend_from_slice(&piece);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_here_reads_as_it_is_at_its_origin_and_is_sealed_in_the_end() {
    let (data, models) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Two whole chunks and a short one.
    let weights = content(2 * CHUNK + 1);
    fs::create_dir(models.path().join("llama")).unwrap();
    fs::write(models.path().join("llama/model.safetensors"), &weights).unwrap();
    fs::write(models.path().join("llama/config.json"), "{}").unwrap();
    let agent = agent(data.path(), models.path(), 1 << 30).await;
    let Entry::File(entry) = agent.namespace().stat(&path("/models/llama/model.safetensors")).await.unwrap()
    else {
        panic!("a file is a directory")
    };
    assert_eq!(entry.bytes, weights.len() as u64);
    let file = agent.reader().open(&path("/models/llama/model.safetensors"), CALLER).await.unwrap();
    assert_eq!((file.bytes(), file.etag()), (entry.bytes, entry.etag.as_str()));
    assert!(read_all(&file, 1 << 20).await == weights);
    let sealed = file.wait_sealed(soon()).await.unwrap();
    assert_eq!(sealed.bytes, entry.bytes);
    // The model around it is pulled, and seen to be.
    let pulls = agent.pulls();
    assert_eq!(pulls.len(), 1);
    assert!(pulls[0].reference.ends_with("/llama"), "{}", pulls[0].reference);
    agent.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_byte_of_a_large_object_costs_its_own_chunk_and_no_other() {
    let (data, models) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let object = fs::File::create(models.path().join("large.bin")).unwrap();
    // Sparse: 10 GiB and the byte that is asked for.
    object.set_len((10 << 30) + 1).unwrap();
    std::os::unix::fs::FileExt::write_at(&object, b"!", 10 << 30).unwrap();
    let agent = agent(data.path(), models.path(), 0).await;
    let file = agent.reader().open(&path("/models/large.bin"), CALLER).await.unwrap();
    assert_eq!(file.read_at(10 << 30, 10, soon()).await.unwrap(), "!");
    let artifacts = agent.artifacts(false).await;
    assert!(artifacts[0].done_bytes <= 2 * CHUNK as u64, "{} bytes came", artifacts[0].done_bytes);
    assert!(agent.pulls().is_empty(), "nobody asked for all of it");
    agent.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said_to_be_missing() {
    let (data, models) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(models.path().join("dir")).unwrap();
    fs::write(models.path().join("dir/x"), "x").unwrap();
    let agent = agent(data.path(), models.path(), 0).await;
    let kind = async |text: &str| agent.reader().open(&path(text), CALLER).await.err().unwrap().kind();
    assert_eq!(kind("/models/nothing").await, ErrorKind::NotFound);
    assert_eq!(kind("/nothing/x").await, ErrorKind::NotFound);
    assert_eq!(kind("/models/dir").await, ErrorKind::Invalid);
    assert_eq!(kind("/models").await, ErrorKind::Invalid);
    agent.shutdown(Duration::from_secs(5)).await;
}
