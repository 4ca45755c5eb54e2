//! Which of the memory that copies share each has for itself soon: what the first pages of an app change. A fault each is
//! what a visitor of a copy would wait for, so the next copies get these pages before they run.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::plan::PAGE;
use super::rewrite::FOLDER;

/// Beside a checkpoint's images.
const FILE: &str = "touched.json";

/// Most bytes that a copy gets so: what it has for itself when nobody uses it stays a fraction of what it shares.
const MOST: u64 = 16 << 20;

/// Pages with one call to the kernel, which takes no more (`IOV_MAX`).
const AT_ONCE: usize = 1024;

/// An entry of a process's `pagemap`: eight bytes a page.
const ENTRY: u64 = 8;
const PRESENT: u64 = 1 << 63;
/// The page is one of the file, not a copy of it.
const OF_FILE: u64 = 1 << 61;

/// Ranges of addresses, by the number that a process has inside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Touched(BTreeMap<i32, Vec<Run>>);

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
        addresses.filter_map(|address| Some(RemoteIoVec { base: usize::try_from(address).ok()?, len: 1 }))
    }
}

impl Touched {
    /// What processes have changed so far, by their numbers outside.
    pub(in super::super) fn observe(pids: &[i32]) -> io::Result<Self> {
        let (mut all, mut room) = (BTreeMap::new(), MOST);
        for pid in pids {
            let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
            let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
            let mut runs = Vec::new();
            for shared in maps.lines().filter_map(shared) {
                let mut entries =
                    vec![0; usize::try_from((shared.end - shared.start) / PAGE * ENTRY).unwrap_or(0)];
                pagemap.read_exact_at(&mut entries, shared.start / PAGE * ENTRY)?;
                add(&mut runs, shared.start, &entries, &mut room);
            }
            if !runs.is_empty() {
                all.insert(inside(*pid)?, runs);
            }
        }
        Ok(Self(all))
    }

    pub(in super::super) fn keep(&self, checkpoint: &Path) -> io::Result<()> {
        let file = checkpoint.join(FILE);
        let draft = file.with_extension("draft");
        fs::write(&draft, serde_json::to_vec(self)?)?;
        fs::rename(draft, file)
    }

    /// Whether it is known of a checkpoint.
    pub(in super::super) fn is_known(checkpoint: &Path) -> bool {
        checkpoint.join(FILE).exists()
    }

    pub(in super::super) fn find(checkpoint: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(checkpoint.join(FILE)).ok()?).ok()
    }

    /// Has processes that do not run change the same pages, to what they are. All at once, for they wait for it.
    pub(in super::super) fn touch(&self, pids: &[i32]) {
        std::thread::scope(|scope| {
            for pid in pids {
                if let Some(runs) = inside(*pid).ok().and_then(|number| self.0.get(&number)) {
                    scope.spawn(|| touch(Pid::from_raw(*pid), runs));
                }
            }
        });
    }
}

/// Reads and writes a byte of each page, many with a call. What can no longer be written to stays as it is.
fn touch(process: Pid, runs: &[Run]) {
    let pages: Vec<RemoteIoVec> = runs.iter().flat_map(Run::pages).take((MOST / PAGE) as usize).collect();
    let mut bytes = [0; AT_ONCE];
    for pages in pages.chunks(AT_ONCE) {
        let mut at = 0;
        while at < pages.len() {
            let (bytes, pages) = (&mut bytes[at..pages.len()], &pages[at..]);
            let Ok(read @ 1..) = process_vm_readv(process, &mut [IoSliceMut::new(bytes)], pages) else {
                break;
            };
            let written = process_vm_writev(process, &[IoSlice::new(&bytes[..read])], &pages[..read]);
            // It ends before the first page that it cannot write to.
            at += written.unwrap_or(0).max(1);
        }
    }
}

/// The addresses of a line of a process's `maps`, if that is memory that copies share.
fn shared(line: &str) -> Option<Run> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let private = words.next()?.ends_with('p');
    let file = words.nth(3)?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let run = Run { start: number(start)?, end: number(end)? };
    (private && file.contains(&format!("/{FOLDER}/")) && run.start < run.end).then_some(run)
}

/// Adds the pages, from `start` on, that are changed copies, as far as there is room.
fn add(runs: &mut Vec<Run>, start: u64, entries: &[u8], room: &mut u64) {
    for (entry, at) in entries.chunks_exact(ENTRY as usize).zip((start..).step_by(PAGE as usize)) {
        let entry = u64::from_le_bytes(entry.try_into().expect("it is eight bytes long"));
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

/// The number of a process in its own namespace.
fn inside(pid: i32) -> io::Result<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let number = numbers.and_then(|numbers| numbers.split_whitespace().next_back()?.parse().ok());
    number.ok_or_else(|| io::Error::other("a process has no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_mappings_of_shared_memory_are_looked_at() {
        let run = Run { start: 0x1000, end: 0x3000 };
        assert_eq!(shared("1000-3000 rw-p 00000000 00:46 3 /dev/.mem/1.bin"), Some(run));
        for other in [
            "1000-3000 rw-s 00000000 00:46 3 /dev/.mem/1.bin",
            "1000-3000 rw-p 00000000 00:46 3 /usr/bin/php",
            "1000-3000 rw-p 00000000 00:00 0 [heap]",
            "1000-3000 rw-p 00000000 00:00 0",
            "3000-1000 rw-p 00000000 00:46 3 /dev/.mem/1.bin",
            "",
        ] {
            assert_eq!(shared(other), None, "{other}");
        }
    }

    #[test]
    fn changed_pages_are_counted_as_runs_and_up_to_a_limit() {
        let entries: Vec<u8> = [PRESENT, PRESENT, PRESENT | OF_FILE, 0, PRESENT, PRESENT]
            .iter()
            .flat_map(|entry| u64::to_le_bytes(*entry))
            .collect();
        let (mut runs, mut room) = (Vec::new(), 3 * PAGE + 1);
        add(&mut runs, 0x10000, &entries, &mut room);
        assert_eq!(runs, [Run { start: 0x10000, end: 0x12000 }, Run { start: 0x14000, end: 0x15000 }]);
        assert_eq!(room, 1);
    }

    #[test]
    fn what_is_kept_is_found_and_what_is_odd_is_nothing() {
        let folder =
            std::env::temp_dir().join(format!("try-it-now-touched-{}", crate::instance::NodeId::random()));
        fs::create_dir(&folder).unwrap();
        assert!(!Touched::is_known(&folder) && Touched::find(&folder).is_none());
        let touched = Touched(BTreeMap::from([(1, vec![Run { start: 0, end: PAGE }])]));
        touched.keep(&folder).unwrap();
        assert!(Touched::is_known(&folder));
        assert_eq!(Touched::find(&folder), Some(touched));
        fs::write(folder.join(FILE), "{").unwrap();
        assert_eq!(Touched::find(&folder), None);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_process_has_its_own_number_where_it_is_not_apart() {
        let own = std::process::id() as i32;
        assert_eq!(inside(own).unwrap(), own);
        assert_eq!(Touched::observe(&[own]).unwrap(), Touched::default());
    }
}
