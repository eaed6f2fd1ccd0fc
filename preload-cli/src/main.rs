//! The binary `preload`; everything is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    preload_cli::main(std::env::args_os())
}
