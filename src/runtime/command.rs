//! Commands that run in an instance beside its app.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

/// A command to run in an instance. `Debug` shows the program only.
#[derive(Clone, PartialEq, Eq)]
pub struct ExecCommand {
    /// Program and arguments; never empty.
    pub argv: Vec<String>,
    /// Environment variables beyond those of the app.
    pub env: BTreeMap<String, String>,
    /// Time after which the command is killed.
    pub timeout: Duration,
}

impl fmt::Debug for ExecCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExecCommand({})", self.argv.first().map_or("", String::as_str))
    }
}

/// How a command ended, and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit status; `None` if the command was killed at its timeout.
    pub status: Option<u32>,
    /// The last output of the command, bounded by the runtime.
    pub output: Bytes,
}
