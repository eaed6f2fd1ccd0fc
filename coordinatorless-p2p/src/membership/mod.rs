//! Who is there: gossip over the transport's datagrams, no coordinator, no list to keep.
//!
//! The protocol (SWIM with suspicion, by the `foca` crate) is driven by `protocol` without clock
//! or socket; this file is the shell that owns the one task, feeds it datagrams and moments, and
//! publishes what it finds. Knows nodes; never swarms.
//!
//! Invariants: who a datagram is from is decided by its connection's certificate; a cluster that
//! was split finds itself again without anybody's help.

mod effects;
mod protocol;
mod seeds;
mod wire;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::{effects::Effects, protocol::Core};
use crate::{
    error::{Error, ErrorKind, Result},
    node::{Node, NodeId},
    transport::Transport,
};

/// How often the farewell is said, because datagrams get lost.
const FAREWELLS: u32 = 3;
/// The time between two farewells.
const FAREWELL_PAUSE: Duration = Duration::from_millis(30);
/// Commands that wait for the task.
const COMMANDS: usize = 16;
/// Datagrams taken at once before timers are looked at.
const BURST: usize = 256;

/// Whom to ask first, and how patient to be. The default is meant for a data centre: a dead member
/// is noticed in about six seconds.
#[derive(Debug, Clone)]
pub struct MembershipConfig {
    /// Where members may be found: `host:port`, addresses or DNS names, resolved again and again. A
    /// list that contains ourselves is fine; so is an empty one.
    pub seeds: Vec<String>,
    /// How often one member, chosen in turn, is asked for a sign of life.
    pub probe_period: Duration,
    /// How long its answer may take before others are asked to try; at most half of `probe_period`.
    pub probe_timeout: Duration,
    /// How long a silent member may defend itself before it is declared down.
    pub suspicion: Duration,
    /// How often news, if there are some, are sent to three members.
    pub gossip_every: Duration,
    /// How often one member is asked for all the members it knows.
    pub announce_every: Duration,
    /// How often seeds that are not members, and members that are down, are tried. Half of the time
    /// within which the halves of a cluster find each other again.
    pub reunite_every: Duration,
    /// How long a member that is down is remembered and tried.
    pub forget_after: Duration,
    /// Members, dead ones included, beyond which no new ones are taken.
    pub max_members: usize,
    /// For tests that must repeat; random when `None`.
    pub rng_seed: Option<u64>,
}

impl Default for MembershipConfig {
    fn default() -> Self {
        Self {
            seeds: Vec::new(),
            probe_period: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(400),
            suspicion: Duration::from_secs(4),
            gossip_every: Duration::from_millis(200),
            announce_every: Duration::from_secs(10),
            reunite_every: Duration::from_secs(5),
            forget_after: Duration::from_secs(3600),
            max_members: 20_000,
            rng_seed: None,
        }
    }
}

impl MembershipConfig {
    fn check(&self) -> Result<()> {
        let periods = [
            self.probe_period,
            self.probe_timeout,
            self.suspicion,
            self.gossip_every,
            self.announce_every,
            self.reunite_every,
            self.forget_after,
        ];
        let sound = periods.iter().all(|p| !p.is_zero()) && self.probe_timeout <= self.probe_period / 2;
        if !sound {
            return Err(Error::new(
                ErrorKind::Invalid,
                "membership periods must be above zero, and probe_timeout at most half of probe_period",
            ));
        }
        self.seeds.iter().try_for_each(|seed| seeds::check(seed))
    }
}

/// What the cluster thinks of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// It answers.
    Alive,
    /// It did not answer and may still defend itself; to be treated as alive.
    Suspect,
    /// It is gone, or left.
    Down,
}

impl std::fmt::Display for MemberState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Down => "down",
        })
    }
}

/// A member and its state.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct MemberView {
    /// Who.
    pub node: Node,
    /// How it is.
    pub state: MemberState,
}

