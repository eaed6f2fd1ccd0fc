//! Chromium, told by WebDriver what to do: a page of a door, and scripts in it.
//!
//! Knows no door. Methods panic with what is wrong: they are a test's steps, not a service.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::environment::system_program;

/// Long for a machine that also compiles.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a driver is, and all that it started: processes of a browser outlive its driver, but not the name space
/// that both are in.
#[derive(Debug)]
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
#[derive(Debug)]
pub struct Browser {
    driver: Driver,
    http: reqwest::Client,
    session: String,
    version: String,
}

impl Browser {
    /// Opens a page of a door: scripts of it may ask the door, those of other sites may not.
    ///
    /// # Panics
    /// When there is no browser to be had, or it does not open the page.
    pub async fn at(page: &str) -> Self {
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

    /// Its version, as it says itself.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Runs a script with these arguments and one more, a function that it calls with what came of it.
    ///
    /// # Panics
    /// When the script does, or does not end.
    pub async fn run(&self, script: &str, arguments: Value) -> Value {
        self.tell("/execute/async", json!({ "script": script, "args": arguments })).await
    }
}
