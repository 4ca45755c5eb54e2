//! The messages between the server, the guardian and the launcher: JSON, one message per line.
//!
//! The launch request goes through a pipe and not through arguments or the environment: every user of the host can read
//! arguments, and the app's environment may contain variables such as `LD_PRELOAD` that must not affect this program.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::template::ResourceLimits;

/// The environment variable with the node's id that every process of an instance carries.
pub(super) const NODE_LABEL: &str = "TRY_IT_NOW_NODE";
/// The environment variable with the instance's id, for the app and for finding the instance's processes.
pub(super) const INSTANCE_LABEL: &str = "INSTANCE_ID";

/// Server to guardian, and on to the launcher: which app to run, and how.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LaunchRequest {
    /// Program and arguments, not empty.
    pub(super) command: Vec<String>,
    /// The complete environment.
    pub(super) env: BTreeMap<String, String>,
    /// The instance's folder, which does not exist yet.
    pub(super) folder: PathBuf,
    /// The folder whose files are copied into it.
    pub(super) files: Option<PathBuf>,
    /// Limits of each process.
    pub(super) limits: ResourceLimits,
    /// The soft limit of open files of each process if `limits` has none. `None` leaves the one that is inherited.
    pub(super) open_files: Option<u64>,
}

/// Guardian to server.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// The app runs: its program has replaced the launcher.
    Started,
    /// The app does not run. The guardian cleans up and exits.
    Failed {
        /// The reason, a sentence for the operator.
        why: String,
        /// The resource that the host ran out of, if that is the reason.
        lacking: Option<MissingResource>,
    },
    /// The app's first process ended. The guardian ends the other processes, removes the folder and exits.
    Ended {
        /// `exit status 1`, `signal 9`.
        how: String,
    },
}

/// A resource that a host can run out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum MissingResource {
    /// Disk space or inodes.
    Disk,
    /// Processes.
    Processes,
    /// Memory.
    Memory,
    /// Open files.
    OpenFiles,
}

impl MissingResource {
    /// Returns the resource whose lack `error` reports.
    pub(super) fn of(error: &std::io::Error) -> Option<Self> {
        use rustix::io::Errno;
        match Errno::from_io_error(error)? {
            Errno::NOSPC | Errno::DQUOT => Some(Self::Disk),
            Errno::AGAIN => Some(Self::Processes),
            Errno::NOMEM => Some(Self::Memory),
            Errno::MFILE | Errno::NFILE => Some(Self::OpenFiles),
            _ => None,
        }
    }

    /// Returns the name of the resource as in "the host has no ... left".
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk space",
            Self::Processes => "process",
            Self::Memory => "memory",
            Self::OpenFiles => "open file",
        }
    }
}

/// Returns the app's working directory inside the instance's folder, which holds the copied files of the template.
pub(super) fn working_directory(folder: &Path) -> PathBuf {
    folder.join("files")
}

/// Returns the folder for temporary files, beside the working directory so that the app does not see it there.
pub(super) fn temporary_directory(folder: &Path) -> PathBuf {
    folder.join("tmp")
}

/// Encodes a message as one line.
///
/// # Errors
/// A path in the message is not Unicode, which JSON cannot express.
pub(super) fn encode_line(message: &impl Serialize) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// Returns `name=value` as it stands in an environment block.
pub(super) fn env_entry(name: &str, value: &str) -> Vec<u8> {
    [OsStr::new(name).as_encoded_bytes(), b"=", value.as_bytes()].concat()
}
