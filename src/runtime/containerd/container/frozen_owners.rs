//! Ids in the files of a frozen instance that had ids of its own. In the frozen layer they are those that the instance
//! saw, because each restored instance sees the layer through its own range.
//!
//! Ids are in three places: the owner and the group of a file, its access control lists, and its capabilities, which
//! name the root that they hold for. All are those of this host in what the instance wrote.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;

use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
use rustix::io::Errno;

use crate::runtime::containerd::host::id_ranges::IdRange;

/// The attributes with access control lists: of a file, and of what is made in a folder.
const LISTS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];
/// Bytes before the entries of a list.
const LIST_HEADER_BYTES: usize = 4;
/// An entry: its kind and permissions, of 2 bytes each, then the id of a user or a group.
const ENTRY_BYTES: usize = 8;
const ENTRY_ID_AT: usize = 4;
/// The kinds of entries that name a user or a group.
const KINDS_WITH_ID: [u16; 2] = [0x02, 0x08];

/// The attribute with capabilities.
const CAPABILITIES: &str = "security.capability";
/// Capabilities without an id hold for the root of this host.
const VERSION_WITHOUT_ID: u8 = 2;
const VERSION_WITH_ID: u8 = 3;
/// The byte with the version, in the first number.
const VERSION_AT: usize = 3;
/// The place of the id, which is the last number.
const ROOT_AT: usize = 20;

/// The most bytes of an attribute, as the kernel limits it.
const MAX_ATTRIBUTE_BYTES: usize = 64 * 1024;

/// Gives a file, and what a folder contains, the ids that the instance with this range sees. No link is followed.
///
/// # Errors
/// An owner or an attribute cannot be read or written.
pub(super) fn restore(path: &Path, ids: IdRange) -> io::Result<()> {
    restore_with(path, ids, &mut vec![0; MAX_ATTRIBUTE_BYTES])
}

fn restore_with(path: &Path, ids: IdRange, buffer: &mut [u8]) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    // Before the owner changes, which removes them.
    let capabilities = match found.is_file() {
        true => attribute(path, CAPABILITIES, buffer)?.map(|value| capabilities_inside(value, ids)),
        false => None,
    };
    change_owner(path, &found, |id| ids.inside(id).unwrap_or(id))?;
    for name in LISTS.into_iter().filter(|_| !found.is_symlink()) {
        if let Some(value) = attribute(path, name, buffer)? {
            lsetxattr(path, name, &list_inside(value, ids), XattrFlags::empty())?;
        }
    }
    if let Some(value) = capabilities {
        match lsetxattr(path, CAPABILITIES, &value, XattrFlags::empty()) {
            // Without CAP_SETFCAP. No process of an instance gains capabilities from a file (`no_new_privs`).
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if found.is_dir() {
        fs::read_dir(path)?.try_for_each(|entry| restore_with(&entry?.path(), ids, buffer))?;
    }
    Ok(())
}

/// Gives a file, and what a folder contains, the owners on this host of those that the instance with this range sees. It
/// is for files without lists and capabilities. No link is followed.
///
/// # Errors
/// An owner cannot be read or written.
pub(super) fn shift(path: &Path, ids: IdRange) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    change_owner(path, &found, |id| ids.on_host(id))?;
    if found.is_dir() {
        fs::read_dir(path)?.try_for_each(|entry| shift(&entry?.path(), ids))?;
    }
    Ok(())
}

fn change_owner(path: &Path, found: &Metadata, change: impl Fn(u32) -> u32) -> io::Result<()> {
    let (user, group) = (change(found.uid()), change(found.gid()));
    if (user, group) != (found.uid(), found.gid()) {
        lchown(path, Some(user), Some(group))?;
        if !found.is_symlink() {
            // A new owner takes the bits for programs that run as their owner.
            fs::set_permissions(path, found.permissions())?;
        }
    }
    Ok(())
}

/// Returns an attribute of a file; `None` if it has none of this name, or the file system has no such attributes.
fn attribute<'a>(path: &Path, name: &str, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    match lgetxattr(path, name, &mut *buffer) {
        Ok(count) => Ok(Some(&buffer[..count])),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns an access control list with the ids that the instance sees.
fn list_inside(list: &[u8], ids: IdRange) -> Vec<u8> {
    let mut list = list.to_vec();
    let entries = list.get_mut(LIST_HEADER_BYTES..).unwrap_or_default();
    for entry in entries.chunks_exact_mut(ENTRY_BYTES) {
        if KINDS_WITH_ID.contains(&u16::from_le_bytes([entry[0], entry[1]])) {
            replace_id(&mut entry[ENTRY_ID_AT..], ids);
        }
    }
    list
}

/// Returns capabilities that hold for the root that the instance sees. Those of its root 0 have no id, as in an image.
fn capabilities_inside(value: &[u8], ids: IdRange) -> Vec<u8> {
    let mut value = value.to_vec();
    if value.get(VERSION_AT) != Some(&VERSION_WITH_ID) || value.len() != ROOT_AT + size_of::<u32>() {
        return value;
    }
    replace_id(&mut value[ROOT_AT..], ids);
    if value[ROOT_AT..] == [0; size_of::<u32>()] {
        value.truncate(ROOT_AT);
        value[VERSION_AT] = VERSION_WITHOUT_ID;
    }
    value
}

/// Replaces the id in these 4 bytes if it is in the range.
fn replace_id(bytes: &mut [u8], ids: IdRange) {
    let id = bytes.try_into().ok().map(u32::from_le_bytes).and_then(|id| ids.inside(id));
    if let Some(id) = id {
        bytes.copy_from_slice(&id.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::containerd::host::id_ranges::IdRanges;

    fn range() -> IdRange {
        IdRanges::first_of_host()
    }

    fn list(users: [u32; 2]) -> Vec<u8> {
        let entry = |kind: u16, id: u32| {
            [kind.to_le_bytes().as_slice(), &7_u16.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        // The last kind has no id.
        let entries = [entry(0x02, users[0]), entry(0x08, users[1]), entry(0x20, u32::MAX)].concat();
        [2_u32.to_le_bytes().as_slice(), &entries].concat()
    }

    #[test]
    fn ids_in_a_list_become_those_inside() {
        let on_host = list([range().on_host(33), range().on_host(0)]);
        assert_eq!(list_inside(&on_host, range()), list([33, 0]));
        assert_eq!(list_inside(&list([33, 0]), range()), list([33, 0]));
        assert_eq!(list_inside(&[2, 0], range()), [2, 0]);
    }

    #[test]
    fn capabilities_of_the_root_of_an_instance_are_those_of_an_image() {
        let value = |version: u8, root: Option<u32>| {
            let mut value = vec![1, 0, 0, version, 0, 4, 0, 0];
            value.extend([0; 12]);
            value.extend(root.into_iter().flat_map(u32::to_le_bytes));
            value
        };
        let inside = |root| capabilities_inside(&value(3, Some(root)), range());
        assert_eq!(inside(range().on_host(0)), value(2, None));
        assert_eq!(inside(range().on_host(5)), value(3, Some(5)));
        assert_eq!(inside(77), value(3, Some(77)));
        assert_eq!(capabilities_inside(&value(2, None), range()), value(2, None));
    }
}
