//! The mount of an ordinary user, by fusermount3 of Debian's `fuse3`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use emberline_tests::{
    binaries::Binaries,
    client::POLL_INTERVAL,
    conformance,
    mounted::{DOOR, Mounted},
};

use crate::{PATIENCE, content, is_skipped, output, version_of};

/// Debian's `nobody`.
const USER: u32 = 65534;

/// Runs a program as that user; what it printed. Blocks.
fn as_user(arguments: &[&str]) -> String {
    let id = USER.to_string();
    let become_user = [&format!("--reuid={id}"), &format!("--regid={id}"), "--clear-groups", "--"];
    output("setpriv", &[&become_user, arguments].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_user_mounts_by_fusermount3_and_reads_through_the_agent() {
    if is_skipped("an_ordinary_user_mounts_by_fusermount3_and_reads_through_the_agent") {
        return;
    }
    let fusermount = ["/usr/bin/fusermount3", "/bin/fusermount3"].iter().any(|path| Path::new(path).exists());
    if !fusermount {
        eprintln!(
            "SKIPPED an_ordinary_user_mounts_by_fusermount3_and_reads_through_the_agent: no fusermount3 \
             (apt-get install fuse3)"
        );
        return;
    }
    let _device = Device::for_everybody();
    let origin = tempfile::tempdir().expect("temporary directory");
    let bytes = content(9 << 20);
    fs::write(origin.path().join("weights.bin"), &bytes).expect("written");
    open_to_everybody(origin.path());
    let mut mount = Mounted::start(&format!("file://{}", origin.path().display()), |options, home| {
        options.program = Some(program_of_user(home));
    })
    .await
    .expect("a mount");
    let path = mount.models().join("weights.bin").display().to_string();
    let sum = format!("{:x}", <sha2::Sha256 as sha2::Digest>::digest(&bytes));
    for round in ["while it comes", "whole"] {
        let path = path.clone();
        let said =
            tokio::task::spawn_blocking(move || as_user(&["sha256sum", &path])).await.expect("no panic");
        assert_eq!(said.split(' ').next(), Some(sum.as_str()), "{round}");
        let start = std::time::Instant::now();
        while !is_whole(&mount).await {
            assert!(start.elapsed() < PATIENCE, "{round}: it is not whole");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
    assert_eq!(mount.opens("passthrough").await.expect("metrics"), 0);
    assert!(mount.reads().await.expect("metrics") > 0);
    let told = mount.agent().log().matches("CAP_SYS_ADMIN").count();
    assert_eq!(told, 1, "said once: {}", mount.agent().log());
    let status = mount.agent_mut().stop().await.expect("stops");
    assert!(status.success() && !mount.is_mounted().expect("a table"), "{status}");
    let version = version_of("fusermount3");
    conformance::record(DOOR, "fusermount3", &version, "mount, read and unmount as an ordinary user");
}

/// Whether all that was read is whole. Asked by HTTP: in the mount nobody else may look, not even root.
async fn is_whole(mount: &Mounted) -> bool {
    let status = mount.agent().client().status().await.expect("alive");
    !status.artifacts.is_empty() && status.artifacts.iter().all(|artifact| artifact.complete)
}

/// A copy of the agent that the user may run, behind a script that becomes the user: one process throughout.
fn program_of_user(home: &Path) -> PathBuf {
    let (agent, script) = (home.join("emberline-agent"), home.join("as-user"));
    fs::copy(Binaries::locate().expect("the programs").agent, &agent).expect("copied");
    let text = format!(
        "#!/bin/sh\nexec setpriv --reuid={USER} --regid={USER} --clear-groups -- {} \"$@\"\n",
        agent.display()
    );
    fs::write(&script, text).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("changed");
    fs::create_dir(home.join("data")).expect("created");
    open_to_everybody(home);
    for dir in ["data", "mount"] {
        std::os::unix::fs::chown(home.join(dir), Some(USER), Some(USER)).expect("changed");
    }
    script
}

fn open_to_everybody(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("changed");
}

/// `/dev/fuse` with the mode that udev gives it, until dropped.
struct Device(fs::Permissions);

impl Device {
    const PATH: &str = "/dev/fuse";

    fn for_everybody() -> Self {
        let before = fs::metadata(Self::PATH).expect("there").permissions();
        fs::set_permissions(Self::PATH, fs::Permissions::from_mode(0o666)).expect("changed");
        Self(before)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Nothing to be done where it fails.
        drop(fs::set_permissions(Self::PATH, self.0.clone()));
    }
}
