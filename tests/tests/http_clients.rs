//! The HTTP door as programs use it that nobody here wrote: curl by HTTP/1.1 and HTTP/2, wget, aria2c, a browser;
//! while a file comes and when it is whole, interrupted and resumed.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use emberline_tests::{
    browser::Browser, cluster::Cluster, conformance, environment::system_program, site::Site,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const DOOR: &str = "HTTP";
/// A file that comes takes about this long in all, so that there is a middle to be interrupted in.
const COMES_IN_S: u64 = 6;

/// A file of an origin, as the door of an agent without it gives it.
struct Served {
    _site: Site,
    _cluster: Cluster,
    url: String,
    original: Vec<u8>,
}

impl Served {
    /// The largest file of a model that takes a while to come.
    async fn coming() -> Self {
        let site = Site::start(48, COMES_IN_S).await;
        let cluster = Cluster::start(1).await.expect("an agent");
        let largest = site.model().files.iter().max_by_key(|file| file.size).expect("files");
        let original = std::fs::read(site.model().dir.join(&largest.path)).expect("readable");
        let base = cluster.agents()[0].client().base();
        let url = format!("{base}/v1/files/{}?reference={}", largest.path, site.reference());
        Self { _site: site, _cluster: cluster, url, original }
    }

    async fn is_sealed(&self) -> bool {
        state_of(&self.url).await.as_deref() == Some("sealed")
    }

