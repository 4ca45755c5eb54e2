//! The folder of an instance: created from the template's files, and removed completely.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Component, Path};

use super::protocol::{temporary_directory, working_directory};

/// Why an instance's folder could not be created.
#[derive(Debug, thiserror::Error)]
pub(super) enum InstanceDirError {
    /// A stop was requested during the copying.
    #[error("it was stopped while its files were copied")]
    Stopped,
    /// The template's files cannot be copied as they are. The text is a sentence.
    #[error("{0}")]
    Unfit(String),
    /// An operation of the system failed.
    #[error("cannot {operation}: {source}")]
    Io {
        /// The operation: a verb and its object.
        operation: String,
        /// The error that the system returned.
        source: io::Error,
    },
}

fn context<T>(verb: &str, path: &Path, result: io::Result<T>) -> Result<T, InstanceDirError> {
    result.map_err(|source| InstanceDirError::Io { operation: format!("{verb} {}", path.display()), source })
}

/// Creates the instance's folder, with the content of `files` copied into its working directory. Before each entry
/// `may_continue` is called; if it returns false, the copying stops.
///
/// # Errors
/// The copying was stopped, the files cannot be copied as they are, or the system failed. A part of the folder may
/// exist.
pub(super) fn create(
    folder: &Path,
    files: Option<&Path>,
    may_continue: &mut dyn FnMut() -> bool,
) -> Result<(), InstanceDirError> {
    let private = |path: &Path| context("create", path, fs::DirBuilder::new().mode(0o700).create(path));
    let work = working_directory(folder);
    private(folder)?;
    private(&temporary_directory(folder))?;
    private(&work)?;
    let Some(files) = files else { return Ok(()) };
    let from = context("read", files, fs::canonicalize(files))?;
    if context("read", folder, fs::canonicalize(folder))?.starts_with(&from) {
        return Err(InstanceDirError::Unfit(format!(
            "the template's files {} contain the folder of the instances; a copy would contain itself",
            files.display()
        )));
    }
    if !context("read", &from, fs::metadata(&from))?.is_dir() {
        return Err(InstanceDirError::Unfit(format!(
            "the template's files {} are not a folder",
            files.display()
        )));
    }
    copy_into(&from, &work, 0, may_continue)
}

/// Copies the content of `from`. `depth` is the number of folders between it and the template's folder.
fn copy_into(
    from: &Path,
    to: &Path,
    depth: usize,
    may_continue: &mut dyn FnMut() -> bool,
) -> Result<(), InstanceDirError> {
    for entry in context("read", from, fs::read_dir(from))? {
        if !may_continue() {
            return Err(InstanceDirError::Stopped);
        }
        let entry = context("read", from, entry)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = context("read", &source, entry.file_type())?;
        if kind.is_symlink() {
            let link = context("read", &source, fs::read_link(&source))?;
            if !stays_inside(&link, depth) {
                return Err(InstanceDirError::Unfit(format!(
                    "the template's files contain a link that may lead out of them: {} -> {}",
                    source.display(),
                    link.display()
                )));
            }
            context("create", &target, symlink(&link, &target))?;
        } else if kind.is_dir() {
            context("create", &target, fs::DirBuilder::new().mode(0o700).create(&target))?;
            copy_into(&source, &target, depth + 1, may_continue)?;
        } else if kind.is_file() {
            context("copy", &source, fs::copy(&source, &target))?;
        } else {
            return Err(InstanceDirError::Unfit(format!(
                "the template's files contain {}, which is neither a file nor a folder nor a link",
                source.display()
            )));
        }
    }
    // Last, because a folder without write permission would refuse its own content.
    let mode = context("read", from, fs::metadata(from))?.permissions().mode();
    context("set the permissions of", to, fs::set_permissions(to, Permissions::from_mode(mode & 0o7777)))
}

/// Returns whether a link in a folder `depth` below the root leads to a place below the root. Only leading `..` are
/// allowed: there they mean real parents. After a name they would climb from the target of that name, which may be a
/// link itself.
fn stays_inside(link: &Path, depth: usize) -> bool {
    let mut climbed = 0;
    let mut has_name = false;
    for part in link.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if !has_name => climbed += 1,
            Component::Normal(_) => has_name = true,
            _ => return false,
        }
    }
    climbed <= depth
}

/// Removes the folder and its content. A folder that does not exist is no error.
///
/// # Errors
/// The system refused to remove an entry.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    let ignore_missing = |result: io::Result<()>| match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    match ignore_missing(fs::remove_dir_all(folder)) {
        // Only the owner of a folder may remove its entries, and only with write permission.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(folder);
            ignore_missing(fs::remove_dir_all(folder))
        }
        other => other,
    }
}

/// Gives this process all rights on all folders below. Errors are ignored: they show in the removal that follows.
fn make_writable(folder: &Path) {
    let _ = fs::set_permissions(folder, Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_writable(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// An empty folder of this test's own, removed at its end.
    struct TestDir(PathBuf);

    impl TestDir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("try-it-now-folder-{name}-{}", std::process::id()));
            let _ = remove(&path);
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for TestDir {
        fn drop(&mut self) {
            let _ = remove(&self.0);
        }
    }

    fn why(result: Result<(), InstanceDirError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_copy_has_the_same_content_permissions_and_links_and_is_removed_completely() {
        let dir = TestDir::new("copy");
        let (files, folder) = (dir.0.join("files"), dir.0.join("instance"));
        fs::create_dir_all(files.join("bin/deep")).unwrap();
        fs::write(files.join("bin/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(files.join("bin/run"), Permissions::from_mode(0o750)).unwrap();
        symlink("../bin/run", files.join("bin/link")).unwrap();
        fs::set_permissions(files.join("bin/deep"), Permissions::from_mode(0o500)).unwrap();

        create(&folder, Some(&files), &mut || true).unwrap();

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
    fn a_link_out_of_the_template_is_refused() {
        let dir = TestDir::new("link");
        let (files, folder) = (dir.0.join("files"), dir.0.join("instance"));
        fs::create_dir(&files).unwrap();
        symlink("../secret", files.join("link")).unwrap();
        assert!(why(create(&folder, Some(&files), &mut || true)).contains("may lead out"));
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
    fn a_copy_that_would_contain_itself_is_refused() {
        let dir = TestDir::new("self");
        assert!(why(create(&dir.0.join("instance"), Some(&dir.0), &mut || true)).contains("contain itself"));
    }

    #[test]
    fn a_requested_stop_ends_the_copying() {
        let dir = TestDir::new("stop");
        let files = dir.0.join("files");
        fs::create_dir(&files).unwrap();
        fs::write(files.join("a"), "").unwrap();
        let result = create(&dir.0.join("instance"), Some(&files), &mut || false);
        assert!(matches!(result, Err(InstanceDirError::Stopped)));
    }
}
