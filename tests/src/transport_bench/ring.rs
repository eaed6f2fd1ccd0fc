//! Bare quinn on every link of a network at once: each node sends to the next one, and gets as much itself.
//!
//! What the same bytes cost without a swarm, on the links that a swarm is measured on.

use std::{path::Path, time::Duration};

use coordinatorless_p2p::{Error, ErrorKind, Result};
use futures::future::try_join_all;
use serde::Serialize;

use super::{Contender, End, Finished, Listening, Process, Task, since};
use crate::namespaces::{Namespace, Network};

/// Moved over each link before the clock starts, in bytes.
const WARM_UP_BYTES: u64 = 4 << 20;

/// What it took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ring {
    /// Until the last node had its bytes.
    pub seconds: f64,
    /// CPU time of all ends, user and system, a GiB delivered.
    pub cpu_seconds_per_gib: f64,
}

/// Has every node get `bytes` from the one before it, all at once, within `patience`.
///
/// # Errors
/// `Invalid` for fewer than two nodes or no bytes; with an end's own words when one fails; `Timeout` when one
/// hangs.
pub async fn ring(network: &Network, bytes: u64, patience: Duration) -> Result<Ring> {
    let nodes = network.nodes();
    if nodes.len() < 2 || bytes == 0 {
        return Err(Error::new(ErrorKind::Invalid, "bare quinn needs two nodes and some bytes"));
    }
    let start = async |node: &Namespace, task| {
        // Nothing is kept in files.
        let dir = Path::new("").into();
        let end = End { contender: Contender::Quinn, bytes, warm_up_bytes: WARM_UP_BYTES, dir, task };
        Process::start(node, &end).await
    };
    let mut sources = try_join_all(nodes.iter().map(|n| start(n, Task::Serve { host: n.ipv4() }))).await?;
    let heard: Vec<Listening> = try_join_all(sources.iter_mut().map(Process::hear)).await?;
    let next = nodes.iter().cycle().skip(1);
    let fetchers = heard
        .iter()
        .zip(next)
        .map(|(Listening { addr }, node)| start(node, Task::Fetch { from: *addr, host: node.ipv4() }));
    let mut sinks = try_join_all(fetchers).await?;
    sinks.iter_mut().for_each(|sink| sink.patience = patience);
    let _warm: Vec<()> = try_join_all(sinks.iter_mut().map(Process::hear)).await?;
    let stats = |sources: &[Process], sinks: &[Process]| {
        sources.iter().chain(sinks).map(Process::stats).collect::<Result<Vec<_>>>()
    };
    let before = stats(&sources, &sinks)?;
    try_join_all(sinks.iter_mut().map(Process::say)).await?;
    let done: Vec<Finished> = try_join_all(sinks.iter_mut().map(Process::hear)).await?;
    let after = stats(&sources, &sinks)?;
    let cpu_seconds: f64 = before.into_iter().zip(after).map(|(b, a)| since(b, a).cpu_seconds).sum();
    let delivered_gib = (bytes * nodes.len() as u64) as f64 / f64::from(1 << 30);
    Ok(Ring {
        seconds: done.iter().map(|d| d.seconds).fold(0.0, f64::max),
        cpu_seconds_per_gib: cpu_seconds / delivered_gib,
    })
}
