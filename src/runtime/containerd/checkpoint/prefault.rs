//! What the first page of an app needs of its memory: what it changes of that which copies share, and what it looks at in
//! files. A fault each is what a visitor of a copy would wait for, so the next copies get it all before they run.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::sharing::allocator_scan;
use super::sharing::plan::PAGE;
use super::sharing::rewrite::{FOLDER, IN_COMMON};

/// Beside a checkpoint's images.
const FILE: &str = "touched.json";

/// Most bytes that a copy gets so: what it has for itself when nobody uses it stays a fraction of what it shares.
const MOST: u64 = 16 << 20;

/// Pages with one call to the kernel, which takes no more (`IOV_MAX`).
const AT_ONCE: usize = 1024;

/// Bytes that the kernel has in reach together when one of them is looked at (its `fault_around_bytes`, unless it is told
/// otherwise), so that one look at each is enough.
const BLOCK: u64 = 64 << 10;

/// An entry of a process's `pagemap`: eight bytes a page.
const ENTRY: u64 = 8;
const PRESENT: u64 = 1 << 63;
/// The page is one of the file, not a copy of it.
const OF_FILE: u64 = 1 << 61;

/// By the number that a process has inside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PrefaultList(BTreeMap<u32, Pages>);

/// Those of one process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Pages {
    /// What it changed.
    changed: Vec<Run>,
    /// Addresses in what it looked at, one for each [`BLOCK`].
    seen: Vec<u64>,
}

/// Pages that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    start: u64,
    end: u64,
}

impl Run {
    /// The first byte of each page.
    fn pages(&self) -> impl Iterator<Item = RemoteIoVec> {
        let addresses = (self.start..self.end).step_by(PAGE as usize);
        addresses.filter_map(byte)
    }
}

impl PrefaultList {
    /// What processes have changed and looked at so far, by their numbers outside.
    pub(crate) fn observe(pids: &[i32]) -> io::Result<Self> {
        let (mut all, mut room) = (BTreeMap::new(), MOST);
        for pid in pids {
            let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
            let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
            let mut pages = Pages::default();
            for (of, is_shared) in maps.lines().filter_map(of_file) {
                let mut entries = vec![0; usize::try_from((of.end - of.start) / PAGE * ENTRY).unwrap_or(0)];
                pagemap.read_exact_at(&mut entries, of.start / PAGE * ENTRY)?;
                if is_shared {
                    add_changed(&mut pages.changed, of.start, &entries, &mut room);
                }
                add_seen(&mut pages.seen, of.start, &entries);
            }
            if pages != Pages::default() {
                all.insert(inside(*pid)?, pages);
            }
        }
        Ok(Self(all))
    }

    pub(crate) fn keep(&self, checkpoint: &Path) -> io::Result<()> {
        let file = checkpoint.join(FILE);
        let draft = file.with_extension("draft");
        fs::write(&draft, serde_json::to_vec(self)?)?;
        fs::rename(draft, file)
    }

    /// Whether it is known of a checkpoint.
    pub(crate) fn is_known(checkpoint: &Path) -> bool {
        checkpoint.join(FILE).exists()
    }

    pub(crate) fn find(checkpoint: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(checkpoint.join(FILE)).ok()?).ok()
    }

    /// Has processes that do not run look at the same, and change the same pages, to what they are. All at once, for they
    /// wait for it.
    pub(crate) fn touch(&self, pids: &[i32]) {
        std::thread::scope(|scope| {
            for pid in pids {
                if let Some(pages) = inside(*pid).ok().and_then(|number| self.0.get(&number)) {
                    scope.spawn(|| pages.touch(Pid::from_raw(*pid)));
                }
            }
        });
    }
}

