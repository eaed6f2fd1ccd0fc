//! The Emberline agent.
//!
//!     reference → snapshot → blueprint → plan → fetch (holder, else origin) → verify → store → expose

pub mod agent;
pub mod api;
pub mod config;
pub mod error;
pub mod expose;
pub mod layout;
pub mod manifest;
pub mod metrics;
pub mod origin;
pub mod reference;
pub mod run;
pub mod snapshot;
pub mod store;
