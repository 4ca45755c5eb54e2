//! The running kernel.

use rustix::process::{Resource, getrlimit};

/// Returns the release of the running kernel.
pub(crate) fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Returns the number of open files that this host allows to a process.
pub(crate) fn max_open_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}
