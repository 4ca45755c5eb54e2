//! Looks up files in the layers of an image, as an overlay of them shows them.
//!
//! The author of the image chose the content of the layers and is not trusted: no path leaves the layer in which it
//! starts, and links are resolved here, below the root of the image.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use containerd_client::types::Mount;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, fgetxattr, open, openat2, readlinkat, statat,
};
use rustix::io::Errno;
use rustix::path::Arg;

/// Attribute by which overlayfs marks a folder that hides the content of the same folder below.
const OPAQUE: &str = "trusted.overlay.opaque";

/// Most links on the way to a file, as in the kernel.
const MAX_LINKS: usize = 40;

/// Most bytes of a file that is read here.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Opens the lower layers of these mounts, the uppermost first. A mount without an overlay is the only layer itself.
///
/// # Errors
/// A folder cannot be opened.
pub(crate) fn open_lower(mounts: &[Mount]) -> io::Result<Vec<OwnedFd>> {
    let options = mounts.iter().flat_map(|mount| &mount.options);
    let lower = options.filter_map(|option| option.strip_prefix("lowerdir=")).next();
    let bound = mounts.iter().filter(|mount| mount.r#type == "bind").map(|mount| mount.source.as_str());
    let folders: Vec<&str> = match lower {
        Some(lower) => lower.split(':').filter(|path| !path.is_empty()).collect(),
        None => bound.collect(),
    };
    folders.into_iter().map(|path| open_layer(Path::new(path))).collect()
}

/// Opens the folder of a layer.
///
/// # Errors
/// It cannot be opened.
pub(crate) fn open_layer(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).map_err(io::Error::from)
}

/// Returns flags with which a path cannot leave the folder in which it starts.
pub(crate) fn confined() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

/// Opens a folder of a layer, and follows no link.
///
/// # Errors
/// There is no folder of this name.
pub(crate) fn open_folder(folder: &OwnedFd, name: impl Arg) -> io::Result<OwnedFd> {
    let shown = name.to_string_lossy().into_owned();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(folder, name, flags, Mode::empty(), confined()).map_err(|error| match error {
        Errno::LOOP | Errno::NOTDIR => io::Error::other(format!("`{shown}` is not a folder")),
        other => other.into(),
    })
}

/// Returns what has this name in a folder: a link itself and not its target.
///
/// # Errors
/// The kernel's error, except that a missing file is no error.
pub(crate) fn stat(folder: &OwnedFd, name: impl Arg) -> io::Result<Option<Stat>> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => Ok(Some(there)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns what an overlay of these folders shows under a name, and the folders of that name in them.
///
/// # Errors
/// The kernel's error.
pub(crate) fn look_up(
    folders: &[OwnedFd],
    name: impl Arg + Copy,
) -> io::Result<(Option<Stat>, Vec<OwnedFd>)> {
    let (mut seen, mut found) = (None, Vec::new());
    for folder in folders {
        let Some(there) = stat(folder, name)? else { continue };
        if is_whiteout(&there) {
            break;
        }
        if !is_folder(&there) {
            // A file hides what lies below it, and is hidden by what lies above.
            seen = seen.or(Some(there));
            break;
        }
        let entered = open_folder(folder, name)?;
        let hides = fgetxattr(&entered, OPAQUE, &mut [0_u8; 1]).is_ok();
        seen = seen.or(Some(there));
        found.push(entered);
        if hides {
            break;
        }
    }
    Ok((seen, found))
}

/// Returns whether an entry is a folder.
pub(crate) fn is_folder(there: &Stat) -> bool {
    FileType::from_raw_mode(there.st_mode) == FileType::Directory
}

/// Returns whether an entry is the mark of overlayfs for a removed file.
fn is_whiteout(there: &Stat) -> bool {
    FileType::from_raw_mode(there.st_mode) == FileType::CharacterDevice && there.st_rdev == 0
}

/// Returns whether there is anything at a path. Links are followed below the root of the layers.
///
/// # Errors
/// The path leads through too many links, or the kernel's error.
pub(crate) fn exists(layers: &[OwnedFd], path: &str) -> io::Result<bool> {
    find(layers, path).map(|found| found.is_some())
}

/// Returns the content of a file; `None` if there is none. Links are followed below the root of the layers.
///
/// # Errors
/// The path leads to something else than a file, through too many links, or to a file of more than 4 MiB.
pub(super) fn read_file(layers: &[OwnedFd], path: &str) -> io::Result<Option<Vec<u8>>> {
    match find(layers, path)? {
        None => Ok(None),
        Some(Found::File(folder, name)) => read(&folder, &name).map(Some),
        Some(Found::Other) => Err(io::Error::other("it is not a file")),
    }
}

/// What is at a path.
enum Found {
    /// A file of this name in this folder.
    File(OwnedFd, OsString),
    /// A folder, a device or a pipe.
    Other,
}

/// Looks up a path, and follows links below the root of the layers.
fn find(layers: &[OwnedFd], path: &str) -> io::Result<Option<Found>> {
    let clone = |folders: &[OwnedFd]| folders.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>();
    let mut folders = vec![clone(layers)?];
    let mut parts = parts_of(path.as_bytes());
    let mut links = 0;
    while let Some(part) = parts.pop_front() {
        if part == ".." {
            if folders.len() > 1 {
                folders.pop();
            }
            continue;
        }
        let here = folders.last().expect("the root is never removed");
        let (Some(seen), entered) = look_up(here, part.as_os_str())? else { return Ok(None) };
        let kind = FileType::from_raw_mode(seen.st_mode);
        if kind == FileType::Directory {
            folders.push(entered);
            continue;
        }
        let holds = |folder: &&OwnedFd| matches!(stat(folder, part.as_os_str()), Ok(Some(_)));
        let holder = here.iter().find(holds).ok_or(io::ErrorKind::NotFound)?;
        match kind {
            FileType::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = readlinkat(holder, part.as_os_str(), Vec::new())?.into_bytes();
                if target.starts_with(b"/") {
                    folders.truncate(1);
                }
                let mut further = parts_of(&target);
                further.append(&mut parts);
                parts = further;
            }
            // A folder is expected, and there is none.
            FileType::RegularFile if !parts.is_empty() => return Ok(None),
            FileType::RegularFile => return Ok(Some(Found::File(holder.try_clone()?, part))),
            _ => return Ok(Some(Found::Other)),
        }
    }
    Ok(Some(Found::Other))
}

