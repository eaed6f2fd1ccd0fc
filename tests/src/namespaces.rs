//! A small network of its own: a switch, nodes and an origin, each in a network namespace.
//!
//! With zones, each zone has a switch and a trunk to the one that the origin is at.
//!
//! Nothing touches the host's interfaces: the bridge lives in a namespace too. Every link is shaped
//! by `tbf` in both directions where a rate is given. Names carry our process id, so what a killed
//! run left behind is told from what is in use and removed by the next run. Needs root.
//!
//! Does not know agents or models. Latency and loss are not simulated: `netem` is not everywhere.

use std::{
    fs::File,
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread::JoinHandle,
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use tokio::{runtime::Handle, sync::oneshot};

/// Names of our namespaces start so; the process id of the run follows.
const PREFIX: &str = "ember-";

/// How long a link may send above its rate before it waits: long enough that a late timer of a busy
/// machine costs no throughput (500 KB at 400 Mbit/s), short against any transfer measured.
const BURST_MILLIS: u64 = 10;

/// How long a packet may wait in a link's queue: what a switch port of the speed buffers.
const QUEUE_MILLIS: u64 = 25;

/// What network to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Nodes, not counting the origin.
    pub nodes: usize,
    /// Rates of the nodes' links, up and down, in bits a second; when there are fewer than nodes they are
    /// gone through again, and when there are none no link is shaped.
    pub node_rates: Vec<u64>,
    /// Rate of the origin's link.
    pub origin_rate: Option<u64>,
    /// Zones that the nodes are dealt to, in turn; the origin is in none of them. 0 and 1: no borders.
    pub zones: usize,
    /// Rate of each zone's trunk, each way; absent: not shaped.
    pub zone_rate: Option<u64>,
    /// Largest IP packet.
    pub mtu: u32,
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self { nodes: 2, node_rates: Vec::new(), origin_rate: None, zones: 0, zone_rate: None, mtu: 1500 }
    }
}

/// A network that exists until this is dropped.
#[derive(Debug)]
pub struct Network {
    nodes: Vec<Namespace>,
    origin: Namespace,
    switch: String,
    zones: usize,
}

/// One network namespace with one interface. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Namespace {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
    inside: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Bytes that passed an interface, link headers included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkBytes {
    /// Sent by the namespace.
    pub sent: u64,
    /// Received by the namespace.
    pub received: u64,
}

/// Whether namespaces can be made here; the reason when not.
///
/// # Errors
/// `Denied` without root; `NotFound` without iproute2.
pub fn available() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new(ErrorKind::Denied, "network namespaces need root (run with sudo)"));
    }
    ip(&["netns", "list"]).map(drop)
}

/// Like [`available`], and says aloud on standard error that `test` is skipped when not.
pub fn available_for(test: &str) -> bool {
    available().map_err(|error| eprintln!("SKIPPED {test}: {error}")).is_ok()
}

impl Network {
    /// Makes the network, after removing what dead runs left behind.
    ///
    /// # Errors
    /// As [`available`]; `Invalid` with iproute2's words when it refuses.
    pub fn new(spec: NetworkSpec) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        available()?;
        remove_stale()?;
        let base = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let switch = Switch::new(format!("{base}-switch"), spec.mtu)?;
        let zones = if spec.zones > 1 { spec.zones } else { 0 };
        for zone in 0..zones {
            switch.add_zone(zone, spec.zone_rate)?;
        }
        let origin = switch.attach(&base, "origin", 1, spec.origin_rate, CORE)?;
        let nodes = (0..spec.nodes)
            .map(|n| {
                let rate = spec.node_rates.iter().cycle().nth(n).copied();
                let bridge = n.checked_rem(zones).map_or_else(|| CORE.to_owned(), bridge_of);
                switch.attach(&base, &format!("node{n}"), n as u16 + 10, rate, &bridge)
            })
            .collect::<Result<_>>()?;
        Ok(Self { nodes, origin, switch: switch.keep(), zones })
    }

    /// Which zone a node is in; absent without zones.
    pub fn zone_of(&self, node: usize) -> Option<usize> {
        node.checked_rem(self.zones)
    }

    /// Bytes that have come into each zone, from the origin and from other zones.
    ///
    /// # Errors
    /// `Invalid` when the counters are not shown.
    pub fn bytes_into_zones(&self) -> Result<Vec<u64>> {
        if self.zones == 0 {
            return Ok(Vec::new());
        }
        let text = ip(&["netns", "exec", &self.switch, "cat", "/proc/net/dev"])?;
        (0..self.zones)
            .map(|zone| {
                link_bytes(&text, &trunk_of(zone)).map(|bytes| bytes.sent).ok_or_else(|| {
                    Error::new(ErrorKind::Invalid, format!("no counters of zone {zone}: {text}"))
                })
            })
            .collect()
    }

    /// The nodes, in order.
    pub fn nodes(&self) -> &[Namespace] {
        &self.nodes
    }

    /// The origin's namespace.
    pub fn origin(&self) -> &Namespace {
        &self.origin
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        delete(&self.switch);
    }
}

