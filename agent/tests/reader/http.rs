//! The namespace over HTTP, while files come and after.

use std::{fs, net::SocketAddr, os::unix::fs::MetadataExt, path::Path, time::Duration};

use emberline_agent::{
    agent::Agent,
    api::{FilePresence, Listing, ListingEntry, Problem},
    config::{Config, HttpConfig},
    expose::http,
};
use reqwest::{Client, Response, StatusCode, header};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::lazy::{agent, content, path, soon};

const CHUNK: usize = 4 << 20;

/// An agent's door on loopback.
struct Door {
    agent: Agent,
    base: String,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Door {
    async fn open(agent: Agent) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let base = format!("http://{}/v1/fs", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let serve = http::serve(agent.clone(), listener, HttpConfig::default(), stop.clone());
        let serving = tokio::spawn(async move { serve.await.unwrap() });
        Self { agent, base, stop, serving }
    }

    async fn close(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
        self.agent.shutdown(Duration::from_secs(5)).await;
    }

    async fn get(&self, path: &str, headers: &[(header::HeaderName, &str)]) -> Response {
        let request = Client::builder().no_proxy().build().unwrap().get(format!("{}{path}", self.base));
        headers
            .iter()
            .fold(request, |request, (name, value)| request.header(name, *value))
            .send()
            .await
            .unwrap()
    }

    async fn head(&self, path: &str) -> Response {
        let client = Client::builder().no_proxy().build().unwrap();
        client.head(format!("{}{path}", self.base)).send().await.unwrap()
    }
}

fn told<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

fn model(dir: &Path, bytes: usize) -> Vec<u8> {
    let weights = content(bytes);
    fs::create_dir(dir.join("llama")).unwrap();
    fs::write(dir.join("llama/model.safetensors"), &weights).unwrap();
    fs::write(dir.join("llama/config.json"), "{}").unwrap();
    weights
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_served_while_it_comes_and_after_with_one_tag() {
    let (data, models) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let weights = model(models.path(), 3 * CHUNK + 7);
    let door = Door::open(agent(data.path(), models.path(), 1 << 30).await).await;
    let file = "/models/llama/model.safetensors";
    let head = door.head(file).await;
    assert_eq!(
        (head.status(), told(&head, "content-length")),
        (StatusCode::OK, weights.len().to_string().as_str())
    );
    assert!(door.agent.pulls().is_empty(), "looking starts nothing");

    let part = door.get(file, &[(header::RANGE, "bytes=4194300-4194309")]).await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(told(&part, "content-range"), format!("bytes 4194300-4194309/{}", weights.len()));
    assert_eq!(part.bytes().await.unwrap(), &weights[4_194_300..4_194_310]);
    let parts = door.get(file, &[(header::RANGE, "bytes=0-9,-5")]).await;
    assert!(told(&parts, "content-type").starts_with("multipart/byteranges"));
    let length: usize = told(&parts, "content-length").parse().unwrap();
    assert_eq!(parts.bytes().await.unwrap().len(), length);

    let whole = door.get(file, &[]).await;
    let etag = told(&whole, "etag").to_owned();
    assert_eq!(etag, told(&head, "etag"));
    assert!(whole.bytes().await.unwrap() == weights);

    let opened = door.agent.reader().open(&path(file), crate::lazy::CALLER).await.unwrap();
    let sealed = opened.wait_sealed(soon()).await.unwrap();
    let after = door.get(file, &[]).await;
    assert_eq!((told(&after, "etag"), told(&after, "x-emberline-state")), (etag.as_str(), "sealed"));
    assert_eq!(told(&after, "x-emberline-hash"), sealed.etag.to_string());
    assert!(after.bytes().await.unwrap() == weights);
    let unchanged = door.get(file, &[(header::IF_NONE_MATCH, &etag)]).await;
    assert_eq!(unchanged.status(), StatusCode::NOT_MODIFIED);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_of_a_file_is_told_and_its_place_once_it_is_whole() {
    let (data, models) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let weights = content(16 * CHUNK + 7);
    fs::write(models.path().join("lone.bin"), &weights).unwrap();
    // Nothing comes but what is read.
    let door = Door::open(agent(data.path(), models.path(), 0).await).await;
    let presence = async |query: &str| -> FilePresence {
        let answer = door.get(&format!("/models/lone.bin?presence{query}"), &[]).await.text().await.unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"))
    };
    let nothing = presence("").await;
    assert_eq!((nothing.state.as_str(), nothing.here_bytes, &nothing.local), ("coming", 0, &None));
    assert_eq!((nothing.bytes, nothing.here.len()), (weights.len() as u64, 0));
    let read = door.get("/models/lone.bin", &[(header::RANGE, "bytes=0-9")]).await;
    assert_eq!(read.bytes().await.unwrap(), &weights[..10]);
    let some = presence("&more_than=0").await;
    assert_eq!((some.state.as_str(), &some.local), ("coming", &None), "{some:?}");
    assert!(some.here[0][0] == 0 && some.here.windows(2).all(|two| two[0][1] < two[1][0]), "{some:?}");
    assert_eq!(some.here.iter().map(|[start, end]| end - start).sum::<u64>(), some.here_bytes);

    let whole = presence("&sealed=true").await;
    assert_eq!((whole.state.as_str(), &whole.here), ("sealed", &vec![[0, weights.len() as u64]]));
    assert_eq!(whole.etag, nothing.etag);
    let place = whole.local.unwrap();
    assert!(fs::read(&place.path).unwrap() == weights);
    assert_eq!(fs::metadata(&place.path).unwrap().ino(), place.inode);

    let stat = async |path: &str| door.get(&format!("{path}?stat"), &[]).await;
    let file: ListingEntry = stat("/models/lone.bin").await.json().await.unwrap();
    assert_eq!((file.kind.as_str(), file.bytes, file.etag), ("file", Some(whole.bytes), Some(whole.etag)));
    for directory in ["", "/models", "/s3"] {
        let told: ListingEntry = stat(directory).await.json().await.unwrap();
        assert_eq!((told.kind.as_str(), told.bytes), ("directory", None), "{directory}");
    }
    assert_eq!(stat("/models/nothing").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(door.get("/models?presence", &[]).await.status(), StatusCode::BAD_REQUEST);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_are_listed_by_pages_and_keys_by_prefix() {
    let (data, models) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    model(models.path(), 10);
    for n in 0..5 {
        fs::write(models.path().join(format!("llama/shard-{n}")), "x").unwrap();
    }
    let door = Door::open(agent(data.path(), models.path(), 1 << 30).await).await;
    let list = async |query: &str| -> Listing { door.get(query, &[]).await.json().await.unwrap() };
    let names =
        |listing: &Listing| listing.entries.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>();

    let root = list("?list").await;
    assert!(names(&root).contains(&"models".to_owned()) && names(&root).contains(&"hf".to_owned()));
    let mount = list("/models?list").await;
    assert_eq!((names(&mount), mount.entries[0].kind.as_str()), (vec!["llama".to_owned()], "directory"));
    let (mut all, mut after, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = list(&format!("/models/llama?list&limit=3{after}")).await;
        all.extend(names(&page));
        pages += 1;
        let Some(next) = page.next else { break };
        after = format!("&start_after={next}");
    }
    assert_eq!((all.len(), pages), (7, 3));
    assert_eq!(all[..2], ["config.json", "model.safetensors"]);
    assert_eq!(names(&list("/models?list&prefix=lla").await), ["llama/"]);
    assert_eq!(
        names(&list("/models?list&recursive=true&prefix=llama/shard-&limit=2").await),
        ["llama/shard-0", "llama/shard-1"]
    );

    let status = async |path: &str| door.get(path, &[]).await.status().as_u16();
    assert_eq!(status("/models/llama").await, 400, "a directory");
    assert_eq!(status("/models/llama/config.json?list").await, 400, "a file");
    assert_eq!(status("/models/nothing?list").await, 404);
    assert_eq!(status("/models/nothing").await, 404);
    assert_eq!(status("/models/llama/..%2F..%2Fetc/passwd").await, 400);
    assert_eq!(status("/models/llama/a%00b").await, 400);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_cannot_be_asked_is_a_503_that_says_when_to_come_back() {
    let data = tempfile::tempdir().unwrap();
    let mut config = Config { data_dir: data.path().to_owned(), ..Config::default() };
    config.cluster.listen = ([127, 0, 0, 1], 0).into();
    // Nobody listens on the port of what was closed just now.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    config.origins.s3.endpoint = Some(format!("http://{closed}"));
    config.origins.s3.anonymous = true;
    config.origins.retries = 0;
    let door = Door::open(Agent::start(config).await.unwrap()).await;
    for path in ["/s3/bucket/model.bin", "/s3/bucket?list"] {
        let got = door.get(path, &[]).await;
        assert_eq!(got.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(told(&got, "retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1), "{path}");
        let problem: Problem = got.json().await.unwrap();
        assert_eq!(problem.kind, "unavailable", "{}", problem.message);
    }
    door.close().await;
}
