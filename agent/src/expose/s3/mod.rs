//! The S3 door: the namespace for everything that speaks S3.
//!
//! s3s owns signatures, the XML, and which request is which operation; this owns what they mean here.
//! Buckets are mounts and buckets of the S3 origin (`buckets`); objects are read through the one reader
//! while they come (`objects`); listings are pages of the namespace (`listing`); writes go to the bucket itself
//! (`writes`), by pieces (`uploads`).
//!
//! Invariants: off loopback there is no door without credentials; without credentials a request must name this
//! machine, as at the HTTP door, and nothing can be written; what bodies hold in memory is bounded.

mod attributes;
mod buckets;
mod credentials;
mod door;
mod errors;
mod hosts;
mod inner;
mod listing;
mod objects;
mod operations;
mod uploads;
mod writes;

pub use self::door::Door;
