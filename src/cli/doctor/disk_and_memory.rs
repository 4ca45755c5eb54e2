//! Checks the free disk space of the state folder, and the free memory.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{Access, access, statvfs};

use super::check_result::CheckResult;

/// Bytes of disk below which no server starts.
const MIN_DISK: u64 = 64 << 20;
/// Bytes of disk below which instances may soon fail.
const LOW_DISK: u64 = 2 << 30;
/// Bytes of memory below which instances may soon fail.
const LOW_MEMORY: u64 = 512 << 20;

/// Checks the disk of the state folder, and the memory of the host.
pub(super) fn check(state_dir: &Path) -> Vec<CheckResult> {
    let disk = free_disk(state_dir);
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_memory(&text));
    vec![judge_disk(state_dir, &disk), judge_memory(memory)]
}

/// Returns the bytes that this user may still write in a folder. Of a folder that does not exist, the nearest existing
/// parent counts, because the server creates the others.
fn free_disk(folder: &Path) -> io::Result<u64> {
    let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    access(existing, Access::WRITE_OK | Access::EXEC_OK)?;
    let disk = statvfs(existing)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn judge_disk(folder: &Path, free: &io::Result<u64>) -> CheckResult {
    const CHECK: &str = "disk";
    let folder = folder.display();
    match free {
        Err(why) => CheckResult::missing(
            CHECK,
            true,
            format!("STATE_DIR {folder} cannot be written: {why}"),
            "set STATE_DIR to a folder that this user may write",
        ),
        Ok(free) => {
            let found = format!("{} free at {folder}", format_size(*free));
            match *free {
                ..MIN_DISK => CheckResult::missing(CHECK, true, found, "free space there, or move STATE_DIR"),
                MIN_DISK..LOW_DISK => {
                    CheckResult::warning(CHECK, found, "free space there, or move STATE_DIR")
                }
                _ => CheckResult::ok(CHECK, found),
            }
        }
    }
}

/// Returns the bytes that are available without swapping.
fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn judge_memory(available: Option<u64>) -> CheckResult {
    const CHECK: &str = "memory";
    match available {
        Some(bytes @ ..LOW_MEMORY) => {
            let found = format!("{} available", format_size(bytes));
            CheckResult::warning(CHECK, found, "keep fewer instances (POOL_MAX_SIZE), or add memory")
        }
        Some(bytes) => CheckResult::ok(CHECK, format!("{} available", format_size(bytes))),
        None => CheckResult::warning(CHECK, "/proc/meminfo cannot be read", "mount /proc"),
    }
}

fn format_size(bytes: u64) -> String {
    match bytes >> 20 {
        mebibytes @ ..10_240 => format!("{mebibytes} MiB"),
        mebibytes => format!("{} GiB", mebibytes >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn low_disk_space_is_a_warning_and_no_disk_space_fails() {
        let judged = |free| judge_disk(Path::new("/state"), &free).verdict;
        assert_eq!(judged(Ok(100 << 30)), Verdict::Ok);
        assert_eq!(judged(Ok(1 << 30)), Verdict::Warning);
        assert_eq!(judged(Ok(0)), Verdict::Failed);
        assert_eq!(judged(Err(io::ErrorKind::PermissionDenied.into())), Verdict::Failed);
        assert_eq!(judge_disk(Path::new("/s"), &Ok(100 << 30)).found, "100 GiB free at /s");
    }

    #[test]
    fn available_memory_counts_and_not_unused_memory() {
        let text = "MemTotal:       16303376 kB\nMemFree:          204944 kB\nMemAvailable:   15204944 kB\n";
        assert_eq!(available_memory(text), Some(15_204_944 << 10));
        assert_eq!(available_memory("MemFree: 1 kB\n"), None);
        assert_eq!(judge_memory(Some(8 << 30)).verdict, Verdict::Ok);
        assert_eq!(judge_memory(Some(100 << 20)).verdict, Verdict::Warning);
        assert_eq!(judge_memory(None).verdict, Verdict::Warning);
    }

    #[test]
    fn a_folder_that_does_not_exist_is_checked_by_its_parent() {
        let folder = std::env::temp_dir();
        assert!(free_disk(&folder.join("not/there/yet")).unwrap() > 0);
        assert!(free_disk(Path::new("/proc/self/status/x")).is_err());
    }
}
