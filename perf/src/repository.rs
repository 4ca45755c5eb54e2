//! The repository in whose folders this program is run.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::Failure;

/// A folder that only this repository has.
const MARK: &str = "deployments/templates";

/// Returns the root: the nearest folder of the repository at or above the one in which this program runs.
///
/// # Errors
/// This program runs elsewhere.
pub(crate) fn root() -> Result<PathBuf, Failure> {
    let folder = std::env::current_dir()?;
    let root = folder.ancestors().find(|folder| folder.join(MARK).is_dir());
    Ok(root.ok_or("the repository (run this in one of its folders)")?.to_owned())
}

/// Returns the folder of the stack, which `STACK_DIR` names.
///
/// # Errors
/// This program runs elsewhere.
pub(crate) fn stack() -> Result<PathBuf, Failure> {
    let folder = std::env::var_os("STACK_DIR").map_or_else(|| "target/stack".into(), PathBuf::from);
    Ok(root()?.join(folder))
}

/// Returns the commit that is checked out, with `+` if files differ from it; `None` outside a repository.
pub(crate) fn commit() -> Option<String> {
    let root = root().ok()?;
    let commit = git(&root, &["rev-parse", "HEAD"])?;
    let changes = git(&root, &["status", "--porcelain", "--untracked-files=no"])?;
    Some(commit + if changes.is_empty() { "" } else { "+" })
}

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_found_from_a_folder_below() {
        // Tests run in the folder of the package.
        assert_eq!(root().unwrap(), Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap());
    }
}
