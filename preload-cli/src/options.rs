//! What commands share: their common options, and what each is given when it runs.
//!
//! Environment variables stand in for `--agent`, `--token-file` and `--data-dir`; an option always wins.
//! Knows no command.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use emberline_agent::api::{Deadline, Priority};

use crate::output::{Output, ProgressMode};

/// What every command understands.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Global {
    /// The agent to talk to [env: EMBERLINE_AGENT] [default: http://127.0.0.1:7580].
    #[arg(long, global = true, value_name = "URL", conflicts_with_all = ["data_dir", "join"])]
    pub(crate) agent: Option<String>,
    /// File with the agent's token [env: EMBERLINE_TOKEN_FILE].
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Where artifacts live when the engine runs in this process [env: EMBERLINE_DATA_DIR] [default:
    /// /var/lib/emberline if it can be written, else ~/.cache/emberline].
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Run the engine in this process and join the swarm of this member; may be given more than once.
    #[arg(long, global = true, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) join: Vec<String>,
    /// The cluster secret to join with [env: EMBERLINE_CLUSTER__SECRET_FILE].
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Answer with one JSON value on stdout, and nothing else there.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How to show progress on stderr: auto, bar, plain, json or none.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "HOW", hide_possible_values = true)]
    pub(crate) progress: ProgressMode,
    /// No progress and no remarks; errors only.
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Show the log of the engine in this process; twice for more.
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// Which files of a model, as the Hub's own client names them.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Patterns {
    /// Only files that match this shell pattern; may be given more than once.
    #[arg(long = "allow-pattern", alias = "allow-patterns", value_name = "PATTERN")]
    pub(crate) allow: Vec<String>,
    /// No file that matches this one; may be given more than once.
    #[arg(long = "ignore-pattern", alias = "ignore-patterns", value_name = "PATTERN")]
    pub(crate) ignore: Vec<String>,
}

/// How much it matters beside the other pulls of a node.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Precedence {
    /// Before or after the node's other pulls: low, normal, high or a whole number; the higher goes first.
    #[arg(long, value_name = "PRIORITY", allow_negative_numbers = true)]
    pub(crate) priority: Option<Priority>,
    /// When it is needed: 10m from now, or 2026-11-25T09:30:00Z; among equals the earlier goes first.
    #[arg(long, value_name = "WHEN", allow_negative_numbers = true)]
    pub(crate) deadline: Option<Deadline>,
}

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) output: Output,
}
