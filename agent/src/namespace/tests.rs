//! The namespace over real directories: paging, what is remembered, what an opened file is part of.

use std::fs;

use super::*;
use crate::{origin::OriginsConfig, store::StoreConfig};

struct World {
    dir: tempfile::TempDir,
    _data: tempfile::TempDir,
    namespace: Namespace,
}

async fn world(ttl: Duration, files: &[&str]) -> World {
    let (dir, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    let store = Store::open(data.path().to_owned(), StoreConfig::default()).await.unwrap();
    let origins = Origins::new(OriginsConfig::default()).unwrap();
    let mounts = MountTable::from([("m".to_owned(), format!("file://{}", dir.path().display()))]);
    let config = NamespaceConfig { listing_ttl: ttl };
    World { namespace: Namespace::new(origins, store, &config, &mounts).unwrap(), dir, _data: data }
}

impl World {
    async fn names(&self, path: &str) -> Vec<String> {
        let page = self.namespace.list(&path.parse().unwrap(), None, 100).await.unwrap();
        page.names.into_iter().map(|named| named.name).collect()
    }

    /// Reference (without the directory of the test) and path of what is fetched with a file.
    async fn artifact(&self, path: &str) -> (String, String, bool) {
        let spot = self.namespace.spot(&path.parse().unwrap()).unwrap();
        let whole = self.namespace.artifact(&spot).await.unwrap();
        let reference = whole.reference.to_string();
        let root = format!("file://{}", self.dir.path().display());
        (reference.strip_prefix(&root).unwrap().to_owned(), whole.path.to_string(), whole.is_lone)
    }
}

#[tokio::test]
async fn a_listing_is_remembered_for_its_time_and_no_longer() {
    for (ttl, expected) in [(Duration::from_secs(3600), vec!["a"]), (Duration::ZERO, vec!["a", "b"])] {
        let world = world(ttl, &["a"]).await;
        assert_eq!(world.names("/m").await, ["a"]);
        fs::write(world.dir.path().join("b"), "b").unwrap();
        assert_eq!(world.names("/m").await, expected, "{ttl:?}");
    }
}

#[tokio::test]
async fn a_missing_file_is_remembered_as_missing_until_its_time_is_over() {
    let world = world(Duration::from_secs(3600), &["a"]).await;
    let path: NamespacePath = "/m/late".parse().unwrap();
    assert_eq!(world.namespace.stat(&path).await.unwrap_err().kind(), ErrorKind::NotFound);
    fs::write(world.dir.path().join("late"), "b").unwrap();
    assert_eq!(world.namespace.stat(&path).await.unwrap_err().kind(), ErrorKind::NotFound);
    world.namespace.forget(&world.namespace.spot(&path).unwrap());
    assert!(matches!(world.namespace.stat(&path).await.unwrap(), Entry::File(_)));
}

#[tokio::test]
async fn files_and_directories_are_told_apart() {
    let world = world(Duration::ZERO, &["dir/file"]).await;
    let stat = async |path: &str| world.namespace.stat(&path.parse().unwrap()).await;
    for directory in ["/", "/s3", "/m", "/m/dir", "/hf/org"] {
        assert_eq!(stat(directory).await.unwrap(), Entry::Directory, "{directory}");
    }
    assert!(matches!(stat("/m/dir/file").await.unwrap(), Entry::File(file) if file.bytes == 8));
    for missing in ["/m/nothing", "/m/dir/file/below", "/nothing"] {
        assert_eq!(stat(missing).await.unwrap_err().kind(), ErrorKind::NotFound, "{missing}");
    }
    let listed = world.namespace.list(&"/m/dir/file".parse().unwrap(), None, 10).await;
    assert_eq!(listed.unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn what_programs_look_for_is_told_from_what_may_be_a_directory() {
    for file in ["config.json", "a/b/model.safetensors", "x.bin", "tokenizer.model", "a.b/weights.pt2"] {
        assert!(is_named_as_a_file(file), "{file}");
    }
    for other in ["models", "v1.0", "llama-3.1-8b", "a.json/b", ".cache", "x.", "2024.06.01"] {
        assert!(!is_named_as_a_file(other), "{other}");
    }
}

#[tokio::test]
async fn a_file_is_part_of_the_nearest_model_and_else_by_itself() {
    let world = world(
        Duration::ZERO,
        &[
            "llama/config.json",
            "llama/model.safetensors",
            "llama/onnx/model.onnx",
            "llama/a/b/deep",
            "shards/model.safetensors.index.json",
            "shards/model-1.safetensors",
            "data/part-1",
            "data/config.json",
            "top",
        ],
    )
    .await;
    for (path, reference, name, is_lone) in [
        ("/m/llama/config.json", "/llama", "config.json", false),
        ("/m/llama/onnx/model.onnx", "/llama", "onnx/model.onnx", false),
        // Two directories are looked at, no more.
        ("/m/llama/a/b/deep", "/llama/a/b/deep", "deep", true),
        ("/m/shards/model-1.safetensors", "/shards", "model-1.safetensors", false),
        ("/m/data/part-1", "/data/part-1", "part-1", true),
        ("/m/top", "/top", "top", true),
    ] {
        assert_eq!(world.artifact(path).await, (reference.to_owned(), name.to_owned(), is_lone), "{path}");
    }
}

#[tokio::test]
async fn a_directory_with_too_many_files_is_no_model() {
    let world = world(Duration::ZERO, &["big/config.json", "big/model.bin"]).await;
    for n in 0..4096 {
        fs::File::create(world.dir.path().join(format!("big/x{n}"))).unwrap();
    }
    assert_eq!(world.artifact("/m/big/model.bin").await.0, "/big/model.bin");
}

#[test]
fn a_tag_names_the_version_and_fits_into_a_header() {
    let version = |etag: &str| FileVersion { etag: Some(etag.to_owned()), object_version: None };
    let tag = |version: &FileVersion, digest| etag_of("k", 1, version, digest);
    assert_eq!(tag(&version("\"abc-2\""), None), "abc-2");
    assert_eq!(tag(&version("W/\"abc\""), None), "abc");
    assert_eq!(tag(&version("abc"), Some(&Digest::Sha256([0xab; 32]))), "ab".repeat(32));
    for odd in ["with space", "quo\"te", "", &"x".repeat(200)] {
        let made = tag(&version(odd), None);
        assert!(made.len() == 32 && made.bytes().all(|b| b.is_ascii_hexdigit()), "{odd:?}: {made}");
    }
    assert_ne!(tag(&version("a b"), None), tag(&version("a c"), None));
    assert_ne!(
        etag_of("k", 1, &FileVersion::default(), None),
        etag_of("k", 2, &FileVersion::default(), None)
    );
}
