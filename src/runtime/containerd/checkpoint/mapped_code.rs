//! The programs and libraries that a process has mapped, and a search for texts in them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;

use memchr::memmem::Finder;

use super::procfs;

/// Bytes of a file that are searched at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Texts to search for, and what each stands for.
pub(super) struct Markers(Vec<(Finder<'static>, &'static str)>);

impl Markers {
    /// Returns markers from texts that are written backwards. This program may itself be in an image: written forwards,
    /// all texts would be in its binary.
    pub(super) fn from_reversed(texts: &[(&[u8], &'static str)]) -> Self {
        let forwards = |text: &[u8]| text.iter().rev().copied().collect::<Vec<_>>();
        Self(texts.iter().map(|(text, name)| (Finder::new(&forwards(text)).into_owned(), *name)).collect())
    }

    /// Returns what the texts in a file stand for.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn search(&self, mut file: impl Read) -> io::Result<BTreeSet<&'static str>> {
        // A text may begin in one chunk and end in the next, so the end of each chunk is searched again with the next.
        let overlap = self.0.iter().map(|(text, _)| text.needle().len()).max().unwrap_or(0);
        let (mut buffer, mut found) = (Vec::with_capacity(CHUNK_BYTES + overlap), BTreeSet::new());
        loop {
            let read = (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut buffer)?;
            if read == 0 {
                return Ok(found);
            }
            let new =
                self.0.iter().filter(|(text, name)| !found.contains(name) && text.find(&buffer).is_some());
            let new: Vec<_> = new.map(|(_, name)| *name).collect();
            found.extend(new);
            buffer.drain(..buffer.len().saturating_sub(overlap));
        }
    }
}

/// What a process has mapped.
pub(super) struct ProcessCode {
    proc: PathBuf,
    maps: String,
    number: u32,
}

impl ProcessCode {
    /// Reads what a process has mapped, given by its number on the host; `None` if it has ended.
    ///
    /// # Errors
    /// Why the process cannot be examined.
    pub(super) fn read(pid: u32) -> Result<Option<Self>, String> {
        let proc = PathBuf::from("/proc").join(pid.to_string());
        let read = fs::read_to_string(proc.join("status"))
            .and_then(|status| Ok((status, fs::read_to_string(proc.join("maps"))?)));
        let (status, maps) = match read {
            Ok(read) => read,
            // The process has ended: `ENOENT` or `ESRCH`.
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3) => {
                return Ok(None);
            }
            Err(error) => return Err(format!("cannot examine process {pid}: {error}")),
        };
        let number = procfs::innermost_pid(&status).ok_or_else(|| format!("process {pid} has no number"))?;
        Ok(Some(Self { proc, maps, number }))
    }

    /// Returns the number of the process in its container.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Returns the variables of the process, as they were when its program began: each ends with a byte 0.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn environment(&self) -> io::Result<Vec<u8>> {
        fs::read(self.proc.join("environ"))
    }

    /// Returns the files with code. A file with several mappings is returned several times.
    pub(super) fn files(&self) -> impl Iterator<Item = MappedCode<'_>> {
        self.maps.lines().filter_map(MappedCode::read)
    }

    /// Opens a mapped file, even if another file has its path by now.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(super) fn open(&self, code: &MappedCode<'_>) -> io::Result<File> {
        let file = File::open(self.proc.join("map_files").join(code.range));
        file.or_else(|_| File::open(self.proc.join("root").join(code.path.trim_start_matches('/'))))
    }
}

/// Code that a process has mapped from a file.
pub(super) struct MappedCode<'a> {
    range: &'a str,
    device: &'a str,
    inode: &'a str,
    pub(super) path: &'a str,
}

impl<'a> MappedCode<'a> {
    /// Reads a line of a process's `maps`; `None` if it is no code from a file.
    fn read(line: &'a str) -> Option<Self> {
        let mut words = line.splitn(6, ' ');
        let (range, permissions) = (words.next()?, words.next()?);
        let (_offset, device, inode) = (words.next()?, words.next()?, words.next()?);
        let path = words.next()?.trim_start();
        (permissions.contains('x') && path.starts_with('/')).then_some(Self { range, device, inode, path })
    }

    /// Returns the device of the file and its number on it.
    pub(super) fn file(&self) -> (String, String) {
        (self.device.to_owned(), self.inode.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_code_is_found_in_maps() {
        let code = "7f10-7f20 r-xp 00001000 fe:00 12345                      /usr/lib/a b.so";
        let found = MappedCode::read(code).unwrap();
        assert_eq!((found.range, found.inode, found.path), ("7f10-7f20", "12345", "/usr/lib/a b.so"));
        for other in [
            "7f10-7f20 rw-p 00001000 fe:00 12345 /usr/lib/a.so",
            "7f10-7f20 r-xp 00000000 00:00 0 [vdso]",
            "7f10-7f20 rwxp 00000000 00:00 0",
            "",
        ] {
            assert!(MappedCode::read(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_text_is_found_wherever_it_is_in_a_file() {
        let markers =
            Markers::from_reversed(&[(b" :tsrif", "first"), (b"dnoces", "second"), (b"x", "third")]);
        for at in [0, 5, CHUNK_BYTES - 6, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES - 3] {
            let mut bytes = vec![b'.'; at];
            bytes.extend(b"first: second");
            assert_eq!(
                markers.search(bytes.as_slice()).unwrap(),
                BTreeSet::from(["first", "second"]),
                "{at}"
            );
        }
        assert!(markers.search(b"first:second_".as_slice()).unwrap().len() == 1);
    }
}
