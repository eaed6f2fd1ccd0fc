//! The mount when its agent stops, dies, comes back, or cannot mount at all.

use std::{
    fs::{self, File},
    io,
    process::Stdio,
    time::{Duration, Instant},
};

use emberline_tests::{
    binaries::{Binaries, without_our_settings},
    client::POLL_INTERVAL,
    conformance,
    mounted::DOOR,
};
use memmap2::Mmap;

use crate::{PATIENCE, content, is_skipped, mounted};

/// By then a file opens again after an agent that was killed is started.
const BACK_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_kill_9_mappings_live_on_and_a_restart_brings_the_mount_back_in_five_seconds() {
    if is_skipped("after_kill_9_mappings_live_on_and_a_restart_brings_the_mount_back_in_five_seconds") {
        return;
    }
    let origin = tempfile::tempdir().expect("temporary directory");
    let bytes = content(9 << 20);
    fs::write(origin.path().join("weights.bin"), &bytes).expect("written");
    let mut mount = mounted(origin.path()).await;
    let path = mount.models().join("weights.bin");
    assert!(fs::read(&path).expect("readable") == bytes);
    mount.wait_sealed(&path, PATIENCE).await.expect("sealed");
    let file = File::open(&path).expect("opens");
    assert!(mount.opens("passthrough").await.expect("metrics") >= 1);
    // SAFETY: the bytes of a version never change.
    let map = unsafe { Mmap::map(&file) }.expect("maps");
    assert_eq!(map[0], bytes[0]);

    mount.agent_mut().kill().expect("killed");
    let dead = File::open(&path).expect_err("nobody answers");
    assert_eq!(dead.raw_os_error(), Some(rustix::io::Errno::NOTCONN.raw_os_error()), "{dead}");
    assert!(mount.is_mounted().expect("a table"), "the dead mount is in the way");
    assert!(map[..] == bytes[..], "a mapping of a whole file does not need the agent");

    let start = Instant::now();
    mount.agent_mut().restart().await.expect("it starts again");
    let opened = loop {
        match File::open(&path) {
            Ok(file) => break file,
            Err(e) if start.elapsed() < BACK_WITHIN => {
                assert_ne!(e.kind(), io::ErrorKind::NotFound, "{e}");
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            Err(e) => panic!("after {:?}: {e}", start.elapsed()),
        }
    };
    assert!(start.elapsed() < BACK_WITHIN, "{:?}", start.elapsed());
    assert_eq!(opened.metadata().expect("known").len(), bytes.len() as u64);
    assert!(fs::read(&path).expect("readable") == bytes);
    assert!(map[..] == bytes[..]);
    assert!(mount.agent().log().contains("clearing the mount of an agent that died"));
    conformance::record(DOOR, "read and mmap (Linux)", &kernel(), "kill -9 of the agent, restart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_unmounts_also_while_files_are_open() {
    if is_skipped("a_stop_unmounts_also_while_files_are_open") {
        return;
    }
    let origin = tempfile::tempdir().expect("temporary directory");
    fs::write(origin.path().join("a"), "abc").expect("written");
    let mut mount = mounted(origin.path()).await;
    assert!(mount.is_mounted().expect("a table"));
    let status = mount.agent_mut().stop().await.expect("stops");
    assert!(status.success() && !mount.is_mounted().expect("a table"), "{status}");
    assert_eq!(fs::read_dir(mount.at()).expect("a directory").count(), 0);

    mount.agent_mut().restart().await.expect("starts again");
    let path = mount.models().join("a");
    assert_eq!(fs::read(&path).expect("readable"), b"abc");
    mount.wait_sealed(&path, PATIENCE).await.expect("sealed");
    let open = File::open(&path).expect("opens");
    let start = Instant::now();
    let status = mount.agent_mut().stop().await.expect("stops");
    assert!(status.success() && !mount.is_mounted().expect("a table"), "{status}");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    // What the kernel reads outlives the agent.
    assert_eq!(crate::part(&open, 0, 3), b"abc");
}

#[test]
fn a_mountpoint_that_cannot_be_is_refused_in_words() {
    if is_skipped("a_mountpoint_that_cannot_be_is_refused_in_words") {
        return;
    }
    let home = tempfile::tempdir().expect("temporary directory");
    let (data, full, missing) = (home.path().join("data"), home.path().join("full"), home.path().join("no"));
    fs::create_dir(&full).expect("created");
    fs::write(full.join("x"), "x").expect("written");
    let within = data.join("mount");
    for (at, code, why) in [
        (full.as_path(), 2, "is not empty"),
        (missing.as_path(), 3, "does not exist"),
        (full.join("x").as_path(), 2, "is not a directory"),
        (std::path::Path::new("/proc"), 2, "is in use"),
        (within.as_path(), 2, "inside each other"),
    ] {
        let output = without_our_settings(Binaries::locate().expect("the programs").agent)
            .arg("--data-dir")
            .arg(&data)
            .args(["--http", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--mount"])
            .arg(at)
            .stdin(Stdio::null())
            .output()
            .expect("the agent starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(why) && said.contains(at.to_str().expect("text")), "{why}: {said}");
    }
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}
