//! The pages that the first requests to an app need, and their prefaulting in restored instances.
//!
//! A restored instance has a page fault for each page of shared memory that it changes first, and for each part of a
//! file that it reads first. Visitors would wait for them. So the first instance of a checkpoint gets the warm-up
//! requests once more; then its dirty pages and the file pages that it has read are stored with the checkpoint. Later
//! instances get these pages before their processes run.
//!
//! # Traps
//! Pages are prefaulted while the processes exist and do not run yet: before CRIU's notification `pre-resume` is
//! answered.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::procfs;
use super::sharing::layout::{MEMORY_DIR, PAGE_SIZE, SHMEM_PREFIX};
use crate::runtime::containerd::host::private_files;

/// The name of the stored list in a checkpoint's folder.
const FILE: &str = "touched.json";

/// Maximum bytes of dirty pages of an instance that are prefaulted. It keeps the private memory of an unused instance a
/// fraction of what it shares.
const MAX_DIRTY_BYTES: u64 = 16 << 20;

/// Maximum number of pages for one system call (`IOV_MAX`).
const PAGES_PER_CALL: usize = 1024;

/// Bytes around an accessed file page that the kernel maps together (its default `fault_around_bytes`), so that one
/// access for each such block is enough.
const FAULT_AROUND_BYTES: u64 = 64 << 10;

/// Bytes of an entry in a process's `pagemap`.
const ENTRY_BYTES: u64 = 8;
/// The bit of an entry whose page is in memory.
const PRESENT: u64 = 1 << 63;
/// The bit of an entry whose page belongs to the file and is no private copy.
const FILE_PAGE: u64 = 1 << 61;

/// The pages to prefault in each process, by the process's number in its container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PrefaultList(BTreeMap<u32, ProcessPages>);

/// The pages to prefault in one process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ProcessPages {
    /// The dirty pages of shared memory.
    #[serde(rename = "changed")]
    dirty: Vec<PageRange>,
    /// An address in each block of [`FAULT_AROUND_BYTES`] that has file pages.
    #[serde(rename = "seen")]
    file_blocks: Vec<u64>,
}

/// The addresses of pages that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct PageRange {
    start: u64,
    end: u64,
}

impl PageRange {
    /// Returns the first byte of each page.
    fn pages(&self) -> impl Iterator<Item = RemoteIoVec> {
        let addresses = (self.start..self.end).step_by(PAGE_SIZE as usize);
        addresses.filter_map(byte_at)
    }
}

impl PrefaultList {
    /// Lists the dirty pages and the accessed file pages of processes, given by their numbers on the host.
    ///
    /// # Errors
    /// The memory map of a process cannot be read.
    pub(crate) fn observe(pids: &[i32]) -> io::Result<Self> {
        let (mut all, mut remaining_bytes) = (BTreeMap::new(), MAX_DIRTY_BYTES);
        for pid in pids {
            let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
            let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
            let mut pages = ProcessPages::default();
            for (mapping, is_shared) in maps.lines().filter_map(file_mapping) {
                let length = (mapping.end - mapping.start) / PAGE_SIZE * ENTRY_BYTES;
                let mut entries = vec![0; usize::try_from(length).unwrap_or(0)];
                pagemap.read_exact_at(&mut entries, mapping.start / PAGE_SIZE * ENTRY_BYTES)?;
                if is_shared {
                    add_dirty_pages(&mut pages.dirty, mapping.start, &entries, &mut remaining_bytes);
                }
                add_file_blocks(&mut pages.file_blocks, mapping.start, &entries);
            }
            if pages != ProcessPages::default() {
                all.insert(innermost_pid(*pid)?, pages);
            }
        }
        Ok(Self(all))
    }

    /// Stores the list in a checkpoint's folder.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn save(&self, checkpoint: &Path) -> io::Result<()> {
        let file = checkpoint.join(FILE);
        let draft = file.with_extension("draft");
        private_files::write(&draft, &serde_json::to_vec(self)?)?;
        fs::rename(draft, file)
    }

    /// Whether a checkpoint has a stored list.
    pub(super) fn exists(checkpoint: &Path) -> bool {
        checkpoint.join(FILE).exists()
    }

    /// Reads the stored list of a checkpoint; `None` if there is none or it cannot be read.
    pub(super) fn load(checkpoint: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(checkpoint.join(FILE)).ok()?).ok()
    }

    /// Prefaults the listed pages in processes that do not run. The content of the pages does not change. All processes
    /// are prefaulted in parallel, because they wait for it; the last one by this thread.
    pub(super) fn prefault(&self, pids: &[i32]) {
        let listed = pids.iter().filter_map(|pid| {
            let pages = innermost_pid(*pid).ok().and_then(|number| self.0.get(&number))?;
            Some((Pid::from_raw(*pid), pages))
        });
        let mut listed: Vec<_> = listed.collect();
        let last = listed.pop();
        std::thread::scope(|scope| {
            for (pid, pages) in listed {
                scope.spawn(move || pages.prefault(pid));
            }
            if let Some((pid, pages)) = last {
                pages.prefault(pid);
            }
        });
    }
}

