//! The folder that CRIU wrote a checkpoint to, as far as it is read: image by image, and never more than is bearable.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::criu_image::Image;
use super::plan::{Refused, malformed};

/// Most bytes of one image of messages, which is read as a whole: enough for as many mappings as the kernel lets a
/// process have, or for memory of 2 GiB of which every other page was touched.
const LONGEST: u64 = 8 << 20;

/// Most bytes of all those of a checkpoint.
const LONGEST_IN_ALL: u64 = 8 * LONGEST;

/// Images that are plain bytes, or messages with plain bytes between them, by what their names begin with.
const PLAIN: [&str; 20] = [
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

/// See the module.
pub(super) struct ImageDir<'a> {
    folder: &'a Path,
    /// The names of all files, in order.
    names: Vec<String>,
    /// Bytes that may still be read.
    left: Cell<u64>,
}

impl<'a> ImageDir<'a> {
    pub(super) fn open(folder: &'a Path) -> Result<Self, Refused> {
        let listed = fs::read_dir(folder).and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<_>>>()
        });
        let mut names = listed.map_err(|why| unreadable("the folder", &why))?;
        names.sort_unstable();
        Ok(Self { folder, names, left: Cell::new(LONGEST_IN_ALL) })
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Reads an image of messages.
    pub(super) fn read(&self, name: &str) -> Result<Image, Refused> {
        let bytes = self.bytes(name)?;
        Image::read(&bytes).map_err(|why| malformed(name, why))
    }

    /// The image of the pages that a pagemap lists, and its length.
    pub(super) fn pages_of(&self, name: &str, pagemap: &Image) -> Result<(PathBuf, u64), Refused> {
        let head = pagemap.records.first().ok_or(Refused::Contradiction)?;
        let number = head.need(1).map_err(|why| malformed(name, why))?;
        let pages = self.folder.join(format!("pages-{number}.img"));
        let length = pages.metadata().map_err(|why| unreadable("pages", &why))?.len();
        Ok((pages, length))
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, Refused> {
        let most = self.left.get().min(LONGEST);
        let mut bytes = Vec::new();
        let read =
            File::open(self.folder.join(name)).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
        let read = read.map_err(|why| unreadable(name, &why))? as u64;
        if read > most {
            return Err(unreadable(name, &io::Error::other("it is longer than any that CRIU writes")));
        }
        self.left.set(self.left.get() - read);
        Ok(bytes)
    }
}

/// Reads every image of messages that CRIU wrote to a folder, writes it again, and compares. Returns how many they are.
///
/// # Errors
/// One is refused, or another when it is written again.
pub(crate) fn read_and_write_again(folder: &Path) -> Result<usize, Refused> {
    let source = ImageDir::open(folder)?;
    let is_plain = |name: &str| PLAIN.iter().any(|plain| name.starts_with(plain));
    let images = source.names().iter().filter(|name| name.ends_with(".img") && !is_plain(name));
    let mut count = 0;
    for name in images {
        let bytes = source.bytes(name)?;
        let image = Image::read(&bytes).map_err(|why| malformed(name, why))?;
        if image.write() != bytes {
            return Err(unreadable(name, &io::Error::other("it is another when it is written again")));
        }
        count += 1;
    }
    Ok(count)
}

pub(super) fn unreadable(file: &str, why: &io::Error) -> Refused {
    Refused::Unreadable { file: file.to_owned(), why: why.to_string() }
}
