//! The HTTP door as a browser uses it: a script of a page asks for ranges of a file, and for all of it. The browser
//! is Chromium, told by WebDriver what to do.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use emberline_tests::{cluster::Cluster, conformance, environment::system_program, site::Site};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const DOOR: &str = "HTTP";
const CLIENT: &str = "chromium";
/// Long for a machine that also compiles.
const PATIENCE: Duration = Duration::from_secs(120);

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

/// What a driver is, and all that it started: processes of a browser outlive its driver, but not the name space
/// that both are in.
struct Driver {
    process: Child,
    base: String,
    chromium: PathBuf,
    home: TempDir,
}

impl Driver {
    /// Blocks.
    fn start() -> Self {
        let program =
            |name, package| system_program(name, package).unwrap_or_else(|missing| panic!("{missing}"));
        let (driver, chromium) =
            (program("chromedriver", "chromium-driver"), program("chromium", "chromium"));
        let home = tempfile::tempdir().expect("temporary directory");
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(driver).arg("--port=0");
        command.envs([("HOME", home.path()), ("TMPDIR", home.path())]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let process = command.spawn().expect("unshare (package util-linux)");
        let mut driver = Self { process, base: String::new(), chromium, home };
        let said = BufReader::new(driver.process.stdout.take().expect("a pipe"));
        let port: Option<u16> = said
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("successfully on port ")?.1.trim_end_matches('.').parse().ok());
        driver.base = format!("http://127.0.0.1:{}", port.expect("the port of chromedriver"));
        driver
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A browser without a window, and a page.
struct Browser {
    driver: Driver,
    http: reqwest::Client,
    session: String,
    version: String,
}

impl Browser {
    /// Opens a page of a door: scripts of it may ask the door, those of other sites may not.
    async fn at(page: &str) -> Self {
        let driver = tokio::task::spawn_blocking(Driver::start).await.expect("no panic");
        let http = reqwest::Client::builder().timeout(PATIENCE).build().expect("a client");
        let (session, version) = (String::new(), String::new());
        let mut browser = Self { driver, http, session, version };
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-gpu".to_owned(),
            format!("--user-data-dir={}", browser.driver.home.path().join("profile").display()),
        ];
        let options = json!({ "binary": browser.driver.chromium, "args": arguments });
        let timeouts = json!({ "script": PATIENCE.as_millis() as u64 });
        let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": options, "timeouts": timeouts });
        let opened = browser.tell("", json!({ "capabilities": { "alwaysMatch": wanted } })).await;
        browser.version = opened["capabilities"]["browserVersion"].as_str().expect("a version").to_owned();
        browser.session = format!("/{}", opened["sessionId"].as_str().expect("a session"));
        browser.tell("/url", json!({ "url": page })).await;
        browser
    }

    /// A command of WebDriver, and what came of it.
    async fn tell(&self, command: &str, words: Value) -> Value {
        let url = format!("{}/session{}{command}", self.driver.base, self.session);
        let answer = self.http.post(&url).json(&words).send().await.expect("chromedriver answers");
        let is_good = answer.status().is_success();
        let mut said: Value = answer.json().await.expect("JSON");
        assert!(is_good, "{url}: {said}");
        said["value"].take()
    }

    async fn run(&self, script: &str, arguments: Value) -> Value {
        self.tell("/execute/async", json!({ "script": script, "args": arguments })).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_gets_the_ranges_that_it_asks_for_while_a_file_comes_and_when_it_is_whole() {
    let site = Site::start(48, 6).await;
    let cluster = Cluster::start(1).await.expect("an agent");
    let largest = site.model().files.iter().max_by_key(|file| file.size).expect("files");
    let original = std::fs::read(site.model().dir.join(&largest.path)).expect("readable");
    let base = cluster.agents()[0].client().base();
    let url = format!("{base}/v1/files/{}?reference={}", largest.path, site.reference());
    let browser = Browser::at(&format!("{base}/v1/status")).await;
    let size = original.len();
    let parts = [(0, 999_999), (1_000_001, 3_000_000), (size - 1000, size - 1)];
    let mut expected: Vec<Value> = parts
        .iter()
        .map(|&(from, to)| json!([206, format!("bytes {from}-{to}/{size}"), sha256(&original[from..=to])]))
        .collect();
    expected.push(json!([200, null, sha256(&original)]));
    let mut ranges: Vec<Value> =
        parts[..2].iter().map(|(from, to)| json!(format!("bytes={from}-{to}"))).collect();
    ranges.extend([json!("bytes=-1000"), Value::Null]);
    for _ in 0..2 {
        let got = browser.run(ASK_FOR_RANGES, json!([url, ranges])).await;
        assert_eq!(got, json!(expected));
    }
    conformance::record(
        DOOR,
        CLIENT,
        &browser.version,
        "fetch of ranges and of all, while it comes, and whole",
    );
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