impl ProcessPages {
    fn prefault(&self, process: Pid) {
        let max_pages = usize::try_from(MAX_DIRTY_BYTES / PAGE_SIZE).unwrap_or(usize::MAX);
        let dirty: Vec<RemoteIoVec> = self.dirty.iter().flat_map(PageRange::pages).take(max_pages).collect();
        for_each_part(&dirty, |bytes, pages| {
            let read = process_vm_readv(process, &mut [IoSliceMut::new(bytes)], pages)?;
            process_vm_writev(process, &[IoSlice::new(&bytes[..read])], &pages[..read])
        });
        let blocks: Vec<RemoteIoVec> =
            self.file_blocks.iter().filter_map(|address| byte_at(*address)).collect();
        for_each_part(&blocks, |bytes, pages| {
            process_vm_readv(process, &mut [IoSliceMut::new(bytes)], pages)
        });
    }
}

/// Calls `access` for one byte of each page, with many pages for each call. `access` returns how many pages it has
/// accessed before the first that it cannot access; that one is skipped.
fn for_each_part(
    pages: &[RemoteIoVec],
    mut access: impl FnMut(&mut [u8], &[RemoteIoVec]) -> nix::Result<usize>,
) {
    let mut bytes = [0; PAGES_PER_CALL];
    let mut at = 0;
    while at < pages.len() {
        let part = &pages[at..pages.len().min(at + PAGES_PER_CALL)];
        let done = access(&mut bytes[..part.len()], part).unwrap_or(0);
        at += if done < part.len() { done + 1 } else { done };
    }
}

fn byte_at(address: u64) -> Option<RemoteIoVec> {
    Some(RemoteIoVec { base: usize::try_from(address).ok()?, len: 1 })
}

/// Reads a line of a process's `maps`. If it is a private mapping of a file that may be read, returns its addresses and
/// whether it is shared memory whose dirty pages are prefaulted. Shared anonymous memory of several processes is not: a
/// cache notes the use of each of its entries beside the entry, so first requests change some of every page of it.
fn file_mapping(line: &str) -> Option<(PageRange, bool)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?;
    let file = words.nth(3)?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let range = PageRange { start: number(start)?, end: number(end)? };
    let is_private = permissions.starts_with('r') && permissions.ends_with('p');
    let name = file.split_once(&format!("/{MEMORY_DIR}/")).map(|(_, name)| name);
    let is_shared = name.is_some_and(|name| !name.starts_with(SHMEM_PREFIX));
    (is_private && file.starts_with('/') && range.start < range.end).then_some((range, is_shared))
}

/// Adds the dirty pages of a mapping that begins at `start`, up to `remaining_bytes`.
fn add_dirty_pages(ranges: &mut Vec<PageRange>, start: u64, entries: &[u8], remaining_bytes: &mut u64) {
    for (at, entry) in pages_of(start, entries) {
        if entry & PRESENT == 0 || entry & FILE_PAGE != 0 || *remaining_bytes < PAGE_SIZE {
            continue;
        }
        *remaining_bytes -= PAGE_SIZE;
        match ranges.last_mut() {
            Some(last) if last.end == at => last.end += PAGE_SIZE,
            _ => ranges.push(PageRange { start: at, end: at + PAGE_SIZE }),
        }
    }
}

/// Adds an address in each block of a mapping that begins at `start` in which a file page is present.
fn add_file_blocks(blocks: &mut Vec<u64>, start: u64, entries: &[u8]) {
    let is_same_block = |one: u64, other: u64| one / FAULT_AROUND_BYTES == other / FAULT_AROUND_BYTES;
    for (at, entry) in pages_of(start, entries) {
        let present_file_page = PRESENT | FILE_PAGE;
        if entry & present_file_page == present_file_page
            && blocks.last().is_none_or(|last| !is_same_block(*last, at))
        {
            blocks.push(at);
        }
    }
}

/// Returns the address and the entry of each page of a mapping that begins at `start`.
fn pages_of(start: u64, entries: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    let entries = entries.as_chunks::<{ ENTRY_BYTES as usize }>().0;
    let entries = entries.iter().map(|entry| u64::from_le_bytes(*entry));
    (start..).step_by(PAGE_SIZE as usize).zip(entries)
}

