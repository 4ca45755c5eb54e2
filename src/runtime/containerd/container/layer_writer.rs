//! Writing files into an instance's layer before anything runs in it.
//!
//! Whoever made the image, or whoever's app was frozen, chose what lies in the layers below, and is not trusted: no
//! link is followed, neither in them nor in the layer itself, so nothing outside of the layer can be written.

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

use crate::runtime::OwnFile;

const FOLDER_MODE: u32 = 0o755;
/// With which overlayfs marks a folder that hides what lies below it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// The folders of an overlay.
pub(crate) struct LayerWriter {
    own: OwnedFd,
    /// Those below, the uppermost first.
    below: Vec<OwnedFd>,
}

impl LayerWriter {
    /// The layer whose own files lie in the folder `own`, on what lies below in these mounts.
    pub(crate) fn open(own: &Path, mounts: &[Mount]) -> io::Result<Self> {
        let option = |name: &str| {
            let options = mounts.iter().flat_map(|mount| &mount.options);
            options.filter_map(|option| option.strip_prefix(name)?.strip_prefix('=')).next()
        };
        let folder = |path: &Path| {
            open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(io::Error::from)
        };
        let below = option("lowerdir").unwrap_or_default().split(':').filter(|path| !path.is_empty());
        Ok(Self {
            own: folder(own)?,
            below: below.map(|path| folder(Path::new(path))).collect::<io::Result<_>>()?,
        })
    }

    /// Writes a file in the place of what was at its path, and the folders to it. Those have the permissions that they
    /// have in the layers below.
    ///
    /// # Errors
    /// What leads to it is a link or no folder, or it is a folder itself.
    pub(crate) fn write(&self, file: &OwnFile) -> io::Result<()> {
        self.try_write(file).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.path)))
    }

    fn try_write(&self, file: &OwnFile) -> io::Result<()> {
        let (folder, name) = file.path.rsplit_once('/').ok_or(io::ErrorKind::InvalidInput)?;
        let (here, below) = self.enter(folder)?;
        if let Some(there) = stat(&here, name)? {
            if is_folder(&there) {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            unlinkat(&here, name, AtFlags::empty())?;
        } else if look_below(&below, name)?.0.is_some_and(|seen| is_folder(&seen)) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut made = File::from(openat2(&here, name, flags, Mode::RUSR | Mode::WUSR, confined())?);
        made.write_all(file.content.as_bytes())?;
        own(&made, file.owner, file.mode)
    }

    /// Makes a folder of root's, and those to it.
    ///
    /// # Errors
    /// What leads to it is a link or no folder.
    pub(crate) fn make_folder(&self, path: &str, mode: u32) -> io::Result<()> {
        own(self.enter(path)?.0, (0, 0), mode)
    }

    /// A folder of this layer, made where it is not there, and those of its name in the layers below.
    fn enter(&self, path: &str) -> io::Result<(OwnedFd, Vec<OwnedFd>)> {
        let mut here = self.own.try_clone()?;
        let mut below = self.below.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>()?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let seen;
            (seen, below) = look_below(&below, part)?;
            if seen.is_some_and(|seen| !is_folder(&seen)) && stat(&here, part)?.is_none() {
                return Err(io::Error::other(format!("`{part}` is a link or a file in the image")));
            }
            if stat(&here, part)?.is_none() {
                make_folder(&here, part, seen.as_ref())?;
            }
            here = enter(&here, part)?;
        }
        Ok((here, below))
    }
}

/// Not out of the folder that it starts in, by no means.
fn confined() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

fn enter(folder: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(folder, name, flags, Mode::empty(), confined()).map_err(|error| match error {
        Errno::LOOP | Errno::NOTDIR => io::Error::other(format!("`{name}` is no folder")),
        other => other.into(),
    })
}

/// What has that name in a folder, itself and not what it leads to.
fn stat(folder: &OwnedFd, name: &str) -> io::Result<Option<Stat>> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => Ok(Some(there)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What is seen under a name in folders that lie over each other, if anything, and the folders of that name in them.
fn look_below(folders: &[OwnedFd], name: &str) -> io::Result<(Option<Stat>, Vec<OwnedFd>)> {
    let (mut seen, mut found) = (None, Vec::new());
    for folder in folders {
        let Some(there) = stat(folder, name)? else { continue };
        if is_whiteout(&there) {
            break;
        }
        if !is_folder(&there) {
            // It hides what lies below, or is hidden by what lies above.
            seen = seen.or(Some(there));
            break;
        }
        let entered = enter(folder, name)?;
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

/// What overlayfs has in the place of what was removed.
fn is_whiteout(there: &Stat) -> bool {
    FileType::from_raw_mode(there.st_mode) == FileType::CharacterDevice && there.st_rdev == 0
}

/// Makes a folder as the one below is, since from now on it is this one whose permissions count.
fn make_folder(folder: &OwnedFd, name: &str, below: Option<&Stat>) -> io::Result<()> {
    mkdirat(folder, name, Mode::RWXU)?;
    let (owner, mode) =
        below.map_or(((0, 0), FOLDER_MODE), |below| ((below.st_uid, below.st_gid), below.st_mode));
    own(enter(folder, name)?, owner, mode)
}

fn own(file: impl AsFd, (user, group): (u32, u32), mode: u32) -> io::Result<()> {
    fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(())
}