impl Namespace {
    /// The namespace's name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its IPv4 address.
    pub fn ipv4(&self) -> IpAddr {
        self.inner.ipv4.into()
    }

    /// Its IPv6 address.
    pub fn ipv6(&self) -> IpAddr {
        self.inner.ipv6.into()
    }

    /// Runs `work` on a thread inside the namespace: sockets it opens and processes it starts are there.
    ///
    /// Not cancel-safe: the work goes on when the caller stops waiting.
    ///
    /// # Errors
    /// `Cancelled` when the work panicked.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        self.inner.inside.spawn(work).await.map_err(|e| {
            Error::with_source(ErrorKind::Cancelled, format!("work in namespace {}", self.inner.name), e)
        })
    }

    /// Bytes that have passed the interface since the namespace was made.
    ///
    /// # Errors
    /// `Invalid` when `/proc/net/dev` does not show the interface.
    pub async fn bytes(&self) -> Result<LinkBytes> {
        // Of the thread that reads it, and so of the namespace that the thread lives in.
        let path = "/proc/thread-self/net/dev";
        let text = self.run(async move { std::fs::read_to_string(path) }).await?.at(|| path.to_owned())?;
        link_bytes(&text, "eth0").ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("no counters of {}: {text}", self.inner.name))
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // The thread only waits for the line above; its panic was already reported by the runtime.
            drop(thread.join());
        }
        delete(&self.name);
    }
}

/// The bridge's namespace while the network is being made; removed on any error on the way.
struct Switch {
    name: String,
    mtu: String,
}

/// The bridge that the origin is at.
const CORE: &str = "br0";

fn bridge_of(zone: usize) -> String {
    format!("zone{zone}")
}

/// The core's end of a zone's trunk.
fn trunk_of(zone: usize) -> String {
    format!("trunk{zone}")
}

impl Switch {
    fn new(name: String, mtu: u32) -> Result<Self> {
        ip(&["netns", "add", &name])?;
        let switch = Self { name, mtu: mtu.to_string() };
        // A switch does not filter; where the kernel's bridges do, it costs a fifth of the way of a packet.
        let plain =
            "for f in /proc/sys/net/bridge/bridge-nf-call-*tables; do [ ! -e $f ] || echo 0 >$f; done";
        ip(&["netns", "exec", &switch.name, "sh", "-c", plain])?;
        switch.add_bridge(CORE)?;
        Ok(switch)
    }

    fn add_bridge(&self, bridge: &str) -> Result<()> {
        let (n, mtu) = (self.name.as_str(), self.mtu.as_str());
        ip(&["-n", n, "link", "add", bridge, "mtu", mtu, "type", "bridge", "mcast_snooping", "0"])?;
        ip(&["-n", n, "link", "set", bridge, "up"]).map(drop)
    }

    /// A bridge for a zone, and its trunk to the core.
    fn add_zone(&self, zone: usize, rate: Option<u64>) -> Result<()> {
        let (n, mtu) = (self.name.as_str(), self.mtu.as_str());
        let (bridge, near, far) = (bridge_of(zone), trunk_of(zone), format!("away{zone}"));
        self.add_bridge(&bridge)?;
        ip(&["-n", n, "link", "add", &near, "mtu", mtu, "type", "veth", "peer", "name", &far, "mtu", mtu])?;
        for (port, bridge) in [(&near, CORE), (&far, bridge.as_str())] {
            ip(&["-n", n, "link", "set", port, "master", bridge, "up"])?;
            if let Some(rate) = rate {
                shape(n, port, rate)?;
            }
        }
        Ok(())
    }

