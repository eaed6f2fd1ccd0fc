//! The command line: what can be typed, and what it means.
//!
//! Each command's own options are beside the command, those that commands share in
//! [`options`](crate::options).

use clap::{Parser, Subcommand};

use crate::{command, demo, failure::EXIT_CODES, options::Global};

/// Bring models onto this node, warm a fleet, and see how much longer it takes.
///
/// Talks to the agent of this node. Where none runs, the same engine runs inside this process, on a
/// data directory of yours; with --join it takes part in a swarm while the command runs.
#[derive(Debug, Parser)]
#[command(
    name = "preload",
    version,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}")
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  preload demo                                   see it work: no cluster, no credentials
  preload pull s3://models/llama-3-8b            bring a model here, print its path
  vllm serve \"$(preload pull hf://org/name@main)\"
  preload warm s3://models/llama-3-8b --all --wait
  preload plan hf://org/name                     what would come from where";

/// One file each below `command`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Asking(Box<Asking>),
    Secret(command::secret::Secret),
    Completions(command::completions::Completions),
}

/// The commands that talk to an agent, or are one.
#[derive(Debug, Subcommand)]
pub(crate) enum Asking {
    Pull(command::pull::Pull),
    Warm(command::warm::Warm),
    Plan(command::plan::Plan),
    Publish(command::publish::Publish),
    Status(command::status::Status),
    Ls(command::ls::Ls),
    Path(command::path::Path),
    Verify(command::verify::Verify),
    Pin(command::pin::Pin),
    Unpin(command::pin::Unpin),
    Record(command::record::Record),
    Rm(command::rm::Rm),
    Members(command::members::Members),
    Limit(command::limit::Limit),
    Drain(command::drain::Drain),
    Agent(command::agent::Agent),
    Demo(demo::Demo),
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("preload").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_in_its_help() {
        let mut command = Cli::command();
        command.build();
        for sub in command.get_subcommands_mut().filter(|s| s.get_name() != "help") {
            let name = sub.get_name().to_owned();
            let help = sub.render_long_help().to_string();
            assert!(help.contains(&format!("preload {name}")), "{name} has no example:\n{help}");
            assert!(sub.get_about().is_some(), "{name} does not say what it does");
        }
    }

    #[test]
    fn wrong_lines_end_in_a_sentence_and_exit_code_2() {
        let wrong = [
            "frobnicate",
            "pull",
            "pull a --timeout never",
            "pull a --timeout 0",
            "pull a --progress loud",
            "pull a --priority urgent",
            "pull a --deadline yesterday",
            "warm a --all --deadline 0",
            "pull a --agent http://x --data-dir /y",
            "warm a",
            "warm a --all --nodes 3",
            "warm a --zone z --node n",
            "warm a --nodes 0",
            "warm a --nodes many",
            "warm a --all --min-ready 0",
            "plan",
            "publish",
            "path",
            "rm",
            "pin",
            "record",
            "record a --now --clear",
            "limit --upload fast",
            "drain --deadline soon",
            "drain --deadline 0s",
            "secret",
            "secret new",
            "completions tcsh",
            "demo --size 12parsecs",
            "demo --nodes 0",
            "demo --nodes 1000",
            "demo --ref s3://a --size 1GiB",
        ];
        for line in wrong {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().starts_with("error: "), "{line}: {error}");
        }
    }

    #[test]
    fn right_lines_are_understood() {
        let right = [
            "pull s3://b/p hf://o/n@main --pin --prefault --require-manifest",
            "pull --allow-pattern *.json --allow-pattern *.txt --ignore-pattern *.bin --timeout 5m s3://b/p",
            "pull --join 10.0.0.1:7581 s3://b/p --to /d",
            "pull s3://b/p --join 10.0.0.1:7581,10.0.0.2:7581 --secret-file /s",
            "--json pull s3://b/p",
            "ls --json --agent http://10.0.0.1:7580 --token-file /t",
            "warm s3://b/p --all --wait --min-ready 3",
            "warm s3://b/p --node a b --node c",
            "pull s3://b/p --priority high --deadline 10m",
            "pull s3://b/p --priority -3 --deadline 2026-11-25T09:30:00+01:00",
            "warm s3://b/p --all --priority low --deadline 600",
            "publish s3://b/p --json",
            "verify",
            "verify s3://b/p --no-repair",
            "record s3://b/p --now",
            "rm s3://b/p --force",
            "demo --nodes 3 --size 64MiB --keep",
            "limit",
            "limit --upload 100MB --download 0",
            "drain --deadline 100s --json",
            "-q -vv status",
        ];
        for line in right {
            parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn help_and_version_are_no_errors() {
        for (line, kind) in [
            ("--help", ErrorKind::DisplayHelp),
            ("--version", ErrorKind::DisplayVersion),
            ("pull -h", ErrorKind::DisplayHelp),
        ] {
            let shown = parse(line).unwrap_err();
            assert_eq!((shown.kind(), shown.exit_code()), (kind, 0), "{line}");
        }
    }
}
