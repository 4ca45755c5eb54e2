//! The process of containerd, and the programs that it finds. containerd and its shims start runc and CRIU, so the
//! search path that counts is containerd's and not that of this server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;

/// The process that listens at containerd's socket. It may have a mount namespace and a search path of its own, and
/// containers are started and restored with the programs found there.
#[derive(Debug, Clone)]
pub struct ContainerdProcess {
    /// Number of the process, if the system reports it.
    pub pid: Option<i32>,
    /// Search path of the process, else that of this server.
    pub search_path: String,
}

impl ContainerdProcess {
    /// Returns the process at the peer's end of a connection.
    pub fn of_peer(stream: &UnixStream) -> Self {
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        // A process in a process namespace that this server does not see has the number 0.
        pid.filter(|pid| *pid > 0).map_or_else(Self::unknown, |pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            Self { pid: Some(pid), search_path: path_in(&environment).unwrap_or_else(own_search_path) }
        })
    }

    /// Returns a process of which nothing is known. It is assumed to have the same search path as this server.
    pub fn unknown() -> Self {
        Self { pid: None, search_path: own_search_path() }
    }

    /// Returns the path of the program with this name that the process would start.
    pub fn find_program(&self, program: &str) -> Option<PathBuf> {
        find_program(program, &self.search_path)
    }
}

/// Returns the search path of this process.
pub fn own_search_path() -> String {
    std::env::var("PATH").unwrap_or_default()
}

/// Returns `PATH` from the environment block of a process.
fn path_in(environment: &[u8]) -> Option<String> {
    let path = environment.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(b"PATH="))?;
    String::from_utf8(path.to_vec()).ok()
}

/// Returns the first executable with this name in a search path. Relative folders in the path are skipped.
pub fn find_program(program: &str, path: &str) -> Option<PathBuf> {
    let runs = |file: &PathBuf| {
        file.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    path.split(':')
        .filter(|folder| folder.starts_with('/'))
        .map(|folder| Path::new(folder).join(program))
        .find(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_path_is_read_out_of_an_environment() {
        assert_eq!(path_in(b"A=1\0PATH=/a:/b\0XPATH=/c\0").as_deref(), Some("/a:/b"));
        assert_eq!(path_in(b"XPATH=/c\0"), None);
    }

    #[test]
    fn only_what_may_be_run_is_found() {
        let cargo = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert_eq!(find_program("Cargo.toml", &cargo.display().to_string()), None);
        assert_eq!(find_program("src", &cargo.display().to_string()), None);
        assert_eq!(find_program("sh", ":nowhere:/nowhere:/bin"), Some("/bin/sh".into()));
    }
}
