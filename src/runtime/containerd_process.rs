//! Which programs count: those that containerd finds, for its shims start them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;

/// Whoever listens at a socket. It may live in a mount namespace of its own and have a search path of its own, and it is
/// these that containers are started and restored with.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// Its process, where the system tells.
    pub pid: Option<i32>,
    /// Its search path, else ours.
    pub path: String,
}

impl Daemon {
    /// The one at the other end.
    pub fn behind(stream: &UnixStream) -> Self {
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        // One in a process namespace that we do not see has the number 0.
        pid.filter(|pid| *pid > 0).map_or_else(Self::unseen, |pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            Self { pid: Some(pid), path: path_in(&environment).unwrap_or_else(own_path) }
        })
    }

    /// One of which nothing is known, but that it is probably started as we are.
    pub fn unseen() -> Self {
        Self { pid: None, path: own_path() }
    }

    /// The program of that name that it would start.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        find(program, &self.path)
    }
}

/// The search path of this process.
pub fn own_path() -> String {
    std::env::var("PATH").unwrap_or_default()
}

/// `PATH` in the environment of a process, as the system shows it.
fn path_in(environment: &[u8]) -> Option<String> {
    let path = environment.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(b"PATH="))?;
    String::from_utf8(path.to_vec()).ok()
}

/// The first program of that name in a search path.
pub fn find(program: &str, path: &str) -> Option<PathBuf> {
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
        assert_eq!(find("Cargo.toml", &cargo.display().to_string()), None);
        assert_eq!(find("src", &cargo.display().to_string()), None);
        assert_eq!(find("sh", ":nowhere:/nowhere:/bin"), Some("/bin/sh".into()));
    }
}
