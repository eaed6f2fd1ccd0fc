//! Files of the mount, as programs read them.

use std::{fs, os::unix::fs::MetadataExt};

use emberline_tests::{
    conformance, environment,
    mounted::{DOOR, Mounted, xattr},
    site::Site,
};

use crate::{PATIENCE, content, is_skipped, mounted, output, part, version_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_has_the_origins_sha256_while_it_comes_and_after_and_whole_files_cost_no_read() {
    if is_skipped("a_model_has_the_origins_sha256_while_it_comes_and_after_and_whole_files_cost_no_read") {
        return;
    }
    let site = Site::start(32, 4).await;
    let mount = Mounted::start(&site.reference(), |_, _| {}).await.expect("a mount");
    let sums = async || {
        let (models, files) = (mount.models(), site.model().files.clone());
        let work = move || {
            for file in &files {
                let said = output("sha256sum", &[models.join(&file.path).to_str().expect("text")]);
                assert_eq!(said.split(' ').next(), Some(file.sha256.as_str()), "{}", file.path);
            }
        };
        tokio::task::spawn_blocking(work).await.expect("no panic");
    };
    sums().await;
    let waited = mount.count("emberline_urgent_chunks_total", "").await.expect("metrics");
    let waits = mount.agent().client().metrics().await.expect("metrics");
    assert!(
        waits.lines().any(|line| line.starts_with("emberline_reads_total{door=\"fuse\",found=\"waited\"}")),
        "no read waited for its chunk ({waited}): it was not read while it came\n{waits}"
    );
    for file in &site.model().files {
        let path = mount.models().join(&file.path);
        mount.wait_sealed(&path, PATIENCE).await.expect("sealed");
        let hash = xattr(&path, "user.emberline.hash").expect("readable").expect("a sealed file has a hash");
        assert_eq!(hash.len(), 64, "{hash}");
    }
    let counts = async || {
        let passed = mount.opens("passthrough").await.expect("metrics");
        (mount.reads().await.expect("metrics"), mount.opens("cached").await.expect("metrics"), passed)
    };
    let (reads, cached, passed) = counts().await;
    sums().await;
    let opened = site.model().files.len() as u64;
    assert_eq!(
        counts().await,
        (reads, cached, passed + opened),
        "the agent saw reads of files that are whole"
    );
    conformance::record(DOOR, "sha256sum", &version_of("sha256sum"), "while it comes, and whole");
}

/// Opens every tensor by mmap and prints the SHA-256 of all of their bytes.
const SAFETENSORS: &str = "
import hashlib, sys
from safetensors import safe_open
digest = hashlib.sha256()
with safe_open(sys.argv[1], framework='np') as file:
    for name in sorted(file.keys()):
        digest.update(name.encode())
        digest.update(file.get_tensor(name).tobytes())
print(digest.hexdigest())
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn safetensors_maps_a_real_model_while_it_comes_and_when_it_is_whole() {
    if is_skipped("safetensors_maps_a_real_model_while_it_comes_and_when_it_is_whole") {
        return;
    }
    let model = tokio::task::spawn_blocking(environment::minilm_dir).await.expect("no panic");
    let mount = mounted(&model).await;
    let digest = async |path: std::path::PathBuf| {
        let path = path.to_str().expect("text").to_owned();
        let work =
            move || environment::run_tensors_python(SAFETENSORS, &[&path]).expect("safetensors reads it");
        tokio::task::spawn_blocking(work).await.expect("no panic")
    };
    let expected = digest(model.join("model.safetensors")).await;
    let path = mount.models().join("model.safetensors");
    assert_eq!(digest(path.clone()).await, expected);
    assert!(mount.reads().await.expect("metrics") > 0, "it was whole already");
    mount.wait_sealed(&path, PATIENCE).await.expect("sealed");
    let reads = mount.reads().await.expect("metrics");
    assert_eq!(digest(path.clone()).await, expected);
    assert_eq!(mount.reads().await.expect("metrics"), reads, "the agent saw reads of a file that is whole");
    assert_eq!(digest(path).await.len(), expected.len());
    let version = environment::SAFETENSORS_VERSION;
    conformance::record(DOOR, "safetensors (Python)", version, "mmap while it comes, and whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_byte_of_a_large_object_costs_a_chunk_or_two() {
    if is_skipped("the_last_byte_of_a_large_object_costs_a_chunk_or_two") {
        return;
    }
    const BYTES: u64 = 10 << 30;
    let origin = tempfile::tempdir().expect("temporary directory");
    // The store takes no file that it could not hold.
    let room = rustix::fs::statvfs(origin.path()).expect("statvfs");
    if room.f_bavail * room.f_frsize < BYTES + (2 << 30) {
        eprintln!(
            "SKIPPED the_last_byte_of_a_large_object_costs_a_chunk_or_two: it takes 12 GiB free in {}",
            origin.path().display()
        );
        return;
    }
    let object = fs::File::create(origin.path().join("large.bin")).expect("created");
    object.set_len(BYTES).expect("sparse");
    std::os::unix::fs::FileExt::write_at(&object, b"!", BYTES - 1).expect("written");
    let mount = mounted(origin.path()).await;
    let path = mount.models().join("large.bin");
    let read = tokio::task::spawn_blocking(move || {
        let file = fs::File::open(path).expect("opens");
        assert_eq!(file.metadata().expect("known").len(), BYTES);
        part(&file, BYTES - 1, 1)
    });
    assert_eq!(read.await.expect("no panic"), b"!");
    let status = mount.agent().client().status().await.expect("alive");
    let here: u64 = status.artifacts.iter().map(|artifact| artifact.done_bytes).sum();
    assert!((1..=2 * (4 << 20)).contains(&here), "{here} bytes came for one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_at_files_starts_nothing_and_says_what_they_are() {
    if is_skipped("looking_at_files_starts_nothing_and_says_what_they_are") {
        return;
    }
    let origin = tempfile::tempdir().expect("temporary directory");
    fs::create_dir(origin.path().join("llama")).expect("created");
    let weights = content(5 << 20);
    fs::write(origin.path().join("llama/model.safetensors"), &weights).expect("written");
    fs::write(origin.path().join("llama/config.json"), "{}").expect("written");
    fs::write(origin.path().join("empty"), "").expect("written");
    let mount = mounted(origin.path()).await;
    let path = mount.models().join("llama/model.safetensors");
    let found = fs::metadata(&path).expect("there");
    let real = fs::metadata(origin.path().join("llama/model.safetensors")).expect("there");
    assert_eq!((found.len(), found.mode() & 0o7777), (weights.len() as u64, 0o444));
    assert_eq!(found.modified().expect("a date"), real.modified().expect("a date"));
    assert_eq!(fs::metadata(mount.models()).expect("there").mode() & 0o7777, 0o555);
    assert_eq!(xattr(&path, "user.emberline.state").expect("said").as_deref(), Some("origin"));
    assert_eq!(xattr(&path, "user.emberline.hash").expect("said"), None);
    let names = output("ls", &["-la", mount.models().join("llama").to_str().expect("text")]);
    assert!(names.contains("model.safetensors") && names.contains("config.json"), "{names}");
    let room = rustix::fs::statvfs(mount.at()).expect("statvfs");
    assert!(room.f_blocks > 0 && room.f_bavail > 0, "{} blocks", room.f_blocks);
    let status = mount.agent().client().status().await.expect("alive");
    assert!(status.pulls.is_empty() && status.artifacts.is_empty(), "{:?}", status.artifacts);

    assert_eq!(fs::read(mount.models().join("empty")).expect("readable"), b"");
    assert!(fs::read(&path).expect("readable") == weights);
    mount.wait_sealed(&path, PATIENCE).await.expect("sealed");
    let names = rustix::fs::listxattr(&path, &mut [0_u8; 256]).expect("listed");
    assert!(names > 0);
    conformance::record(DOOR, "ls", &version_of("ls"), "listing of a directory");
}
