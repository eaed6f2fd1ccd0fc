//! HDFS, against a name node and two data nodes of Hadoop's own.

use std::{fs, sync::OnceLock};

use emberline_agent::{
    error::ErrorKind,
    origin::{
        HdfsConfig, OriginsConfig,
        catalogue::{ListedName, PageRequest},
    },
    reference::Reference,
    snapshot::FileVersion,
};
use emberline_tests::{
    agent_process::{AgentOptions, AgentProcess},
    environment::MiniHdfs,
    scratch::scratch,
    site::PATIENCE,
};

use super::{assert_same, config, model_folder, on_disk, open, pull, read};

/// One for all tests: it takes long to start.
fn hdfs() -> &'static MiniHdfs {
    static STARTED: OnceLock<MiniHdfs> = OnceLock::new();
    STARTED.get_or_init(|| MiniHdfs::start(&scratch("hdfs").expect("a folder")).expect("HDFS"))
}

fn reference(path: &str) -> Reference {
    format!("{}{path}", hdfs().url()).parse().unwrap()
}

fn as_user(user: &str) -> OriginsConfig {
    let hdfs = HdfsConfig { user: Some(user.to_owned()), ..HdfsConfig::default() };
    OriginsConfig { hdfs, ..config() }
}

#[tokio::test]
async fn a_directory_a_file_and_odd_names_are_read() {
    let folder = model_folder();
    let expected = on_disk(folder.path());
    hdfs().put(folder.path(), "/read/org/name").unwrap();
    assert_same(&pull(&*open(config(), &reference("/read/org/name"))).await, &expected);
    let one = pull(&*open(config(), &reference("/read/org/name/onnx/model.onnx"))).await;
    assert_eq!(one.keys().collect::<Vec<_>>(), ["model.onnx"]);
    assert!(one["model.onnx"] == expected["onnx/model.onnx"]);
    // A neighbour whose name begins alike is not below it.
    hdfs().put(&folder.path().join("one"), "/read/org/name-2/x").unwrap();
    assert_same(&pull(&*open(config(), &reference("/read/org/name"))).await, &expected);
    // A directory with a file of its own name in it.
    hdfs().put(&folder.path().join("config.json"), "/read/alike/alike").unwrap();
    let alike = pull(&*open(config(), &reference("/read/alike"))).await;
    assert!(alike.len() == 1 && alike["alike"] == expected["config.json"]);
}

#[tokio::test]
async fn ranges_across_blocks_come_back_as_they_are() {
    let folder = model_folder();
    let content = &on_disk(folder.path())["weights.safetensors"];
    hdfs().put(&folder.path().join("weights.safetensors"), "/ranges/weights").unwrap();
    let origin = open(config(), &reference("/ranges"));
    let file = origin.snapshot().await.unwrap().files.remove(0);
    let (block, size) = (1_u64 << 20, content.len() as u64);
    assert_eq!(file.size, size);
    for range in
        [0..1, 0..block, block - 1..block + 1, block..2 * block, 1..3 * block + 1, size - 1..size, 0..size]
    {
        let got = read(&*origin, &file, range.clone()).await.unwrap();
        assert!(got == content[range.start as usize..range.end as usize], "{range:?}");
    }
}

