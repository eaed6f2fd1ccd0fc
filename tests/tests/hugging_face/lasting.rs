//! What lasts: downloads across killed clients, models across Hubs that are gone, caches without either.

use std::{
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
};

use emberline_tests::{command::preload, conformance::record};

use super::*;

/// Bytes of files under way below a client's cache.
fn incomplete_bytes(dir: &Path) -> u64 {
    let mut bytes = 0;
    let mut pending = vec![dir.to_owned()];
    while let Some(at) = pending.pop() {
        for entry in std::fs::read_dir(at).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "incomplete") {
                bytes += entry.metadata().map_or(0, |found| found.len());
            }
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_killed_goes_on_and_the_hub_gives_nothing_twice() {
    for client in [HubClient::New, HubClient::Old] {
        let settings = HubSettings {
            files: vec![file("config.json", "{}"), file("model.safetensors", content(20 * CHUNK + 9))],
            ..small()
        };
        let hub = Hub::start(settings.clone()).await.unwrap();
        // A few chunks at a time, in whichever order: one of the clients writes no less than 10 MiB at a time.
        let slowly = |config: &mut Config| config.origins.max_concurrent_requests = 4;
        let door = Door::open_with(hub.url(), tempfile::tempdir().unwrap(), slowly).await;
        hub.pace(2 << 20);
        let home = Home::at(&door.base).with("HF_HUB_DISABLE_XET", "1");
        let mut downloading = Command::new(client.bin().unwrap().join("python"))
            .args(["-c", SNAPSHOT, "org/name", "main"])
            .envs(home.variables())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while incomplete_bytes(home.dir.path()) < (1 << 20) {
            assert!(downloading.try_wait().unwrap().is_none(), "it ended before it was killed");
            assert!(start.elapsed() < Duration::from_secs(60), "nothing comes");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        downloading.kill().unwrap();
        downloading.wait().unwrap();
        let whole: u64 = settings.files.iter().map(|file| file.bytes.len() as u64).sum();
        let before = hub.served_bytes();
        assert!(before < whole - CHUNK as u64, "{before} of {whole}: it was killed too late to tell");
        hub.pace(0);
        assert_eq!(on_disk(&home.snapshot(client).await.unwrap()), contents(&settings));
        assert!(hub.served_bytes() <= whole + CHUNK as u64, "{} of {whole}", hub.served_bytes());
        record(DOOR, client.name().0, client.name().1, "killed in the middle of a download, and resumed");
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_given_again_without_a_question_to_the_hub() {
    let settings = small();
    let hub = Hub::start(settings.clone()).await.unwrap();
    let ttl = Duration::from_secs(600);
    let lasting = |config: &mut Config| {
        config.namespace.listing_ttl = ttl;
        config.hugging_face.admission_ttl = ttl;
    };
    let door = Door::open_with(hub.url(), tempfile::tempdir().unwrap(), lasting).await;
    Home::at(&door.base).snapshot(HubClient::New).await.unwrap();
    door.whole().await;
    let asked = hub.requests().len();
    assert!(asked > 0, "the first one came from the Hub");
    for client in [HubClient::New, HubClient::Old] {
        let dir = Home::at(&door.base).snapshot(client).await.unwrap();
        assert_eq!(on_disk(&dir), contents(&settings));
        let more = hub.requests().split_off(asked);
        assert!(more.is_empty(), "{more:?}");
        record(DOOR, client.name().0, client.name().1, "what is here, with no request to the Hub");
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_loads_when_the_hub_is_gone_also_after_a_restart() {
    let settings = small();
    let hub = Hub::start(settings.clone()).await.unwrap();
    let (url, commit) = (hub.url().to_owned(), hub.commit());
    let door = Door::open(&hub).await;
    Home::at(&door.base).snapshot(HubClient::New).await.unwrap();
    door.whole().await;
    drop(hub);
    let loads = async |door: &Door, when: &str| {
        let start = Instant::now();
        while told(door.head("org/name/resolve/main/config.json").await.headers(), "x-emberline-stale") != "1"
        {
            assert!(start.elapsed() < LISTED_FOR + Duration::from_secs(15), "never marked stale");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for client in [HubClient::New, HubClient::Old] {
            let dir = Home::at(&door.base).snapshot(client).await.unwrap();
            assert_eq!(on_disk(&dir), contents(&settings));
            assert!(dir.ends_with(&commit));
            record(
                DOOR,
                client.name().0,
                client.name().1,
                &format!("the Hub gone: all of it from here, {when}"),
            );
        }
        let refs = door.get("api/models/org/name/refs", &[]).await;
        assert_eq!(told(refs.headers(), "x-emberline-stale"), "1");
        let refs: serde_json::Value = refs.json().await.unwrap();
        assert_eq!(refs["branches"][0]["targetCommit"], commit.as_str());
        let unknown = door.get("api/models/org/other", &[]).await;
        assert_eq!(unknown.status(), 503, "nobody can say what that is");
        assert!(!told(unknown.headers(), "retry-after").is_empty());
    };
    loads(&door, "at once").await;
    let data = door.close().await;
    let door = Door::open_with(&url, data, |_| {}).await;
    loads(&door, "after a restart").await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_repository_stays_open_without_the_hub_to_those_let_in_lately_alone() {
    let settings = HubSettings { token: Some("hf_canary".into()), ..small() };
    let hub = Hub::start(settings.clone()).await.unwrap();
    let url = hub.url().to_owned();
    let door = Door::open(&hub).await;
    let home = || Home::at(&door.base).with("HF_TOKEN", "hf_canary");
    home().snapshot(HubClient::New).await.unwrap();
    door.whole().await;
    drop(hub);
    assert_eq!(on_disk(&home().snapshot(HubClient::New).await.unwrap()), contents(&settings));
    let status = async |door: &Door, headers: &[(&str, &str)]| {
        door.get("org/name/resolve/main/config.json", headers).await.status().as_u16()
    };
    assert_ne!(status(&door, &[]).await, 200);
    assert_ne!(status(&door, &[("authorization", "Bearer hf_other")]).await, 200);
    // Nothing of who was let in is written down.
    let data = door.close().await;
    let door = Door::open_with(&url, data, |_| {}).await;
    assert_eq!(status(&door, &[("authorization", "Bearer hf_canary")]).await, 503);
    door.close().await;
}

/// `preload pull --hf-cache`; what it prints, or says against it.
async fn pulled(hub: &str, data: &Path, cache: &Path) -> Result<PathBuf, String> {
    let [hub, data, cache] = [hub, data.to_str().unwrap(), cache.to_str().unwrap()].map(str::to_owned);
    let pulling = tokio::task::spawn_blocking(move || {
        let arguments = ["pull", "hf://org/name", "--hf-cache", &cache, "--data-dir", &data];
        preload(&[("HF_ENDPOINT", &hub), ("HF_TOKEN", "")], &arguments)
    });
    let pulled = pulling.await.unwrap();
    match pulled.status.success() {
        true => Ok(PathBuf::from(String::from_utf8_lossy(&pulled.stdout).trim())),
        false => Err(String::from_utf8_lossy(&pulled.stderr).into_owned()),
    }
}

/// The blobs of a cache by name, and which files they are.
fn inodes(cache: &Path) -> BTreeMap<String, u64> {
    let blobs = std::fs::read_dir(cache.join("models--org--name/blobs")).unwrap().map(Result::unwrap);
    blobs.map(|blob| (blob.file_name().into_string().unwrap(), blob.metadata().unwrap().ino())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_clients_take_over_xet_alone_comes_by_a_pull() {
    // The client's own limit of 50 GB, and the parts of which a file has several before hf_transfer is used, made a
    // megabyte.
    let program = "from huggingface_hub import constants, snapshot_download
assert constants.MAX_HTTP_DOWNLOAD_SIZE == 50_000_000_000
constants.MAX_HTTP_DOWNLOAD_SIZE = 1_000_000
constants.DOWNLOAD_CHUNK_SIZE = 1_000_000
print(snapshot_download('org/name'), end='')";
    let settings = small();
    let hub = Hub::start(settings.clone()).await.unwrap();
    let door = Door::open(&hub).await;
    let dir = tempfile::tempdir().unwrap();
    let (data, cache) = (dir.path().join("data"), dir.path().join("hub"));
    pulled(hub.url(), &data, &cache).await.unwrap();
    for client in [HubClient::New, HubClient::Old] {
        let refused = Home::at(&door.base).run(client, program, &[]).await.unwrap_err();
        assert!(refused.contains("too large to be downloaded using the regular download"), "{refused}");
        let home = Home::at(&door.base).with("HF_HUB_CACHE", cache.to_str().unwrap());
        let found = home.run(client, program, &[]).await.unwrap();
        assert_eq!(on_disk(found.as_ref()), contents(&settings));
        let (name, version) = client.name();
        record("preload pull --hf-cache", name, version, "a file beyond what it takes over plain HTTP");
    }
    // The older one with hf_transfer asks for parts, and has no limit then.
    let home = Home::at(&door.base).with("HF_HUB_ENABLE_HF_TRANSFER", "1");
    let found = home.run(HubClient::Old, program, &[]).await.unwrap();
    assert_eq!(on_disk(found.as_ref()), contents(&settings));
    record(DOOR, "huggingface_hub", "0.36.2", "hf_transfer beyond what it takes over plain HTTP");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_cannot_be_made_is_named_and_so_is_what_is_no_repository() {
    let hub = Hub::start(small()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (data, cache) = (dir.path().join("data"), dir.path().join("a-file"));
    std::fs::write(&cache, "not a directory").unwrap();
    let refused = pulled(hub.url(), &data, &cache).await.unwrap_err();
    assert!(refused.contains(cache.to_str().unwrap()), "{refused}");
    assert_eq!(std::fs::read(&cache).unwrap(), b"not a directory");

    let data = data.to_str().unwrap().to_owned();
    let refused = tokio::task::spawn_blocking(move || {
        preload(&[], &["pull", "s3://bucket/model", "--hf-cache", "here", "--data-dir", &data])
    });
    let refused = String::from_utf8_lossy(&refused.await.unwrap().stderr).into_owned();
    assert!(refused.contains("s3://bucket/model") && refused.contains("hf://"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_makes_the_cache_that_clients_take_offline_of_links() {
    let settings = small();
    let hub = Hub::start(settings.clone()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (data, cache) = (dir.path().join("data"), dir.path().join("hub"));
    let commit = hub.commit();
    let printed = pulled(hub.url(), &data, &cache).await.unwrap();
    assert_eq!(printed, cache.join("models--org--name/snapshots").join(&commit));
    let first = inodes(&cache);
    // A second time, and after a part of it was lost.
    assert_eq!(pulled(hub.url(), &data, &cache).await.unwrap(), printed);
    assert_eq!(inodes(&cache), first);
    std::fs::remove_file(printed.join("onnx/model.onnx")).unwrap();
    std::fs::remove_file(cache.join("models--org--name/refs/main")).unwrap();
    assert_eq!(pulled(hub.url(), &data, &cache).await.unwrap(), printed);
    drop(hub);
    for blob in std::fs::read_dir(cache.join("models--org--name/blobs")).unwrap() {
        assert!(blob.unwrap().metadata().unwrap().nlink() >= 2, "a copy");
    }
    for client in [HubClient::New, HubClient::Old, HubClient::Transformers] {
        let home = Home::at("http://127.0.0.1:9")
            .with("HF_HUB_OFFLINE", "1")
            .with("HF_HUB_CACHE", cache.to_str().unwrap());
        let found = home.snapshot(client).await.unwrap();
        assert_eq!(*found, *printed);
        assert_eq!(on_disk(&found), contents(&settings));
        let (name, version) = client.name();
        record("preload pull --hf-cache", name, version, "snapshot_download with HF_HUB_OFFLINE=1");
    }
}
