//! The Emberline agent.
//!
//! ```text
//! reference → snapshot → blueprint → plan → fetch (holder, else origin) → verify → store → expose
//! ```
//!
//! [`agent`] is what doors and commands talk to; [`fetch`] is that line.

mod admission;
pub mod agent;
pub mod api;
pub mod config;
mod departure;
mod engine;
pub mod error;
pub mod expose;
pub mod fetch;
pub mod flags;
mod host;
mod joining;
mod known;
pub mod layout;
pub mod manifest;
pub mod metrics;
pub mod namespace;
pub mod order;
pub mod origin;
pub mod page_cache;
pub mod placing;
mod plan;
mod prices;
mod publish;
mod pulls;
pub mod quantity;
pub mod reader;
mod records;
pub mod reference;
mod report;
pub mod resolve;
pub mod run;
pub mod services;
pub mod snapshot;
pub mod store;
mod upkeep;
mod verify;
mod vouching;
mod warm;
