//! The Rust crate `object_store`, as engines in Rust use it.

use emberline_tests::environment::S3_SECRET;
use futures::TryStreamExt;
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path as Key,
};
use sha2::{Digest, Sha256};

use crate::stack::{DOOR_KEY, DOOR_SECRET, Setting, Stack, passed};

const VERSION: &str = "0.14";

fn store(stack: &Stack, bucket: &str) -> AmazonS3 {
    coordinatorless_p2p::identity::install_crypto_provider();
    let builder = AmazonS3Builder::new()
        .with_endpoint(stack.url())
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name(bucket)
        .with_access_key_id(DOOR_KEY)
        .with_secret_access_key(DOOR_SECRET);
    builder.build().expect("a store")
}

#[tokio::test(flavor = "multi_thread")]
async fn object_store_reads_and_lists() {
    let stack = Stack::start(Setting::default()).await;
    let store = store(&stack, "zoo");
    let (key, _) = stack.shard();
    let key = Key::from(key);
    stack
        .reads_while_it_comes_and_after(async || {
            let mut pieces = store.get(&key).await.expect("an object").into_stream();
            let mut digest = Sha256::new();
            while let Some(piece) = pieces.try_next().await.expect("a piece") {
                digest.update(&piece);
            }
            digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        })
        .await;
    let head = store.head(&key).await.expect("a head");
    let options = GetOptions {
        range: Some(GetRange::Suffix(5)),
        if_match: head.e_tag.clone(),
        ..GetOptions::default()
    };
    let end = store.get_opts(&key, options).await.expect("its end").bytes().await.expect("bytes");
    let ranges = [0..8, head.size - 5..head.size];
    let parts = store.get_ranges(&key, &ranges).await.expect("ranges");
    assert_eq!((parts[0].len(), &parts[1]), (8, &end));
    let all: Vec<_> = store.list(Some(&Key::from("data"))).try_collect().await.expect("a listing");
    assert_eq!(all.len(), 27);
    let top = store.list_with_delimiter(None).await.expect("a listing");
    assert_eq!(top.common_prefixes, [Key::from("data"), Key::from("llama")]);
    let missing = store.get(&Key::from("llama/nothing")).await.expect_err("nothing is there");
    assert!(matches!(missing, object_store::Error::NotFound { .. }), "{missing}");
    // The origin's own secret is the agent's, and of nobody else's business.
    assert!(!stack.agent.log().contains(S3_SECRET) && !stack.agent.log().contains(DOOR_SECRET));
    passed("object_store (Rust)", VERSION, "get, ranges, If-Match, list, list_with_delimiter").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn object_store_writes_whole_and_in_parts() {
    let stack = Stack::start(Setting { door: "writable_mounts = [\"shelf\"]", ..Setting::default() }).await;
    let store = store(&stack, "shelf");
    let (small, large) = (Key::from("rust/small"), Key::from("rust/large"));
    let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    store.put_opts(&small, "one".into(), create.clone()).await.expect("written");
    let refused = store.put_opts(&small, "two".into(), create).await.expect_err("it is there");
    assert!(matches!(refused, object_store::Error::AlreadyExists { .. }), "{refused}");
    let mut upload = store.put_multipart(&large).await.expect("begun");
    let piece = vec![7; 6 << 20];
    for _ in 0..3 {
        upload.put_part(piece.clone().into()).await.expect("a part");
    }
    upload.complete().await.expect("completed");
    let mut dropped = store.put_multipart(&Key::from("rust/dropped")).await.expect("begun");
    dropped.put_part(piece.clone().into()).await.expect("a part");
    dropped.abort().await.expect("aborted");
    assert_eq!(store.get(&small).await.expect("small").bytes().await.expect("bytes"), "one");
    let whole = store.get(&large).await.expect("large").bytes().await.expect("bytes");
    assert!(whole == [piece.clone(), piece.clone(), piece].concat());
    let listed: Vec<_> = store.list(Some(&Key::from("rust"))).try_collect().await.expect("a listing");
    assert_eq!(listed.len(), 2, "{listed:?}");
    store.delete(&small).await.expect("deleted");
    assert!(store.head(&small).await.is_err());
    passed("object_store (Rust)", VERSION, "put, create, upload in parts, abort, delete").await;
}
