//! The folder of an instance: made from the template's files, removed without a trace.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Component, Path};

use super::protocol::{temporary_directory, working_directory};

/// Why there is no folder.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    /// The order to stop came first.
    #[error("it was stopped while its files were copied")]
    Stopped,
    /// The template's files cannot be copied as they are.
    #[error("{0}")]
    Unfit(String),
    /// The system refused.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
}

fn doing<T>(what: &str, path: &Path, result: io::Result<T>) -> Result<T, FolderError> {
    result.map_err(|source| FolderError::Io { doing: format!("{what} {}", path.display()), source })
}

/// Makes the instance's folder, with a copy of `files` as working directory. `go_on` is asked before each entry.
pub(super) fn make(
    folder: &Path,
    files: Option<&Path>,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<(), FolderError> {
    let private = |path: &Path| doing("make", path, fs::DirBuilder::new().mode(0o700).create(path));
    let work = working_directory(folder);
    private(folder)?;
    private(&temporary_directory(folder))?;
    private(&work)?;
    let Some(files) = files else { return Ok(()) };
    let from = doing("read", files, fs::canonicalize(files))?;
    if doing("read", folder, fs::canonicalize(folder))?.starts_with(&from) {
        return Err(FolderError::Unfit(format!(
            "the template's files {} hold the folder where instances live; a copy would hold itself",
            files.display()
        )));
    }
    if !doing("read", &from, fs::metadata(&from))?.is_dir() {
        return Err(FolderError::Unfit(format!("the template's files {} are no folder", files.display())));
    }
    copy_into(&from, &work, 0, go_on)
}

/// Copies what `from` holds. `depth` counts the folders between it and the template's.
fn copy_into(
    from: &Path,
    to: &Path,
    depth: usize,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<(), FolderError> {
    for entry in doing("read", from, fs::read_dir(from))? {
        if !go_on() {
            return Err(FolderError::Stopped);
        }
        let entry = doing("read", from, entry)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = doing("read", &source, entry.file_type())?;
        if kind.is_symlink() {
            let link = doing("read", &source, fs::read_link(&source))?;
            if !stays_inside(&link, depth) {
                return Err(FolderError::Unfit(format!(
                    "the template's files hold a link that may lead out of them: {} -> {}",
                    source.display(),
                    link.display()
                )));
            }
            doing("make", &target, symlink(&link, &target))?;
        } else if kind.is_dir() {
            doing("make", &target, fs::DirBuilder::new().mode(0o700).create(&target))?;
            copy_into(&source, &target, depth + 1, go_on)?;
        } else if kind.is_file() {
            doing("copy", &source, fs::copy(&source, &target))?;
        } else {
            return Err(FolderError::Unfit(format!(
                "the template's files hold {}, which is neither a file nor a folder nor a link",
                source.display()
            )));
        }
    }
    // Last, since a folder without the right to write would refuse its own contents.
    let mode = doing("read", from, fs::metadata(from))?.permissions().mode();
    doing("set the permissions of", to, fs::set_permissions(to, Permissions::from_mode(mode & 0o7777)))
}

/// Whether a link in a folder `depth` below the root leads to a place below the root. Only leading `..` are
/// allowed: there they mean true parents, whereas after a name they would climb from wherever that name, perhaps
/// a link itself, leads.
fn stays_inside(link: &Path, depth: usize) -> bool {
    let mut climbed = 0;
    let mut named = false;
    for part in link.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if !named => climbed += 1,
            Component::Normal(_) => named = true,
            _ => return false,
        }
    }
    climbed <= depth
}

/// Removes the folder and all in it. One that does not exist is removed already.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    match gone(fs::remove_dir_all(folder)) {
        // Only the owner of a folder may take entries out of it, and only with the right to write.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            open_up(folder);
            gone(fs::remove_dir_all(folder))
        }
        other => other,
    }
}

/// Gives us all rights on all folders. What fails shows in the removal that follows.
fn open_up(folder: &Path) {
    let _ = fs::set_permissions(folder, Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// An empty folder of this test's own, removed at its end.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("try-it-now-folder-{name}-{}", std::process::id()));
            let _ = remove(&path);
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = remove(&self.0);
        }
    }

    fn why(result: Result<(), FolderError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_copy_has_the_same_contents_permissions_and_links_and_goes_away_whole() {
        let place = Place::new("copy");
        let (files, folder) = (place.0.join("files"), place.0.join("instance"));
        fs::create_dir_all(files.join("bin/deep")).unwrap();
        fs::write(files.join("bin/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(files.join("bin/run"), Permissions::from_mode(0o750)).unwrap();
        symlink("../bin/run", files.join("bin/link")).unwrap();
        fs::set_permissions(files.join("bin/deep"), Permissions::from_mode(0o500)).unwrap();

        make(&folder, Some(&files), &mut || true).unwrap();

        let work = working_directory(&folder);
        let mode = |path: &str| fs::metadata(work.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(fs::read_to_string(work.join("bin/run")).unwrap(), "#!/bin/sh\n");
        assert_eq!((mode("bin/run"), mode("bin/deep")), (0o750, 0o500));
        assert_eq!(fs::read_link(work.join("bin/link")).unwrap(), Path::new("../bin/run"));
        fs::write(work.join("bin/run"), "changed").unwrap();
        assert_eq!(
            fs::read_to_string(files.join("bin/run")).unwrap(),
            "#!/bin/sh\n",
            "the template is untouched"
        );

        remove(&folder).unwrap();
        remove(&folder).unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn a_link_that_leads_out_is_refused() {
        let place = Place::new("link");
        let (files, folder) = (place.0.join("files"), place.0.join("instance"));
        fs::create_dir(&files).unwrap();
        symlink("../secret", files.join("link")).unwrap();
        assert!(why(make(&folder, Some(&files), &mut || true)).contains("may lead out"));
    }

    #[test]
    fn only_links_that_climb_no_higher_than_the_root_stay_inside() {
        for (link, depth, inside) in [
            ("a/b", 0, true),
            ("./a", 0, true),
            ("..", 1, true),
            ("../../x", 2, true),
            ("..", 0, false),
            ("../../x", 1, false),
            ("/etc/passwd", 5, false),
            ("a/..", 3, false),
        ] {
            assert_eq!(stays_inside(Path::new(link), depth), inside, "{link} at {depth}");
        }
    }

    #[test]
    fn a_copy_that_would_hold_itself_is_refused() {
        let place = Place::new("self");
        assert!(why(make(&place.0.join("instance"), Some(&place.0), &mut || true)).contains("hold itself"));
    }

    #[test]
    fn an_order_to_stop_ends_the_copying() {
        let place = Place::new("stop");
        let files = place.0.join("files");
        fs::create_dir(&files).unwrap();
        fs::write(files.join("a"), "").unwrap();
        let result = make(&place.0.join("instance"), Some(&files), &mut || false);
        assert!(matches!(result, Err(FolderError::Stopped)));
    }
}
