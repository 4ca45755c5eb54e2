//! The resource limits of one instance.

use serde::{Deserialize, Serialize};

/// The resource limits of one instance. `None` means no limit of this program: the host's limits apply, and for a
/// container the defaults of its runtime.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimits {
    /// Processor time in seconds that each process may use in all. `None` with an image.
    pub cpu_seconds: Option<u64>,
    /// Bytes of memory: of a whole container, or of the private writable memory of each process.
    pub memory: Option<u64>,
    /// Open files of each process.
    pub open_files: Option<u64>,
    /// Bytes of the largest file that a process may write.
    pub file_size: Option<u64>,
    /// Processes and threads at a time. Containers only.
    pub pids: Option<u32>,
    /// Bytes that the instance may write in addition to its image. They count as part of its memory. Containers only.
    pub disk: Option<u64>,
    /// Processor time of the whole instance in thousandths of one processor: 1500 is one and a half. Containers only.
    pub millicpus: Option<u32>,
}

impl ResourceLimits {
    /// Returns the bytes of memory of a container, including what it writes.
    pub fn container_memory(&self) -> u64 {
        self.memory.unwrap_or(1 << 30)
    }

    /// Returns the processor time of a container in thousandths of one processor.
    pub fn container_millicpus(&self) -> u32 {
        self.millicpus.unwrap_or(1000)
    }

    /// Returns the bytes that a container may write. The default is half of its memory, so that its processes have the
    /// other half.
    pub fn container_disk(&self) -> u64 {
        self.disk.unwrap_or(self.container_memory() / 2)
    }
}
