//! The memory of a process.

use crate::failure::Failure;

/// Returns the bytes of a process that are in memory, shared ones included.
///
/// # Errors
/// The process has ended.
pub(crate) fn of_process(pid: u32) -> Result<u64, Failure> {
    // Unlike `/proc/<pid>/status`, it is exact.
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kibibytes = text.lines().find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix("kB"));
    let kibibytes: u64 =
        kibibytes.ok_or("the kernel does not report the memory of a process")?.trim().parse()?;
    Ok(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_used_counts() {
        let before = of_process(std::process::id()).unwrap();
        let used = vec![1_u8; 8 << 20];
        assert!(of_process(std::process::id()).unwrap() >= before + (7 << 20));
        drop(used);
    }
}
