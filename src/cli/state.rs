//! Access to a state folder while no server uses it.

use std::path::Path;

use super::error::CommandError;
use crate::server::state_dir::NodeDir;

/// All folders of a state folder in which no server works, or the one that does.
pub(super) fn all_nodes(state_dir: &Path) -> Result<Vec<NodeDir>, CommandError> {
    let folder = state_dir.to_owned();
    match NodeDir::take_all(state_dir) {
        Ok(Ok(nodes)) => Ok(nodes),
        Ok(Err(node)) => Err(CommandError::Runs { folder, node }),
        Err(source) => Err(CommandError::Folder { folder, source }),
    }
}
