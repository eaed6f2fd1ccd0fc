//! The Hugging Face Hub protocol. The fixture is proven by the real client first.

use std::{collections::BTreeMap, fs};

use bytes::Bytes;
use emberline_agent::{
    error::ErrorKind,
    origin::{HubConfig, Origins, OriginsConfig},
    reference::{HubKind, HubRepo, Reference},
    snapshot::Digest,
};
use emberline_tests::environment::{Hub, HubFile, HubSettings, run_python};
use sha1::Digest as _;

use super::{assert_same, config, model_folder, on_disk, open, pull, read};

fn settings() -> HubSettings {
    let folder = model_folder();
    let files = on_disk(folder.path())
        .into_iter()
        .map(|(path, content)| HubFile {
            is_large: content.len() > 100_000,
            path,
            bytes: Bytes::from(content),
        })
        .collect();
    HubSettings { name: "org/name".into(), kind: "models", files, page: 2, token: None, is_gated: false }
}

fn contents(settings: &HubSettings) -> BTreeMap<String, Vec<u8>> {
    settings.files.iter().map(|f| (f.path.clone(), f.bytes.to_vec())).collect()
}

fn repo(name: &str, revision: &str, kind: HubKind) -> Reference {
    Reference::Hub(HubRepo { kind, name: name.into(), revision: revision.into() })
}

