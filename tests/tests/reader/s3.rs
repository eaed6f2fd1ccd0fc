//! Buckets: one request a page, one chunk a read, and what is remembered when the origin is gone.

use std::{fs, path::Path};

use emberline_agent::{
    error::ErrorKind,
    namespace::Entry,
    origin::{OriginsConfig, S3Config},
};
use emberline_tests::environment::{FaultProxy, Moto, S3_KEY, S3_SECRET, Weed};

use super::*;

pub(super) fn s3(endpoint: &str, dir: &Path) -> OriginsConfig {
    let credentials = dir.join("credentials");
    fs::write(
        &credentials,
        format!("[default]\naws_access_key_id={S3_KEY}\naws_secret_access_key={S3_SECRET}\n"),
    )
    .unwrap();
    let s3 = S3Config {
        endpoint: Some(endpoint.to_owned()),
        credentials_file: Some(credentials),
        ..S3Config::default()
    };
    OriginsConfig { s3, ..OriginsConfig::default() }
}

/// A model, a dataset of many small files, and an object by itself.
fn bucket() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("models/llama/onnx")).unwrap();
    fs::write(dir.path().join("models/llama/config.json"), "{}").unwrap();
    fs::write(dir.path().join("models/llama/model.safetensors"), content(2 * CHUNK + 5)).unwrap();
    fs::write(dir.path().join("models/llama/onnx/model.onnx"), content(1000)).unwrap();
    fs::create_dir_all(dir.path().join("data")).unwrap();
    for n in 0..250 {
        fs::write(dir.path().join(format!("data/part-{n:04}")), n.to_string()).unwrap();
    }
    fs::write(dir.path().join("large.bin"), content(10 * CHUNK)).unwrap();
    dir
}

