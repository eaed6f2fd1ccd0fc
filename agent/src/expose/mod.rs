//! The doors: every way a model leaves the agent.

pub mod http;
pub mod page_cache;
pub mod paths;