fn hf(url: &str) -> OriginsConfig {
    let hf = HubConfig { endpoint: Some(url.to_owned()), anonymous: true, ..HubConfig::default() };
    OriginsConfig { hf, ..config() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_real_client_downloads_is_what_the_origin_reads() {
    let settings = settings();
    let hub = Hub::start(settings.clone()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let program = "import sys, huggingface_hub
print(huggingface_hub.snapshot_download('org/name', cache_dir=sys.argv[1]), end='')";
    let (url, cache) = (hub.url().to_owned(), dir.path().to_str().unwrap().to_owned());
    let downloaded = tokio::task::spawn_blocking(move || {
        let variables =
            [("HF_ENDPOINT", url.as_str()), ("HF_HUB_DISABLE_XET", "1"), ("HF_HOME", cache.as_str())];
        run_python(program, &[&cache], &variables)
    })
    .await
    .unwrap()
    .unwrap();
    let by_client = on_disk(downloaded.as_ref());
    assert_same(&by_client, &contents(&settings));

    let origin = open(hf(hub.url()), &repo("org/name", "main", HubKind::Model));
    assert_same(&pull(&*origin).await, &by_client);
    // The client's cache is an origin too, symlinks and all.
    assert_same(&pull(&*open(config(), &Reference::File(downloaded.into()))).await, &by_client);
}

#[tokio::test]
async fn the_listing_names_commit_and_digests_across_pages() {
    let settings = settings();
    let hub = Hub::start(settings.clone()).await.unwrap();
    let origin = open(hf(hub.url()), &repo("org/name", "refs/pr/1", HubKind::Model));
    let snapshot = origin.snapshot().await.unwrap();
    assert_eq!(snapshot.revision, Some(hub.commit()));
    assert_eq!(snapshot.files.len(), settings.files.len());
    for file in &snapshot.files {
        let content = &settings.files.iter().find(|f| f.path == file.path.as_str()).unwrap();
        let expected = if content.is_large {
            Digest::Sha256(sha2::Sha256::digest(&content.bytes).into())
        } else {
            let mut blob = format!("blob {}\0", content.bytes.len()).into_bytes();
            blob.extend_from_slice(&content.bytes);
            Digest::GitSha1(sha1::Sha1::digest(&blob).into())
        };
        assert_eq!(file.digest, Some(expected), "{}", file.path);
    }
    let pages = hub.requests().iter().filter(|r| r.line.contains("/tree/")).count();
    assert_eq!(pages, settings.files.len().div_ceil(settings.page));
}

#[tokio::test]
async fn a_token_opens_a_private_dataset_and_stays_with_its_host() {
    let settings = HubSettings { kind: "datasets", token: Some("hf_canary".into()), ..settings() };
    let hub = Hub::start(settings.clone()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let token_file = dir.path().join("token");
    fs::write(&token_file, "hf_canary\n").unwrap();
    let dataset = repo("org/name", "main", HubKind::Dataset);
    let config = OriginsConfig {
        hf: HubConfig {
            endpoint: Some(hub.url().to_owned()),
            token_file: Some(token_file),
            ..HubConfig::default()
        },
        ..config()
    };
    assert_same(&pull(&*open(config, &dataset)).await, &contents(&settings));
    let requests = hub.requests();
    assert!(requests.iter().any(|r| r.host == "cdn"));
    assert!(requests.iter().all(|r| r.had_token == (r.host == "hub")), "{requests:?}");

    let error = open(hf(hub.url()), &dataset).snapshot().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("token"), "{error}");
}

#[tokio::test]
async fn reads_go_straight_to_where_a_file_was_redirected_until_that_ends() {
    let hub = Hub::start(settings()).await.unwrap();
    let origin = open(hf(hub.url()), &repo("org/name", "main", HubKind::Model));
    let snapshot = origin.snapshot().await.unwrap();
    let large = snapshot.files.iter().find(|f| f.path.as_str() == "weights.safetensors").unwrap();
    let resolved =
        || hub.requests().iter().filter(|r| r.host == "hub" && r.line.contains("/resolve/")).count();
    for start in 0..8 {
        read(&*origin, large, start * 100..start * 100 + 100).await.unwrap();
    }
    assert_eq!(resolved(), 1);
    hub.expire_signatures();
    let got = read(&*origin, large, 5..105).await.unwrap();
    assert_eq!((resolved(), got.len()), (2, 100));
}

#[tokio::test]
async fn a_branch_that_moves_does_not_mix_two_commits() {
    let hub = Hub::start(settings()).await.unwrap();
    let origin = open(hf(hub.url()), &repo("org/name", "main", HubKind::Model));
    let snapshot = origin.snapshot().await.unwrap();
    hub.move_branch(&"f".repeat(40));
    // The old commit is gone: nothing of the new one may come in its place.
    let small = snapshot.files.iter().find(|f| f.path.as_str() == "config.json").unwrap();
    read(&*origin, small, 0..10).await.unwrap_err();
    assert_eq!(origin.snapshot().await.unwrap().revision, Some("f".repeat(40)));
}

#[tokio::test]
async fn what_a_hub_refuses_is_said_with_advice() {
    let open_hub = Hub::start(settings()).await.unwrap();
    let gated = Hub::start(HubSettings { is_gated: true, ..settings() }).await.unwrap();
    for (name, revision, kind, word) in [
        ("org/nothing", "main", ErrorKind::NotFound, "check the name"),
        ("org/name", "v9", ErrorKind::NotFound, "\"v9\""),
    ] {
        let origin = open(hf(open_hub.url()), &repo(name, revision, HubKind::Model));
        let error = origin.snapshot().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    let origin = open(hf(gated.url()), &repo("org/name", "main", HubKind::Model));
    let snapshot = origin.snapshot().await.unwrap();
    let error = read(&*origin, &snapshot.files[0], 0..1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    let page = format!("{}/org/name", gated.url());
    assert!(error.to_string().contains(&page) && error.to_string().contains("HF_TOKEN"), "{error}");
}

#[tokio::test]
async fn no_request_goes_out_while_a_hub_asked_to_be_left_alone() {
    let hub = Hub::start(settings()).await.unwrap();
    let origins = Origins::new(hf(hub.url())).unwrap();
    let reference = repo("org/name", "main", HubKind::Model);
    hub.refuse_next(1);
    let (one, two) = (origins.open(&reference).unwrap(), origins.open(&reference).unwrap());
    one.snapshot().await.unwrap();
    two.snapshot().await.unwrap();
    let requests = hub.requests();
    let waited = requests[1].at - requests[0].at;
    assert!(waited.as_secs_f64() >= 0.99, "the second came {waited:?} after a Retry-After of 1 s");
}
