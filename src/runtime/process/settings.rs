//! Settings of the process runtime.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::instance::NodeId;

/// Output kept of each instance unless the settings say otherwise, in bytes.
pub const OUTPUT_LOG_BYTES: usize = 256 * 1024;

/// Settings of a process runtime.
#[derive(Debug, Clone)]
pub struct ProcessSettings {
    /// This server's own program, which calls [`internal_command`](super::internal_command) before all else, such as
    /// `/proc/self/exe`.
    pub program: PathBuf,
    /// The node's folder for instances. It is created if its parent exists. No other server may use it, which the
    /// caller ensures by a lock.
    pub instances_dir: PathBuf,
    /// The node's id.
    pub node: NodeId,
    /// Ports for the apps. Other programs may use some of them, and other servers may use the same range.
    pub port_range: RangeInclusive<u16>,
    /// The soft limit of open files of apps whose template sets none. `None` leaves them that of this process.
    pub open_files: Option<u64>,
    /// Output kept of each instance, in bytes.
    pub log_limit: usize,
}
