//! `serve`: checks the host in the background and runs the server.

use std::path::PathBuf;

use super::doctor::at_start;
use crate::config::Config;
use crate::server::{backends, bootstrap};

/// Runs the server until it is told to stop and has stopped. `file` is the file of templates, read again on SIGHUP.
///
/// # Errors
/// The server cannot start; see [`bootstrap::StartError`].
pub(super) async fn serve(
    config: Config,
    file: Option<PathBuf>,
    own_program: PathBuf,
) -> Result<(), bootstrap::StartError> {
    at_start::begin(&config, backends::shared_store(&config), backends::baked(&config));
    bootstrap::serve(config, file, own_program).await
}
