//! Faults between an origin and its server: each test sees that its fault fired.

use std::{
    fs,
    time::{Duration, Instant},
};

use emberline_agent::{
    error::ErrorKind,
    origin::{Origin, Origins, OriginsConfig, S3Config},
    reference::Reference,
};
use emberline_tests::environment::{Fault, FaultProxy, Moto, Nginx};
use futures::TryStreamExt;

use super::{bucket, config, model_folder, open, read};

struct Scene {
    folder: tempfile::TempDir,
    // Both live as long as the scene.
    _nginx: Nginx,
    proxy: FaultProxy,
}

const FILE: &str = "weights.safetensors";

impl Scene {
    fn new() -> Self {
        let folder = model_folder();
        let nginx = Nginx::start(folder.path(), "").unwrap();
        let proxy = FaultProxy::start(&nginx.url()).unwrap();
        Self { folder, _nginx: nginx, proxy }
    }

    fn reference(&self) -> Reference {
        Reference::Http(format!("{}/{FILE}", self.proxy.url()).parse().unwrap())
    }

    fn content(&self) -> Vec<u8> {
        fs::read(self.folder.path().join(FILE)).unwrap()
    }
}

async fn whole(origin: &dyn Origin) -> emberline_agent::error::Result<Vec<u8>> {
    let file = origin.snapshot().await?.files.remove(0);
    read(origin, &file, 0..file.size).await
}

#[tokio::test]
async fn a_body_cut_off_goes_on_at_the_byte_where_it_broke() {
    let scene = Scene::new();
    scene.proxy.inject("GET", Fault::CutAfter(1_000_003));
    scene.proxy.inject("GET", Fault::CutAfter(500_000));
    let got = whole(&*open(config(), &scene.reference())).await.unwrap();
    assert!(got == scene.content());
    assert_eq!(scene.proxy.fired(), 2);
    let ranges: Vec<_> = scene
        .proxy
        .seen()
        .iter()
        .filter_map(|s| s.head.lines().find_map(|l| l.strip_prefix("range: bytes=")).map(str::to_owned))
        .collect();
    let last = got.len() - 1;
    assert_eq!(ranges, [format!("0-{last}"), format!("1000003-{last}"), format!("1500003-{last}")]);
}

#[tokio::test]
async fn a_body_cut_off_for_good_ends_after_the_retries() {
    let scene = Scene::new();
    for _ in 0..20 {
        scene.proxy.inject("GET", Fault::CutAfter(10));
    }
    let settings = OriginsConfig { retries: 2, ..config() };
    let error = whole(&*open(settings, &scene.reference())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UNAVAILABLE, "{error}");
    assert_eq!(scene.proxy.fired(), 3);
}

#[tokio::test]
async fn a_stall_is_over_after_the_stall_time_and_the_read_goes_on_elsewhere() {
    let scene = Scene::new();
    scene.proxy.inject("GET", Fault::StallAfter(70_000));
    let settings = OriginsConfig { stall_timeout: Duration::from_millis(300), ..config() };
    let origins = Origins::new(settings).unwrap();
    let origin = origins.open(&scene.reference()).unwrap();
    let start = Instant::now();
    assert!(whole(&*origin).await.unwrap() == scene.content());
    assert_eq!(scene.proxy.fired(), 1);
    assert!(start.elapsed() >= Duration::from_millis(300) && start.elapsed() < Duration::from_secs(10));
    assert_eq!(origins.counters()[0].errors.get("timeout"), Some(&1));
}

#[tokio::test]
async fn a_server_that_never_answers_is_a_timeout() {
    let scene = Scene::new();
    scene.proxy.inject("HEAD", Fault::BlackHole);
    let settings = OriginsConfig { request_timeout: Duration::from_millis(300), retries: 0, ..config() };
    let error = whole(&*open(settings, &scene.reference())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert_eq!(scene.proxy.fired(), 1);
}

#[tokio::test]
async fn a_slow_consumer_is_no_stall() {
    let scene = Scene::new();
    let settings = OriginsConfig { stall_timeout: Duration::from_millis(200), ..config() };
    let origin = open(settings, &scene.reference());
    let file = origin.snapshot().await.unwrap().files.remove(0);
    let mut body = origin.read(&file, 0..file.size).await.unwrap();
    let mut got = body.try_next().await.unwrap().unwrap().to_vec();
    // The claim is about time that passes: three times the stall time without asking for more.
    tokio::time::sleep(Duration::from_millis(600)).await;
    while let Some(piece) = body.try_next().await.unwrap() {
        got.extend_from_slice(&piece);
    }
    assert!(got == scene.content());
}

#[tokio::test]
async fn retry_after_holds_every_request_of_this_node_to_that_host() {
    let scene = Scene::new();
    for (status, seconds) in [("429 Too Many Requests", 1), ("503 Slow Down", 1)] {
        let before = scene.proxy.seen().len();
        let answer = format!(
            "HTTP/1.1 {status}\r\nRetry-After: {seconds}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        scene.proxy.inject("GET", Fault::Answer(answer.into_bytes()));
        let origins = Origins::new(config()).unwrap();
        let origin = origins.open(&scene.reference()).unwrap();
        let file = origin.snapshot().await.unwrap().files.remove(0);
        read(&*origin, &file, 0..10).await.unwrap();
        let other = Reference::Http(format!("{}/config.json", scene.proxy.url()).parse().unwrap());
        whole(&*origins.open(&other).unwrap()).await.unwrap();

        let seen = &scene.proxy.seen()[before..];
        let refused = seen.iter().position(|s| s.broken).expect("the fault did not fire");
        let window = Duration::from_secs(seconds);
        for later in &seen[refused + 1..] {
            let after = later.at - seen[refused].at;
            assert!(
                after + Duration::from_millis(10) >= window,
                "{} came {after:?} after {status}",
                later.line
            );
        }
        assert!(seen.len() > refused + 2);
    }
}

#[tokio::test]
async fn a_retry_after_beyond_patience_is_handed_on() {
    let scene = Scene::new();
    let answer = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3600\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    scene.proxy.inject("HEAD", Fault::Answer(answer.into()));
    let start = Instant::now();
    let error = whole(&*open(config(), &scene.reference())).await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Unavailable { retry_after: Some(d) } if d.as_secs() > 3500),
        "{error}"
    );
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!((scene.proxy.fired(), scene.proxy.seen().len()), (1, 1));
}

