//! Which agent a command talks to: one that runs, or the same engine inside this process.
//!
//! In this order: `--agent`; with `--join`, an engine of our own; with `--data-dir`, the agent that has
//! that directory open, else an engine of our own; `EMBERLINE_AGENT`; the default address; and if
//! nobody listens there, as with `--data-dir`. An engine of our own is spoken to over its HTTP door
//! on loopback, so that there is one path through the client and not two.

use std::{
    env,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use emberline_agent::{
    api::Problem,
    config::{Config, ConfigSources, DEFAULT_FILE, LogConfig},
    error::{ErrorKind, IoContext},
    run::{self, Bound, RunningAgent},
};
use tokio::{net::TcpStream, sync::oneshot, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Client, DEFAULT_AGENT},
    failure::{Failure, Result},
    interrupt::unless_interrupted,
    options::{Context, Global},
    units,
};

/// How long the agent of this node may take to accept a connection.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an engine of our own waits for a first answer from those it was told to join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it looks.
const JOIN_POLL: Duration = Duration::from_millis(50);
/// A token is a line; more is some other file.
const MAX_TOKEN_BYTES: u64 = 8 << 10;

/// A connection to an agent, and the engine behind it if that is our own.
pub(crate) struct Session {
    client: Client,
    engine: Option<Engine>,
}

/// An agent inside this process.
struct Engine {
    stop: CancellationToken,
    task: JoinHandle<emberline_agent::error::Result<()>>,
}

/// What the options and the environment say.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    /// This agent and no other.
    Agent(String),
    /// Whoever has the data directory open, else ourselves.
    Directory,
    /// Ourselves, joining others.
    Join,
    /// The default address, else as `Directory`.
    Default,
}

fn choose(global: &Global, env_agent: Option<String>) -> Choice {
    if let Some(agent) = &global.agent {
        Choice::Agent(agent.clone())
    } else if !global.join.is_empty() {
        Choice::Join
    } else if global.data_dir.is_some() {
        Choice::Directory
    } else if let Some(agent) = env_agent.filter(|agent| !agent.is_empty()) {
        Choice::Agent(agent)
    } else {
        Choice::Default
    }
}

impl Session {
    /// Finds an agent, or starts the engine.
    ///
    /// # Errors
    /// `Unavailable` when the agent that was named is not there; as starting an engine.
    pub(crate) async fn open(context: &Context) -> Result<Self> {
        Self::find(context, false).await
    }

    /// As [`open`](Self::open), but an engine all alone will not do: the command is about other nodes.
    ///
    /// # Errors
    /// As [`open`](Self::open); `Unavailable` when there is no agent.
    pub(crate) async fn open_to_fleet(context: &Context) -> Result<Self> {
        Self::find(context, true).await
    }

    async fn find(context: &Context, fleet: bool) -> Result<Self> {
        let global = &context.global;
        match choose(global, env::var("EMBERLINE_AGENT").ok()) {
            Choice::Agent(agent) => return Self::connect(&agent, context),
            Choice::Join => return Self::start(context, engine_config(global)?).await,
            Choice::Directory => {}
            Choice::Default if listens(DEFAULT_AGENT).await => return Self::connect(DEFAULT_AGENT, context),
            Choice::Default => {}
        }
        let config = engine_config(global)?;
        // An unreadable or foreign file there is for the engine to complain about.
        if let Ok(Some(agent)) = RunningAgent::find(&config.data_dir) {
            let address = format!("http://{}", reachable(agent.bound.http));
            if listens(&address).await {
                return Self::connect(&address, context);
            }
        }
        if fleet {
            let message = format!("no agent runs here: nothing listens at {DEFAULT_AGENT}");
            return Err(Failure::new(ErrorKind::UNAVAILABLE, message).advice(
                "start one with `preload agent`, name another with --agent URL, or join with --join HOST:PORT",
            ));
        }
        Self::start(context, config).await
    }

    fn connect(address: &str, context: &Context) -> Result<Self> {
        let output = context.output;
        let client = Client::new(address, token(&context.global)?)?.telling(move |text| output.note(text));
        Ok(Self { client, engine: None })
    }

