//! The reader over real agents: lazily, from a directory that stands in for nothing but itself.

mod http;
mod lazy;
