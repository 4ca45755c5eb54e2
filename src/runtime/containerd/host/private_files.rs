//! Files and folders that only the server's user may read, whatever its umask is: checkpoints hold the memory of apps.
//!
//! The folders are the wall. The mode of files is a second one, for a folder that an operator opens or copies.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The mode of private folders.
const FOLDER_MODE: u32 = 0o700;
/// The mode of private files.
const FILE_MODE: u32 = 0o600;

/// Creates a private folder, and those above it where they are missing. An existing folder becomes private.
///
/// # Errors
/// The folder cannot be created, or its mode cannot be changed.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE))
}

/// Creates an empty private file. An existing one is emptied and becomes private.
///
/// # Errors
/// The file cannot be created, or its mode cannot be changed.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

/// Writes a private file.
///
/// # Errors
/// The file cannot be created or written.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    create(path)?.write_all(content)
}

/// Makes all files in a folder private, which other programs have written.
///
/// # Errors
/// The folder cannot be read, or a mode cannot be changed.
pub(crate) fn make_files_private(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::set_permissions(entry.path(), Permissions::from_mode(FILE_MODE))?;
        }
    }
    Ok(())
}
