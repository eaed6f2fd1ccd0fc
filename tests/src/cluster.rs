//! Several agents that share a fresh secret and know each other.
//!
//! On loopback by default, or each in a namespace of a [`Network`]. Formed means: every agent lists
//! every agent as alive.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use rand::RngCore;
use tempfile::TempDir;

use crate::{
    agent_process::{AgentOptions, AgentProcess, any_port},
    client::POLL_INTERVAL,
    namespaces::{Namespace, Network},
};

/// How long membership may take to agree: seconds by protocol, more on a machine that also compiles.
const FORM_DEADLINE: Duration = Duration::from_secs(60);

/// Agents that know each other; all are killed and their directories removed on drop.
#[derive(Debug)]
pub struct Cluster {
    // Before the directory, so that nobody writes into what is being removed.
    agents: Vec<AgentProcess>,
    secret_file: PathBuf,
    home: TempDir,
}

impl Cluster {
    /// `count` agents on loopback.
    ///
    /// # Errors
    /// As [`AgentProcess::start`]; `Timeout` when they do not find each other.
    pub async fn start(count: usize) -> Result<Self> {
        let mut cluster = Self::empty()?;
        for _ in 0..count {
            cluster.join(|_| {}).await?;
        }
        cluster.wait_formed(count).await?;
        Ok(cluster)
    }

    /// One agent in each of the first `count` nodes of `network`.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_in(network: &Network, count: usize, host: fn(&Namespace) -> IpAddr) -> Result<Self> {
        let mut cluster = Self::empty()?;
        for node in network.nodes().iter().take(count) {
            cluster.join_in(node, host(node)).await?;
        }
        cluster.wait_formed(count).await?;
        Ok(cluster)
    }

    /// A cluster of nobody yet, with a secret.
    ///
    /// # Errors
    /// As [`fresh_secret`].
    pub fn empty() -> Result<Self> {
        let home = TempDir::with_prefix("emberline-cluster-").at(|| "temporary directory".to_owned())?;
        let secret_file = home.path().join("secret");
        fresh_secret(&secret_file)?;
        Ok(Self { agents: Vec::new(), secret_file, home })
    }

    /// Adds an agent on loopback; `adjust` changes how it is started.
    ///
    /// # Errors
    /// As [`AgentProcess::start`].
    pub async fn join(&mut self, adjust: impl FnOnce(&mut AgentOptions)) -> Result<&AgentProcess> {
        let mut options = AgentOptions::new(format!("node-{}", self.agents.len()));
        options.listen = any_port(Ipv4Addr::LOCALHOST.into());
        self.join_with(options, adjust).await
    }

    /// Adds an agent in `namespace`, listening at `host`.
    ///
    /// # Errors
    /// As [`AgentProcess::start`].
    pub async fn join_in(&mut self, namespace: &Namespace, host: IpAddr) -> Result<&AgentProcess> {
        self.join_in_zone(namespace, host, "").await
    }

    /// As [`join_in`](Self::join_in), in an availability zone.
    ///
    /// # Errors
    /// As [`AgentProcess::start`].
    pub async fn join_in_zone(
        &mut self,
        namespace: &Namespace,
        host: IpAddr,
        zone: &str,
    ) -> Result<&AgentProcess> {
        self.join_in_and(namespace, host, |options| options.zone = zone.to_owned()).await
    }

    /// As [`join_in`](Self::join_in); `adjust` changes how the agent is started.
    ///
    /// # Errors
    /// As [`AgentProcess::start`].
    pub async fn join_in_and(
        &mut self,
        namespace: &Namespace,
        host: IpAddr,
        adjust: impl FnOnce(&mut AgentOptions),
    ) -> Result<&AgentProcess> {
        let mut options = AgentOptions::new(format!("node-{}", self.agents.len()));
        options.listen = any_port(host);
        options.namespace = Some(namespace.clone());
        self.join_with(options, adjust).await
    }

    async fn join_with(
        &mut self,
        mut options: AgentOptions,
        adjust: impl FnOnce(&mut AgentOptions),
    ) -> Result<&AgentProcess> {
        options.secret_file = Some(self.secret_file.clone());
        // Three suffice to join by; more would only make start-up longer to read in the log.
        options.seeds = self.agents.iter().take(3).map(AgentProcess::quic).collect();
        adjust(&mut options);
        let data_dir = self.home.path().join(&options.name);
        self.agents.push(AgentProcess::start(&data_dir, options).await?);
        let last = self.agents.len() - 1;
        Ok(&self.agents[last])
    }

    /// Waits until every agent sees `count` members alive.
    ///
    /// # Errors
    /// `Timeout` with what each saw.
    pub async fn wait_formed(&self, count: usize) -> Result<()> {
        wait_members(&self.agents.iter().collect::<Vec<_>>(), count).await
    }

    /// The agents, in the order they joined.
    pub fn agents(&self) -> &[AgentProcess] {
        &self.agents
    }

    /// The agents, to kill and restart.
    pub fn agents_mut(&mut self) -> &mut [AgentProcess] {
        &mut self.agents
    }

    /// The file with the cluster's secret.
    pub fn secret_file(&self) -> &Path {
        &self.secret_file
    }

    /// A directory that lives as long as the cluster.
    pub fn home(&self) -> &Path {
        self.home.path()
    }
}

/// Waits until each of `agents` sees exactly `count` members alive.
///
/// # Errors
/// `Timeout` with what each saw.
pub async fn wait_members(agents: &[&AgentProcess], count: usize) -> Result<()> {
    let start = Instant::now();
    loop {
        let mut seen = Vec::new();
        for agent in agents {
            let members = agent.client().members().await?;
            seen.push(members.iter().filter(|member| member.state == "alive").count());
        }
        if seen.iter().all(|alive| *alive == count) {
            return Ok(());
        }
        if start.elapsed() > FORM_DEADLINE {
            return Err(Error::new(
                ErrorKind::Timeout,
                format!("{count} members expected, alive as each agent sees it: {seen:?}"),
            ));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Writes a new cluster secret that only its owner can read.
///
/// # Errors
/// As the file system says.
pub fn fresh_secret(path: &Path) -> Result<()> {
    let mut secret = [0_u8; 32];
    rand::rng().fill_bytes(&mut secret);
    let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| writeln!(file, "{digits}"))
        .at(|| path.display().to_string())
}
