//! The link by which a shim calls us lies in a node's folder, and goes with it. What was restored must still be ended then,
//! by a shim that can call nobody.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::sync::{Mutex, MutexGuard};

/// What is put there: runc can do all that is asked for at an end.
const RUNC: &str = "#!/bin/sh\nexec runc \"$@\"\n";

/// Several containers call the same one.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Something in the place of a link that was gone, with the folders above it, for as long as it lives.
pub(crate) struct RestoredLink {
    /// What was made, in that order.
    made: Vec<PathBuf>,
    _turn: MutexGuard<'static, ()>,
}

impl RestoredLink {
    /// `None` where there is nothing to mend.
    pub(crate) async fn at(link: &Path) -> io::Result<Option<Self>> {
        let turn = ONE_AT_A_TIME.lock().await;
        if link.exists() {
            return Ok(None);
        }
        let mut mended = Self { made: Vec::new(), _turn: turn };
        let missing = link.ancestors().skip(1).take_while(|folder| !folder.exists()).collect::<Vec<_>>();
        for folder in missing.into_iter().rev() {
            DirBuilder::new().mode(0o700).create(folder)?;
            mended.made.push(folder.to_owned());
        }
        // It may be there and lead nowhere.
        let _ = fs::remove_file(link);
        mended.made.push(link.to_owned());
        fs::write(link, RUNC)?;
        fs::set_permissions(link, Permissions::from_mode(0o700))?;
        Ok(Some(mended))
    }
}

impl Drop for RestoredLink {
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            // A folder that somebody uses meanwhile stays.
            let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::NodeId;

    #[tokio::test]
    async fn what_is_gone_is_there_for_a_while_and_leaves_nothing() {
        let base = std::env::temp_dir().join(format!("try-it-now-link-{}", NodeId::random()));
        let link = base.join("containers").join("called");
        let mended = RestoredLink::at(&link).await.unwrap().unwrap();
        assert!(fs::metadata(&link).unwrap().permissions().mode() & 0o100 != 0);
        drop(mended);
        assert!(!base.exists());

        fs::create_dir(&base).unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", base.join("called")).unwrap();
        drop(RestoredLink::at(&base.join("called")).await.unwrap().unwrap());
        assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
        fs::write(base.join("called"), "").unwrap();
        assert!(RestoredLink::at(&base.join("called")).await.unwrap().is_none());
        fs::remove_dir_all(base).unwrap();
    }
}