    /// Waits until the file is whole.
    async fn sealed(&self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !self.is_sealed().await {
            assert!(Instant::now() < deadline, "the file is not sealed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn is_original(&self, path: &Path) {
        let got = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(Sha256::digest(&got), Sha256::digest(&self.original), "{} differs", path.display());
    }
}

/// What the door says of the state of a file.
async fn state_of(url: &str) -> Option<String> {
    let answer = reqwest::Client::new().head(url).send().await.expect("an answer");
    answer.headers().get("x-emberline-state").and_then(|state| state.to_str().ok()).map(str::to_owned)
}

fn program(name: &str, package: &str) -> PathBuf {
    system_program(name, package).unwrap_or_else(|missing| panic!("{missing}"))
}

/// What a program printed; it must succeed. Blocks.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The first number that a program tells of itself. Blocks.
fn version_of(program: &Path) -> String {
    let said = output(Command::new(program).arg("--version"));
    let words = said.split([' ', '/', '\n']);
    let mut numbers = words.filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    numbers.next().expect("a version").to_owned()
}

/// Starts a program that loads into `file`, and kills it when some of it is there but not all. Blocks.
fn interrupted(command: &mut Command, file: &Path, whole_bytes: usize) -> u64 {
    struct Killed(Child);
    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
    let mut child = Killed(child);
    let deadline = Instant::now() + Duration::from_secs(60);
    let bytes = || std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    while bytes() < 1 << 20 {
        assert!(child.0.try_wait().expect("waited for").is_none(), "{command:?} ended before it was killed");
        assert!(Instant::now() < deadline, "{command:?} loads nothing");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(child);
    let bytes = bytes();
    assert!(bytes < whole_bytes as u64, "the file was whole before the fault");
    bytes
}

/// Runs `work` twice: while the file comes, and when it is whole.
async fn twice(work: impl Fn(&Served, &Path) + Send + Sync + 'static) {
    let served = std::sync::Arc::new(Served::coming().await);
    assert!(!served.is_sealed().await, "the file is here before it was asked for");
    let work = std::sync::Arc::new(work);
    for _ in 0..2 {
        let (served, work) = (served.clone(), work.clone());
        let again = served.clone();
        tokio::task::spawn_blocking(move || {
            let dir = tempfile::tempdir().expect("temporary directory");
            work(&served, dir.path());
        })
        .await
        .expect("no panic");
        again.sealed().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_resumes_what_was_interrupted() {
    let curl = program("curl", "curl");
    let version = version_of(&curl);
    twice(move |served, dir| {
        let file = dir.join("file");
        let load = || {
            let mut command = Command::new(&curl);
            command.args(["--silent", "--show-error", "--fail", "--max-time", "120", "--output"]);
            command.arg(&file).arg(&served.url);
            command
        };
        let before =
            interrupted(load().args(["--limit-rate", "4M", "--no-buffer"]), &file, served.original.len());
        let loaded = output(load().args(["--continue-at", "-", "--write-out", "%{size_download}"]));
        assert_eq!(loaded.parse::<u64>().expect("a number") + before, served.original.len() as u64);
        served.is_original(&file);
    })
    .await;
    conformance::record(DOOR, "curl", &version, "-C - after a kill, while it comes, and whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wget_resumes_what_was_interrupted() {
    let wget = program("wget", "wget");
    let version = version_of(&wget);
    twice(move |served, dir| {
        let file = dir.join("file");
        let load = || {
            let mut command = Command::new(&wget);
            command.args(["--no-config", "--tries=1", "--timeout=60", "--continue", "-O"]);
            command.arg(&file).arg(&served.url);
            command
        };
        interrupted(load().arg("--limit-rate=4m"), &file, served.original.len());
        let said = load().arg("--server-response").output().expect("wget runs");
        let head = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.success() && head.contains("206 Partial Content"), "{head}");
        served.is_original(&file);
    })
    .await;
    conformance::record(DOOR, "wget", &version, "-c after a kill, while it comes, and whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aria2c_loads_by_sixteen_connections() {
    let aria2c = program("aria2c", "aria2");
    let version = version_of(&aria2c);
    twice(move |served, dir| {
        let said = output(
            Command::new(&aria2c)
                .args(["--no-conf", "-x16", "-s16", "-k1M", "--file-allocation=none", "--max-tries=1"])
                .args(["--console-log-level=debug", "--out=file", "--dir"])
                .arg(dir)
                .arg(&served.url),
        );
        let parts = said.matches("HTTP/1.1 206").count();
        assert!(parts >= 8, "{parts} answers were parts:\n{said}");
        served.is_original(&dir.join("file"));
    })
    .await;
    conformance::record(DOOR, "aria2c", &version, "-x16, while it comes, and whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_loads_by_http2_whole_in_ranges_and_many_at_once() {
    let curl = program("curl", "curl");
    let version = version_of(&curl);
    twice(move |served, dir| {
        let load = || {
            let mut command = Command::new(&curl);
            command.args(["--http2-prior-knowledge", "--silent", "--show-error", "--fail"]);
            command.args(["--max-time", "120"]);
            command
        };
        let size = served.original.len();
        let file = dir.join("file");
        let told =
            output(load().args(["--write-out", "%{http_version}", "--output"]).arg(&file).arg(&served.url));
        assert_eq!(told, "2");
        served.is_original(&file);

        let part = dir.join("part");
        let told = output(
            load()
                .args(["--range", "1000001-3000000", "--write-out", "%{http_code} %header{content-range}"])
                .arg("--output")
                .arg(&part)
                .arg(&served.url),
        );
        assert_eq!(told, format!("206 bytes 1000001-3000000/{size}"));
        assert!(std::fs::read(&part).expect("a part") == served.original[1_000_001..3_000_001]);

        // Forty ranges at once, which make the file. This curl cannot put transfers that start together on one
        // connection without TLS, whoever the server is.
        let ranges = ranges_of(size, 40);
        let mut many = load();
        many.args(["--parallel", "--parallel-immediate", "--parallel-max", "40"]);
        for (n, (from, to)) in ranges.iter().enumerate() {
            if n > 0 {
                many.args(["--next", "--http2-prior-knowledge", "--silent", "--show-error", "--fail"]);
            }
            many.args(["--range", &format!("{from}-{to}"), "--write-out", "%{http_version}\n", "--output"]);
            many.arg(dir.join(format!("range-{n}"))).arg(&served.url);
        }
        assert_eq!(output(&mut many), "2\n".repeat(40));
        let parts = (0..40).map(|n| std::fs::read(dir.join(format!("range-{n}"))).expect("a range"));
        assert!(parts.collect::<Vec<_>>().concat() == served.original);
    })
    .await;
    let what = "by HTTP/2 (prior knowledge), a range, forty ranges at once, while it comes, and whole";
    conformance::record(DOOR, "curl", &version, what);
}

/// First and last bytes of `count` ranges that make a file of `bytes`.
fn ranges_of(bytes: usize, count: usize) -> Vec<(usize, usize)> {
    let step = bytes.div_ceil(count);
    (0..count).map(|n| (n * step, ((n + 1) * step).min(bytes) - 1)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2load_has_forty_requests_under_way_on_one_connection() {
    let h2load = program("h2load", "nghttp2-client");
    let version = version_of(&h2load);
    twice(move |served, _| {
        let said = output(Command::new(&h2load).args(["-n80", "-c1", "-m40", "-t1"]).arg(&served.url));
        let all = "80 total, 80 started, 80 done, 80 succeeded, 0 failed, 0 errored, 0 timeout";
        assert!(said.contains(all) && said.contains("status codes: 80 2xx"), "{said}");
        let bytes = format!("({}) data", 80 * served.original.len());
        assert!(said.contains(&bytes), "not {bytes}:\n{said}");
    })
    .await;
    let what = "by HTTP/2, forty requests at once on one connection, while it comes, and whole";
    conformance::record(DOOR, "h2load", &version, what);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_ranges_on_one_connection_of_http2_make_the_file() {
    let served = Served::coming().await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    for _ in 0..2 {
        let asked = ranges_of(served.original.len(), 40).into_iter().map(|(from, to)| {
            let request = client.get(&served.url).header("range", format!("bytes={from}-{to}"));
            async move {
                let answer = request.send().await.expect("an answer");
                assert_eq!((answer.status().as_u16(), answer.version()), (206, reqwest::Version::HTTP_2));
                answer.bytes().await.expect("a body")
            }
        });
        let parts = futures::future::join_all(asked).await;
        assert!(parts.concat() == served.original);
        served.sealed().await;
    }
}

/// Asks for a file as often as it is told to, each time for another range, and says what came.
const ASK_FOR_RANGES: &str = r#"
const [url, ranges, done] = arguments;
const hex = (bytes) => Array.from(new Uint8Array(bytes), (b) => b.toString(16).padStart(2, "0")).join("");
const ask = async (range) => {
    const answer = await fetch(url, { cache: "no-store", headers: range ? { Range: range } : {} });
    const body = await answer.arrayBuffer();
    return [answer.status, answer.headers.get("content-range"), hex(await crypto.subtle.digest("SHA-256", body))];
};
Promise.all(ranges.map(ask)).then(done, (error) => done(String(error)));
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_in_a_browser_gets_the_ranges_that_it_asks_for() {
    let served = Served::coming().await;
    let door = served.url.split_once("/v1/").expect("a route").0;
    let browser = Browser::at(&format!("{door}/v1/status")).await;
    let (size, sha256) = (served.original.len(), |bytes: &[u8]| format!("{:x}", Sha256::digest(bytes)));
    let parts = [(0, 999_999), (1_000_001, 3_000_000), (size - 1000, size - 1)];
    let asked = ["bytes=0-999999", "bytes=1000001-3000000", "bytes=-1000"].map(Value::from);
    let part = |&(from, to): &(usize, usize)| {
        json!([206, format!("bytes {from}-{to}/{size}"), sha256(&served.original[from..=to])])
    };
    let all = json!([200, null, sha256(&served.original)]);
    let expected: Vec<Value> = parts.iter().map(part).chain([all]).collect();
    let ranges: Vec<Value> = asked.into_iter().chain([Value::Null]).collect();
    assert!(!served.is_sealed().await, "the file is here before it was asked for");
    for _ in 0..2 {
        assert_eq!(browser.run(ASK_FOR_RANGES, json!([served.url, ranges])).await, json!(expected));
        served.sealed().await;
    }
    let what = "fetch of ranges and of all, while it comes, and whole";
    conformance::record(DOOR, "chromium", browser.version(), what);
}

/// The rules of entry hold by HTTP/2, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_not_this_machines_is_refused_by_http2() {
    let cluster = Cluster::start(1).await.expect("an agent");
    let base = cluster.agents()[0].client().base().to_owned();
    let asked = move || {
        let curl = program("curl", "curl");
        let ask = |header: &str| {
            let status = ["--silent", "--output", "/dev/null", "--write-out", "%{http_version} %{http_code}"];
            output(
                Command::new(&curl)
                    .arg("--http2-prior-knowledge")
                    .args(status)
                    .args(["--header", header])
                    .arg(format!("{base}/v1/status")),
            )
        };
        assert_eq!(ask("Host: evil.example"), "2 403");
        assert_eq!(ask("Origin: http://evil.example"), "2 403");
        assert_eq!(ask("Host: localhost"), "2 200");
    };
    tokio::task::spawn_blocking(asked).await.expect("no panic");
}