impl Pages {
    fn touch(&self, process: Pid) {
        let most = usize::try_from(MOST / PAGE).unwrap_or(usize::MAX);
        let changed: Vec<RemoteIoVec> = self.changed.iter().flat_map(Run::pages).take(most).collect();
        each_part(&changed, |bytes, pages| {
            let read = process_vm_readv(process, &mut [IoSliceMut::new(bytes)], pages)?;
            process_vm_writev(process, &[IoSlice::new(&bytes[..read])], &pages[..read])
        });
        let seen: Vec<RemoteIoVec> = self.seen.iter().filter_map(|address| byte(*address)).collect();
        each_part(&seen, |bytes, pages| process_vm_readv(process, &mut [IoSliceMut::new(bytes)], pages));
    }
}

/// Does it with a byte of each page, many with a call. It ends before the first page that it cannot be done with, which is
/// passed over.
fn each_part(pages: &[RemoteIoVec], mut act: impl FnMut(&mut [u8], &[RemoteIoVec]) -> nix::Result<usize>) {
    let mut bytes = [0; AT_ONCE];
    let mut at = 0;
    while at < pages.len() {
        let part = &pages[at..pages.len().min(at + AT_ONCE)];
        let done = act(&mut bytes[..part.len()], part).unwrap_or(0);
        at += if done < part.len() { done + 1 } else { done };
    }
}

fn byte(address: u64) -> Option<RemoteIoVec> {
    Some(RemoteIoVec { base: usize::try_from(address).ok()?, len: 1 })
}

/// The addresses of a line of a process's `maps`, if that is a private mapping of a file that can be read, and whether that
/// is memory that copies share. What processes had in common does not count as that: a cache notes the use of each of its
/// entries beside it, and so a first page changes some of every page of it.
fn of_file(line: &str) -> Option<(Run, bool)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let rights = words.next()?;
    let file = words.nth(3)?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let run = Run { start: number(start)?, end: number(end)? };
    let is_private = rights.starts_with('r') && rights.ends_with('p');
    let name = file.split_once(&format!("/{FOLDER}/")).map(|(_, name)| name);
    let is_shared = name.is_some_and(|name| !name.starts_with(IN_COMMON));
    (is_private && file.starts_with('/') && run.start < run.end).then_some((run, is_shared))
}

/// Adds the pages, from `start` on, that are changed copies, as far as there is room.
fn add_changed(runs: &mut Vec<Run>, start: u64, entries: &[u8], room: &mut u64) {
    for (at, entry) in pages_of(start, entries) {
        if entry & PRESENT == 0 || entry & OF_FILE != 0 || *room < PAGE {
            continue;
        }
        *room -= PAGE;
        match runs.last_mut() {
            Some(last) if last.end == at => last.end += PAGE,
            _ => runs.push(Run { start: at, end: at + PAGE }),
        }
    }
}

/// Adds an address of each block, from `start` on, of which a page is one of the file.
fn add_seen(seen: &mut Vec<u64>, start: u64, entries: &[u8]) {
    for (at, entry) in pages_of(start, entries) {
        let of_file = PRESENT | OF_FILE;
        if entry & of_file == of_file && seen.last().is_none_or(|last| last / BLOCK != at / BLOCK) {
            seen.push(at);
        }
    }
}

/// The pages that a process's `pagemap` has entries of, from `start` on.
fn pages_of(start: u64, entries: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    let entries = entries.as_chunks::<{ ENTRY as usize }>().0.iter().map(|entry| u64::from_le_bytes(*entry));
    (start..).step_by(PAGE as usize).zip(entries)
}

