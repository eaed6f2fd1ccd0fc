//! The Hugging Face endpoint, by clients that nobody here wrote, against a Hub.

mod admission;
mod answers;
mod clients;
mod hostile;
mod lasting;
mod torch;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use emberline_agent::{agent::Agent, config::Config, expose::http, origin::HubConfig};
use emberline_tests::environment::{Hub, HubClient, HubFile, HubSettings, minilm_dir, run_python_in};
use reqwest::{Client, Method, Response, header::HeaderMap};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// How the door is called in the conformance table.
const DOOR: &str = "Hugging Face";
const CHUNK: usize = 4 << 20;
/// What a branch stands for is asked of the Hub again after so long, by whichever node.
const LISTED_FOR: Duration = Duration::from_secs(30);

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn file(path: &str, bytes: impl Into<Bytes>) -> HubFile {
    let bytes = bytes.into();
    HubFile { path: path.to_owned(), is_large: bytes.len() > 100_000, bytes }
}

/// A small repository with a file of several chunks.
fn small() -> HubSettings {
    let files = vec![
        file("README.md", "# a model"),
        file("config.json", "{}"),
        file("empty.txt", ""),
        file("model.safetensors", content(2 * CHUNK + 9)),
        file("onnx/deep/model.onnx", content(300)),
        file("onnx/model.onnx", content(200_000)),
    ];
    HubSettings { name: "org/name".into(), kind: "models", files, page: 2, token: None, is_gated: false }
}

/// The real model, as a repository.
fn minilm() -> HubSettings {
    repository(&minilm_dir())
}

/// The files below a directory, as a repository.
fn repository(dir: &Path) -> HubSettings {
    let mut files = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(at) = pending.pop() {
        for entry in std::fs::read_dir(at).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                pending.push(path);
                continue;
            }
            let name = path.strip_prefix(dir).expect("below").to_str().expect("text").to_owned();
            files.push(file(&name, std::fs::read(&path).expect("readable")));
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    HubSettings { files, page: 1000, ..small() }
}

fn contents(settings: &HubSettings) -> BTreeMap<String, String> {
    settings.files.iter().map(|file| (file.path.clone(), sha256(&file.bytes))).collect()
}

/// The files below a directory by their SHA-256, links followed.
fn on_disk(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(at) = pending.pop() {
        for entry in std::fs::read_dir(at).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("below").to_str().expect("text").to_owned();
                found.insert(name, sha256(&std::fs::read(&path).expect("readable")));
            }
        }
    }
    found
}

/// An agent in this process, with its door on loopback.
struct Door {
    agent: Agent,
    base: String,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    data: TempDir,
}

impl Door {
    async fn open(hub: &Hub) -> Self {
        Self::open_with(hub.url(), tempfile::tempdir().expect("a directory"), |_| {}).await
    }

    async fn open_with(hub: &str, data: TempDir, settle: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { data_dir: data.path().to_owned(), ..Config::default() };
        config.cluster.listen = ([127, 0, 0, 1], 0).into();
        config.origins.retries = 1;
        config.origins.hf =
            HubConfig { endpoint: Some(hub.to_owned()), anonymous: true, ..HubConfig::default() };
        // This node's own memory; that of the cluster holds for `LISTED_FOR`.
        config.namespace.listing_ttl = Duration::from_millis(200);
        settle(&mut config);
        let http = config.http.clone();
        let agent = Agent::start(config).await.expect("the agent starts");
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
        let base = format!("http://{}/hf", listener.local_addr().expect("an address"));
        let stop = CancellationToken::new();
        let serve = http::serve(agent.clone(), listener, http, stop.clone());
        let serving = tokio::spawn(async move { serve.await.expect("served") });
        Self { agent, base, stop, serving, data }
    }

    /// Stops the agent; what it has stays.
    async fn close(self) -> TempDir {
        self.stop.cancel();
        self.serving.await.expect("no panic");
        self.agent.shutdown(Duration::from_secs(5)).await;
        self.data
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        let client = Client::builder().no_proxy().build().expect("a client");
        let request = client.request(method, format!("{}/{path}", self.base));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.send().await.expect("an answer")
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.send(Method::GET, path, headers).await
    }

    async fn head(&self, path: &str) -> Response {
        self.send(Method::HEAD, path, &[]).await
    }

    /// Waits until all of the artifacts that came are whole.
    async fn whole(&self) {
        let start = Instant::now();
        loop {
            let artifacts = self.agent.artifacts(false).await;
            if !artifacts.is_empty() && artifacts.iter().all(|artifact| artifact.complete) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{artifacts:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn json(&self, path: &str) -> serde_json::Value {
        let response = self.get(path, &[]).await;
        let (status, text) = (response.status(), response.text().await.expect("text"));
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).expect("JSON")
    }
}

fn told<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().expect("text"))
}

/// A client's own folder and variables.
struct Home {
    dir: Arc<TempDir>,
    endpoint: String,
    more: Vec<(String, String)>,
}

impl Home {
    fn at(endpoint: &str) -> Self {
        Self {
            dir: Arc::new(tempfile::tempdir().expect("a directory")),
            endpoint: endpoint.to_owned(),
            more: Vec::new(),
        }
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.more.push((name.to_owned(), value.to_owned()));
        self
    }

    fn variables(&self) -> Vec<(&str, &str)> {
        let home = self.dir.path().to_str().expect("text");
        let own =
            [("HF_ENDPOINT", self.endpoint.as_str()), ("HF_HOME", home), ("HF_HUB_DISABLE_TELEMETRY", "1")];
        own.into_iter().chain(self.more.iter().map(|(name, value)| (name.as_str(), value.as_str()))).collect()
    }

    /// Runs a program of the client's; what it printed, or why it failed.
    async fn run(&self, client: HubClient, program: &str, arguments: &[&str]) -> Result<String, String> {
        let bin = client.bin()?;
        let program = program.to_owned();
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let variables: Vec<(String, String)> =
            self.variables().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let work = move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let variables: Vec<(&str, &str)> =
                variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            run_python_in(&bin, &program, &arguments, &variables)
        };
        tokio::task::spawn_blocking(work).await.expect("no panic")
    }

    /// `snapshot_download`; where it is.
    async fn snapshot(&self, client: HubClient) -> Result<Downloaded, String> {
        let path = PathBuf::from(self.run(client, SNAPSHOT, &["org/name", "main"]).await?);
        Ok(Downloaded { path, _home: self.dir.clone() })
    }
}

/// Where a client put a repository; there as long as this is.
#[derive(Debug)]
struct Downloaded {
    path: PathBuf,
    _home: Arc<TempDir>,
}

impl Deref for Downloaded {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

const SNAPSHOT: &str = "import sys, huggingface_hub
print(huggingface_hub.snapshot_download(sys.argv[1], revision=sys.argv[2]), end='')";
