//! The doors: every way a model leaves the agent other than as a path.

pub mod fuse;
pub mod http;
mod listener;
pub mod s3;
