//! CRIU's images of a checkpoint for one instance: hard links to those of the checkpoint, and an image of the user
//! namespace with the instance's own range of ids.
//!
//! # Traps
//! Processes inside the user namespace read the images, and the host's root is no user that they know. So others must be allowed
//! to read the files, whose folder lies below one that only root may enter.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use prost::Message;

/// The name of the folder, in the folder in which CRIU works.
const FOLDER: &str = "images";
/// What the name of the image of a user namespace begins with.
const USER_NAMESPACE: &str = "userns-";
/// Bytes of an image file before the length of its only message.
const MAGIC_BYTES: usize = 8;
/// Bytes of that length.
const LENGTH_BYTES: usize = 4;

/// CRIU's image of a user namespace.
#[derive(Clone, PartialEq, Message)]
struct UserNamespace {
    #[prost(message, repeated, tag = "1")]
    users: Vec<Extent>,
    #[prost(message, repeated, tag = "2")]
    groups: Vec<Extent>,
}

/// Ids inside that are ids outside.
#[derive(Clone, PartialEq, Message)]
struct Extent {
    #[prost(uint32, required, tag = "1")]
    inside: u32,
    #[prost(uint32, required, tag = "2")]
    outside: u32,
    #[prost(uint32, required, tag = "3")]
    count: u32,
}

/// Returns the folder of images in the folder in which CRIU works.
pub(super) fn folder(work: &Path) -> PathBuf {
    work.join(FOLDER)
}

/// Makes the folder of images for an instance whose ids begin at `first` on the host.
///
/// # Errors
/// The checkpoint has no image of a user namespace, or the folder cannot be written.
pub(super) fn create(images: &Path, folder: &Path, first: u32) -> io::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    DirBuilder::new().mode(0o711).create(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(0o711))?;
    let mut is_mapped = false;
    for entry in fs::read_dir(images)? {
        let entry = entry?;
        let (from, to) = (entry.path(), folder.join(entry.file_name()));
        if entry.file_name().to_string_lossy().starts_with(USER_NAMESPACE) {
            fs::write(&to, mapped(&fs::read(from)?, first)?)?;
            fs::set_permissions(&to, Permissions::from_mode(0o644))?;
            is_mapped = true;
        } else {
            fs::hard_link(from, to)?;
        }
    }
    match is_mapped {
        true => Ok(()),
        false => Err(io::Error::other("the checkpoint has no user namespace")),
    }
}

/// Returns an image of a user namespace with another first id outside.
fn mapped(image: &[u8], first: u32) -> io::Result<Vec<u8>> {
    let message = image.get(MAGIC_BYTES + LENGTH_BYTES..).ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut namespace = UserNamespace::decode(message).map_err(io::Error::other)?;
    let one = |extents: &[Extent]| extents.len() == 1 && extents[0].inside == 0;
    if !one(&namespace.users) || !one(&namespace.groups) {
        return Err(io::Error::other("the checkpoint's user namespace has not one range of ids"));
    }
    for extent in namespace.users.iter_mut().chain(&mut namespace.groups) {
        extent.outside = first;
    }
    let message = namespace.encode_to_vec();
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    Ok([&image[..MAGIC_BYTES], &length.to_le_bytes(), &message].concat())
}

/// Allows the processes of instances to read the images of a checkpoint.
///
/// # Errors
/// A permission cannot be changed.
pub(crate) fn make_readable(images: &Path) -> io::Result<()> {
    for entry in fs::read_dir(images)? {
        fs::set_permissions(entry?.path(), Permissions::from_mode(0o644))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_ids_outside_change() {
        let extent = |outside| Extent { inside: 0, outside, count: 65_536 };
        let namespace =
            |outside| UserNamespace { users: vec![extent(outside)], groups: vec![extent(outside)] };
        let image = |namespace: &UserNamespace| {
            let message = namespace.encode_to_vec();
            [b"magicnum".as_slice(), &(message.len() as u32).to_le_bytes(), &message].concat()
        };
        assert_eq!(mapped(&image(&namespace(7)), 2_000_000_000).unwrap(), image(&namespace(2_000_000_000)));
        mapped(&image(&UserNamespace::default()), 7).unwrap_err();
        mapped(b"magicnum", 7).unwrap_err();
    }
}
