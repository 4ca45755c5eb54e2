//! `serve`: runs the server, and checks the host in the background.

use std::path::PathBuf;
use std::process::ExitCode;

use super::command::{FAILURE, fail, read_config, run_async};
use super::doctor::at_start;
use crate::server::{backends, bootstrap};
use crate::telemetry;

/// Runs the server until it has shut down. `file` is the file of templates, which SIGHUP has the server read again.
pub(super) fn run(file: Option<PathBuf>) -> ExitCode {
    let (config, own_program) = match read_config(file.as_deref()) {
        Ok(read) => read,
        Err(status) => return status,
    };
    // Before the first app exists.
    if let Err(error) = backends::hide_from_apps(config.runtime.mode) {
        return fail(FAILURE, format!("cannot hide the server from its apps: {error}"));
    }
    let _logging = match telemetry::init(config.log) {
        Ok(guard) => guard,
        Err(error) => return fail(FAILURE, error),
    };
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    run_async(tokio::runtime::Builder::new_multi_thread(), async {
        let store = backends::shared_store(&config);
        at_start::check_in_background(&config, store, backends::baked_checkpoints(&config));
        bootstrap::serve(config, file, own_program).await
    })
}
