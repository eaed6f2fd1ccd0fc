//! What the tests need from outside the repository: pinned packages, real servers, a real model.
//!
//! Owns the set-up, cached under `$EMBERLINE_TEST_CACHE` or `~/.cache/emberline-tests`, one folder per part
//! and set of pins, made under a file lock so that many test binaries may start at once. Every server
//! listens on loopback, on a port that was free, and is killed when its value is dropped. What cannot be
//! installed is said in so many words.

mod azure;
mod cache;
mod debian;
mod faults;
mod gcs;
mod hdfs;
mod hub;
mod hub_clients;
mod maven;
mod nginx;
mod pythons;
mod s3;
mod server;
mod spark;
mod torch;
mod trino;
mod vast;

use std::path::PathBuf;

pub use azure::Azurite;
pub use cache::{
    SAFETENSORS_VERSION, checkers, node_modules, python, run_python, run_python_in, run_tensors_python,
    s3_clients, s3fs, s5cmd, seaweed,
};
pub use debian::system_program;
pub use faults::{Fault, FaultProxy, Seen};
pub use gcs::FakeGcs;
pub use hdfs::MiniHdfs;
pub use hub::{Hub, HubFile, HubRequest, HubSettings};
pub use hub_clients::HubClient;
pub use nginx::Nginx;
pub use pythons::{PYTHON_VERSIONS, package_builder, package_reader, python_program};
pub use s3::{Moto, S3_KEY, S3_SECRET, Weed};
pub use spark::{HADOOP_AWS_VERSION, spark_reads};
pub use torch::{debian_torch, s3_torch};
pub use trino::{TRINO_VERSION, Trino, TrinoBuckets};
pub use vast::VastBucket;

/// What went wrong with the environment, in a sentence that says what is missing.
pub type Result<T, E = String> = std::result::Result<T, E>;

/// A folder with the real sentence-transformers model `all-MiniLM-L6-v2`: `model.safetensors` of 90,868,376
/// bytes, tokenizer and configuration. Shared: read it, never write to it.
///
/// # Panics
/// When the package that holds it cannot be installed; the message says which.
pub fn minilm_dir() -> PathBuf {
    match cache::minilm() {
        Ok(dir) => dir,
        Err(missing) => panic!("the test model is not to be had: {missing}"),
    }
}