#[tokio::test]
async fn a_body_of_another_length_than_its_range_is_an_error_or_made_whole() {
    let scene = Scene::new();
    let content = scene.content();
    let settings = OriginsConfig { retries: 0, ..config() };
    let origin = open(settings, &scene.reference());
    let file = origin.snapshot().await.unwrap().files.remove(0);
    let answer = |body: usize| {
        let etag = file.version.etag.as_deref().unwrap();
        let mut bytes = format!(
            "HTTP/1.1 206 Partial Content\r\nETag: {etag}\r\nContent-Range: bytes 0-99/{}\r\nContent-Length: {body}\r\nConnection: close\r\n\r\n",
            content.len()
        )
        .into_bytes();
        bytes.extend_from_slice(&content[..body]);
        Fault::Answer(bytes)
    };
    scene.proxy.inject("GET", answer(60));
    let short = read(&*origin, &file, 0..100).await.unwrap_err();
    assert_eq!(short.kind(), ErrorKind::UNAVAILABLE, "{short}");
    scene.proxy.inject("GET", answer(140));
    let long = read(&*origin, &file, 0..100).await.unwrap_err();
    assert_eq!(long.kind(), ErrorKind::Corrupt, "{long}");

    // With retries, what is missing of the short one is fetched.
    scene.proxy.inject("GET", answer(60));
    let patient = open(config(), &scene.reference());
    assert!(read(&*patient, &file, 0..100).await.unwrap() == content[..100]);
    assert_eq!(scene.proxy.fired(), 3);
}

#[tokio::test]
async fn an_object_replaced_between_two_attempts_is_not_mixed() {
    let scene = Scene::new();
    let origin = open(config(), &scene.reference());
    let file = origin.snapshot().await.unwrap().files.remove(0);
    scene.proxy.inject("GET", Fault::CutAfter(100_000));
    let mut body = origin.read(&file, 0..file.size).await.unwrap();
    let mut got = body.try_next().await.unwrap().unwrap().len();
    let path = scene.folder.path().join(FILE);
    // By rename, so that the server's open file stays what it was.
    fs::write(scene.folder.path().join("new"), vec![9; file.size as usize]).unwrap();
    fs::File::open(scene.folder.path().join("new")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    fs::rename(scene.folder.path().join("new"), &path).unwrap();
    let error = loop {
        match body.try_next().await {
            Ok(Some(piece)) => got += piece.len(),
            Ok(None) => panic!("it was read to its end, {got} bytes"),
            Err(e) => break e,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("origin changed"), "{error}");
    assert_eq!((scene.proxy.fired(), got), (1, 100_000));
}

#[tokio::test]
async fn an_object_store_that_says_slow_down_is_left_alone_and_then_read() {
    let folder = model_folder();
    let moto = Moto::start().unwrap();
    moto.upload("models", folder.path(), "m/").unwrap();
    let proxy = FaultProxy::start(&moto.url()).unwrap();
    let s3 = S3Config { endpoint: Some(proxy.url()), anonymous: true, ..S3Config::default() };
    let origins = Origins::new(OriginsConfig { s3, ..config() }).unwrap();
    let origin = origins.open(&Reference::S3(bucket("models", "m"))).unwrap();
    let slow_down = "HTTP/1.1 503 Slow Down\r\nRetry-After: 1\r\nContent-Length: 60\r\nConnection: close\r\n\r\n\
        <Error><Code>SlowDown</Code><Message>later</Message></Error>";
    proxy.inject("GET", Fault::Answer(slow_down.into()));
    let snapshot = origin.snapshot().await.unwrap();
    let file = snapshot.files.iter().find(|f| f.path.as_str() == FILE).unwrap();
    proxy.inject(FILE, Fault::CutAfter(200_000));
    let got = read(&*origin, file, 0..file.size).await.unwrap();
    assert!(got == fs::read(folder.path().join(FILE)).unwrap());
    let seen = proxy.seen();
    assert_eq!(proxy.fired(), 2);
    assert!(seen[1].at - seen[0].at >= Duration::from_millis(990), "{:?}", seen[1].at - seen[0].at);
    let counted = &origins.counters()[0];
    assert_eq!((counted.scheme, counted.origin.as_str(), counted.listings), ("s3", "models", 2));
    assert_eq!(counted.bytes, file.size);
}
