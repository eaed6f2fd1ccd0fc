//! A Hub: one repository at one commit, whatever it is called.

use bytes::Bytes;
use emberline_agent::origin::{HubConfig, OriginsConfig};
use emberline_tests::environment::{Hub, HubFile, HubSettings};
use sha2::Digest as _;

use super::*;

fn settings() -> HubSettings {
    let file = |path: &str, bytes: Vec<u8>| HubFile {
        is_large: bytes.len() > 100_000,
        path: path.to_owned(),
        bytes: Bytes::from(bytes),
    };
    let files = vec![
        file("config.json", b"{}".to_vec()),
        file("model.safetensors", content(CHUNK + 9)),
        file("onnx/model.onnx", content(300)),
    ];
    HubSettings { name: "org/name".into(), kind: "models", files, page: 2, token: None, is_gated: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_and_its_commit_are_one_artifact_with_the_hubs_own_tags() {
    let data = tempfile::tempdir().unwrap();
    let hub = Hub::start(settings()).await.unwrap();
    let hf = HubConfig { endpoint: Some(hub.url().to_owned()), anonymous: true, ..HubConfig::default() };
    let agent = start(config(data.path(), OriginsConfig { hf, ..OriginsConfig::default() })).await;
    let (listed, _) = names(&agent, "/hf/org/name/main", 2).await;
    assert_eq!(listed, ["config.json", "model.safetensors", "onnx"]);
    assert_eq!(names(&agent, "/hf/org/name/main/onnx", 2).await.0, ["model.onnx"]);

    let weights = content(CHUNK + 9);
    let sha256: String = sha2::Sha256::digest(&weights).iter().map(|byte| format!("{byte:02x}")).collect();
    let file = agent.reader().open(&path("/hf/org/name/main/model.safetensors"), CALLER).await.unwrap();
    assert_eq!((file.etag(), file.revision()), (sha256.as_str(), Some(hub.commit().as_str())));
    assert!(read_all(&file).await == weights);

    // By its commit it is the same artifact; a slash in a revision is written %2F.
    for revision in [hub.commit().as_str(), "main"] {
        let again = format!("/hf/org/name/{revision}/onnx/model.onnx");
        let file = agent.reader().open(&path(&again), CALLER).await.unwrap();
        assert!(read_all(&file).await == content(300), "{again}");
    }
    assert_eq!(agent.artifacts(false).await.len(), 1);
    let pull = agent.reader().open(&path("/hf/org/name/refs%2Fpr%2F1/config.json"), CALLER).await.unwrap();
    assert!(read_all(&pull).await == b"{}");
    agent.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_opens_resolve_a_branch_once() {
    let data = tempfile::tempdir().unwrap();
    let hub = Hub::start(settings()).await.unwrap();
    let hf = HubConfig { endpoint: Some(hub.url().to_owned()), anonymous: true, ..HubConfig::default() };
    let agent = start(config(data.path(), OriginsConfig { hf, ..OriginsConfig::default() })).await;
    let open = async || agent.reader().open(&path("/hf/org/name/main/config.json"), CALLER).await.unwrap();
    open().await.wait_sealed(soon()).await.unwrap();
    let resolved = || hub.requests().iter().filter(|request| request.line.contains("/revision/")).count();
    let before = resolved();
    for _ in 0..100 {
        assert!(read_all(&open().await).await == b"{}");
    }
    assert_eq!(resolved(), before, "within the time to live nobody asks again");
    agent.shutdown(Duration::from_secs(5)).await;
}
