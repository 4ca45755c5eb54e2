//! The files of `/proc` that an instance must not read: they tell about devices, keys and timers of the host. They are
//! those that container engines mask.

use std::fs;
use std::path::{Path, PathBuf};

/// Files that are masked.
const FILES: [&str; 7] =
    ["interrupts", "kcore", "keys", "latency_stats", "sched_debug", "timer_list", "timer_stats"];

/// Folders of which all files are masked.
const FOLDERS: [&str; 3] = ["acpi", "asound", "scsi"];

/// Most files of a folder that are masked one by one. Each is a mount of its own in each instance.
const MAX_FILES: usize = 16;

/// Returns the paths to mask in a container of this host, whose `/proc` is `proc`. Files below folders are named one by
/// one: runc masks a folder by a tmpfs, which costs each restore 10 ms. A folder with more files than that is worth is
/// named itself.
pub(super) fn masked_paths(proc: &Path) -> Vec<String> {
    let mut masked: Vec<String> = FILES.iter().map(|file| format!("/proc/{file}")).collect();
    for folder in FOLDERS {
        let mut files = Vec::new();
        match list_files(&proc.join(folder), &mut files) {
            Some(()) => masked.extend(
                files
                    .iter()
                    .filter_map(|file| Some(format!("/proc/{}", file.strip_prefix(proc).ok()?.to_str()?))),
            ),
            None => masked.push(format!("/proc/{folder}")),
        }
    }
    masked
}

/// Adds all files below a folder in the order of their names. Returns `None` if they are too many.
fn list_files(folder: &Path, files: &mut Vec<PathBuf>) -> Option<()> {
    let mut entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            list_files(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
        if files.len() > MAX_FILES {
            return None;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_below_folders_are_masked_one_by_one_unless_they_are_many() {
        let proc = std::env::temp_dir().join(format!("try-it-now-masked-{}", uuid::Uuid::now_v7()));
        assert_eq!(masked_paths(&proc), FILES.map(|file| format!("/proc/{file}")));
        for folder in ["acpi/button", "scsi", "asound/card0"] {
            fs::create_dir_all(proc.join(folder)).unwrap();
        }
        for file in ["acpi/wakeup", "acpi/button/lid", "scsi/scsi"] {
            fs::write(proc.join(file), "").unwrap();
        }
        for number in 0..=MAX_FILES {
            fs::write(proc.join("asound/card0").join(number.to_string()), "").unwrap();
        }
        let masked = masked_paths(&proc);
        let expected = ["/proc/acpi/button/lid", "/proc/acpi/wakeup", "/proc/asound", "/proc/scsi/scsi"];
        assert_eq!(masked[FILES.len()..], expected);
        fs::remove_dir_all(proc).unwrap();
    }
}