/// The number of a process in its own namespace.
fn inside(pid: i32) -> io::Result<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    allocator_scan::inside(&status).ok_or_else(|| io::Error::other("a process has no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_mappings_of_files_are_looked_at() {
        let run = Run { start: 0x1000, end: 0x3000 };
        assert_eq!(of_file("1000-3000 rw-p 00000000 00:46 3 /dev/.mem/1.bin"), Some((run, true)));
        assert_eq!(of_file("1000-3000 r-xp 00000000 00:46 3 /usr/bin/php"), Some((run, false)));
        assert_eq!(of_file("1000-3000 rw-p 00000000 00:46 3 /dev/.mem/shm-7.bin"), Some((run, false)));
        for other in [
            "1000-3000 rw-s 00000000 00:46 3 /dev/.mem/1.bin",
            "1000-3000 ---p 00000000 00:46 3 /dev/.mem/1.bin",
            "1000-3000 rw-p 00000000 00:00 0 [heap]",
            "1000-3000 rw-p 00000000 00:00 0",
            "3000-1000 rw-p 00000000 00:46 3 /dev/.mem/1.bin",
            "",
        ] {
            assert_eq!(of_file(other), None, "{other}");
        }
    }

    #[test]
    fn one_page_stands_for_its_block() {
        let file = PRESENT | OF_FILE;
        let mut all = vec![0; 40];
        [1, 2, 15, 16, 17, 39].into_iter().for_each(|page| all[page] = file);
        // Not looked at, and a changed copy.
        (all[3], all[20]) = (OF_FILE, PRESENT);
        let entries: Vec<u8> = all.into_iter().flat_map(u64::to_le_bytes).collect();
        let mut seen = Vec::new();
        add_seen(&mut seen, 0x20000, &entries);
        assert_eq!(seen, [0x21000, 0x30000, 0x47000]);
    }

    #[test]
    fn what_cannot_be_done_with_a_page_is_done_with_the_others() {
        let pages: Vec<_> = (0..2500).filter_map(byte).collect();
        let mut done: Vec<usize> = Vec::new();
        each_part(&pages, |bytes, part| {
            assert_eq!(bytes.len(), part.len());
            let good: Vec<_> = part.iter().map(|page| page.base).take_while(|base| base % 700 != 3).collect();
            done.extend(&good);
            if good.is_empty() { Err(nix::errno::Errno::EFAULT) } else { Ok(good.len()) }
        });
        assert_eq!(done, (0..2500).filter(|base| base % 700 != 3).collect::<Vec<_>>());
    }

    #[test]
    fn changed_pages_are_counted_as_runs_and_up_to_a_limit() {
        let entries: Vec<u8> = [PRESENT, PRESENT, PRESENT | OF_FILE, 0, PRESENT, PRESENT]
            .iter()
            .flat_map(|entry| u64::to_le_bytes(*entry))
            .collect();
        let (mut runs, mut room) = (Vec::new(), 3 * PAGE + 1);
        add_changed(&mut runs, 0x10000, &entries, &mut room);
        assert_eq!(runs, [Run { start: 0x10000, end: 0x12000 }, Run { start: 0x14000, end: 0x15000 }]);
        assert_eq!(room, 1);
    }

    #[test]
    fn what_is_kept_is_found_and_what_is_odd_is_nothing() {
        let folder =
            std::env::temp_dir().join(format!("try-it-now-touched-{}", crate::instance::NodeId::random()));
        fs::create_dir(&folder).unwrap();
        assert!(!PrefaultList::is_known(&folder) && PrefaultList::find(&folder).is_none());
        let touched = PrefaultList(BTreeMap::from([(
            1,
            Pages { changed: vec![Run { start: 0, end: PAGE }], seen: vec![7] },
        )]));
        touched.keep(&folder).unwrap();
        assert!(PrefaultList::is_known(&folder));
        assert_eq!(PrefaultList::find(&folder), Some(touched));
        fs::write(folder.join(FILE), "{").unwrap();
        assert_eq!(PrefaultList::find(&folder), None);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_process_has_its_own_number_where_it_is_not_apart() {
        let own = std::process::id();
        assert_eq!(inside(own as i32).unwrap(), own);
        let seen = PrefaultList::observe(&[own as i32]).unwrap();
        assert!(seen.0[&own].changed.is_empty() && !seen.0[&own].seen.is_empty());
    }
}
