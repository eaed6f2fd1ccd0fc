//! SeaweedFS behind a slow link, an agent in front of it, and what both are known by.

use std::{
    fs,
    future::Future,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use emberline_tests::{
    agent_process::{AgentOptions, AgentProcess},
    conformance,
    environment::{FaultProxy, S3_KEY, S3_SECRET, Weed, run_python_in, s3_clients},
    model::{Model, sha256},
    relay::Relay,
};

/// What callers of the door sign with; none of the origin's.
pub(crate) const DOOR_KEY: &str = "door-key";
pub(crate) const DOOR_SECRET: &str = "door-secret-0123456789";
/// The model of every test, of this many bytes or so in four shards.
const MODEL_BYTES: u64 = 24 << 20;
/// What the origin's link carries a second: the model takes more than a second.
const LINK_BYTES: u64 = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(120);

const TABLE: &str = "
import sys, pyarrow as pa, pyarrow.parquet as pq
n = 200_000
table = pa.table({'id': pa.array(range(n), pa.int64()), 'square': pa.array([i * i for i in range(n)], pa.int64()),
                  'name': pa.array([f'row {i % 97}' for i in range(n)])})
pq.write_table(table, sys.argv[1], row_group_size=20_000)
";

/// The server, which tests that run at once share.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) weed: Weed,
    pub(crate) model: Model,
    _folder: tempfile::TempDir,
}

impl Origin {
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Origin>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(origin) = shared.upgrade() {
            return origin;
        }
        let folder = tempfile::tempdir().expect("temporary directory");
        let model = Model::generate(&folder.path().join("llama"), MODEL_BYTES, 7).expect("a model");
        fs::create_dir_all(folder.path().join("data")).expect("a folder");
        let table = folder.path().join("data/table.parquet");
        run_python_in(&s3_clients().expect("clients"), TABLE, &[table.to_str().expect("UTF-8")], &[])
            .expect("a table");
        for n in 0..25 {
            fs::write(folder.path().join(format!("data/part {n:02}+ü&.txt")), n.to_string())
                .expect("written");
        }
        fs::write(folder.path().join("data/empty"), "").expect("written");
        let weed = Weed::start().expect("SeaweedFS");
        weed.upload("models", folder.path(), "v1/").expect("uploaded");
        let lake = tempfile::tempdir().expect("temporary directory");
        fs::copy(&table, lake.path().join("table.parquet")).expect("copied");
        weed.upload("models", lake.path(), "lake/numbers/").expect("uploaded");
        let origin = Arc::new(Self { weed, model, _folder: folder });
        *shared = Arc::downgrade(&origin);
        origin
    }
}

/// How the agent is set up.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Setting {
    /// Callers need not sign.
    pub(crate) anonymous: bool,
    /// Lines for the section of the door.
    pub(crate) door: &'static str,
    /// The agent reaches the origin through a proxy that breaks what it is told to, instead of the slow link.
    pub(crate) breaks: bool,
}

/// The agent and all that is behind it.
pub(crate) struct Stack {
    pub(crate) origin: Arc<Origin>,
    pub(crate) relay: Relay,
    pub(crate) faults: FaultProxy,
    pub(crate) agent: AgentProcess,
    pub(crate) dir: tempfile::TempDir,
}

impl Stack {
    pub(crate) async fn start(setting: Setting) -> Self {
        let origin = tokio::task::spawn_blocking(Origin::shared).await.expect("an origin");
        let upstream = origin.weed.url().trim_start_matches("http://").parse().expect("an address");
        let relay = Relay::start(upstream, Some(LINK_BYTES)).await.expect("a link");
        let faults = FaultProxy::start(&origin.weed.url()).expect("a proxy");
        let endpoint = if setting.breaks { faults.url() } else { relay.url() };
        let dir = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str| dir.path().join(name);
        private(&at("secret"), DOOR_SECRET);
        private(
            &at("credentials"),
            &format!("[default]\naws_access_key_id={S3_KEY}\naws_secret_access_key={S3_SECRET}\n"),
        );
        let keys = match setting.anonymous {
            true => String::new(),
            false => format!("access_key_id = \"{DOOR_KEY}\"\nsecret_key_file = {:?}\n", at("secret")),
        };
        let config = format!(
            "mounts = {{ lake = \"s3://models/lake\", shelf = \"s3://models/w\", zoo = \"s3://models/v1\" }}\n\
             [s3]\nlisten = \"127.0.0.1:0\"\n{keys}{}\n[origins.s3]\nendpoint = \"{}\"\n\
             credentials_file = {:?}\nbuckets = {{ models = {{ endpoint = \"{}\", credentials_file = {:?} }} }}\n\
             [namespace]\nlisting_ttl = \"2s\"\n",
            setting.door,
            endpoint,
            at("credentials"),
            endpoint,
            at("credentials"),
        );
        fs::write(at("agent.toml"), config).expect("written");
        let options = AgentOptions { config_file: Some(at("agent.toml")), ..AgentOptions::new("s3-door") };
        let agent = AgentProcess::start(&at("data"), options).await.expect("an agent");
        Self { origin, relay, faults, agent, dir }
    }

