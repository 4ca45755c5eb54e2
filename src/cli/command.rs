//! What every command does: read the configuration, run asynchronous work, print, and exit.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{self, Config};

/// The exit status for errors in the configuration (`EX_USAGE`).
pub(super) const CONFIG_ERROR: u8 = 64;
/// The exit status for all other failures.
pub(super) const FAILURE: u8 = 1;

/// Returns the configuration and the path of this program. On errors, prints them and returns the exit status.
pub(super) fn read_config(file: Option<&Path>) -> Result<(Config, PathBuf), ExitCode> {
    let own_program = std::env::current_exe()
        .map_err(|error| fail(FAILURE, format!("cannot find this program's own file: {error}")))?;
    let config = config::read(file, &own_program).map_err(|errors| fail(CONFIG_ERROR, errors))?;
    Ok((config, own_program))
}

/// Runs work on a tokio runtime. Prints its error and returns the exit status.
pub(super) fn run_async<E: Display>(
    mut builder: tokio::runtime::Builder,
    work: impl Future<Output = Result<(), E>>,
) -> ExitCode {
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILURE, format!("cannot start: {error}")),
    };
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILURE, error),
    }
}

/// Prints a line on standard output.
pub(super) fn print_line(line: &str) {
    // A closed standard output has no reader, and the command goes on without one.
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints the reason of a failure on standard error. Returns the exit status.
pub(super) fn fail(status: u8, reason: impl Display) -> ExitCode {
    // A closed standard error has no reader; the exit status still says that the command failed.
    let _ = writeln!(io::stderr(), "{reason}");
    ExitCode::from(status)
}
