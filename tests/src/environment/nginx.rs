//! A web server: nginx, from Debian's `nginx-light`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    Result,
    debian::system_program,
    server::{Server, accepts},
};

/// An nginx that serves one folder.
#[derive(Debug)]
pub struct Nginx(Server);

impl Nginx {
    /// Starts one that serves `folder`. `extra` goes into its `server { … }`.
    ///
    /// # Errors
    /// What is missing.
    pub fn start(folder: &Path, extra: &str) -> Result<Self> {
        let program = program()?;
        let server = Server::start(
            "nginx",
            |port, dir| {
                let config = format!(
                    "daemon off; master_process off; user root; pid {dir}/pid; error_log stderr;\n\
                     events {{}}\n\
                     http {{ access_log {dir}/access.log; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;\n\
                     fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
                     server {{ listen 127.0.0.1:{port}; root {root}; {extra} }} }}\n",
                    dir = dir.display(),
                    root = folder.display(),
                );
                let path = dir.join("nginx.conf");
                std::fs::write(&path, config).map_err(|e| format!("nginx: {e}"))?;
                let mut command = Command::new(&program);
                command.arg("-c").arg(&path).arg("-p").arg(dir);
                Ok(command)
            },
            accepts,
        )?;
        Ok(Self(server))
    }

    /// Base URL without a slash at its end.
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// Its one process.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// What it says of its version.
    ///
    /// # Errors
    /// What is missing.
    pub fn version() -> Result<String> {
        let output = Command::new(program()?).arg("-v").output().map_err(|e| format!("nginx: {e}"))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(said.rsplit('/').next().unwrap_or_default().trim().to_owned())
    }

    /// What was asked for so far, one line a request.
    pub fn access_log(&self) -> String {
        std::fs::read_to_string(self.0.dir().join("access.log")).unwrap_or_default()
    }
}

fn program() -> Result<PathBuf> {
    system_program("nginx", "nginx-light")
}
