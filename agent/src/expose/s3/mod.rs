//! The S3 door: the namespace for everything that speaks S3.
//!
//! s3s owns signatures, the XML, and which request is which operation; this owns what they mean here.
//! Buckets are mounts and buckets of the S3 origin (`buckets`); objects are read through the one reader
//! while they come (`objects`); listings are pages of the namespace (`listing`).
//!
//! Invariants: off loopback there is no door without credentials; without credentials a request must name this
//! machine, as at the HTTP door, and nothing can be written; no body is held in memory whole.

mod buckets;
mod credentials;
mod door;
mod errors;
mod hosts;
mod inner;
mod listing;
mod objects;
mod operations;

pub use self::door::Door;
