//! What one instance may use of the host.

use serde::{Deserialize, Serialize};

/// What one instance may use. `None` means as much as the host gives, and for a container as much as its runtime
/// thinks fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimits {
    /// Processor time in seconds, over its whole life and per process. `None` with an image.
    pub cpu_seconds: Option<u64>,
    /// Bytes of memory: of a container in all, else of what is private and writable in each process.
    pub memory: Option<u64>,
    /// Open files per process.
    pub open_files: Option<u64>,
    /// Bytes of the largest file that it may write.
    pub file_size: Option<u64>,
    /// Processes and threads at a time. Containers only, like the rest.
    pub pids: Option<u32>,
    /// Bytes that it may write beside what its image holds. They are part of its memory.
    pub disk: Option<u64>,
    /// Thousandths of one processor, in all: 1500 are one and a half.
    pub millicpus: Option<u32>,
}

impl ResourceLimits {
    /// Bytes of memory of a container, what it writes included.
    pub fn container_memory(&self) -> u64 {
        self.memory.unwrap_or(1 << 30)
    }

    /// Bytes that a container may write; half of its memory unless it was said, so that its processes have the rest.
    pub fn container_disk(&self) -> u64 {
        self.disk.unwrap_or(self.container_memory() / 2)
    }
}
