//! S3 servers: moto, which honours `If-Match` and asks for no credentials, and SeaweedFS, which does ask.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    Result,
    cache::{python, run_python},
    server::{Server, accepts, free_port},
};

/// The access key that [`Weed`] accepts.
pub const S3_KEY: &str = "emberline-test-key";
/// Its secret: a canary that no log or message may ever have.
pub const S3_SECRET: &str = "canary-secret-9f3b1c";

const UPLOAD: &str = "
import os, sys, time, boto3
from botocore.config import Config
endpoint, bucket, folder, prefix = sys.argv[1:]
s3 = boto3.client('s3', endpoint_url=endpoint, region_name='us-east-1',
    config=Config(retries={'max_attempts': 10}, request_checksum_calculation='when_required'))
try:
    s3.create_bucket(Bucket=bucket)
except s3.exceptions.ClientError as e:
    if 'Already' not in str(e): raise
for root, _, names in os.walk(folder, followlinks=True):
    for name in names:
        path = os.path.join(root, name)
        with open(path, 'rb') as f:
            s3.put_object(Bucket=bucket, Key=prefix + os.path.relpath(path, folder), Body=f.read())
";

fn upload(endpoint: &str, bucket: &str, folder: &Path, prefix: &str) -> Result<()> {
    let variables = [
        ("AWS_ACCESS_KEY_ID", S3_KEY),
        ("AWS_SECRET_ACCESS_KEY", S3_SECRET),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ];
    let folder = folder.to_str().ok_or("the folder's name is not UTF-8")?;
    run_python(UPLOAD, &[endpoint, bucket, folder, prefix], &variables).map(drop)
}

/// A moto server.
#[derive(Debug)]
pub struct Moto(Server);

impl Moto {
    /// Starts one; empty.
    ///
    /// # Errors
    /// What is missing.
    pub fn start() -> Result<Self> {
        let python = python()?;
        let server = Server::start(
            "moto",
            |port, _| {
                let mut command = Command::new(&python);
                command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
                Ok(command)
            },
            accepts,
        )?;
        Ok(Self(server))
    }

    /// Base URL.
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// Puts a folder below `prefix` of a bucket, which is made if need be.
    ///
    /// # Errors
    /// What the client says.
    pub fn upload(&self, bucket: &str, folder: &Path, prefix: &str) -> Result<()> {
        upload(&self.url(), bucket, folder, prefix)
    }
}

/// A SeaweedFS server with credentials [`S3_KEY`] and [`S3_SECRET`]; the bucket `public` may be read by anyone.
#[derive(Debug)]
pub struct Weed {
    server: Server,
    s3_port: u16,
    /// Behind the server: removed when it is gone.
    sockets: Leftovers,
}

/// Files that are removed on drop, those that are there.
#[derive(Debug, Default)]
struct Leftovers(Vec<PathBuf>);

impl Drop for Leftovers {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Weed {
    /// Starts one; empty. Takes some ten seconds.
    ///
    /// # Errors
    /// What is missing.
    pub fn start() -> Result<Self> {
        let weed = python()?.with_file_name("weed");
        let s3_port = free_port().map_err(|e| format!("weed: {e}"))?;
        let config = format!(
            r#"{{"identities":[
                {{"name":"admin","credentials":[{{"accessKey":"{S3_KEY}","secretKey":"{S3_SECRET}"}}],
                  "actions":["Admin","Read","List","Write","Tagging"]}},
                {{"name":"anonymous","actions":["Read:public","List:public"]}}]}}"#
        );
        // It makes these wherever its other temporary files go, and leaves them when it is killed.
        let sockets = RefCell::new(Leftovers::default());
        let server = Server::start(
            "weed",
            |port, dir| {
                let config_path = dir.join("s3.json");
                std::fs::write(&config_path, &config).map_err(|e| format!("weed: {e}"))?;
                let data = dir.join("data");
                std::fs::create_dir_all(&data).map_err(|e| format!("weed: {e}"))?;
                let mut command = Command::new(&weed);
                // Its sockets go to /tmp otherwise, and its log beside them.
                command.arg("-logtostderr").arg("server").arg(format!("-dir={}", data.display()));
                command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-s3.port.iceberg=0"]);
                command.arg(format!("-s3.config={}", config_path.display()));
                command.arg(format!("-s3.port={s3_port}")).arg(format!("-filer.port={port}"));
                for name in ["filer", "s3"] {
                    command.arg(format!(
                        "-{name}.localSocket={}",
                        dir.join(name).with_extension("sock").display()
                    ));
                }
                for name in ["master.port", "volume.port"] {
                    let port = free_port().map_err(|e| format!("weed: {e}"))?;
                    command.arg(format!("-{name}={port}"));
                }
                for name in ["s3", "filer", "master", "volume"] {
                    let port = free_port().map_err(|e| format!("weed: {e}"))?;
                    command.arg(format!("-{name}.port.grpc={port}"));
                    sockets.borrow_mut().0.push(format!("/tmp/seaweedfs-{name}-grpc-{port}.sock").into());
                }
                Ok(command)
            },
            |_| accepts(([127, 0, 0, 1], s3_port).into()),
        )?;
        Ok(Self { server, s3_port, sockets: sockets.into_inner() })
    }

    /// Base URL of its S3 door.
    pub fn url(&self) -> String {
        debug_assert!(self.server.address.ip().is_loopback());
        format!("http://127.0.0.1:{}", self.s3_port)
    }

    /// The sockets that it makes outside of its folder.
    pub fn sockets(&self) -> &[PathBuf] {
        &self.sockets.0
    }

    /// As [`Moto::upload`].
    ///
    /// # Errors
    /// What the client says.
    pub fn upload(&self, bucket: &str, folder: &Path, prefix: &str) -> Result<()> {
        upload(&self.url(), bucket, folder, prefix)
    }
}