fn parts_of(path: &[u8]) -> VecDeque<OsString> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.map(|part| OsString::from_vec(part.to_vec())).collect()
}

fn read(folder: &OwnedFd, name: &OsString) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat2(folder, name.as_os_str(), flags, Mode::empty(), confined())?);
    let mut content = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content)?;
    match content.len() as u64 > MAX_FILE_BYTES {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(content),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    /// A folder with two layers, `upper` and `lower`, and a file beside them.
    fn folder() -> Folder {
        let folder =
            std::env::temp_dir().join(format!("try-it-now-layers-{}", crate::instance::NodeId::random()));
        for layer in ["upper/etc", "lower/etc", "lower/store/a"] {
            fs::create_dir_all(folder.join(layer)).unwrap();
        }
        fs::write(folder.join("passwd"), "outside").unwrap();
        Folder(folder)
    }

    fn layers(folder: &Folder) -> Vec<OwnedFd> {
        ["upper", "lower"].map(|layer| open_layer(&folder.0.join(layer)).unwrap()).into()
    }

    fn text(folder: &Folder, path: &str) -> io::Result<Option<String>> {
        Ok(read_file(&layers(folder), path)?.map(|content| String::from_utf8(content).unwrap()))
    }

    #[test]
    fn a_file_of_an_upper_layer_hides_the_one_below() {
        let folder = folder();
        fs::write(folder.0.join("lower/etc/passwd"), "old").unwrap();
        assert_eq!(text(&folder, "/etc/passwd").unwrap().unwrap(), "old");
        fs::write(folder.0.join("upper/etc/passwd"), "new").unwrap();
        assert_eq!(text(&folder, "/etc/passwd").unwrap().unwrap(), "new");
        assert_eq!(text(&folder, "/etc/group").unwrap(), None);
        assert_eq!(text(&folder, "/etc/passwd/more").unwrap(), None);
    }

    #[test]
    fn links_are_followed_below_the_root_of_the_image_and_never_out_of_it() {
        let folder = folder();
        fs::write(folder.0.join("lower/store/a/passwd"), "inside").unwrap();
        for target in ["/store/a/passwd", "../store/a/passwd", "../../../../store/a/../a/passwd"] {
            symlink(target, folder.0.join("upper/etc/passwd")).unwrap();
            assert_eq!(text(&folder, "/etc/passwd").unwrap().unwrap(), "inside", "{target}");
            fs::remove_file(folder.0.join("upper/etc/passwd")).unwrap();
        }
        let outside = folder.0.join("passwd").display().to_string();
        for target in ["../../passwd", outside.as_str(), "../../../../../etc/hostname-of-nothing"] {
            symlink(target, folder.0.join("upper/etc/passwd")).unwrap();
            assert_eq!(text(&folder, "/etc/passwd").unwrap(), None, "{target}");
            fs::remove_file(folder.0.join("upper/etc/passwd")).unwrap();
        }
        symlink("passwd", folder.0.join("upper/etc/passwd")).unwrap();
        text(&folder, "/etc/passwd").unwrap_err();
    }

    #[test]
    fn what_is_no_file_or_too_large_is_refused_and_never_waited_for() {
        let folder = folder();
        text(&folder, "/etc").unwrap_err();
        let pipe = folder.0.join("upper/etc/group");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        text(&folder, "/etc/group").unwrap_err();
        let large = File::create(folder.0.join("upper/etc/passwd")).unwrap();
        large.set_len(MAX_FILE_BYTES + 1).unwrap();
        text(&folder, "/etc/passwd").unwrap_err();
    }
}