    /// The door, `http://127.0.0.1:port`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.agent.s3().expect("the S3 door is open"))
    }

    /// The file that clients read, as the origin has it: its path in the bucket `zoo`, and its SHA-256.
    pub(crate) fn shard(&self) -> (String, String) {
        let file = self.origin.model.files.iter().max_by_key(|file| file.size).expect("a shard");
        (format!("llama/{}", file.path), file.sha256.clone())
    }

    pub(crate) fn shard_bytes(&self) -> u64 {
        self.origin.model.files.iter().map(|file| file.size).max().expect("a shard")
    }

    /// What clients of AWS take from their environment.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let pairs = [
            ("AWS_ACCESS_KEY_ID", DOOR_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", DOOR_SECRET.to_owned()),
            ("AWS_ENDPOINT_URL", self.url()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".to_owned()),
            ("HOME", self.dir.path().display().to_string()),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Runs a program with [`variables`](Self::variables); its standard output.
    pub(crate) async fn run(&self, mut command: Command) -> String {
        // What trusts other authorities than the system's is for other servers.
        command.env_remove("AWS_CA_BUNDLE").envs(self.variables());
        command.current_dir(self.dir.path()).stdin(std::process::Stdio::null());
        let shown = format!("{command:?}");
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("not cancelled");
        let output = output.unwrap_or_else(|e| panic!("{shown}: {e}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{shown}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// A series of the agent's metrics; nothing is zero.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let text = self.agent.client().metrics().await.expect("metrics");
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or_default()
    }

    /// Waits until the artifact whose reference begins so is whole here.
    pub(crate) async fn is_here(&self, reference: &str) {
        let start = Instant::now();
        loop {
            let status = self.agent.client().status().await.expect("a status");
            let model = status.artifacts.iter().find(|a| a.reference.starts_with(reference));
            if model.is_some_and(|model| model.complete) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Has a client read the shard twice, each time with its SHA-256 for an answer: while it comes, and when it
    /// is here.
    pub(crate) async fn reads_while_it_comes_and_after<F: Future<Output = String>>(
        &self,
        read: impl Fn() -> F,
    ) {
        let (key, digest) = self.shard();
        let first = read().await;
        assert_eq!(first.trim(), digest, "{key} while it comes");
        let waited = self.metric("emberline_reads_total{door=\"s3\",found=\"waited\"}").await;
        assert!(waited > 0.0, "the client read nothing that was still on its way");
        self.is_here("s3://models/v1/llama").await;
        let (before, served) = (self.relay.delivered(), self.served().await);
        let second = read().await;
        assert_eq!(second.trim(), digest, "{key} when it is here");
        // Listings and heads may be asked for again.
        assert!(self.relay.delivered() - before < 256 << 10, "what is here was fetched again");
        assert!(self.served().await - served >= self.shard_bytes() as f64, "the bytes came past the door");
    }

    /// The same with a client that tells its version too, which is given back.
    pub(crate) async fn reads_with_a_version<F: Future<Output = (String, String)>>(
        &self,
        read: impl Fn() -> F,
    ) -> String {
        let version = Mutex::new(String::new());
        self.reads_while_it_comes_and_after(async || {
            let (told, digest) = read().await;
            *version.lock().unwrap_or_else(PoisonError::into_inner) = told;
            digest
        })
        .await;
        version.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    async fn served(&self) -> f64 {
        self.metric("emberline_served_bytes_total{door=\"s3\"}").await
    }
}

/// Runs a program whose first line is its version; the version and the rest.
pub(crate) async fn versioned(stack: &Stack, command: Command) -> (String, String) {
    let text = stack.run(command).await;
    let (version, rest) = text.split_once('\n').expect("a version");
    (version.trim().to_owned(), rest.trim().to_owned())
}

/// Records a client that passed.
pub(crate) async fn passed(client: &str, version: &str, what: &str) {
    let [client, version, what] = [client, version, what].map(str::to_owned);
    tokio::task::spawn_blocking(move || conformance::record("S3", &client, &version, &what))
        .await
        .expect("recorded");
}

/// The SHA-256 of a file that a client wrote.
pub(crate) fn digest(path: &Path) -> String {
    sha256(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn private(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("private");
}
