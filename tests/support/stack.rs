//! The containerd that the tests of containers use. `make stack` installs one in `target/stack`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use super::skip::skip;

/// A running containerd.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    /// The path of its socket.
    pub(crate) address: PathBuf,
    /// The folders of its programs, in the form of `PATH`.
    pub(crate) path: OsString,
}

impl Stack {
    /// Returns the containerd that the environment names, else the one of this checkout. Returns `None` and prints why
    /// if there is none or an image is missing; panics if no test may be skipped.
    pub(crate) fn find() -> Option<Self> {
        let found = Self::from_environment().or_else(Self::from_checkout);
        let has_images = ["php", "node"].into_iter().all(|name| image_archive(name).is_file());
        if has_images && found.as_ref().is_some_and(|stack| stack.address.exists()) {
            return found;
        }
        skip("no containerd is running, or an image is missing (run `make stack-up images`)");
        None
    }

    fn from_environment() -> Option<Self> {
        let address = env::var_os("CONTAINERD_ADDRESS")?.into();
        Some(Self { address, path: env::var_os("PATH").unwrap_or_default() })
    }

    fn from_checkout() -> Option<Self> {
        let lines = fs::read_to_string(target_dir().join("stack/env")).ok()?;
        let value = |name: &str| {
            let line = lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
            Some(line.trim_matches(['"', '\'']).to_owned())
        };
        Some(Self { address: value("CONTAINERD_ADDRESS")?.into(), path: value("PATH")?.into() })
    }
}

/// Returns the folders to search for the stack's programs, in the form of `PATH`. Returns `None` and prints why if
/// `program` is in none of them; panics if no test may be skipped.
pub(crate) fn path_with(program: &str) -> Option<OsString> {
    let folders = ["stack/usr/bin", "stack/usr/sbin", "stack/nats/usr/sbin"];
    let from_checkout = folders.map(|folder| target_dir().join(folder));
    let from_environment = env::var_os("PATH").unwrap_or_default();
    let all: Vec<PathBuf> = from_checkout.into_iter().chain(env::split_paths(&from_environment)).collect();
    if all.iter().any(|folder| folder.join(program).is_file()) {
        return Some(env::join_paths(all).unwrap());
    }
    skip(&format!("{program} is missing (run `make stack`, as root `make stack-up`)"));
    None
}

/// Returns the path of an image's archive.
pub(crate) fn image_archive(name: &str) -> PathBuf {
    target_dir().join("images").join(name).with_extension("tar")
}

/// Runs a command whose program is searched for in `path`, and returns its output. Panics if the command fails.
pub(crate) fn run_command(path: &OsStr, line: &str) -> String {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target")
}
