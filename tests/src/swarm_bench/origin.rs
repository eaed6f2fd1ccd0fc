//! Where the model comes from: an nginx, or a real S3 server, in a namespace of its own.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};

use crate::{
    environment::{self, S3_KEY, S3_SECRET},
    namespaces::Namespace,
    nginx::{Nginx, Request},
};

/// How long the S3 server may take to take its first bucket: seconds.
const START_DEADLINE: Duration = Duration::from_secs(60);
const S3_PORT: u16 = 8333;

/// A running origin; stopped on drop.
pub(super) enum Origin {
    Http(Nginx),
    S3(Seaweed),
}

/// Of the parts of SeaweedFS, for each other.
const GRPC_PORTS: [(&str, u16); 4] = [("s3", 18333), ("filer", 18888), ("master", 19333), ("volume", 18080)];

/// A SeaweedFS with the model in a bucket; stopped on drop.
pub(super) struct Seaweed {
    child: Child,
    endpoint: String,
}

impl Origin {
    /// Serves the files of `dir` at `addr`.
    pub(super) async fn start(
        is_s3: bool,
        dir: &Path,
        home: &Path,
        namespace: &Namespace,
        addr: IpAddr,
    ) -> Result<Self> {
        if is_s3 {
            Ok(Self::S3(Seaweed::start(dir, home, namespace, addr).await?))
        } else {
            Ok(Self::Http(Nginx::start(dir, namespace, addr).await?))
        }
    }

    /// What to pull, with a slash at the end.
    pub(super) fn url(&self) -> String {
        match self {
            Self::Http(nginx) => nginx.url(),
            Self::S3(_) => "s3://models/model/".to_owned(),
        }
    }

    /// What clients need in their environment.
    pub(super) fn variables(&self) -> Vec<(String, String)> {
        match self {
            Self::Http(_) => Vec::new(),
            Self::S3(seaweed) => variables(&seaweed.endpoint),
        }
    }

    /// Every request answered so far; nothing of an S3 server, which keeps no log.
    pub(super) fn requests(&self) -> Result<Vec<Request>> {
        match self {
            Self::Http(nginx) => nginx.requests(),
            Self::S3(_) => Ok(Vec::new()),
        }
    }
}

fn variables(endpoint: &str) -> Vec<(String, String)> {
    [
        ("AWS_ENDPOINT_URL", endpoint),
        ("S3_ENDPOINT_URL", endpoint),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", S3_KEY),
        ("AWS_SECRET_ACCESS_KEY", S3_SECRET),
        ("EMBERLINE_ORIGINS__S3__ALLOW_HTTP", "true"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

impl Seaweed {
    async fn start(dir: &Path, home: &Path, namespace: &Namespace, addr: IpAddr) -> Result<Self> {
        let missing = |e| Error::new(ErrorKind::NotFound, e);
        // Both may install something, which takes its time.
        let (weed, s5cmd) = tokio::task::spawn_blocking(|| (environment::seaweed(), environment::s5cmd()))
            .await
            .map_err(|e| Error::with_source(ErrorKind::Cancelled, "set-up of the S3 server", e))?;
        let (weed, s5cmd) = (weed.map_err(missing)?, s5cmd.map_err(missing)?);
        let data = home.join("seaweed");
        std::fs::create_dir(&data).at(|| data.display().to_string())?;
        let config = home.join("s3.json");
        let identities = format!(
            r#"{{"identities":[{{"name":"bench","credentials":[{{"accessKey":"{S3_KEY}","secretKey":"{S3_SECRET}"}}],
                "actions":["Admin","Read","List","Write"]}}]}}"#
        );
        std::fs::write(&config, identities).at(|| config.display().to_string())?;
        let mut command = Command::new(weed);
        command
            .arg("-logtostderr")
            .arg("server")
            .arg(format!("-filer.localSocket={}", home.join("filer.sock").display()))
            .arg(format!("-s3.localSocket={}", home.join("s3.sock").display()))
            .arg(format!("-dir={}", data.display()))
            .arg(format!("-ip={addr}"))
            .args(["-ip.bind=0.0.0.0", "-filer", "-s3", "-s3.port.iceberg=0", "-volume.max=16"])
            .arg("-master.volumeSizeLimitMB=1024")
            .args(GRPC_PORTS.map(|(name, port)| format!("-{name}.port.grpc={port}")))
            .arg(format!("-s3.port={S3_PORT}"))
            .arg(format!("-s3.config={}", config.display()))
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = namespace.run(async move { command.spawn() }).await?.at(|| "start weed".to_owned())?;
        let endpoint = format!("http://{}", SocketAddr::new(addr, S3_PORT));
        let seaweed = Self { child, endpoint };
        seaweed.fill(&s5cmd, dir, namespace).await?;
        Ok(seaweed)
    }

    /// Makes the bucket as soon as that is possible, and copies the model into it.
    async fn fill(&self, s5cmd: &Path, dir: &Path, namespace: &Namespace) -> Result<()> {
        let run = |arguments: Vec<String>| {
            let mut command = Command::new(s5cmd);
            command
                .args(["--log", "error"])
                .args(arguments)
                .envs(variables(&self.endpoint))
                .stdin(Stdio::null());
            async move {
                let output =
                    namespace.run(async move { tokio::process::Command::from(command).output().await });
                let output = output.await?.at(|| "run s5cmd".to_owned())?;
                let words = String::from_utf8_lossy(&output.stderr).into_owned();
                Ok::<_, Error>(if output.status.success() { None } else { Some(words) })
            }
        };
        let start = Instant::now();
        while let Some(words) = run(vec!["mb".to_owned(), "s3://models".to_owned()]).await? {
            if start.elapsed() > START_DEADLINE {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!("the S3 server makes no bucket: {words}"),
                ));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let copy = vec!["cp".to_owned(), format!("{}/", dir.display()), "s3://models/model/".to_owned()];
        match run(copy).await? {
            None => Ok(()),
            Some(words) => {
                Err(Error::new(ErrorKind::Invalid, format!("the model does not go into S3: {words}")))
            }
        }
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
        // Sockets that it makes in /tmp whatever it is told, and leaves when it is killed.
        for (name, port) in GRPC_PORTS {
            drop(std::fs::remove_file(format!("/tmp/seaweedfs-{name}-grpc-{port}.sock")));
        }
    }
}
