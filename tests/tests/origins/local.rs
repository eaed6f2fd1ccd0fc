//! Directories and plain HTTP.

use std::{fs, time::SystemTime};

use emberline_agent::{
    error::ErrorKind,
    origin::{HttpOriginConfig, LISTING_FILE, Origins, OriginsConfig},
    reference::Reference,
    snapshot::Digest,
};
use emberline_tests::environment::{Nginx, minilm_dir};
use sha2::Digest as _;

use super::{assert_same, config, model_folder, on_disk, open, pull, read};

/// Writes the listing of everything else in `folder`.
fn write_listing(folder: &std::path::Path) {
    let files: Vec<_> = on_disk(folder)
        .into_iter()
        .map(|(path, content)| {
            let sha256: String = sha2::Sha256::digest(&content).iter().map(|b| format!("{b:02x}")).collect();
            serde_json::json!({"path": path, "size": content.len(), "sha256": sha256})
        })
        .collect();
    fs::write(folder.join(LISTING_FILE), serde_json::json!({"files": files}).to_string()).unwrap();
}

fn http(url: &str) -> Reference {
    Reference::Http(url.parse().unwrap())
}

#[tokio::test]
async fn a_directory_is_read_as_it_is_and_counted() {
    let folder = model_folder();
    fs::write(folder.path().join("empty"), b"").unwrap();
    let origins = Origins::new(config()).unwrap();
    let origin = origins.open(&Reference::File(folder.path().to_owned())).unwrap();
    let got = pull(&*origin).await;
    assert_same(&got, &on_disk(folder.path()));
    let counted = &origins.counters()[0];
    assert_eq!((counted.scheme, counted.listings), ("file", 1));
    assert!(counted.bytes >= got.values().map(|v| v.len() as u64).sum::<u64>());
}

#[tokio::test]
async fn the_real_model_is_read_from_its_folder() {
    let origin = open(config(), &Reference::File(minilm_dir()));
    let snapshot = origin.snapshot().await.unwrap();
    let weights = snapshot.files.iter().find(|f| f.path.as_str() == "model.safetensors").unwrap();
    assert_eq!(weights.size, 90_868_376);
    assert!(snapshot.files.iter().any(|f| f.path.as_str() == "1_Pooling/config.json"));
    let got = read(&*origin, weights, 0..weights.size).await.unwrap();
    assert!(got == fs::read(minilm_dir().join("model.safetensors")).unwrap());
}

#[tokio::test]
async fn a_listing_over_http_is_read_whole_and_by_ranges() {
    let folder = model_folder();
    write_listing(folder.path());
    let nginx = Nginx::start(folder.path(), "").unwrap();
    let origin = open(config(), &http(&format!("{}/", nginx.url())));
    let snapshot = origin.snapshot().await.unwrap();
    assert!(snapshot.files.iter().all(|f| matches!(f.digest, Some(Digest::Sha256(_)))));
    assert!(snapshot.files.iter().all(|f| f.version.etag.as_ref().is_some_and(|e| e.starts_with('"'))));
    let mut expected = on_disk(folder.path());
    expected.remove(LISTING_FILE);
    assert_same(&pull(&*origin).await, &expected);
}

#[tokio::test]
async fn one_file_over_http_is_named_by_the_end_of_its_url() {
    let folder = model_folder();
    let nginx = Nginx::start(folder.path(), "").unwrap();
    let origin = open(config(), &http(&format!("{}/onnx/model.onnx?v=1", nginx.url())));
    let got = pull(&*origin).await;
    assert_eq!(got.keys().collect::<Vec<_>>(), ["model.onnx"]);
    assert!(got["model.onnx"] == fs::read(folder.path().join("onnx/model.onnx")).unwrap());
}

#[tokio::test]
async fn a_server_that_ignores_ranges_still_gives_the_right_bytes() {
    let folder = model_folder();
    let nginx = Nginx::start(folder.path(), "max_ranges 0;").unwrap();
    let origin = open(config(), &http(&format!("{}/weights.safetensors", nginx.url())));
    let got = pull(&*origin).await;
    assert!(nginx.access_log().contains("\" 200 "), "{}", nginx.access_log());
    assert!(!nginx.access_log().contains("\" 206 "), "the server did honour ranges");
    assert!(got["weights.safetensors"] == fs::read(folder.path().join("weights.safetensors")).unwrap());
}

#[tokio::test]
async fn a_file_replaced_on_the_server_is_not_mixed_with_the_old_one() {
    // With an ETag the server refuses, without one the modification time tells.
    for extra in ["", "etag off;"] {
        let folder = model_folder();
        let nginx = Nginx::start(folder.path(), extra).unwrap();
        let path = folder.path().join("weights.safetensors");
        let origin = open(config(), &http(&format!("{}/weights.safetensors", nginx.url())));
        let file = origin.snapshot().await.unwrap().files.remove(0);
        read(&*origin, &file, 0..100).await.unwrap();
        let size = fs::metadata(&path).unwrap().len() as usize;
        fs::write(&path, vec![7; size]).unwrap();
        fs::File::open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let error = read(&*origin, &file, 100..200).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{extra}: {error}");
        assert!(error.to_string().contains("origin changed"), "{extra}: {error}");
    }
}

