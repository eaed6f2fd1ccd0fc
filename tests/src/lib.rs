//! The harness: real agents as real processes, real networks, real clients and servers.
//!
//! Tests and benchmarks in this crate go through the binaries and the documented interfaces that users
//! have; nothing here reaches into an agent's memory. What a test starts belongs to a value that
//! stops and removes it on drop, also when the test panics.

pub mod agent_process;
pub mod binaries;
pub mod browser;
pub mod client;
pub mod cluster;
pub mod command;
pub mod conformance;
pub mod delta_bench;
pub mod door_bench;
pub mod environment;
pub mod limit_bench;
pub mod model;
pub mod module_graph;
pub mod mounted;
pub mod namespaces;
pub mod nginx;
pub mod process_stats;
pub mod program;
pub mod rate;
pub mod relay;
pub mod scratch;
pub mod site;
pub mod swarm_bench;
pub mod swarm_sim;
pub mod transport_bench;
