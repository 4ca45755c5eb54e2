//! Access to a state folder while no server uses it.

use std::path::Path;

use super::error::CommandError;
use crate::server::state_dir::NodeDir;

/// Locks the folders of all nodes in a state folder, so that no server starts with them.
///
/// # Errors
/// A server uses one of them, or they cannot be read or locked.
pub(super) fn lock_all(state_dir: &Path) -> Result<Vec<NodeDir>, CommandError> {
    let folder = state_dir.to_owned();
    match NodeDir::lock_all(state_dir) {
        Ok(Ok(nodes)) => Ok(nodes),
        Ok(Err(node)) => Err(CommandError::ServerRuns { folder, node }),
        Err(source) => Err(CommandError::Folder { folder, source }),
    }
}
