//! Keeps restored instances stoppable after the node's folder is removed. The link by which a shim calls this program
//! is in that folder, and the shim that ends an instance needs it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::sync::{Mutex, MutexGuard};

/// The program that replaces the link. Runc can do everything that the end of an instance needs.
const SCRIPT: &str = "#!/bin/sh\nexec runc \"$@\"\n";

/// Held while a link is replaced: the shims of several containers call the same link.
static LINK_LOCK: Mutex<()> = Mutex::const_new(());

/// A script in the place of a missing link, with the folders above it. It is removed on drop.
pub(crate) struct RuncFallback {
    /// The files and folders that were created, in that order.
    created: Vec<PathBuf>,
    _lock: MutexGuard<'static, ()>,
}

impl RuncFallback {
    /// Writes the script if there is no program at `link`; else returns `None`.
    ///
    /// # Errors
    /// A folder or the script cannot be created.
    pub(crate) async fn install_if_missing(link: &Path) -> io::Result<Option<Self>> {
        let lock = LINK_LOCK.lock().await;
        if link.exists() {
            return Ok(None);
        }
        let mut fallback = Self { created: Vec::new(), _lock: lock };
        let missing = link.ancestors().skip(1).take_while(|folder| !folder.exists()).collect::<Vec<_>>();
        for folder in missing.into_iter().rev() {
            DirBuilder::new().mode(0o700).create(folder)?;
            fallback.created.push(folder.to_owned());
        }
        // The link may exist and lead nowhere.
        let _ = fs::remove_file(link);
        fallback.created.push(link.to_owned());
        fs::write(link, SCRIPT)?;
        fs::set_permissions(link, Permissions::from_mode(0o700))?;
        Ok(Some(fallback))
    }
}

impl Drop for RuncFallback {
    fn drop(&mut self) {
        for path in self.created.iter().rev() {
            // A folder with other files stays.
            let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::NodeId;

    #[tokio::test]
    async fn a_missing_link_is_replaced_for_a_while_and_nothing_remains() {
        let base = std::env::temp_dir().join(format!("try-it-now-link-{}", NodeId::random()));
        let link = base.join("containers").join("called");
        let fallback = RuncFallback::install_if_missing(&link).await.unwrap().unwrap();
        assert!(fs::metadata(&link).unwrap().permissions().mode() & 0o100 != 0);
        drop(fallback);
        assert!(!base.exists());

        fs::create_dir(&base).unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", base.join("called")).unwrap();
        drop(RuncFallback::install_if_missing(&base.join("called")).await.unwrap().unwrap());
        assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
        fs::write(base.join("called"), "").unwrap();
        assert!(RuncFallback::install_if_missing(&base.join("called")).await.unwrap().is_none());
        fs::remove_dir_all(base).unwrap();
    }
}
