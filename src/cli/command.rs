//! What every command does: read the configuration, run asynchronous work, print, and exit.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{self, Config};
use crate::telemetry;

/// The exit status for errors in the configuration (`EX_USAGE`).
pub(super) const CONFIG_ERROR: u8 = 64;
/// The exit status for all other failures.
pub(super) const FAILURE: u8 = 1;

/// Returns the configuration and the path of this program. On errors, prints them and returns the exit status.
pub(super) fn read_config(file: Option<&Path>) -> Result<(Config, PathBuf), ExitCode> {
    let own_program = own_program()?;
    let config = config::read(file, &own_program).map_err(|errors| fail(CONFIG_ERROR, errors))?;
    Ok((config, own_program))
}

/// Returns the path of this program. On an error, prints it and returns the exit status.
pub(super) fn own_program() -> Result<PathBuf, ExitCode> {
    std::env::current_exe()
        .map_err(|error| fail(FAILURE, format!("cannot find this program's own file: {error}")))
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

/// Runs work on a tokio runtime of several threads. Returns its outcome, and the problems that were logged meanwhile.
/// On an error, prints it and returns the exit status.
pub(super) fn run_collecting_problems<T>(
    work: impl Future<Output = T>,
) -> Result<(T, Vec<String>), ExitCode> {
    let problems = telemetry::collect_problems().map_err(|error| fail(FAILURE, error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| fail(FAILURE, format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(work);
    Ok((outcome, problems.lines()))
}

/// Prints a line on standard output.
pub(super) fn print_line(line: &str) {
    // A closed standard output has no reader, and the command goes on without one.
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints a text on standard output. Returns the exit status.
pub(super) fn print(text: &[u8]) -> ExitCode {
    match io::stdout().write_all(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILURE, error),
    }
}

/// Prints the reason of a failure on standard error. Returns the exit status.
pub(super) fn fail(status: u8, reason: impl Display) -> ExitCode {
    // A closed standard error has no reader; the exit status still says that the command failed.
    let _ = writeln!(io::stderr(), "{reason}");
    ExitCode::from(status)
}
