//! A Debian that its own systemd has booted, over the folder that `deployments/debian/root` has made.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use super::harness::eventually_within;
use super::skip::skip;

/// The longest time for systemd to start all of its units on a busy machine.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
/// Folders whose content changes as long as systemd runs, and the mounts of the kernel.
const CHANGING: [&str; 9] = [
    "/dev",
    "/proc",
    "/run",
    "/sys",
    "/tmp",
    "/var/cache/ldconfig",
    "/var/lib/systemd",
    "/var/log",
    "/var/tmp",
];

/// A running Debian. When it is dropped, all its processes are killed and what they have written is removed.
pub(crate) struct DebianRoot {
    folder: PathBuf,
    cgroup: PathBuf,
    boot: Child,
    systemd: i32,
}

impl DebianRoot {
    /// Boots a Debian, in which each of `files` (a path of the host) appears under its second path, which has no
    /// slash at its begin. Returns `None` and prints why if that cannot be done here; panics if no test may be skipped.
    pub(crate) async fn boot(files: &[(&Path, &str)]) -> Option<Self> {
        let debian = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/package/debian-root");
        if !rustix::process::geteuid().is_root() {
            skip("only root may boot a Debian in a folder");
            return None;
        }
        // The stamp is written last.
        if !debian.with_extension("stamp").is_file() {
            skip("the folder of a Debian is missing (run `make debian-root`)");
            return None;
        }
        if !Path::new("/sys/fs/cgroup/systemd").is_dir() {
            skip("this host has no cgroup hierarchy name=systemd, which the systemd of Debian 12 needs here");
            return None;
        }
        let name = format!("try-it-now-debian-{}", uuid::Uuid::now_v7().simple());
        let folder = std::env::temp_dir().join(&name);
        for part in ["root", "upper", "work"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        let mut boot = Command::new("bash");
        boot.arg("tests/support/boot_root.sh").arg(&debian).arg(&folder).arg(&name);
        for (file, target) in files {
            boot.arg(file).arg(target);
        }
        let boot = boot.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let cgroup = Path::new("/sys/fs/cgroup/systemd").join(&name);
        let mut root = Self { folder, cgroup, boot, systemd: 0 };
        eventually_within(BOOT_TIMEOUT, "systemd has started its units", async || {
            assert!(root.boot.try_wait().unwrap().is_none(), "the boot ended");
            root.systemd = first_child(root.boot.id())?;
            let state = root.try_run("systemctl is-system-running");
            (state.stdout == b"running\n" || state.stdout == b"degraded\n").then_some(())
        })
        .await;
        Some(root)
    }

    /// Runs a shell command inside, and returns what it wrote. Panics if it fails.
    pub(crate) fn run(&self, command: &str) -> String {
        let output = self.try_run(command);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {errors}{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a shell command inside.
    pub(crate) fn try_run(&self, command: &str) -> Output {
        let pid = self.systemd.to_string();
        let mut enter = Command::new("nsenter");
        enter.args(["--target", &pid, "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--root", "--wd"]);
        enter.args(["env", "-i", "PATH=/usr/sbin:/usr/bin", "DEBIAN_FRONTEND=noninteractive", "sh", "-c"]);
        enter.arg(command).stdin(Stdio::null()).output().unwrap()
    }

    /// Returns where a path of the inside is on this host. No part of it may be an absolute link.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.systemd)).join(inside.trim_start_matches('/'))
    }

    /// Returns the paths of all files, without those that change by themselves and the records of the package manager.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        let root = self.path("/");
        let mut folders = vec![root.clone()];
        let mut found = BTreeSet::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap().flatten() {
                let inside = format!("/{}", entry.path().strip_prefix(&root).unwrap().display());
                if CHANGING.contains(&inside.as_str()) {
                    continue;
                }
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                }
                found.insert(inside);
            }
        }
        found
    }
}

impl Drop for DebianRoot {
    fn drop(&mut self) {
        // The end of process 1 of a process namespace ends all others in it.
        if let Some(systemd) = first_child(self.boot.id()).and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(systemd, rustix::process::Signal::KILL);
        }
        let _ = self.boot.kill();
        let _ = self.boot.wait();
        let _ = fs::remove_dir_all(&self.folder);
        // A cgroup is busy until its last process has ended.
        for _ in 0..400 {
            remove_cgroups(&self.cgroup);
            if !self.cgroup.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn first_child(parent: u32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Removes a cgroup and those in it, which the kernel refuses as long as a process is in one.
fn remove_cgroups(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}