    async fn start(context: &Context, config: Config) -> Result<Self> {
        let Global { verbose, join, .. } = &context.global;
        // Who joins a swarm wants to hear when it is refused there.
        if *verbose > 0 || !(join.is_empty() || context.global.quiet) {
            let level = ["warn", "info", "debug"][usize::from(*verbose).min(2)];
            run::start_logging(&LogConfig { level: level.to_owned(), ..LogConfig::default() })?;
        }
        let data_dir = config.data_dir.clone();
        context.output.note(&format!(
            "no agent runs here: the engine runs in this process, with its data in {}",
            data_dir.display()
        ));
        let stop = CancellationToken::new();
        let (ready, bound) = oneshot::channel::<Bound>();
        // Signals are for the command: what it was asked to do ends first, with the words of who was interrupted.
        let run = run::run_until(stop.clone(), config, move |bound| {
            // Nobody waits any more when the user was quicker.
            let _ = ready.send(bound);
        });
        let mut engine = Engine { stop, task: tokio::spawn(run) };
        let bound = match unless_interrupted(bound).await? {
            Some(Ok(bound)) => bound,
            Some(Err(_)) => return Err(engine.why_not(&data_dir).await),
            None => {
                engine.stop.cancel();
                let _ = engine.task.await;
                return Err(Failure::interrupted("interrupted while starting"));
            }
        };
        let session =
            Self { client: Client::new(&format!("http://{}", bound.http), None)?, engine: Some(engine) };
        if !join.is_empty() {
            let met = unless_interrupted(session.meet(context)).await?;
            if let Err(failure) =
                met.unwrap_or_else(|| Err(Failure::interrupted("interrupted while joining")))
            {
                session.close().await;
                return Err(failure);
            }
        }
        Ok(session)
    }

    /// Waits a little for the first other member: who asks alone reads everything from the origin.
    ///
    /// # Errors
    /// `Denied` when everybody who was to be joined refuses us: that will not pass by itself.
    async fn meet(&self, context: &Context) -> Result<()> {
        let join = &context.global.join;
        let mut refusals = Vec::new();
        let met = timeout(JOIN_TIMEOUT, async {
            while self.client.members().await.is_ok_and(|members| members.len() < 2) {
                refusals = self.client.status(false).await.map(|s| s.seed_errors).unwrap_or_default();
                if refusals.len() >= join.len() && are_denials(&refusals) {
                    return;
                }
                tokio::time::sleep(JOIN_POLL).await;
            }
        });
        let timed_out = met.await.is_err();
        let reasons: Vec<String> = refusals.iter().map(|problem| problem.message.clone()).collect();
        if are_denials(&refusals) {
            let message = format!("cannot join {}: {}", join.join(", "), reasons.join("; "));
            return Err(Failure::new(ErrorKind::Denied, message).advice(
                "give the secret of that cluster with --secret-file FILE, or leave --join out to go on alone",
            ));
        }
        if timed_out {
            let waited = units::seconds(JOIN_TIMEOUT.as_secs_f64());
            let why = if reasons.is_empty() {
                "is it up, and is its UDP port open?".to_owned()
            } else {
                reasons.join("; ")
            };
            let whom = join.join(", ");
            context.output.note(&format!(
                "none of {whom} has answered within {waited} ({why}); going on alone until one does"
            ));
        }
        Ok(())
    }

    /// The way to the agent.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the agent ends with this process.
    pub(crate) fn is_own_engine(&self) -> bool {
        self.engine.is_some()
    }

    /// Stops an engine of our own in good order. What it has fetched is kept in any case.
    pub(crate) async fn close(self) {
        let Self { client, engine } = self;
        // Idle connections would have to be waited for.
        drop(client);
        if let Some(engine) = engine {
            engine.stop.cancel();
            // It bounds its own shut-down; an error there has no bearing on what was asked for.
            let _ = engine.task.await;
        }
    }
}

impl Engine {
    async fn why_not(&mut self, data_dir: &Path) -> Failure {
        match (&mut self.task).await {
            Ok(Err(error)) if error.kind() == ErrorKind::Cancelled => {
                Failure::interrupted("interrupted while starting")
            }
            Ok(Err(error)) => Failure::from(error).context(&format!("engine on {}", data_dir.display())),
            Ok(Ok(())) => Failure::interrupted("interrupted while starting"),
            Err(defect) => Failure::internal(format!("engine on {}: {defect}", data_dir.display())),
        }
    }
}

/// Whether all of them are refusals, and there are any.
fn are_denials(problems: &[Problem]) -> bool {
    !problems.is_empty() && problems.iter().all(|problem| problem.error_kind() == ErrorKind::Denied)
}

