//! What there is of containers on this host, wherever one can look.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::stack::Stack;

impl Stack {
    /// Everything that has one of these words in its name, such as an instance's id, a node's, or how the ids of a
    /// template begin: in containerd, among processes, cgroups and mounts, and in what shims and runc note. Empty when
    /// nothing is left.
    pub(crate) fn traces(&self, words: &[&str]) -> BTreeSet<String> {
        let mut found = self.in_containerd(words);
        found.extend(processes(words));
        found.extend(entries(&cgroups(), words));
        found.extend(mounts(words, self.daemon()));
        found.extend(entries(&self.notes(), words));
        // What the kernel notes about them.
        found.extend(entries(&["/sys/kernel/tracing/instances".into()], words));
        found
    }

    fn in_containerd(&self, words: &[&str]) -> BTreeSet<String> {
        let lists = ["containers", "tasks", "snapshots", "leases", "content"];
        let lists = lists.map(|what| (what, self.ctr(&[what, "list"])));
        let lines = lists.iter().flat_map(|(what, text)| text.lines().map(move |line| (what, line)));
        let ours = lines.filter(|(_, line)| has_any(line, words));
        ours.map(|(what, line)| format!("{what}: {line}")).collect()
    }

    /// What containerd's own tool says.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> String {
        let mut ctr = Command::new("ctr");
        ctr.env("PATH", &self.path).arg("--address").arg(&self.address);
        let output = ctr.args(["--namespace", "try-it-now"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// containerd's process.
    pub(crate) fn daemon(&self) -> i32 {
        let stream = UnixStream::connect(&self.address).unwrap();
        rustix::net::sockopt::socket_peercred(&stream).unwrap().pid.as_raw_nonzero().get()
    }

    /// Where containerd, its shims and runc note what they know of a task, as containerd sees the file system.
    fn notes(&self) -> Vec<PathBuf> {
        let run = PathBuf::from(format!("/proc/{}/root/run/containerd", self.daemon()));
        let own = self.address.parent().unwrap().join("state");
        let tasks = [own, run.clone()].map(|state| state.join("io.containerd.runtime.v2.task/try-it-now"));
        tasks.into_iter().chain([run.join("runc/try-it-now")]).collect()
    }
}

fn has_any(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.contains(word))
}

/// Shims, runc, CRIU and the apps themselves: whatever names a word, or is in a cgroup that does.
fn processes(words: &[&str]) -> Vec<String> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let told = pids.filter(|pid| *pid != own).filter_map(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        // One that has ended, and that its parent has not waited for yet, has no words and is in no cgroup of ours.
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let ours = has_any(&cgroup, words) || is_of_containers(&command) && has_any(&command, words);
        ours.then(|| format!("process {pid}: {command}"))
    });
    told.collect()
}

/// Not so the server, or who asks about it.
fn is_of_containers(command: &str) -> bool {
    let program = command.split(' ').next().unwrap_or_default();
    ["shim", "runc", "criu"].iter().any(|name| program.contains(name))
}

fn cgroups() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).unwrap().flatten().map(|entry| entry.path());
    hierarchies.chain([root.to_owned()]).map(|hierarchy| hierarchy.join("try-it-now")).collect()
}

/// What lies in these folders and has one of the words in its name.
fn entries(folders: &[PathBuf], words: &[&str]) -> Vec<String> {
    let all = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let ours = all.filter(|entry| has_any(&entry.file_name().to_string_lossy(), words));
    ours.map(|entry| entry.path().display().to_string()).collect()
}

fn mounts(words: &[&str], daemon: i32) -> Vec<String> {
    let tables = ["self".to_owned(), daemon.to_string()];
    let texts = tables.map(|process| fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap());
    let lines = texts.iter().flat_map(|text| text.lines());
    lines.filter(|line| has_any(line, words)).map(|line| format!("mount: {line}")).collect()
}

/// All below a folder.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        found.push(path.display().to_string());
        if path.is_dir() {
            found.extend(files(&path));
        }
    }
    found
}

/// Network namespaces that a process holds open.
pub(crate) fn networks(pid: u32) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("net:")).count()
}
