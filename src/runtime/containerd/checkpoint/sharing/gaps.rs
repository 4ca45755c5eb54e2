//! The gaps of files of shared memory: what lies between the parts that mappings cover, and after the last of them.
//!
//! A mapping that grows in place grows into a gap. A private mapping of a tmpfs allocates a page of zeros there when it
//! reads or writes the gap, and a process with root's rights can map the gap itself. The kernel charges such a page to
//! the instance that accesses it first, and keeps it after that instance has ended. Instances cannot write to the file,
//! so a gap contains zeros only, and a page that an instance has changed is a copy of its own. Therefore a gap may be
//! punched at any time: a process that reads it again finds zeros again.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::layout::MEMORY_DIR;

/// The parts of a file of memory that mappings cover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MappedParts {
    /// The file's name.
    pub(super) name: String,
    /// The parts in bytes, in order, as beginning and end.
    pub(super) parts: Vec<(u64, u64)>,
}

impl MappedParts {
    /// Returns the gaps of a file of this length.
    fn gaps(&self, length: u64) -> Vec<Range<u64>> {
        let starts = std::iter::once(0).chain(self.parts.iter().map(|part| part.1));
        let ends = self.parts.iter().map(|part| part.0).chain([length]);
        starts.zip(ends).map(|(start, end)| start..end).filter(|gap| !gap.is_empty()).collect()
    }
}

/// Gives back the pages of all gaps of the files in a folder of devices. Returns how many gaps had pages.
///
/// # Errors
/// A file cannot be opened for writing, or the kernel refuses. The other files are punched all the same.
pub(super) fn punch_gaps(devices: &Path, files: &[MappedParts]) -> io::Result<usize> {
    let mut punched = Ok(0);
    for file in files {
        match punch_file(&devices.join(MEMORY_DIR).join(&file.name), file) {
            Ok(gaps) => punched = punched.map(|sum| sum + gaps),
            Err(error) => punched = Err(error),
        }
    }
    punched
}

fn punch_file(path: &Path, mapped: &MappedParts) -> io::Result<usize> {
    let file = OpenOptions::new().write(true).open(path)?;
    let mut punched = 0;
    for gap in mapped.gaps(file.metadata()?.len()) {
        // Punching a hole takes locks of all instances' mappings, so it is done only where there are pages.
        if has_pages(&file, &gap)? {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&file, flags, gap.start, gap.end - gap.start)?;
            punched += 1;
        }
    }
    Ok(punched)
}

fn has_pages(file: &File, gap: &Range<u64>) -> io::Result<bool> {
    match seek(file, SeekFrom::Data(gap.start)) {
        Ok(at) => Ok(at < gap.end),
        Err(Errno::NXIO) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_no_mapping_covers() {
        let mapped = |parts: &[(u64, u64)]| MappedParts { name: "1.bin".to_owned(), parts: parts.to_vec() };
        assert_eq!(mapped(&[(0, 10), (20, 30), (30, 40)]).gaps(50), [10..20, 40..50]);
        assert_eq!(mapped(&[(5, 10)]).gaps(10), [std::ops::Range { start: 0, end: 5 }]);
        assert_eq!(mapped(&[]).gaps(0), []);
    }
}
