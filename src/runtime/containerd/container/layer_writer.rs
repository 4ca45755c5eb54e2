//! Writes files into an instance's layer before any of its processes runs. This is the only writer into a layer.
//!
//! The author of the image, or of the app that was frozen, chose the content of the lower layers and is not trusted: no
//! link is followed, neither in the lower layers nor in the layer itself, so that no file outside of the layer is
//! written.
//!
//! In an overlay, a folder of the upper layer replaces the permissions of the same folder below, and a link below is
//! hidden completely. So a folder made here copies the permissions of the one below, and where a link or a file lies
//! below, no folder is made.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use containerd_client::types::Mount;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, fchmod, fchown, fgetxattr, mkdirat, open, openat2,
    statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::runtime::InstanceFile;
use crate::runtime::containerd::host::id_ranges::IdRange;

/// Permissions of a folder that no lower layer has.
const FOLDER_MODE: u32 = 0o755;
/// Attribute by which overlayfs marks a folder that hides the content of the same folder below.
const OPAQUE: &str = "trusted.overlay.opaque";

/// The folders of an overlay: the layer to write to, and the layers below.
pub(super) struct LayerWriter {
    upper: OwnedFd,
    /// The lower layers, the uppermost first.
    lower: Vec<OwnedFd>,
    /// The ids of the instance; `None` if they are those of this host.
    ids: Option<IdRange>,
}

impl LayerWriter {
    /// Opens the layer whose own files lie in the folder `upper`, with the lower layers of these mounts.
    ///
    /// # Errors
    /// A folder cannot be opened.
    pub(crate) fn open(upper: &Path, mounts: &[Mount], ids: Option<IdRange>) -> io::Result<Self> {
        let option = |name: &str| {
            let options = mounts.iter().flat_map(|mount| &mount.options);
            options.filter_map(|option| option.strip_prefix(name)?.strip_prefix('=')).next()
        };
        let folder = |path: &Path| {
            open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(io::Error::from)
        };
        let lower = option("lowerdir").unwrap_or_default().split(':').filter(|path| !path.is_empty());
        Ok(Self {
            upper: folder(upper)?,
            lower: lower.map(|path| folder(Path::new(path))).collect::<io::Result<_>>()?,
            ids,
        })
    }

    /// Writes a file, replacing what was at its path, and makes the folders that lead to it with the permissions that
    /// they have in the lower layers.
    ///
    /// # Errors
    /// A part of the path is a link or not a folder, or the path is a folder.
    pub(crate) fn write(&self, file: &InstanceFile) -> io::Result<()> {
        self.try_write(file).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.path)))
    }

    fn try_write(&self, file: &InstanceFile) -> io::Result<()> {
        let (folder, name) = file.path.rsplit_once('/').ok_or(io::ErrorKind::InvalidInput)?;
        let (here, lower) = self.open_folder(folder)?;
        if let Some(there) = stat(&here, name)? {
            if is_folder(&there) {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            unlinkat(&here, name, AtFlags::empty())?;
        } else if look_up_lower(&lower, name)?.0.is_some_and(|seen| is_folder(&seen)) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut written = File::from(openat2(&here, name, flags, Mode::RUSR | Mode::WUSR, confined())?);
        written.write_all(file.content.as_bytes())?;
        self.set_owner_and_mode(&written, file.owner, file.mode)
    }

    /// Makes a folder that root owns, and the folders that lead to it.
    ///
    /// # Errors
    /// A part of the path is a link or not a folder.
    pub(super) fn make_folder(&self, path: &str, mode: u32) -> io::Result<()> {
        self.set_owner_and_mode(self.open_folder(path)?.0, (0, 0), mode)
    }

    /// Opens a folder of this layer, which is made if it does not exist, and the folders of the same path in the lower
    /// layers.
    fn open_folder(&self, path: &str) -> io::Result<(OwnedFd, Vec<OwnedFd>)> {
        let mut here = self.upper.try_clone()?;
        let mut lower = self.lower.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>()?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let seen;
            (seen, lower) = look_up_lower(&lower, part)?;
            if seen.is_some_and(|seen| !is_folder(&seen)) && stat(&here, part)?.is_none() {
                return Err(io::Error::other(format!("`{part}` is a link or a file in the image")));
            }
            if stat(&here, part)?.is_none() {
                self.make_folder_in(&here, part, seen.as_ref())?;
            }
            here = open_folder(&here, part)?;
        }
        Ok((here, lower))
    }

    /// Makes a folder with owner and permissions of the one below, because from now on those of this folder count.
    fn make_folder_in(&self, folder: &OwnedFd, name: &str, below: Option<&Stat>) -> io::Result<()> {
        mkdirat(folder, name, Mode::RWXU)?;
        let (owner, mode) =
            below.map_or(((0, 0), FOLDER_MODE), |below| ((below.st_uid, below.st_gid), below.st_mode));
        self.set_owner_and_mode(open_folder(folder, name)?, owner, mode)
    }

    /// Sets the owner, in ids of the instance, and the mode.
    fn set_owner_and_mode(&self, file: impl AsFd, (user, group): (u32, u32), mode: u32) -> io::Result<()> {
        let on_host = |id| self.ids.map_or(id, |ids| ids.on_host(id));
        fchown(&file, Some(Uid::from_raw(on_host(user))), Some(Gid::from_raw(on_host(group))))?;
        fchmod(&file, Mode::from_raw_mode(mode))?;
        Ok(())
    }
}

/// Returns flags with which a path cannot leave the folder in which it starts.
fn confined() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

fn open_folder(folder: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(folder, name, flags, Mode::empty(), confined()).map_err(|error| match error {
        Errno::LOOP | Errno::NOTDIR => io::Error::other(format!("`{name}` is not a folder")),
        other => other.into(),
    })
}

/// Returns what has this name in a folder: a link itself and not its target.
fn stat(folder: &OwnedFd, name: &str) -> io::Result<Option<Stat>> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => Ok(Some(there)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns what an overlay of these folders shows under a name, and the folders of that name in them.
fn look_up_lower(folders: &[OwnedFd], name: &str) -> io::Result<(Option<Stat>, Vec<OwnedFd>)> {
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

fn is_folder(there: &Stat) -> bool {
    FileType::from_raw_mode(there.st_mode) == FileType::Directory
}

/// Returns whether an entry is the mark of overlayfs for a removed file.
fn is_whiteout(there: &Stat) -> bool {
    FileType::from_raw_mode(there.st_mode) == FileType::CharacterDevice && there.st_rdev == 0
}
