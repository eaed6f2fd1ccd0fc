//! `preload completions`: completion scripts for shells.

use std::io::{self, Write};

use clap::Args;
use clap_complete::{Shell, generate};

use crate::failure::Result;

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
    /// `definition` is the whole command line.
    pub(crate) fn run(self, mut definition: clap::Command) -> Result<()> {
        let mut script = Vec::new();
        generate(self.shell, &mut definition, "preload", &mut script);
        // Whoever closes the pipe early has seen enough.
        let _ = io::stdout().lock().write_all(&script);
        Ok(())
    }
}