/// The task that takes part in the gossip, and what it found. Dropping it stops the task without
/// taking leave: the others will notice in their own time.
pub struct Membership {
    live: watch::Receiver<Arc<Vec<Node>>>,
    views: watch::Receiver<Arc<Vec<MemberView>>>,
    commands: mpsc::Sender<Command>,
    transport: Arc<dyn Transport>,
    seeds: watch::Receiver<seeds::Found>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

enum Command {
    Update(Box<dyn FnOnce(&mut Node) + Send>, oneshot::Sender<Result<Node>>),
    Leave(oneshot::Sender<()>),
}

/// One moment on the two clocks that the protocol is told: the one that never jumps, for waiting, and the
/// calendar's, for dating descriptions.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The one that never jumps.
    pub at: Instant,
    /// Milliseconds since the epoch.
    pub epoch_ms: u64,
}

impl Moment {
    fn now() -> Self {
        let epoch_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        Self { at: Instant::now(), epoch_ms }
    }
}

impl Membership {
    /// Starts taking part as `me`. Takes all datagrams of `transport`. Needs a tokio runtime.
    ///
    /// # Errors
    /// `Invalid` when `me` is not `transport`'s node or could not be believed by others, when a seed
    /// cannot be one, or when periods make no sense.
    pub fn start(transport: Arc<dyn Transport>, me: Node, config: MembershipConfig) -> Result<Self> {
        config.check()?;
        if me.id != transport.id() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("node {} cannot take part as node {}", transport.id(), me.id),
            ));
        }
        wire::Policy { loopback: me.addr.ip().to_canonical().is_loopback() }.check(&me, u64::MAX)?;
        let seed = config.rng_seed.unwrap_or_else(rand::random);
        let core = Core::new(me, config.clone(), transport.max_datagram_bytes(), seed);
        let (live_out, live) = watch::channel(Arc::new(core.live()));
        let (views_out, views) = watch::channel(Arc::new(core.views()));
        let (commands, command_queue) = mpsc::channel(COMMANDS);
        let stop = CancellationToken::new();
        let (found, seeds) = watch::channel(seeds::Found::default());
        let shell =
            Shell { transport: transport.clone(), core, live: live_out, views: views_out, config, found };
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            stopped.run_until_cancelled_owned(shell.run(command_queue)).await;
        });
        Ok(Self { live, views, commands, transport, seeds, stop, task: Mutex::new(Some(task)) })
    }

    /// Why seeds could not be reached when they were last tried: names that lead nowhere, addresses that
    /// do not answer, members that refuse us. Empty when all is well, or nothing was tried yet.
    pub fn seed_errors(&self) -> Vec<Error> {
        let found = self.seeds.borrow().clone();
        let nowhere = found.unresolved.into_iter().map(|(seed, why)| {
            Error::new(ErrorKind::UNAVAILABLE, format!("seed {seed} does not resolve: {why}"))
        });
        let failed = found.addresses.into_iter().filter_map(|addr| self.transport.last_failure(addr));
        nowhere.chain(failed).collect()
    }

    /// The members that live, ourselves included, sorted by id; told of every change.
    pub fn watch(&self) -> watch::Receiver<Arc<Vec<Node>>> {
        self.live.clone()
    }

    /// Every member we know of, ourselves and the lately dead included, sorted by id. States are as
    /// of the last second.
    pub fn members(&self) -> Arc<Vec<MemberView>> {
        Arc::clone(&self.views.borrow())
    }

    /// The newest description of a member that lives.
    pub fn lookup(&self, id: NodeId) -> Option<Node> {
        let live = self.live.borrow();
        live.binary_search_by_key(&id, |n| n.id).ok().map(|at| live[at].clone())
    }

    /// Changes how this node is described (not its id, and the generation grows by itself) and tells
    /// the others. Returns the new description. Cancel-safe: the change happens or it does not.
    ///
    /// # Errors
    /// `Invalid` when nobody would believe the new description; `Cancelled` after leaving.
    pub async fn update(&self, change: impl FnOnce(&mut Node) + Send + 'static) -> Result<Node> {
        let gone = || Error::new(ErrorKind::Cancelled, "this node has left the cluster");
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Update(Box::new(change), answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Takes leave of the others, so that they notice at once, and ends the task. A second call does
    /// nothing. Not cancel-safe: a cancelled one leaves the task running.
    pub async fn leave(&self, deadline: Duration) {
        let (answer, answered) = oneshot::channel();
        let farewell = async {
            if self.commands.send(Command::Leave(answer)).await.is_ok() {
                let _ = answered.await;
            }
        };
        let _ = timeout(deadline, farewell).await;
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What the task owns.
struct Shell {
    transport: Arc<dyn Transport>,
    core: Core,
    live: watch::Sender<Arc<Vec<Node>>>,
    views: watch::Sender<Arc<Vec<MemberView>>>,
    config: MembershipConfig,
    found: watch::Sender<seeds::Found>,
}

impl Shell {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let seeds = self.found.subscribe();
        let resolver =
            seeds::resolve(self.config.seeds.clone(), self.config.reunite_every, self.found.clone());
        tokio::pin!(resolver);
        let mut reunite = seeds::Rounds::new(Instant::now(), self.config.reunite_every);
        let mut show = Instant::now() + self.config.probe_period;
        loop {
            let due = self.core.next_due().unwrap_or(show).min(show).min(reunite.next);
            tokio::select! {
                // Datagrams first: an answer that is here already must be seen before its time-out.
                biased;
                datagram = self.transport.recv_datagram() => {
                    let Some((from, datagram)) = datagram else { return };
                    self.receive(from, datagram);
                }
                command = commands.recv() => {
                    let Some(command) = command else { return };
                    if self.obey(command).await {
                        return;
                    }
                }
                never = &mut resolver => match never {},
                () = sleep_until(due) => {}
            }
            let now = Instant::now();
            let mut effects = Effects::default();
            self.core.fire(now, &mut effects);
            if now >= reunite.next {
                let seeds = seeds.borrow().addresses.clone();
                self.core.announce(now, &seeds, &mut effects);
                reunite.step(now, self.live.borrow().len() <= 1);
            }
            if now >= show {
                effects.changed = true;
                show = now + self.config.probe_period;
            }
            self.apply(effects);
        }
    }

    /// Takes this datagram and those that wait behind it.
    fn receive(&mut self, from: NodeId, datagram: Bytes) {
        let mut next = Some((from, datagram));
        for _ in 0..BURST {
            let Some((from, datagram)) = next else { return };
            let mut effects = Effects::default();
            if let Err(error) = self.core.receive(Moment::now(), from, &datagram, &mut effects) {
                tracing::debug!(%from, %error, "gossip");
            }
            self.apply(effects);
            // Only what is here already: `recv_datagram` is cancel-safe.
            next = futures::FutureExt::now_or_never(self.transport.recv_datagram()).flatten();
        }
        if let Some((from, datagram)) = next {
            let mut effects = Effects::default();
            let _ = self.core.receive(Moment::now(), from, &datagram, &mut effects);
            self.apply(effects);
        }
    }

    /// True when it was the last command.
    async fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Update(change, answer) => {
                let mut effects = Effects::default();
                let done = self.core.update(Moment::now(), change, &mut effects);
                self.apply(effects);
                // Whoever asked may have given up.
                let _ = answer.send(done.map(|()| self.core.me().clone()));
                false
            }
            Command::Leave(answer) => {
                for _ in 0..FAREWELLS {
                    let mut effects = Effects::default();
                    self.core.leave(&mut effects);
                    self.apply(effects);
                    tokio::time::sleep(FAREWELL_PAUSE).await;
                }
                let _ = answer.send(());
                true
            }
        }
    }

    fn apply(&self, effects: Effects) {
        for (peer, datagram) in effects.send {
            self.transport.send_datagram(peer, datagram);
        }
        if !effects.changed {
            return;
        }
        let live = self.core.live();
        self.live.send_if_modified(|old| {
            let changed = **old != live;
            if changed {
                *old = Arc::new(live);
            }
            changed
        });
        self.views.send_replace(Arc::new(self.core.views()));
    }
}
