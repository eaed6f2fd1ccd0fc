//! The test environment of Emberline.

pub mod environment;
