//! The doors: every way a model leaves the agent other than as a path.

pub mod fuse;
pub mod http;
mod http2;
mod listener;
pub mod s3;
