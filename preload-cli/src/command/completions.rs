//! `preload completions`: completion scripts for shells.

use std::io::{self, Write};

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::Context;
use crate::{args::Cli, failure::Result};

/// Print a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preload completions bash > /etc/bash_completion.d/preload
  preload completions zsh > ~/.zfunc/_preload
  preload completions fish > ~/.config/fish/completions/preload.fish")]
pub(crate) struct Completions {
    /// Which shell.
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, _: &Context) -> Result<()> {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "preload", &mut script);
        // Whoever closes the pipe early has seen enough.
        let _ = io::stdout().lock().write_all(&script);
        Ok(())
    }
}
