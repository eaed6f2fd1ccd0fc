//! `preload secret`: make the secret that a cluster shares.

use std::{
    fs::OpenOptions,
    io::{ErrorKind as Io, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use emberline_agent::error::{ErrorKind, IoContext};
use rand::{TryRngCore, rngs::OsRng};
use serde::Serialize;

use crate::{
    failure::{Failure, Result},
    options::Context,
};

/// Make the secret that all agents of a cluster share.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = false,
    after_help = "\
Examples:
  preload secret new cluster.secret
  kubectl -n emberline create secret generic emberline-agent --from-file=cluster-secret=cluster.secret"
)]
pub(crate) struct Secret {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write a new one: 32 random bytes as hex, readable by its owner only.
    #[command(after_help = "Examples:\n  preload secret new cluster.secret")]
    New {
        /// Where to; an existing file is never overwritten.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, Serialize)]
struct Made {
    file: PathBuf,
}

impl Secret {
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        let Action::New { file } = self.action;
        create(&file)?;
        context.output.answer(&Made { file }, |made, _| format!("{}\n", made.file.display()))
    }
}

/// Writes a new secret to `file`, mode 0600.
///
/// # Errors
/// `Invalid` when the file exists; as writing to the directory.
pub(crate) fn create(file: &Path) -> Result<()> {
    let mut secret = [0; 32];
    OsRng.try_fill_bytes(&mut secret).map_err(|e| Failure::internal(format!("random bytes: {e}")))?;
    let mut text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    text.push('\n');
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut created = match created {
        Err(e) if e.kind() == Io::AlreadyExists => {
            return Err(Failure::new(ErrorKind::Invalid, format!("{} exists", file.display()))
                .advice("choose another name: whoever overwrites a cluster's secret locks its nodes out"));
        }
        created => created.at(|| format!("create {}", file.display()))?,
    };
    let written = created.write_all(text.as_bytes()).and_then(|()| created.sync_all());
    Ok(written.at(|| format!("write {}", file.display()))?)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_secret_is_64_hex_digits_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        create(&file).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.trim().len(), 64);
        assert!(text.trim().bytes().all(|b| b.is_ascii_hexdigit()));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_existing_secret_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        create(&file).unwrap();
        let before = fs::read(&file).unwrap();
        assert_eq!(create(&file).unwrap_err().exit, 2);
        assert_eq!(fs::read(&file).unwrap(), before);
    }
}
