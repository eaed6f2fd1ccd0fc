//! The S3 door of a real agent in front of a real S3 server, used by clients that nobody here wrote.
//!
//! Each client reads a model while it comes through a slow link, and again when it is here; the bytes are the
//! origin's both times, and the second time the origin is not asked for any.

mod commands;
mod hostile;
mod python;
mod rust;
mod stack;
mod tables;
mod torch;
mod writes;
