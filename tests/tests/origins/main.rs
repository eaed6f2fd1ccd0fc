//! Origins against real servers: what is read is what is there, and what goes wrong is said.

mod clouds;
mod faults;
mod hdfs;
mod hub;
mod local;
mod patterns;
mod s3;

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use emberline_agent::{
    origin::{Origin, Origins, OriginsConfig},
    reference::{Bucket, Reference},
    snapshot::SnapshotFile,
};
use futures::TryStreamExt;

/// Sizes on either side of what one read from disk or one frame holds, and the empty file.
fn model_folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("onnx/deep")).unwrap();
    for (name, size) in [
        ("config.json", 300),
        ("onnx/deep/a file+with%odd&name=.bin", 70_001),
        ("onnx/model.onnx", 1 << 20),
        ("one", 1),
        ("weights.safetensors", 3 * (1 << 20) + 17),
    ] {
        let content: Vec<u8> = (0..size).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

/// Settings under which a failing test fails soon.
fn config() -> OriginsConfig {
    OriginsConfig {
        stall_timeout: Duration::from_secs(20),
        request_timeout: Duration::from_secs(20),
        retries: 3,
        ..OriginsConfig::default()
    }
}

fn bucket(name: &str, prefix: &str) -> Bucket {
    Bucket { name: name.into(), prefix: prefix.into() }
}

fn open(config: OriginsConfig, reference: &Reference) -> Arc<dyn Origin> {
    Origins::new(config).unwrap().open(reference).unwrap()
}

async fn read(
    origin: &dyn Origin,
    file: &SnapshotFile,
    range: std::ops::Range<u64>,
) -> emberline_agent::error::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut body = origin.read(file, range).await?;
    while let Some(piece) = body.try_next().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

/// Reads everything, each file whole and its middle by a range of its own.
async fn pull(origin: &dyn Origin) -> BTreeMap<String, Vec<u8>> {
    let snapshot = origin.snapshot().await.unwrap();
    let mut files = BTreeMap::new();
    for file in &snapshot.files {
        let whole = read(origin, file, 0..file.size).await.unwrap();
        assert_eq!(whole.len() as u64, file.size, "{}", file.path);
        let middle = file.size / 3..file.size / 2 + 1;
        if middle.end <= file.size {
            let part = read(origin, file, middle.clone()).await.unwrap();
            assert!(part == whole[middle.start as usize..middle.end as usize], "{} {middle:?}", file.path);
        }
        assert!(read(origin, file, file.size..file.size).await.unwrap().is_empty());
        files.insert(file.path.to_string(), whole);
    }
    files
}

/// What is on disk below `folder`, as [`pull`] tells it.
fn on_disk(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(at: &Path, below: &str, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(at).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{below}{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                walk(&entry.path(), &format!("{name}/"), found);
            } else {
                found.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, "", &mut found);
    found
}

/// Equal, without printing megabytes when not.
fn assert_same(got: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, content) in expected {
        assert!(got[name] == *content, "{name} differs");
    }
}
