//! The folder with CRIU's image files. They are read one by one, up to a limit in all, because an app decides how long
//! they become.
//!
//! # Traps
//! A file of another kind than messages must be in [`PLAIN_IMAGES`]. In debug builds each bake reads all other images
//! and writes them again, and fails if one differs; the tests bake dozens of apps.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::criu_image::CriuImage;
use super::refused::Refused;

/// Maximum bytes of one image of messages, which is read as a whole: enough for as many mappings as the kernel lets a
/// process have, or for memory of 2 GiB of which every other page is present.
const MAX_IMAGE_BYTES: u64 = 8 << 20;

/// Maximum bytes of all images of messages of a checkpoint.
const MAX_BYTES_IN_ALL: u64 = 8 * MAX_IMAGE_BYTES;

/// What the names of images begin with that are plain bytes, or messages with plain bytes between them.
const PLAIN_IMAGES: [&str; 20] = [
    "pages-",
    "ghost-file-",
    "pipes-data",
    "fifo-data",
    "sk-queues",
    "tcp-stream-",
    "ipcns-shm-",
    "ipcns-msg-",
    "ipcns-sem-",
    "ifaddr-",
    "route-",
    "route6-",
    "rule-",
    "iptables-",
    "ip6tables-",
    "nftables-",
    "netns-ct-",
    "netns-exp-",
    "tmpfs-",
    "binfmt-misc",
];

/// The folder with a checkpoint's image files.
pub(super) struct ImageDir<'a> {
    folder: &'a Path,
    /// The names of all files, sorted.
    names: Vec<String>,
    /// Bytes that may still be read.
    remaining_bytes: Cell<u64>,
}

impl<'a> ImageDir<'a> {
    /// Lists the files in a folder.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) fn open(folder: &'a Path) -> Result<Self, Refused> {
        let listed = fs::read_dir(folder).and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<_>>>()
        });
        let mut names = listed.map_err(|why| Refused::unreadable("the folder", &why))?;
        names.sort_unstable();
        Ok(Self { folder, names, remaining_bytes: Cell::new(MAX_BYTES_IN_ALL) })
    }

    /// Returns the names of all files, sorted.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Reads an image of messages.
    ///
    /// # Errors
    /// The file cannot be read, is malformed, or is longer than any that CRIU writes.
    pub(super) fn read(&self, name: &str) -> Result<CriuImage, Refused> {
        let bytes = self.bytes(name)?;
        CriuImage::read(&bytes).map_err(|why| Refused::malformed(name, why))
    }

    /// Returns the path and the length of the image with the pages that a pagemap lists.
    ///
    /// # Errors
    /// The pagemap names no such image, or there is none.
    pub(super) fn pages_of(&self, name: &str, pagemap: &CriuImage) -> Result<(PathBuf, u64), Refused> {
        let head = pagemap.records.first().ok_or(Refused::Inconsistent)?;
        let number = head.need(1).map_err(|why| Refused::malformed(name, why))?;
        let pages = self.folder.join(format!("pages-{number}.img"));
        let length = pages.metadata().map_err(|why| Refused::unreadable("pages", &why))?.len();
        Ok((pages, length))
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, Refused> {
        let most = self.remaining_bytes.get().min(MAX_IMAGE_BYTES);
        let mut bytes = Vec::new();
        let read =
            File::open(self.folder.join(name)).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
        let read = read.map_err(|why| Refused::unreadable(name, &why))? as u64;
        if read > most {
            return Err(Refused::unreadable(
                name,
                &io::Error::other("it is longer than any image that CRIU writes"),
            ));
        }
        self.remaining_bytes.set(self.remaining_bytes.get() - read);
        Ok(bytes)
    }
}

/// Checks that every image of messages in a folder has the same bytes when it is read and written. Returns their
/// number.
///
/// # Errors
/// An image cannot be read, or has other bytes when it is written.
pub(crate) fn verify_round_trip(folder: &Path) -> Result<usize, Refused> {
    let source = ImageDir::open(folder)?;
    let is_plain = |name: &str| PLAIN_IMAGES.iter().any(|prefix| name.starts_with(prefix));
    let images = source.names().iter().filter(|name| name.ends_with(".img") && !is_plain(name));
    let mut count = 0;
    for name in images {
        let bytes = source.bytes(name)?;
        let image = CriuImage::read(&bytes).map_err(|why| Refused::malformed(name, why))?;
        if image.write() != bytes {
            return Err(Refused::unreadable(name, &io::Error::other("it differs when it is written again")));
        }
        count += 1;
    }
    Ok(count)
}
