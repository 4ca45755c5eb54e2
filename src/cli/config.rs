//! `config`: prints the configuration in effect, each value with where it comes from.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::command::{CONFIG_ERROR, FAILURE, fail, own_program, print};
use crate::config::{self, effective_text};

/// Prints the configuration, and its warnings on standard error. `file` is the file of templates.
pub(super) fn run(file: Option<&Path>, as_json: bool) -> ExitCode {
    let own_program = match own_program() {
        Ok(path) => path,
        Err(status) => return status,
    };
    let (values, warnings) = match config::read_effective(file, &own_program) {
        Ok(read) => read,
        Err(errors) => return fail(CONFIG_ERROR, errors),
    };
    for warning in warnings {
        // A closed standard error has no reader.
        let _ = writeln!(io::stderr(), "{warning}");
    }
    let text = match as_json {
        true => serde_json::to_string_pretty(&values).map(|json| json + "\n"),
        false => Ok(effective_text(&values)),
    };
    match text {
        Ok(text) => print(text.as_bytes()),
        Err(error) => fail(FAILURE, error),
    }
}
