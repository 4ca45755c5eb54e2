//! The memory of a control group, from the kernel's files. Both versions of cgroups are read.
//!
//! Version 2 counts the groups below a group too; version 1 counts them in values of their own (`total_`).

use std::fs;
use std::path::Path;

/// What the kernel reports of the memory of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GroupMemory {
    /// Bytes of everything that counts for the group.
    total: u64,
    /// The text of `memory.stat`.
    stat: String,
}

impl GroupMemory {
    /// Reads the files of a group; `None` if the kernel does not report its memory there.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        const TOTALS: [&str; 2] = ["memory.current", "memory.usage_in_bytes"];
        let total = TOTALS.into_iter().find_map(|name| fs::read_to_string(folder.join(name)).ok())?;
        let stat = fs::read_to_string(folder.join("memory.stat")).ok()?;
        Some(Self { total: total.trim().parse().ok()?, stat })
    }

    /// Returns the bytes that would be free without the group: all but the file pages that the kernel can reclaim. Files
    /// on a tmpfs do not count as such.
    pub(super) fn charged(&self) -> u64 {
        let reclaimable = self.value("inactive_file").saturating_add(self.value("active_file"));
        self.total.saturating_sub(reclaimable)
    }

    /// Returns the bytes that belong to no file on a disk: memory of processes, and files in memory.
    pub(super) fn anonymous(&self) -> u64 {
        self.value("anon").max(self.value("rss")).saturating_add(self.value("shmem"))
    }

    /// Returns the bytes of files that processes map, files in memory among them.
    pub(super) fn mapped_files(&self) -> u64 {
        self.value("file_mapped").max(self.value("mapped_file"))
    }

    /// Returns a value of `memory.stat`; 0 for one that this version lacks.
    fn value(&self, name: &str) -> u64 {
        let find = |wanted: &str| {
            let mut lines = self.stat.lines().filter_map(|line| line.split_once(' '));
            lines.find(|(name, _)| *name == wanted)?.1.parse::<u64>().ok()
        };
        find(&format!("total_{name}")).or_else(|| find(name)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(total: u64, stat: &str) -> GroupMemory {
        GroupMemory { total, stat: stat.to_owned() }
    }

    #[test]
    fn version_1_counts_the_groups_below_in_values_of_their_own() {
        let stat = "cache 900\nrss 5\nshmem 2\nmapped_file 3\ninactive_anon 7\ninactive_file 30\nactive_file 12\n\
                    total_rss 6\ntotal_active_file 14\n";
        let memory = group(100, stat);
        assert_eq!((memory.charged(), memory.anonymous(), memory.mapped_files()), (56, 8, 3));
    }

    #[test]
    fn version_2_has_other_names_for_the_same_values() {
        let memory =
            group(100, "anon 40\nfile 50\nshmem 4\nfile_mapped 9\ninactive_file 30\nactive_file 12\n");
        assert_eq!((memory.charged(), memory.anonymous(), memory.mapped_files()), (58, 44, 9));
    }

    #[test]
    fn a_group_whose_files_are_missing_or_empty_is_no_error() {
        assert_eq!(GroupMemory::read(Path::new("/nowhere")), None);
        let memory = group(7, "");
        assert_eq!((memory.charged(), memory.anonymous(), memory.mapped_files()), (7, 0, 0));
    }
}
