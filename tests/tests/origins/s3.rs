//! S3, against moto and SeaweedFS.

use std::{
    fs,
    path::PathBuf,
    sync::OnceLock,
    time::{Duration, Instant},
};

use emberline_agent::{
    error::ErrorKind,
    origin::{OriginsConfig, S3BucketConfig, S3Config},
    reference::Reference,
};
use emberline_tests::{
    environment::{FaultProxy, Moto, S3_KEY, S3_SECRET, Weed, run_python},
    scratch::scratch,
};

use super::{assert_same, bucket, config, model_folder, on_disk, open, pull, read};

fn credentials(dir: &std::path::Path, key: &str, secret: &str) -> PathBuf {
    let path = dir.join(format!("credentials-{key}-{}", secret.len()));
    fs::write(&path, format!("[default]\naws_access_key_id={key}\naws_secret_access_key={secret}\n"))
        .unwrap();
    path
}

fn anonymous(endpoint: &str) -> OriginsConfig {
    let s3 = S3Config { endpoint: Some(endpoint.to_owned()), anonymous: true, ..S3Config::default() };
    OriginsConfig { s3, ..config() }
}

/// For moto, which takes any key pair but wants one.
pub(super) fn s3(endpoint: &str) -> OriginsConfig {
    static KEYS: OnceLock<PathBuf> = OnceLock::new();
    let dir = KEYS.get_or_init(|| scratch("s3-keys").unwrap());
    signed(endpoint, credentials(dir, "any", "any"))
}

fn signed(endpoint: &str, credentials_file: PathBuf) -> OriginsConfig {
    let s3 = S3Config {
        endpoint: Some(endpoint.to_owned()),
        credentials_file: Some(credentials_file),
        ..S3Config::default()
    };
    OriginsConfig { s3, ..config() }
}

fn put(moto: &Moto, bucket: &str, key: &str, body: &str) {
    let program = "import sys, boto3
boto3.client('s3', endpoint_url=sys.argv[1], region_name='us-east-1', aws_access_key_id='a',
    aws_secret_access_key='b').put_object(Bucket=sys.argv[2], Key=sys.argv[3], Body=sys.argv[4].encode())";
    run_python(program, &[&moto.url(), bucket, key, body], &[]).unwrap();
}

#[tokio::test]
async fn a_prefix_an_object_and_a_bucket_are_read_from_moto() {
    let folder = model_folder();
    let expected = on_disk(folder.path());
    let moto = Moto::start().unwrap();
    moto.upload("models", folder.path(), "org/name/").unwrap();
    let open = |prefix: &str| open(s3(&moto.url()), &Reference::S3(bucket("models", prefix)));

    assert_same(&pull(&*open("org/name")).await, &expected);
    let one = pull(&*open("org/name/onnx/model.onnx")).await;
    assert_eq!(one.keys().collect::<Vec<_>>(), ["model.onnx"]);
    assert!(one["model.onnx"] == expected["onnx/model.onnx"]);
    assert_eq!(pull(&*open("")).await.len(), expected.len());
    // A neighbour whose name begins alike is not below the prefix.
    put(&moto, "models", "org/name-2/x", "x");
    assert_same(&pull(&*open("org/name")).await, &expected);
}

#[tokio::test]
async fn directory_markers_are_no_files_but_empty_files_are() {
    let moto = Moto::start().unwrap();
    let folder = model_folder();
    moto.upload("models", folder.path(), "m/").unwrap();
    for (key, body) in [("m/", ""), ("m/onnx/", ""), ("m/lonely/", ""), ("m/__init__.py", "")] {
        put(&moto, "models", key, body);
    }
    let mut expected = on_disk(folder.path());
    expected.insert("__init__.py".into(), Vec::new());
    let origin = open(s3(&moto.url()), &Reference::S3(bucket("models", "m")));
    assert_same(&pull(&*origin).await, &expected);
}

#[tokio::test]
async fn names_that_differ_only_in_case_are_refused_by_name() {
    let moto = Moto::start().unwrap();
    let folder = model_folder();
    moto.upload("models", folder.path(), "m/").unwrap();
    put(&moto, "models", "m/Config.json", "{}");
    let error = open(s3(&moto.url()), &Reference::S3(bucket("models", "m"))).snapshot().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.to_string().contains("Config.json") && error.to_string().contains("\"config.json\""),
        "{error}"
    );
}

#[tokio::test]
async fn an_object_replaced_during_the_pull_is_not_mixed_with_the_old_one() {
    let moto = Moto::start().unwrap();
    let folder = model_folder();
    moto.upload("models", folder.path(), "m/").unwrap();
    let origin = open(s3(&moto.url()), &Reference::S3(bucket("models", "m")));
    let snapshot = origin.snapshot().await.unwrap();
    let config = snapshot.files.iter().find(|f| f.path.as_str() == "config.json").unwrap();
    read(&*origin, config, 0..100).await.unwrap();
    put(&moto, "models", "m/config.json", &"x".repeat(config.size as usize));
    let error = read(&*origin, config, 100..200).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("origin changed"), "{error}");
}

