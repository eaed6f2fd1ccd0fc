//! The mount: the namespace as a read-only file system.
//!
//! Owns mounting and unmounting. A file that is whole is read by the kernel itself, without us (passthrough);
//! until then reads come here and go through the reader, waiting for their own chunks only. Requests are
//! answered by tasks of the runtime: the threads that take them from the kernel never wait.
//!
//! Invariants: an inode is one version of one file; an inode is open in one way at a time, so that no reader who
//! has a file open or mapped sees an error when it is sealed; nothing is writable.

mod answering;
mod attributes;
mod directories;
mod errno;
mod filesystem;
mod handles;
mod inodes;
mod mountpoint;
mod opening;
mod xattrs;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use tokio::sync::oneshot;

use self::{answering::Shared, filesystem::Filesystem};
use crate::{
    agent::Agent,
    config::FuseConfig,
    error::{Error, ErrorKind, Result},
};

/// A mount that is there already and does not answer for so long is called hung.
const PREPARE_WITHIN: Duration = Duration::from_secs(10);
/// Threads that take requests from the kernel; answering is the runtime's.
const THREADS_MAX: usize = 4;

/// A mounted namespace. Dropped without [`unmount`](Self::unmount) it stays until the process ends.
pub struct Mounted {
    at: PathBuf,
    unmounter: SessionUnmounter,
    is_stopping: Arc<AtomicBool>,
    ended: oneshot::Receiver<()>,
    shared: Arc<Shared>,
}

/// Looks whether the namespace could be mounted where the configuration says, and changes nothing. Blocks.
///
/// # Errors
/// As [`mount`], as far as it can be seen beforehand.
pub fn check(config: &FuseConfig) -> Result<()> {
    config.mountpoint.as_deref().map_or(Ok(()), mountpoint::check)
}

/// Mounts where the configuration says; `None` where it says nothing. Not cancel-safe.
///
/// # Errors
/// `NotFound`, `Invalid`, `Denied` and `Unavailable`, saying what is in the way of mounting there.
pub async fn mount(agent: Agent, config: &FuseConfig) -> Result<Option<Mounted>> {
    let Some(mountpoint) = config.mountpoint.clone() else { return Ok(None) };
    let shared = Arc::new(Shared::new(agent, tokio::runtime::Handle::current()));
    let allow_other = config.allow_other;
    let named = mountpoint.clone();
    let preparing = tokio::task::spawn_blocking(move || mountpoint::prepare(&named));
    let at = match tokio::time::timeout(PREPARE_WITHIN, preparing).await {
        Ok(prepared) => prepared.map_err(|e| cut_short(&mountpoint, e))??,
        Err(_) => {
            let text = format!("mountpoint {} is in use by what does not answer", mountpoint.display());
            return Err(Error::new(ErrorKind::Timeout, text));
        }
    };
    let mounting = tokio::task::spawn_blocking(move || start(shared, at, allow_other));
    mounting.await.map_err(|e| cut_short(&mountpoint, e))?.map(Some)
}

fn cut_short(mountpoint: &Path, e: tokio::task::JoinError) -> Error {
    Error::with_source(ErrorKind::Cancelled, format!("mounting at {} was cut short", mountpoint.display()), e)
}

fn start(shared: Arc<Shared>, at: PathBuf, allow_other: bool) -> Result<Mounted> {
    let mut session = session(&shared, &at, allow_other)?;
    shared.can_notify(session.notifier());
    let unmounter = session.unmount_callable();
    let (ended_sender, ended) = oneshot::channel();
    let is_stopping = Arc::new(AtomicBool::new(false));
    let (stopping, place) = (is_stopping.clone(), at.clone());
    let serve = move || {
        let outcome = session.run();
        if let Err(e) = outcome {
            tracing::error!(mountpoint = %place.display(), error = %e, "the mount failed");
        } else if !stopping.load(Ordering::Acquire) {
            tracing::warn!(mountpoint = %place.display(), "somebody else unmounted it; it comes back with a restart");
        }
        // Nobody waits for it unless we are stopping.
        let _ = ended_sender.send(());
    };
    let spawned = std::thread::Builder::new().name("emberline-fuse".to_owned()).spawn(serve);
    let mounted = Mounted { at, unmounter, is_stopping, ended, shared };
    spawned.map_err(|e| mountpoint::explain(&mounted.at, e))?;
    if let Err(e) = mountpoint::read_further_ahead(&mounted.at) {
        tracing::info!(error = %e, "the kernel reads 128 KiB ahead in the mount, not more: only root can raise that");
    }
    tracing::info!(mountpoint = %mounted.at.display(), passthrough = mounted.shared.passes_through(), "mounted");
    if !mounted.shared.passes_through() {
        tracing::warn!(
            "files that are whole are read through this agent: handing them to the kernel (passthrough) takes \
             CAP_SYS_ADMIN and Linux 6.9"
        );
    }
    Ok(mounted)
}

fn session(shared: &Arc<Shared>, at: &Path, allow_other: bool) -> Result<Session<Filesystem>> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, THREADS_MAX);
    let options = |acl: SessionACL| {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::RO,
            MountOption::FSName(mountpoint::SOURCE.to_owned()),
            MountOption::NoDev,
            MountOption::NoSuid,
            MountOption::NoAtime,
            MountOption::DefaultPermissions,
        ];
        config.acl = acl;
        config.n_threads = Some(threads);
        config
    };
    let mount = |acl: SessionACL| Session::new(Filesystem::new(shared.clone()), at, &options(acl));
    let is_root = rustix::process::geteuid().is_root();
    let mounted = match mount(if allow_other { SessionACL::All } else { SessionACL::Owner }) {
        Err(e) if allow_other && !is_root && e.to_string().contains("user_allow_other") => {
            tracing::warn!(
                mountpoint = %at.display(),
                "the mount is for this user alone: /etc/fuse.conf has no user_allow_other"
            );
            mount(SessionACL::Owner)
        }
        mounted => mounted,
    };
    mounted.map_err(|e| mountpoint::explain(at, e))
}

impl Mounted {
    /// Where it is.
    pub fn mountpoint(&self) -> &Path {
        &self.at
    }

    /// Takes the mount away at once: no name in it can be opened any more. Files that are open stay open; those
    /// that are read by the kernel outlive this process. Waits up to `patience` for the last of them.
    ///
    /// Not cancel-safe.
    pub async fn unmount(self, patience: Duration) {
        let Self { at, mut unmounter, is_stopping, ended, shared } = self;
        is_stopping.store(true, Ordering::Release);
        let place = at.clone();
        let detached = tokio::task::spawn_blocking(move || match unmounter.unmount() {
            Ok(()) => Ok(()),
            // Busy, as root: the name goes, open files stay.
            Err(_) => mountpoint::detach(&place),
        });
        match detached.await.map_err(|e| cut_short(&at, e)).flatten() {
            Ok(()) => tracing::info!(mountpoint = %at.display(), "unmounted"),
            Err(e) => tracing::error!(mountpoint = %at.display(), error = %e, "cannot unmount"),
        }
        shared.close();
        let drained = async {
            let _ = ended.await;
            shared.drain().await;
        };
        if tokio::time::timeout(patience, drained).await.is_err() {
            tracing::info!(mountpoint = %at.display(), "files are still open in what was unmounted");
        }
    }
}
