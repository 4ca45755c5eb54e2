//! Whether processes rely on discarded memory being zero. Pure.

use std::collections::HashMap;

/// How a process relies on memory being zero after it discarded it with `madvise`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ZeroReliance {
    /// Its calls reach the kernel: what it discarded while it was traced is not shared, or it does not matter to it
    /// what it finds afterwards.
    Unfiltered,
    /// Discarding is a hint to it. It works if nothing happens, but not if the call fails.
    Hint,
    /// It checks whether the call succeeded. If it failed, the process clears the memory or does not expect zeros.
    Checked,
}

/// The reliance of each process of an app, by its number in the container.
#[derive(Debug, Default)]
pub(crate) struct AllocatorReport(HashMap<u32, ZeroReliance>);

impl AllocatorReport {
    /// Returns the reliance of a process; `None` if the process was not examined.
    pub(super) fn of(&self, pid: u32) -> Option<ZeroReliance> {
        self.0.get(&pid).copied()
    }

    /// Whether no process was examined.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<I: IntoIterator<Item = (u32, ZeroReliance)>> From<I> for AllocatorReport {
    fn from(processes: I) -> Self {
        Self(processes.into_iter().collect())
    }
}