async fn a_bucket_is_a_tree(agent: &Agent, mount: &str) {
    assert_eq!(names(agent, mount, 2).await.0, ["data", "large.bin", "models"]);
    let (parts, pages) = names(agent, &format!("{mount}/data"), 100).await;
    assert_eq!((parts.len(), pages), (250, 3));
    assert!(parts.is_sorted());
    assert_eq!(
        names(agent, &format!("{mount}/models/llama"), 1).await.0,
        ["config.json", "model.safetensors", "onnx"]
    );
    let objects = async |prefix: &str, delimited: bool, after: Option<&str>| {
        let page = agent.namespace().list_objects(&path(mount), prefix, delimited, after, 3).await.unwrap();
        page.names.into_iter().map(|named| named.name).collect::<Vec<_>>()
    };
    // A prefix may end inside a name, and a page may begin behind a name that is not there.
    assert_eq!(
        objects("data/part-01", false, Some("data/part-0150x")).await,
        ["data/part-0151", "data/part-0152", "data/part-0153"]
    );
    assert_eq!(objects("mod", true, None).await, ["models/"]);
    assert_eq!(objects("models/", true, Some("models/llama/")).await, [] as [&str; 0]);
    assert_eq!(objects("", true, Some("data/")).await, ["large.bin", "models/"]);
    assert_eq!(objects("nothing", true, None).await, [] as [&str; 0]);
    assert_eq!(agent.namespace().stat(&path(&format!("{mount}/models"))).await.unwrap(), Entry::Directory);
    let missing = agent.namespace().stat(&path(&format!("{mount}/nothing"))).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_is_listed_with_one_request_a_page_and_read_with_one_chunk_a_read() {
    let (data, folder, secrets) = (tempfile::tempdir().unwrap(), bucket(), tempfile::tempdir().unwrap());
    let moto = Moto::start().unwrap();
    moto.upload("bucket", folder.path(), "").unwrap();
    let proxy = FaultProxy::start(&moto.url()).unwrap();
    let mut settings = config(data.path(), s3(&proxy.url(), secrets.path()));
    settings.reader.fill_max_bytes = 0;
    settings.mounts.insert("m".to_owned(), "s3://bucket/models".to_owned());
    let agent = start(settings).await;

    let before = proxy.seen().len();
    let (parts, pages) = names(&agent, "/s3/bucket/data", 100).await;
    assert_eq!((parts.len(), pages), (250, 3));
    assert_eq!(proxy.seen().len() - before, 3, "one request a page");
    names(&agent, "/s3/bucket/data", 100).await;
    assert_eq!(proxy.seen().len() - before, 3, "what was listed just now is remembered");
    a_bucket_is_a_tree(&agent, "/s3/bucket").await;
    assert_eq!(names(&agent, "/m", 10).await.0, ["llama"]);

    // The last byte of an object that is not here costs its own chunk.
    let file = agent.reader().open(&path("/s3/bucket/large.bin"), CALLER).await.unwrap();
    let large = content(10 * CHUNK);
    let end = large.len() as u64;
    assert_eq!(file.read_at(end - 1, 10, soon()).await.unwrap(), &large[large.len() - 1..]);
    let here = agent.artifacts(false).await[0].done_bytes;
    // An object of this size is cut into chunks of 1 MiB.
    assert_eq!(here, 1 << 20, "one chunk was fetched");
    // Who reads on gets the rest ahead of himself, and in the end the file has its path.
    assert!(read_all(&file).await == large);
    assert_eq!(file.wait_sealed(soon()).await.unwrap().bytes, end);
    assert_eq!(entry(&agent, "/s3/bucket/large.bin").await.etag, file.etag());

    // One file of a model brings the model.
    let file = agent.reader().open(&path("/m/llama/onnx/model.onnx"), CALLER).await.unwrap();
    assert!(read_all(&file).await == content(1000));
    let pulls = agent.pulls();
    assert_eq!(pulls.iter().map(|p| p.reference.as_str()).collect::<Vec<_>>(), ["s3://bucket/models/llama"]);
    agent.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seaweedfs_is_the_same_tree() {
    let (data, folder, secrets) = (tempfile::tempdir().unwrap(), bucket(), tempfile::tempdir().unwrap());
    let weed = Weed::start().unwrap();
    weed.upload("bucket", folder.path(), "").unwrap();
    let agent = start(config(data.path(), s3(&weed.url(), secrets.path()))).await;
    a_bucket_is_a_tree(&agent, "/s3/bucket").await;
    let file = agent.reader().open(&path("/s3/bucket/models/llama/model.safetensors"), CALLER).await.unwrap();
    assert!(read_all(&file).await == content(2 * CHUNK + 5));
    agent.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_listed_and_read_when_its_origin_is_gone_even_after_a_restart() {
    let (data, folder, secrets) = (tempfile::tempdir().unwrap(), bucket(), tempfile::tempdir().unwrap());
    let moto = Moto::start().unwrap();
    moto.upload("bucket", folder.path(), "").unwrap();
    let mut settings = config(data.path(), s3(&moto.url(), secrets.path()));
    settings.origins.retries = 0;
    settings.namespace.listing_ttl = Duration::ZERO;
    let agent = start(settings.clone()).await;
    let name = "/s3/bucket/models/llama/model.safetensors";
    let file = agent.reader().open(&path(name), CALLER).await.unwrap();
    file.wait_sealed(soon()).await.unwrap();
    let mut pull = agent.watch_pull(&agent.pulls()[0].id).unwrap();
    pull.wait_for(|status| status.phase.is_over()).await.unwrap();
    names(&agent, "/s3/bucket/data", 1000).await;
    drop(file);

    drop(moto);
    let remembered = agent.namespace().list(&path("/s3/bucket/data"), None, 1000).await.unwrap();
    assert_eq!((remembered.names.len(), remembered.stale), (250, true));
    agent.shutdown(Duration::from_secs(5)).await;

    let agent = start(settings).await;
    let page = agent.namespace().list(&path("/s3/bucket/models/llama"), None, 1000).await.unwrap();
    let shown: Vec<_> = page.names.iter().map(|named| named.name.as_str()).collect();
    assert_eq!(
        (shown.as_slice(), page.stale),
        (["config.json", "model.safetensors", "onnx"].as_slice(), true)
    );
    let file = agent.reader().open(&path(name), CALLER).await.unwrap();
    assert!(read_all(&file).await == content(2 * CHUNK + 5));
    // What was never here cannot be had, and that is not the same as missing.
    let error = agent.reader().open(&path("/s3/bucket/large.bin"), CALLER).await.err().unwrap();
    assert!(matches!(error.kind(), ErrorKind::Unavailable { .. }), "{error}");
    agent.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_replaced_is_never_read_as_half_of_each() {
    let (data, folder, secrets) = (tempfile::tempdir().unwrap(), bucket(), tempfile::tempdir().unwrap());
    let moto = Moto::start().unwrap();
    moto.upload("bucket", folder.path(), "").unwrap();
    let mut settings = config(data.path(), s3(&moto.url(), secrets.path()));
    settings.reader.fill_max_bytes = 0;
    let agent = start(settings).await;
    let old = agent.reader().open(&path("/s3/bucket/large.bin"), CALLER).await.unwrap();
    assert_eq!(old.read_at(0, 4, soon()).await.unwrap(), &content(4)[..]);

    let other: Vec<u8> = content(10 * CHUNK).into_iter().map(|byte| byte ^ 0xff).collect();
    let replaced = tempfile::tempdir().unwrap();
    fs::write(replaced.path().join("large.bin"), &other).unwrap();
    moto.upload("bucket", replaced.path(), "").unwrap();
    // Who has the old one open is told, not given another.
    let error = old.read_at(9 * CHUNK as u64, 4, soon()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("origin changed"), "{error}");
    // Who opens it now gets the new one, whatever is remembered of the listing.
    let new = agent.reader().open(&path("/s3/bucket/large.bin"), CALLER).await.unwrap();
    assert_eq!(new.read_at(9 * CHUNK as u64, 4, soon()).await.unwrap(), &other[9 * CHUNK..][..4]);
    assert_ne!(new.etag(), old.etag());
    agent.shutdown(Duration::from_secs(5)).await;
}
