//! Plain HTTP: single files, listings, and digests that turn out wrong.

use std::fs;

use emberline_agent::{error::ErrorKind, origin::OriginsConfig, reader::State};
use emberline_tests::environment::Nginx;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_does_not_have_its_origins_digest_is_refused_to_who_reads_it_and_never_published() {
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(folder.path().join("model")).unwrap();
    let model = folder.path().join("model");
    fs::write(model.join("model.safetensors"), content(2 * CHUNK)).unwrap();
    fs::write(model.join("config.json"), "{}").unwrap();
    let listing = format!(
        r#"{{"files":[{{"path":"config.json"}},{{"path":"model.safetensors","size":{},"sha256":"{}"}}]}}"#,
        2 * CHUNK,
        "00".repeat(32)
    );
    fs::write(model.join("emberline-files.json"), listing).unwrap();
    let nginx = Nginx::start(folder.path(), "").unwrap();
    let mut settings = config(data.path(), OriginsConfig::default());
    settings.mounts.insert("web".to_owned(), format!("{}/model/", nginx.url()));
    let agent = start(settings).await;
    assert_eq!(names(&agent, "/web", 10).await.0, ["config.json", "model.safetensors"]);

    let file = agent.reader().open(&path("/web/model.safetensors"), CALLER).await.unwrap();
    // Chunks are given out until the file is whole and its digest is known to be wrong; from then on, none.
    let error = loop {
        match file.read_at(0, 100, soon()).await {
            Ok(bytes) => assert!(bytes == content(100)),
            Err(e) => break e,
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("digest"), "{error}");
    assert_eq!(file.wait_sealed(soon()).await.err().unwrap().kind(), ErrorKind::Corrupt);
    assert!(file.sealed().is_none() && file.state() != State::Sealed);
    agent.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_url_is_read_where_nothing_can_be_listed() {
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(folder.path().join("a b.bin"), content(CHUNK + 1)).unwrap();
    let nginx = Nginx::start(folder.path(), "").unwrap();
    let agent = start(config(data.path(), OriginsConfig::default())).await;
    let host = nginx.url().trim_start_matches("http://").to_owned();
    let file = agent.reader().open(&path(&format!("/http/{host}/a b.bin")), CALLER).await.unwrap();
    assert!(read_all(&file).await == content(CHUNK + 1));
    file.wait_sealed(soon()).await.unwrap();
    let missing = agent.reader().open(&path(&format!("/http/{host}/nothing")), CALLER).await.err().unwrap();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
    agent.shutdown(Duration::from_secs(5)).await;
}
