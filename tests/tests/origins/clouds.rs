//! Google Cloud Storage and Azure Blob Storage.

use std::fs;

use emberline_agent::{
    error::ErrorKind,
    origin::{AzConfig, GsConfig, OriginsConfig},
    reference::Reference,
};
use emberline_tests::environment::{Azurite, FakeGcs};

use super::{assert_same, bucket, config, model_folder, on_disk, open, pull};

#[tokio::test]
async fn a_bucket_of_google_cloud_storage_is_read() {
    let folder = model_folder();
    let server = FakeGcs::start("models", folder.path()).unwrap();
    let settings = OriginsConfig {
        gs: GsConfig { endpoint: Some(server.url()), anonymous: true, ..GsConfig::default() },
        ..config()
    };
    let gs = |name: &str, prefix: &str| open(settings.clone(), &Reference::Gs(bucket(name, prefix)));
    let expected = on_disk(folder.path());
    assert_same(&pull(&*gs("models", "")).await, &expected);
    let below = pull(&*gs("models", "onnx")).await;
    assert!(below["model.onnx"] == expected["onnx/model.onnx"] && below.len() == 2);
    for (name, prefix) in [("models", "nothing"), ("no-such-bucket", "")] {
        let error = gs(name, prefix).snapshot().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}

#[tokio::test]
async fn a_container_of_azure_is_read_with_the_right_key_and_a_public_one_without() {
    let folder = model_folder();
    let azurite = Azurite::start().unwrap();
    azurite.upload("private", folder.path(), "m/", false).unwrap();
    azurite.upload("public", folder.path(), "m/", true).unwrap();
    let expected = on_disk(folder.path());
    let dir = tempfile::tempdir().unwrap();
    let key_file = |name: &str, key: &str| {
        let path = dir.path().join(name);
        fs::write(&path, key).unwrap();
        Some(path)
    };
    let with = |account_key_file, anonymous| OriginsConfig {
        az: AzConfig {
            endpoint: Some(azurite.url()),
            account: Some(azurite.account().to_owned()),
            account_key_file,
            anonymous,
            ..AzConfig::default()
        },
        ..config()
    };
    let az = |name: &str| Reference::Az { account: None, bucket: bucket(name, "m") };

    let right = with(key_file("right", azurite.key()), false);
    assert_same(&pull(&*open(right.clone(), &az("private"))).await, &expected);
    assert_same(&pull(&*open(with(None, true), &az("public"))).await, &expected);

    let canary = "Y2FuYXJ5LXNlY3JldA==";
    let error = open(with(key_file("wrong", canary), false), &az("private")).snapshot().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("account_key_file") && !error.to_string().contains(canary), "{error}");
    let error = open(right, &az("nowhere")).snapshot().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}
