//! Where the containerd is that containers are tried on: `make stack` sets one up in `target/stack`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// A containerd that runs.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    /// Its socket.
    pub(crate) address: PathBuf,
    /// Where its programs are, as in `PATH`.
    pub(crate) path: OsString,
}

impl Stack {
    /// The one that the environment names, or else the one of this checkout. `None`, with a line that says so, where
    /// there is none, and then containers cannot be tried; an error where nothing may be skipped.
    #[expect(clippy::print_stdout, reason = "it tells who runs the tests")]
    pub(crate) fn find() -> Option<Self> {
        let found = Self::of_environment().or_else(Self::of_checkout);
        let has_images = ["php", "node"].into_iter().all(|name| image(name).is_file());
        if has_images && found.as_ref().is_some_and(|stack| stack.address.exists()) {
            return found;
        }
        let why = "skipped: there is no containerd, or an image is missing (run `make stack-up images`)";
        assert!(env::var_os("TRY_IT_NOW_NO_SKIPS").is_none_or(|value| value != "1"), "{why}");
        println!("{why}");
        None
    }

    fn of_environment() -> Option<Self> {
        let address = env::var_os("CONTAINERD_ADDRESS")?.into();
        Some(Self { address, path: env::var_os("PATH").unwrap_or_default() })
    }

    fn of_checkout() -> Option<Self> {
        let lines = fs::read_to_string(target().join("stack/env")).ok()?;
        let value = |name: &str| {
            let line = lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
            Some(line.trim_matches(['"', '\'']).to_owned())
        };
        Some(Self { address: value("CONTAINERD_ADDRESS")?.into(), path: value("PATH")?.into() })
    }
}

/// Where a program of the stack is, as in `PATH`. `None`, with a line that says so, where it is missing, and then what
/// needs it cannot be tried; an error where nothing may be skipped.
#[expect(clippy::print_stdout, reason = "it tells who runs the tests")]
pub(crate) fn programs(needed: &str) -> Option<OsString> {
    let of_checkout = [target().join("stack/usr/bin"), target().join("stack/usr/sbin")];
    let of_environment = env::var_os("PATH").unwrap_or_default();
    let all: Vec<PathBuf> = of_checkout.into_iter().chain(env::split_paths(&of_environment)).collect();
    if all.iter().any(|folder| folder.join(needed).is_file()) {
        return Some(env::join_paths(all).unwrap());
    }
    let why = format!("skipped: there is no {needed} (run `make stack`)");
    assert!(env::var_os("TRY_IT_NOW_NO_SKIPS").is_none_or(|value| value != "1"), "{why}");
    println!("{why}");
    None
}

/// The archive of an image.
pub(crate) fn image(name: &str) -> PathBuf {
    target().join("images").join(name).with_extension("tar")
}

/// What a command that must succeed says, with its program looked for in `path`.
pub(crate) fn run(path: &OsStr, line: &str) -> String {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target")
}
