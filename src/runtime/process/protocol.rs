//! What the server, the guardian and the launcher tell each other: JSON, a message a line.
//!
//! The order goes through a pipe and not through arguments or the environment: arguments can be read by every
//! user of the host, and the app's environment may hold variables (`LD_PRELOAD`) that are not meant for us.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::template::ResourceLimits;

/// The label that every process of a node carries in its environment.
pub(super) const NODE_LABEL: &str = "TRY_IT_NOW_NODE";
/// The variable that names the instance, to the app and to whoever looks for its processes.
pub(super) const INSTANCE_LABEL: &str = "INSTANCE_ID";

/// Server to guardian, and on to the launcher: what to run and where.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Launch {
    /// Program and arguments, not empty.
    pub(super) command: Vec<String>,
    /// The whole environment.
    pub(super) env: BTreeMap<String, String>,
    /// The instance's own folder, which does not exist yet.
    pub(super) folder: PathBuf,
    /// What to copy into it.
    pub(super) files: Option<PathBuf>,
    /// What each process may use.
    pub(super) limits: ResourceLimits,
}

/// Guardian to server.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// The app runs: its program has replaced the launcher.
    Started,
    /// It does not, and here is why. The guardian cleans up and ends.
    Failed {
        /// A sentence for the operator.
        why: String,
        /// What the host ran out of, if that was it.
        lacking: Option<Lack>,
    },
    /// The app's first process ended. The guardian ends the others, removes the folder and ends.
    Ended {
        /// `exit status 1`, `signal 9`.
        how: String,
    },
}

/// What a host can run out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Lack {
    /// Space or inodes.
    Disk,
    /// Processes.
    Processes,
    /// Memory.
    Memory,
    /// Open files.
    OpenFiles,
}

impl Lack {
    /// What `error` says is lacking.
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

    /// As in "the host has no ... left".
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk space",
            Self::Processes => "process",
            Self::Memory => "memory",
            Self::OpenFiles => "open file",
        }
    }
}

/// Where the app starts, inside the instance's folder: the copy of the template's files.
pub(super) fn working_directory(folder: &Path) -> PathBuf {
    folder.join("files")
}

/// Where its temporary files go, beside the working directory so that they do not show in it.
pub(super) fn temporary_directory(folder: &Path) -> PathBuf {
    folder.join("tmp")
}

/// One message as one line. Fails on a path that is no Unicode, for JSON cannot hold it.
pub(super) fn line(message: &impl Serialize) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// `name=value` as it stands in an environment block.
pub(super) fn variable(name: &str, value: &str) -> Vec<u8> {
    [OsStr::new(name).as_encoded_bytes(), b"=", value.as_bytes()].concat()
}