    /// A namespace behind a link of its own. `host` becomes the last part of its addresses.
    fn attach(
        &self,
        base: &str,
        role: &str,
        host: u16,
        rate: Option<u64>,
        bridge: &str,
    ) -> Result<Namespace> {
        let name = format!("{base}-{role}");
        let [high, low] = host.to_be_bytes();
        let ipv4 = Ipv4Addr::new(10, 77, high, low);
        let ipv6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, host);
        ip(&["netns", "add", &name])?;
        // From here on the namespace has an owner that removes it.
        let namespace = enter(name.clone(), ipv4, ipv6).inspect_err(|_| delete(&name))?;
        let (port, mtu) = (format!("p{host}"), self.mtu.as_str());
        ip(&[
            "-n", &self.name, "link", "add", &port, "mtu", mtu, "type", "veth", "peer", "name", "eth0",
            "mtu", mtu, "netns", &name,
        ])?;
        ip(&["-n", &self.name, "link", "set", &port, "master", bridge, "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        ip(&["-n", &name, "addr", "add", &format!("{ipv4}/16"), "dev", "eth0"])?;
        ip(&["-n", &name, "addr", "add", &format!("{ipv6}/64"), "dev", "eth0", "nodad"])?;
        ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        if let Some(rate) = rate {
            shape(&self.name, &port, rate)?;
            shape(&name, "eth0", rate)?;
        }
        Ok(namespace)
    }

    /// Hands the name to an owner that removes the namespace later.
    fn keep(mut self) -> String {
        std::mem::take(&mut self.name)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            delete(&self.name);
        }
    }
}

/// Starts the thread that lives inside `name`.
fn enter(name: String, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> Result<Namespace> {
    let path = Path::new("/run/netns").join(&name);
    let file = File::open(&path).at(|| path.display().to_string())?;
    let (stop, stopped) = oneshot::channel::<()>();
    let (ready, started) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name(name.clone())
        .spawn(move || {
            use std::os::fd::AsFd;
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            let entered = rustix::thread::move_into_link_name_space(file.as_fd(), kind)
                .map_err(std::io::Error::from)
                .and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
            match entered {
                Ok(runtime) => {
                    // Ready is told from inside, where work can be taken; a lost listener is an error there.
                    drop(ready.send(Ok(runtime.handle().clone())));
                    // Ends with Err when the sender goes: that is the signal.
                    drop(runtime.block_on(stopped));
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })
        .at(|| format!("thread of namespace {name}"))?;
    let inside = started
        .recv()
        .map_err(|e| Error::with_source(ErrorKind::UNAVAILABLE, format!("thread of namespace {name}"), e))?
        .at(|| format!("enter namespace {name}"))?;
    Ok(Namespace {
        inner: Arc::new(Inner { name, ipv4, ipv6, inside, stop: Some(stop), thread: Some(thread) }),
    })
}

/// Limits what `device` sends to `rate` bits a second.
fn shape(namespace: &str, device: &str, rate: u64) -> Result<()> {
    let bytes_in = |millis: u64| rate / 8 * millis / 1000;
    // A burst must hold one batch of segments (64 KiB), or batches are split and cost four times the CPU.
    let burst = bytes_in(BURST_MILLIS).max(128 * 1024);
    let limit = burst + bytes_in(QUEUE_MILLIS).max(256 * 1024);
    tool(
        "tc",
        &[
            "-n",
            namespace,
            "qdisc",
            "replace",
            "dev",
            device,
            "root",
            "tbf",
            "rate",
            &format!("{rate}bit"),
            "burst",
            &format!("{burst}b"),
            "limit",
            &format!("{limit}b"),
        ],
    )
    .map(drop)
}

/// Removes namespaces of runs whose process is gone, and what still runs in them.
fn remove_stale() -> Result<()> {
    for line in ip(&["netns", "list"])?.lines() {
        let Some(name) = line.split_whitespace().next() else { continue };
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let Some(owner) = owner.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if Path::new(&format!("/proc/{owner}")).exists() {
            continue;
        }
        for pid in ip(&["netns", "pids", name]).unwrap_or_default().lines() {
            if let Some(pid) = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw) {
                // Gone in the meantime is as good.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        delete(name);
    }
    Ok(())
}

/// Removes a namespace; one that is gone already is as good.
fn delete(name: &str) {
    drop(ip(&["netns", "del", name]));
}

/// The counters of `device` in the table of `/proc/net/dev`: bytes received are the first number, bytes
/// sent the ninth.
fn link_bytes(table: &str, device: &str) -> Option<LinkBytes> {
    let row = table.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'))?;
    let numbers: Vec<u64> = row.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    Some(LinkBytes { received: *numbers.first()?, sent: *numbers.get(8)? })
}

fn ip(args: &[&str]) -> Result<String> {
    tool("ip", args)
}

fn tool(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .at(|| format!("run {program} (package iproute2)"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(ErrorKind::Invalid, format!("{program} {}: {}", args.join(" "), words.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_the_row_of_the_interface() {
        let table = "Inter-|   Receive\n face |bytes\n    lo:  1 1 0 0 0 0 0 0  1 1 0 0 0 0 0 0\n  \
                     eth0: 700 7 0 0 0 0 0 0 900 9 0 0 0 0 0 0\n";
        assert_eq!(link_bytes(table, "eth0"), Some(LinkBytes { received: 700, sent: 900 }));
        assert_eq!(link_bytes(table, "eth"), None);
    }
}
