//! The moment at which a file becomes whole, for those who have it open.

use std::{fs::File, io::Read};

use emberline_tests::{
    conformance,
    mounted::{DOOR, Mounted},
    site::Site,
};
use memmap2::Mmap;

use crate::{PATIENCE, is_skipped, part};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_file_open_or_mapped_when_it_is_sealed_sees_no_error_and_who_comes_then_reads_without_us() {
    if is_skipped(
        "who_has_a_file_open_or_mapped_when_it_is_sealed_sees_no_error_and_who_comes_then_reads_without_us",
    ) {
        return;
    }
    let site = Site::start(32, 3).await;
    let mount = Mounted::start(&site.reference(), |_, _| {}).await.expect("a mount");
    let largest = site.model().files.iter().max_by_key(|file| file.size).expect("files").clone();
    let original = std::fs::read(site.model().dir.join(&largest.path)).expect("readable");
    let path = mount.models().join(&largest.path);

    // Open and mapped while it comes; some of it read either way.
    let early = path.clone();
    let (file, map) = tokio::task::spawn_blocking(move || {
        let file = File::open(early).expect("opens");
        // SAFETY: the bytes of a version never change.
        let map = unsafe { Mmap::map(&file) }.expect("maps");
        (file, map)
    })
    .await
    .expect("no panic");
    assert_eq!(map[0], original[0]);
    assert_eq!(part(&file, 100, 1000), original[100..1100]);
    assert_eq!(
        (mount.opens("cached").await.expect("metrics"), mount.opens("passthrough").await.expect("metrics")),
        (1, 0)
    );
    mount.wait_sealed(&path, PATIENCE).await.expect("sealed");

    // Who comes now is handed to the kernel, by name or beside the others.
    let reads = mount.reads().await.expect("metrics");
    let (late, expected) = (path.clone(), original.clone());
    let (mut whole, whole_map) = tokio::task::spawn_blocking(move || {
        let whole = File::open(late).expect("opens");
        // SAFETY: as above.
        let map = unsafe { Mmap::map(&whole) }.expect("maps");
        assert!(map[..] == expected[..], "the mapping of the whole file differs");
        (whole, map)
    })
    .await
    .expect("no panic");
    let mut read = Vec::new();
    whole.read_to_end(&mut read).expect("readable");
    assert!(read == original, "the whole file differs");
    assert_eq!(mount.opens("passthrough").await.expect("metrics"), 1);
    assert_eq!(mount.reads().await.expect("metrics"), reads, "the agent saw reads of a file that is whole");

    // By the old handle it goes on as it was: reading, mapping, and opening it again by its number.
    let again =
        File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file))).expect("opens");
    let expected = original.clone();
    tokio::task::spawn_blocking(move || {
        assert!(part(&file, 0, expected.len()) == expected, "the old handle differs");
        assert!(part(&again, 0, expected.len()) == expected, "the handle of a handle differs");
        assert!(map[..] == expected[..], "the old mapping differs");
        drop((again, map, file));
    })
    .await
    .expect("no panic");
    assert!(whole_map[..] == original[..]);
    drop((whole, whole_map));

    // After the last release a name has one inode again, which is passed through.
    assert!(std::fs::read(&path).expect("readable") == original);
    assert_eq!(mount.opens("passthrough").await.expect("metrics"), 2);
    conformance::record(DOOR, "read and mmap (Linux)", &kernel(), "open across the moment of sealing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_of_one_file_see_no_error_while_it_is_sealed() {
    if is_skipped("many_readers_of_one_file_see_no_error_while_it_is_sealed") {
        return;
    }
    let site = Site::start(16, 2).await;
    let mount = Mounted::start(&site.reference(), |_, _| {}).await.expect("a mount");
    let largest = site.model().files.iter().max_by_key(|file| file.size).expect("files").clone();
    let original =
        std::sync::Arc::new(std::fs::read(site.model().dir.join(&largest.path)).expect("readable"));
    let path = mount.models().join(&largest.path);
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let readers: Vec<_> = (0..8)
        .map(|n: usize| {
            let (path, original, done) = (path.clone(), original.clone(), done.clone());
            tokio::task::spawn_blocking(move || {
                let mut opened = 0_usize;
                while !done.load(std::sync::atomic::Ordering::Acquire) {
                    let file = File::open(&path).unwrap_or_else(|e| panic!("open {opened} of {n}: {e}"));
                    let at = (opened * 7919 + n * 104_729) * 4096 % (original.len() - 5000);
                    if n.is_multiple_of(2) {
                        assert!(part(&file, at as u64, 5000) == original[at..at + 5000]);
                    } else {
                        // SAFETY: the bytes of a version never change.
                        let map = unsafe { Mmap::map(&file) }.expect("maps");
                        assert!(map[at..at + 5000] == original[at..at + 5000]);
                    }
                    opened += 1;
                }
                opened
            })
        })
        .collect();
    mount.wait_sealed(&path, PATIENCE).await.expect("sealed");
    let passed = mount.opens("passthrough").await.expect("metrics");
    let start = std::time::Instant::now();
    while mount.opens("passthrough").await.expect("metrics") < passed + 100 {
        assert!(start.elapsed() < PATIENCE, "readers that come after are not handed to the kernel");
        tokio::time::sleep(emberline_tests::client::POLL_INTERVAL).await;
    }
    done.store(true, std::sync::atomic::Ordering::Release);
    for reader in readers {
        assert!(reader.await.expect("no reader saw an error") > 0);
    }
    assert!(mount.opens("cached").await.expect("metrics") > 0, "it was whole from the start");
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}