#[tokio::test]
async fn what_is_not_in_moto_is_said_with_advice() {
    let moto = Moto::start().unwrap();
    let folder = model_folder();
    moto.upload("models", folder.path(), "m/").unwrap();
    for (name, prefix, word) in
        [("no-such-bucket", "", "no such bucket"), ("models", "nothing", "check bucket and prefix")]
    {
        let error = open(s3(&moto.url()), &Reference::S3(bucket(name, prefix))).snapshot().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[tokio::test]
async fn a_bucket_is_addressed_by_host_where_that_is_asked_for() {
    let moto = Moto::start().unwrap();
    let folder = model_folder();
    moto.upload("models", folder.path(), "").unwrap();
    let port = moto.url().rsplit_once(':').unwrap().1.to_owned();
    // `*.localhost` is loopback by RFC 6761; moto takes the bucket off the front of such a host.
    let mut settings = s3("http://127.0.0.1:1");
    settings.s3.buckets.insert(
        "models".into(),
        S3BucketConfig {
            endpoint: Some(format!("http://s3.localhost:{port}")),
            virtual_host: Some(true),
            ..S3BucketConfig::default()
        },
    );
    assert_same(&pull(&*open(settings, &Reference::S3(bucket("models", "")))).await, &on_disk(folder.path()));
}

#[tokio::test]
async fn seaweedfs_is_read_with_the_right_credentials_and_by_no_one_else() {
    let weed = Weed::start().unwrap();
    let folder = model_folder();
    weed.upload("private", folder.path(), "m/").unwrap();
    weed.upload("public", folder.path(), "m/").unwrap();
    let expected = on_disk(folder.path());
    let dir = tempfile::tempdir().unwrap();
    let private = Reference::S3(bucket("private", "m"));

    let right = signed(&weed.url(), credentials(dir.path(), S3_KEY, S3_SECRET));
    assert!(!format!("{right:?}").contains(S3_SECRET));
    assert_same(&pull(&*open(right.clone(), &private)).await, &expected);

    let anonymous = anonymous(&weed.url());
    assert_same(&pull(&*open(anonymous.clone(), &Reference::S3(bucket("public", "m")))).await, &expected);

    let wrong_secret = signed(&weed.url(), credentials(dir.path(), S3_KEY, "canary-wrong"));
    let wrong_key = signed(&weed.url(), credentials(dir.path(), "nobody", "canary-wrong"));
    for (settings, used) in [(wrong_secret, "profile"), (wrong_key, "profile"), (anonymous, "anonymous")] {
        let error = open(settings, &private).snapshot().await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Denied, "{text}");
        assert!(text.contains(used) && text.contains("AWS_ACCESS_KEY_ID"), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }
    let error = open(right, &Reference::S3(bucket("nowhere", ""))).snapshot().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");

    // The variables that every S3 tool reads, in a process of their own.
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "s3::in_an_environment_of_its_own", "--ignored"])
        .env("AWS_ENDPOINT_URL", weed.url())
        .env("AWS_ACCESS_KEY_ID", S3_KEY)
        .env("AWS_SECRET_ACCESS_KEY", S3_SECRET)
        .env("EMBERLINE_TEST_EXPECTED", folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "needs the environment that seaweedfs_is_read_with_the_right_credentials_and_by_no_one_else gives it"]
async fn in_an_environment_of_its_own() {
    let expected = on_disk(std::env::var_os("EMBERLINE_TEST_EXPECTED").unwrap().as_ref());
    assert_same(&pull(&*open(config(), &Reference::S3(bucket("private", "m")))).await, &expected);
    // The configuration wins over the environment.
    let settings = anonymous("http://127.0.0.1:1");
    let settings = OriginsConfig { retries: 0, ..settings };
    let error = open(settings, &Reference::S3(bucket("private", "m"))).snapshot().await.unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn a_session_token_is_sent_along_and_signed() {
    let moto = Moto::start().unwrap();
    let folder = model_folder();
    moto.upload("models", folder.path(), "m/").unwrap();
    let proxy = FaultProxy::start(&moto.url()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = credentials(dir.path(), "session-key", "session-secret");
    let text = format!("{}aws_session_token=session-token-1\n", fs::read_to_string(&path).unwrap());
    fs::write(&path, text).unwrap();
    let origin = open(signed(&proxy.url(), path), &Reference::S3(bucket("models", "m")));
    assert_same(&pull(&*origin).await, &on_disk(folder.path()));
    let seen = proxy.seen();
    assert!(!seen.is_empty());
    for request in seen {
        let head = request.head.to_lowercase();
        assert!(head.contains("x-amz-security-token: session-token-1"), "{head}");
        let signed = head.split("signedheaders=").nth(1).unwrap();
        assert!(signed.split(',').next().unwrap().contains("x-amz-security-token"), "{head}");
    }
}

#[test]
fn a_server_of_the_tests_leaves_no_socket_behind() {
    let weed = Weed::start().unwrap();
    let sockets = weed.sockets().to_vec();
    assert!(!sockets.is_empty());
    // Its S3 port may accept before the last of them is there.
    let began = Instant::now();
    while !sockets.iter().all(|socket| socket.exists()) {
        assert!(began.elapsed() < Duration::from_secs(60), "{sockets:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(weed);
    assert!(sockets.iter().all(|socket| !socket.exists()), "{sockets:?}");
}
