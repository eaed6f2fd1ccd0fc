//! What the store promises, on every file system it is meant for.

mod artifact;
mod conformance;
mod crash;
mod eviction;
mod file_systems;
mod full_disk;
mod meddling;
mod mounts;
mod recovery;
mod reference_model;
