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
use rustix::fs::{AtFlags, Mode, OFlags, Stat, fchmod, fchown, mkdirat, openat2, unlinkat};
use rustix::process::{Gid, Uid};

use crate::runtime::InstanceFile;
use crate::runtime::containerd::host::id_ranges::IdRange;
use crate::runtime::containerd::image::layers::{self, confined, is_folder, open_folder, stat};

/// Permissions of a folder that no lower layer has.
const FOLDER_MODE: u32 = 0o755;

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
        Ok(Self { upper: layers::open_layer(upper)?, lower: layers::open_lower(mounts)?, ids })
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
        } else if layers::look_up(&lower, name)?.0.is_some_and(|seen| is_folder(&seen)) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut written = File::from(openat2(&here, name, flags, Mode::RUSR | Mode::WUSR, confined())?);
        written.write_all(&file.content)?;
        self.set_owner_and_mode(&written, file.owner, file.mode)
    }

    /// Makes a folder that root owns, and the folders that lead to it.
    ///
    /// # Errors
    /// A part of the path is a link or not a folder.
    pub(super) fn make_folder(&self, path: &str, mode: u32) -> io::Result<()> {
        self.set_owner_and_mode(self.open_folder(path)?.0, (0, 0), mode)
    }

    /// Makes a folder that root owns, and the folders that lead to it, unless the lower layers have something there.
    ///
    /// # Errors
    /// A part of the path is a link that leads to nothing, or is not a folder.
    pub(super) fn make_missing_folder(&self, path: &str, mode: u32) -> io::Result<()> {
        // Its parts are those that the path seems to have: none is removed by a later `..`.
        let is_plain = path.split('/').all(|part| part != "." && part != "..");
        match is_plain && !layers::exists(&self.lower, path)? {
            true => self.make_folder(path, mode),
            false => Ok(()),
        }
    }

    /// Opens a folder of this layer, which is made if it does not exist, and the folders of the same path in the lower
    /// layers.
    fn open_folder(&self, path: &str) -> io::Result<(OwnedFd, Vec<OwnedFd>)> {
        let mut here = self.upper.try_clone()?;
        let mut lower = self.lower.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>()?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let seen;
            (seen, lower) = layers::look_up(&lower, part)?;
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