/// Returns the number that a process has in its container.
fn innermost_pid(pid: i32) -> io::Result<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    procfs::innermost_pid(&status).ok_or_else(|| io::Error::other(format!("process {pid} has no number")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_private_mappings_of_files_are_listed() {
        let range = PageRange { start: 0x1000, end: 0x3000 };
        assert_eq!(file_mapping("1000-3000 rw-p 00000000 00:46 3 /dev/.mem/1.bin"), Some((range, true)));
        assert_eq!(file_mapping("1000-3000 r-xp 00000000 00:46 3 /usr/bin/php"), Some((range, false)));
        assert_eq!(file_mapping("1000-3000 rw-p 00000000 00:46 3 /dev/.mem/shm-7.bin"), Some((range, false)));
        for other in [
            "1000-3000 rw-s 00000000 00:46 3 /dev/.mem/1.bin",
            "1000-3000 ---p 00000000 00:46 3 /dev/.mem/1.bin",
            "1000-3000 rw-p 00000000 00:00 0 [heap]",
            "1000-3000 rw-p 00000000 00:00 0",
            "3000-1000 rw-p 00000000 00:46 3 /dev/.mem/1.bin",
            "",
        ] {
            assert_eq!(file_mapping(other), None, "{other}");
        }
    }

    #[test]
    fn one_page_is_listed_for_each_block() {
        let file = PRESENT | FILE_PAGE;
        let mut all = vec![0; 40];
        [1, 2, 15, 16, 17, 39].into_iter().for_each(|page| all[page] = file);
        // A page that is not present, and a dirty one.
        (all[3], all[20]) = (FILE_PAGE, PRESENT);
        let entries: Vec<u8> = all.into_iter().flat_map(u64::to_le_bytes).collect();
        let mut blocks = Vec::new();
        add_file_blocks(&mut blocks, 0x20000, &entries);
        assert_eq!(blocks, [0x21000, 0x30000, 0x47000]);
    }

    #[test]
    fn a_page_that_cannot_be_accessed_is_skipped() {
        let pages: Vec<_> = (0..2500).filter_map(byte_at).collect();
        let mut done: Vec<usize> = Vec::new();
        for_each_part(&pages, |bytes, part| {
            assert_eq!(bytes.len(), part.len());
            let good: Vec<_> = part.iter().map(|page| page.base).take_while(|base| base % 700 != 3).collect();
            done.extend(&good);
            if good.is_empty() { Err(nix::errno::Errno::EFAULT) } else { Ok(good.len()) }
        });
        assert_eq!(done, (0..2500).filter(|base| base % 700 != 3).collect::<Vec<_>>());
    }

    #[test]
    fn dirty_pages_are_listed_as_ranges_and_up_to_a_limit() {
        let entries: Vec<u8> = [PRESENT, PRESENT, PRESENT | FILE_PAGE, 0, PRESENT, PRESENT]
            .iter()
            .flat_map(|entry| u64::to_le_bytes(*entry))
            .collect();
        let (mut ranges, mut remaining_bytes) = (Vec::new(), 3 * PAGE_SIZE + 1);
        add_dirty_pages(&mut ranges, 0x10000, &entries, &mut remaining_bytes);
        let expected =
            [PageRange { start: 0x10000, end: 0x12000 }, PageRange { start: 0x14000, end: 0x15000 }];
        assert_eq!(ranges, expected);
        assert_eq!(remaining_bytes, 1);
    }

    #[test]
    fn a_stored_list_is_found_and_a_malformed_one_is_ignored() {
        let folder =
            std::env::temp_dir().join(format!("try-it-now-prefault-{}", crate::instance::NodeId::random()));
        fs::create_dir(&folder).unwrap();
        assert!(!PrefaultList::exists(&folder) && PrefaultList::load(&folder).is_none());
        let dirty = vec![PageRange { start: 0, end: PAGE_SIZE }];
        let list = PrefaultList(BTreeMap::from([(1, ProcessPages { dirty, file_blocks: vec![7] })]));
        list.save(&folder).unwrap();
        assert!(PrefaultList::exists(&folder));
        let stored: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.join(FILE)).unwrap()).unwrap();
        let expected = json!({ "1": { "changed": [{ "start": 0, "end": 4096 }], "seen": [7] } });
        assert_eq!(stored, expected, "checkpoints of older versions are read");
        assert_eq!(PrefaultList::load(&folder), Some(list));
        fs::write(folder.join(FILE), "{").unwrap();
        assert_eq!(PrefaultList::load(&folder), None);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_process_outside_of_containers_has_one_number() {
        let own = std::process::id();
        assert_eq!(innermost_pid(own as i32).unwrap(), own);
        let list = PrefaultList::observe(&[own as i32]).unwrap();
        assert!(list.0[&own].dirty.is_empty() && !list.0[&own].file_blocks.is_empty());
    }
}