#[tokio::test]
async fn a_file_that_is_replaced_is_not_read_as_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    fs::write(&path, "version one").unwrap();
    hdfs().put(&path, "/replaced/m").unwrap();
    hdfs().touch("/replaced/m", 1_700_000_000_000).unwrap();
    let origin = open(config(), &reference("/replaced"));
    let file = origin.snapshot().await.unwrap().files.remove(0);
    assert_eq!(read(&*origin, &file, 0..11).await.unwrap(), b"version one");
    // The same size: only the modification time tells.
    fs::write(&path, "version two").unwrap();
    hdfs().put(&path, "/replaced/m").unwrap();
    let error = read(&*origin, &file, 0..11).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("origin changed"), "{error}");
    // Another length, the same time.
    let mut listed = origin.snapshot().await.unwrap().files.remove(0);
    listed.size += 1;
    assert_eq!(read(&*origin, &listed, 0..11).await.unwrap_err().kind(), ErrorKind::Corrupt);
    let version = FileVersion { etag: Some("0-11".to_owned()), object_version: None };
    let other = emberline_agent::snapshot::SnapshotFile { version, ..file };
    assert_eq!(read(&*origin, &other, 0..11).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn what_is_missing_forbidden_or_down_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("m"), "weights").unwrap();
    hdfs().put(&dir.path().join("m"), "/private/m").unwrap();
    hdfs().set_mode("/private", "700").unwrap();
    let error = open(config(), &reference("/no/such/model")).snapshot().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("/no/such/model"), "{error}");
    // Below a file there is nothing.
    let error = open(config(), &reference("/private/m/x")).snapshot().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    hdfs().make_directory("/empty").unwrap();
    let error = open(config(), &reference("/empty")).snapshot().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let error = open(as_user("mallory"), &reference("/private")).snapshot().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert_eq!(error.to_string().lines().count(), 1, "a stack trace: {error}");
    let settings = OriginsConfig { retries: 0, ..config() };
    let nobody = open(settings, &"hdfs://127.0.0.1:1/x".parse().unwrap());
    let error = nobody.snapshot().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable { .. }), "{error}");
    let narrow = OriginsConfig { allow: vec![format!("{}/models", hdfs().url())], ..config() };
    let origins = emberline_agent::origin::Origins::new(narrow).unwrap();
    assert_eq!(origins.open(&reference("/private")).err().unwrap().kind(), ErrorKind::Denied);
    assert!(origins.open(&reference("/models/x")).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_pulls_a_model_from_it_and_serves_it_by_its_name_in_the_namespace() {
    let folder = model_folder();
    let expected = on_disk(folder.path());
    hdfs().put(folder.path(), "/agents/model").unwrap();
    let data = tempfile::tempdir().unwrap();
    let agent = AgentProcess::start(&data.path().join("data"), AgentOptions::new("node")).await.unwrap();
    let authority = hdfs().url().trim_start_matches("hdfs://");
    let url = |path: &str| format!("{}/v1/fs/hdfs/{authority}{path}", agent.client().base());
    // Through the namespace first, while nothing of it is here.
    let get = async |path: &str| reqwest::get(url(path)).await.unwrap().error_for_status().unwrap();
    let read = get("/agents/model/weights.safetensors").await.bytes().await.unwrap();
    assert!(read == expected["weights.safetensors"]);
    let listed: serde_json::Value = get("/agents/model?list").await.json().await.unwrap();
    let names: Vec<_> = listed["entries"].as_array().unwrap().iter().map(|entry| &entry["name"]).collect();
    assert_eq!(names, ["config.json", "one", "onnx", "weights.safetensors"]);

    let reference = format!("{}/agents/model", hdfs().url());
    let pulled = agent.client().pull(&reference, PATIENCE).await.unwrap();
    assert_same(&on_disk(pulled.path.as_deref().unwrap()), &expected);
}

#[tokio::test]
async fn a_directory_is_listed_by_pages_in_the_order_of_names() {
    let dir = tempfile::tempdir().unwrap();
    // Hadoop orders `a` before `a-b`; with its slash a directory comes behind.
    for name in ["a-b", "a/x", "a/y/z", "b", "c c", "d%e"].into_iter().chain([".emberline-manifest"]) {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    for n in 0..20 {
        fs::write(dir.path().join(format!("n{n:02}")), "n").unwrap();
    }
    hdfs().put(dir.path(), "/pages").unwrap();
    let origins = emberline_agent::origin::Origins::new(config()).unwrap();
    let catalogue = origins.catalogue(&reference("")).unwrap();
    let walk = async |prefix: &str, delimited: bool, limit: usize| {
        let (mut names, mut start_after) = (Vec::new(), None);
        loop {
            let request = PageRequest { prefix: prefix.to_owned(), delimited, start_after, limit };
            let page = catalogue.page(&request).await.unwrap();
            assert!(page.names.len() <= limit);
            names.extend(page.names.iter().map(|name| name.key().to_owned()));
            start_after = names.last().cloned();
            if !page.more {
                return names;
            }
        }
    };
    let numbered: Vec<String> = (0..20).map(|n| format!("pages/n{n:02}")).collect();
    let expected = |first: &[&str]| {
        first.iter().map(|name| format!("pages/{name}")).chain(numbered.clone()).collect::<Vec<_>>()
    };
    let shallow = expected(&["a-b", "a/", "b", "c c", "d%e"]);
    let deep = expected(&["a-b", "a/x", "a/y/z", "b", "c c", "d%e"]);
    for limit in [1, 2, 7, 1000] {
        assert_eq!(walk("pages/", true, limit).await, shallow, "{limit}");
        assert_eq!(walk("pages/", false, limit).await, deep, "{limit}");
    }
    assert_eq!(walk("pages/n1", true, 3).await, numbered[10..20]);
    assert_eq!(walk("pages/a/", true, 3).await, ["pages/a/x", "pages/a/y/"]);
    for nothing in ["pages/zz", "no/such/", "pages/b/"] {
        assert!(walk(nothing, true, 10).await.is_empty(), "{nothing}");
    }
    let file = catalogue.file("pages/c c").await.unwrap();
    assert!(file.size == 3 && file.modified.is_some());
    for missing in ["pages/nothing", "pages/a", "pages", "pages/.emberline-manifest", "../x"] {
        assert_eq!(catalogue.file(missing).await.unwrap_err().kind(), ErrorKind::NotFound, "{missing}");
    }
    let first = PageRequest { prefix: "pages/a".to_owned(), delimited: true, start_after: None, limit: 1 };
    let page = catalogue.page(&first).await.unwrap();
    assert!(matches!(&page.names[..], [ListedName::File(file)] if file.key == "pages/a-b") && page.more);
}
