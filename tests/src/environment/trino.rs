//! Trino, from Maven Central: one node that coordinates and works, with the Hive connector on a metastore of files.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

use super::{
    Result,
    cache::{part, run_python_in, virtual_environment},
    maven,
    server::{Server, accepts},
};

/// The last version for Java 17.
pub const TRINO_VERSION: &str = "435";
const SOURCE: &str = include_str!("TrinoServer.java");
const CLIENT_PINS: &[&str] = &["trino==0.340.0"];

/// How long a new server may take to know itself as a node that works.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(30);
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Prints a line for each row of the last statement.
const ASK: &str = "
import sys, trino
port, *statements = sys.argv[1:]
cursor = trino.dbapi.connect(host='127.0.0.1', port=int(port), user='tests', catalog='lake').cursor()
for statement in statements:
    rows = cursor.execute(statement).fetchall()
for row in rows:
    print(*row, sep='\\t')
";

/// A running server; ends when it is dropped.
#[derive(Debug)]
pub struct Trino(Server);

/// Where a bucket is, and what to sign with.
#[derive(Debug, Clone, Copy)]
pub struct TrinoBuckets<'a> {
    /// `http://host:port`.
    pub endpoint: &'a str,
    /// The access key's id.
    pub key: &'a str,
    /// And the key.
    pub secret: &'a str,
    /// Where the metastore has its files, `s3://bucket/prefix`; it writes them.
    pub metastore: &'a str,
}

impl Trino {
    /// Starts one whose catalog `lake` may have tables in those buckets. Takes half a minute. Blocks.
    ///
    /// # Errors
    /// What is missing.
    pub fn start(buckets: TrinoBuckets<'_>) -> Result<Self> {
        let home = home()?;
        client()?;
        let server = Server::start(
            "Trino",
            |port, dir| {
                let write = |name: &str, text: String| {
                    fs::write(dir.join(name), text).map_err(|e| format!("{}/{name}: {e}", dir.display()))
                };
                fs::create_dir_all(dir.join("catalog")).map_err(|e| format!("{}: {e}", dir.display()))?;
                write(
                    "config.properties",
                    format!(
                        "node.environment=tests\nnode.id=tests\nnode.bind-ip=127.0.0.1\nnode.internal-address=127.0.0.1\n\
                         coordinator=true\nnode-scheduler.include-coordinator=true\nhttp-server.http.port={port}\n\
                         discovery.uri=http://127.0.0.1:{port}\nplugin.dir={}/plugin\ncatalog.config-dir={}/catalog\n",
                        home.display(),
                        dir.display()
                    ),
                )?;
                write(
                    "catalog/lake.properties",
                    format!(
                        "connector.name=hive\nhive.metastore=file\nhive.metastore.catalog.dir={}\n\
                         fs.hadoop.enabled=false\nfs.native-s3.enabled=true\ns3.endpoint={}\ns3.region=us-east-1\ns3.path-style-access=true\n\
                         s3.aws-access-key={}\ns3.aws-secret-key={}\n",
                        buckets.metastore, buckets.endpoint, buckets.key, buckets.secret
                    ),
                )?;
                let mut command = Command::new("java");
                command.args(["-Xmx1g", "-XX:+UseG1GC", "-Djdk.attach.allowAttachSelf=true"]);
                command.arg(format!("-Dconfig={}/config.properties", dir.display()));
                command.arg("-cp").arg(format!("{}/lib/*:{}", home.display(), home.display()));
                command.args(["TrinoServer", TRINO_VERSION]).current_dir(dir);
                Ok(command)
            },
            |address| {
                accepts(address)
                    && ask(address.port(), &["SELECT 1 FROM lake.information_schema.schemata"]).is_ok()
            },
        )?;
        Ok(Self(server))
    }

    /// Runs statements, by Trino's own client; the rows of the last, a line each with tabs between. Blocks.
    ///
    /// # Errors
    /// What the client says.
    pub fn ask(&self, statements: &[&str]) -> Result<String> {
        ask(self.0.address.port(), statements)
    }
}

fn ask(port: u16, statements: &[&str]) -> Result<String> {
    let port = port.to_string();
    let asked = Instant::now();
    loop {
        match run_python_in(&client()?, ASK, &[&[port.as_str()], statements].concat(), &[]) {
            // A server that has just started learns some seconds later that it may run queries itself.
            Err(e) if e.contains("NO_NODES_AVAILABLE") && asked.elapsed() < ANNOUNCED_WITHIN => {
                std::thread::sleep(ASK_AGAIN);
            }
            answer => return answer,
        }
    }
}

fn client() -> Result<PathBuf> {
    static MADE: OnceLock<Result<PathBuf>> = OnceLock::new();
    MADE.get_or_init(|| Ok(virtual_environment("trino-client", CLIENT_PINS, &[])?.join("bin"))).clone()
}

/// The folder with the server in `lib` and the connector in `plugin`.
fn home() -> Result<PathBuf> {
    static MADE: OnceLock<Result<PathBuf>> = OnceLock::new();
    MADE.get_or_init(|| {
        part("trino", &[TRINO_VERSION, SOURCE], |dir| {
            maven::libraries(dir, &[&format!("io.trino:trino-main:{TRINO_VERSION}")])?;
            maven::archive(dir, &format!("io.trino:trino-hive:{TRINO_VERSION}:zip"), "plugin")?;
            maven::program(dir, "TrinoServer", SOURCE)
        })
    })
    .clone()
}
