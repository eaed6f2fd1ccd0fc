//! The same claims on each file system, mounted for the purpose. Needs root; says so without.

use crate::{conformance, mounts::Mount};

async fn conforms(kind: &str) {
    let images = tempfile::tempdir().unwrap();
    if let Some(mount) = Mount::image(kind, images.path(), 400 << 20) {
        conformance::run_all(&mount.at).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_conforms_on_ext4() {
    conforms("ext4").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_conforms_on_xfs() {
    conforms("xfs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_conforms_on_btrfs() {
    conforms("btrfs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_conforms_on_tmpfs() {
    if let Some(mount) = Mount::tmpfs("size=200m") {
        conformance::run_all(&mount.at).await;
    }
}