#[tokio::test]
async fn what_a_web_server_does_not_have_is_said_with_advice() {
    let folder = model_folder();
    let nginx = Nginx::start(folder.path(), "location /private/ { return 401; }").unwrap();
    for (path, kind, word) in [
        ("/", ErrorKind::NotFound, "listing"),
        ("/nothing.bin", ErrorKind::NotFound, "/nothing.bin"),
        ("/private/x", ErrorKind::Denied, "bearer_token_file"),
    ] {
        let error = open(config(), &http(&format!("{}{path}", nginx.url()))).snapshot().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[tokio::test]
async fn a_folder_without_its_slash_is_told_how_to_write_it() {
    let folder = model_folder();
    let nginx = Nginx::start(folder.path(), "").unwrap();
    let error = open(config(), &http(&format!("{}/onnx", nginx.url()))).snapshot().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    for words in ["/onnx is a folder", "with a / at its end", LISTING_FILE] {
        assert!(error.to_string().contains(words), "{words} is not in: {error}");
    }
}

#[tokio::test]
async fn a_listing_that_lies_is_refused() {
    let folder = model_folder();
    let nginx = Nginx::start(folder.path(), "").unwrap();
    for (listing, word) in [
        (r#"{"files":[{"path":"one","size":2}]}"#, "listing says"),
        (r#"{"files":[{"path":"../one"}]}"#, "listing"),
        (r#"{"files":[{"path":"one","sha256":"xyz"}]}"#, "sha256"),
        (r#"{"files":"#, "listing"),
        (r#"{"files":[]}"#, "no files"),
    ] {
        fs::write(folder.path().join(LISTING_FILE), listing).unwrap();
        let error = open(config(), &http(&format!("{}/", nginx.url()))).snapshot().await.unwrap_err();
        assert!(error.to_string().contains(word), "{listing}: {error}");
    }
}

#[tokio::test]
async fn a_redirect_to_a_metadata_address_or_off_the_allow_list_is_refused() {
    let folder = model_folder();
    let extra = "location /meta { return 302 http://169.254.169.254/latest/meta-data/; }
                 location /away { return 302 http://localhost:1/x; }
                 location /loop { return 302 /loop; }";
    let nginx = Nginx::start(folder.path(), extra).unwrap();
    let settings = OriginsConfig { allow: vec![format!("{}/", nginx.url())], retries: 0, ..config() };
    for (path, word) in [("/meta", "link-local"), ("/away", "origins.allow"), ("/loop", "more than")] {
        let origin = open(settings.clone(), &http(&format!("{}{path}", nginx.url())));
        let error = origin.snapshot().await.unwrap_err();
        assert!(error.to_string().contains(word), "{path}: {error}");
        assert!(matches!(error.kind(), ErrorKind::Denied | ErrorKind::Invalid), "{error}");
    }
    let refused = Origins::new(settings).unwrap().open(&http("https://example.com/m")).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn a_bearer_token_goes_to_its_host_and_is_not_taken_along_by_a_redirect() {
    let folder = model_folder();
    let guarded = r#"if ($http_authorization != "Bearer canary-7") { return 403; }"#;
    let nginx = Nginx::start(folder.path(), guarded).unwrap();
    // It answers only those who bring no token.
    let other = Nginx::start(folder.path(), r#"if ($http_authorization) { return 500; }"#).unwrap();
    let redirect = format!("{guarded} location /away/ {{ return 302 {}/one; }}", other.url());
    let redirecting = Nginx::start(folder.path(), &redirect).unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "canary-7\n").unwrap();
    let host = |url: &str| url.trim_start_matches("http://").to_owned();
    let settings = OriginsConfig {
        http: HttpOriginConfig {
            bearer_token_file: Some(token),
            bearer_hosts: vec![host(&nginx.url()), host(&redirecting.url())],
            ..HttpOriginConfig::default()
        },
        ..config()
    };
    pull(&*open(settings.clone(), &http(&format!("{}/one", nginx.url())))).await;
    pull(&*open(settings.clone(), &http(&format!("{}/away/one", redirecting.url())))).await;
    let error = open(config(), &http(&format!("{}/one", nginx.url()))).snapshot().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(!format!("{settings:?}").contains("canary"));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_and_named() {
    let settings = OriginsConfig { retries: 0, ..config() };
    let error = open(settings, &http("http://127.0.0.1:1/m.bin")).snapshot().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UNAVAILABLE);
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[test]
fn a_password_in_a_url_is_refused_and_not_repeated() {
    let origins = Origins::new(config()).unwrap();
    let error = origins.open(&http("https://bob:canary@example.com/m")).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(!error.to_string().contains("canary"), "{error}");
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_named_and_nowhere_else() {
    let folder = model_folder();
    let dir = tempfile::tempdir().unwrap();
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (pem, key) = (dir.path().join("ca.pem"), dir.path().join("key.pem"));
    fs::write(&pem, certificate.cert.pem()).unwrap();
    fs::write(&key, certificate.signing_key.serialize_pem()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let extra = format!(
        "listen 127.0.0.1:{port} ssl; ssl_certificate {}; ssl_certificate_key {};",
        pem.display(),
        key.display()
    );
    let _nginx = Nginx::start(folder.path(), &extra).unwrap();
    let reference = http(&format!("https://localhost:{port}/weights.safetensors"));
    let with = |ca_file| OriginsConfig {
        http: HttpOriginConfig { ca_file, ..HttpOriginConfig::default() },
        ..config()
    };
    let got = pull(&*open(with(Some(pem)), &reference)).await;
    assert!(got["weights.safetensors"] == fs::read(folder.path().join("weights.safetensors")).unwrap());
    let error = open(with(None), &reference).snapshot().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("ca_file"), "{error}");
    assert!(error.to_string().contains("no authority that is known here has signed it"), "{error}");
    let error = Origins::new(with(Some(key))).unwrap().open(&reference).err().unwrap();
    assert!(error.to_string().contains("no certificate"), "{error}");
}