/// The agent's own configuration, bent for a process of our own: a private door, nobody to join
/// unless asked, and a directory we can write.
fn engine_config(global: &Global) -> Result<Config> {
    let file = Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.exists());
    let mut config = Config::load(&ConfigSources::of_process(file, Vec::new()))?;
    let from_defaults = config.data_dir == Config::default().data_dir;
    config.data_dir = match &global.data_dir {
        Some(dir) => crate::reference::absolute(dir)?,
        None if from_defaults && !can_write(&config.data_dir) => cache_dir()?,
        None => config.data_dir,
    };
    config.http.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.http.token_file = None;
    config.cluster.seeds.clone_from(&global.join);
    config.cluster.advertise = None;
    if let Some(secret) = &global.secret_file {
        config.cluster.secret_file = Some(secret.clone());
    }
    let secured = config.cluster.secret_file.is_some() || config.cluster.certificate_file.is_some();
    // Without a secret the agent binds to loopback alone; without others there is no need for more.
    let open = secured && !global.join.is_empty();
    let ip = if open { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    config.cluster.listen = SocketAddr::from((ip, 0));
    Ok(config)
}

/// Whether artifacts can be put there, or the directory be made.
fn can_write(dir: &Path) -> bool {
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    dir.ancestors()
        .find(|dir| dir.exists())
        .is_some_and(|dir| dir.is_dir() && rustix::fs::access(dir, access).is_ok())
}

fn cache_dir() -> Result<PathBuf> {
    let var = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("emberline")).ok_or_else(|| {
        Failure::new(
            ErrorKind::Invalid,
            "no directory for models: /var/lib/emberline cannot be written and HOME is not set",
        )
        .advice("name one with --data-dir DIR or EMBERLINE_DATA_DIR")
    })
}

/// The token of `--token-file` or its variable.
fn token(global: &Global) -> Result<Option<String>> {
    let named = global.token_file.clone().or_else(|| env::var_os("EMBERLINE_TOKEN_FILE").map(PathBuf::from));
    let Some(file) = named.filter(|file| !file.as_os_str().is_empty()) else { return Ok(None) };
    let at = || format!("token file {}", file.display());
    let size = std::fs::metadata(&file).at(at)?.len();
    if size > MAX_TOKEN_BYTES {
        let message = format!("token file {} holds {}", file.display(), units::bytes(size));
        return Err(
            Failure::new(ErrorKind::Invalid, message).advice("a token is one line; is it the right file?")
        );
    }
    Ok(Some(std::fs::read_to_string(&file).at(at)?.trim().to_owned()))
}

/// An address that was bound to all interfaces is reached over loopback.
fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, v4.port())),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, v6.port()))
        }
        addr => addr,
    }
}

/// Whether anybody accepts connections there. One who is too slow counts: what it says will tell.
async fn listens(address: &str) -> bool {
    let host = address.trim_start_matches("http://");
    !matches!(timeout(PROBE_TIMEOUT, TcpStream::connect(host)).await, Ok(Err(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_choose_before_the_environment_and_that_before_the_default() {
        let env = || Some("http://env:1".to_owned());
        let global = Global::default();
        assert_eq!(choose(&global, None), Choice::Default);
        assert_eq!(choose(&global, Some(String::new())), Choice::Default);
        assert_eq!(choose(&global, env()), Choice::Agent("http://env:1".to_owned()));
        let directory = Global { data_dir: Some("/d".into()), ..Global::default() };
        assert_eq!(choose(&directory, env()), Choice::Directory);
        let join = Global { join: vec!["a:1".to_owned()], ..directory };
        assert_eq!(choose(&join, env()), Choice::Join);
        let agent = Global { agent: Some("http://x:1".to_owned()), ..Global::default() };
        assert_eq!(choose(&agent, env()), Choice::Agent("http://x:1".to_owned()));
    }

    #[tokio::test]
    async fn a_closed_port_does_not_listen_and_an_open_one_does() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        assert!(listens(&address).await);
        drop(listener);
        assert!(!listens(&address).await);
    }

    #[test]
    fn a_token_is_one_line_and_a_model_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let global = Global { token_file: Some(file.clone()), ..Global::default() };
        assert_eq!(token(&global).unwrap_err().exit, 3);
        std::fs::write(&file, "t0ken\n").unwrap();
        assert_eq!(token(&global).unwrap(), Some("t0ken".to_owned()));
        std::fs::write(&file, vec![b'x'; 10_000]).unwrap();
        assert_eq!(token(&global).unwrap_err().exit, 2);
    }

    #[test]
    fn only_what_can_be_written_is_a_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert!(can_write(&dir.path().join("not/there/yet")));
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(!can_write(&dir.path().join("file")));
        assert!(!can_write(&dir.path().join("file/below")));
    }
}
