//! `conformance`: the table of doors, clients and versions, as the tests recorded it.
//!
//! Arguments and printing; the records are `emberline_tests::conformance`'s. Run the tests first.

use std::{fs, process::ExitCode};

use clap::Parser;
use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use emberline_tests::{
    binaries::workspace_root,
    conformance::{differences, inserted, records, table},
};

/// Prints which clients were run against which door, and whether README says the same.
///
/// The records are those below `target/conformance`, which every passed check of the tests leaves there.
/// Without --write the exit code is 1 if README differs, but for the versions of what the operating system brings.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Write the table into README.md, between its markers.
    #[arg(long)]
    write: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!(
                "README.md's table of clients is not what the tests just ran. If they ran all there is (a check that \
                 says SKIPPED leaves no row), renew it: cargo run -p emberline-tests --bin conformance -- --write"
            );
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Whether README says what the records say.
fn run(arguments: &Arguments) -> Result<bool> {
    let records = records()?;
    if records.is_empty() {
        let text = "no check was recorded: run `cargo test --workspace` first";
        return Err(Error::new(ErrorKind::NotFound, text));
    }
    let path = workspace_root().join("README.md");
    let readme = fs::read_to_string(&path).at(|| path.display().to_string())?;
    let table = table(&records);
    if arguments.write {
        fs::write(&path, inserted(&readme, &table)?).at(|| path.display().to_string())?;
        return Ok(true);
    }
    print!("{table}");
    let differences = differences(&readme, &table)?;
    differences.iter().for_each(|row| eprintln!("{row}"));
    Ok(differences.is_empty())
}
