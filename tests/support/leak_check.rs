//! What containers leave on this host, in every place where a part of one can be found.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::stack::Stack;

impl Stack {
    /// Returns everything that has one of `names` in its name, such as the id of an instance or of a node, or the
    /// prefix of a template's ids: in containerd, among processes, cgroups and mounts, in the state folders of shims
    /// and runc, and among the kernel's tracing instances. Returns an empty set if nothing is left.
    pub(crate) fn resources_named(&self, names: &[&str]) -> BTreeSet<String> {
        let mut found = self.containerd_resources(names);
        found.extend(processes(names));
        found.extend(entries_named(&cgroups(), names));
        found.extend(mounts(names, self.daemon_pid()));
        found.extend(entries_named(&self.task_state_dirs(), names));
        found.extend(entries_named(&["/sys/kernel/tracing/instances".into()], names));
        found
    }

    fn containerd_resources(&self, names: &[&str]) -> BTreeSet<String> {
        let lists = ["containers", "tasks", "snapshots", "leases", "content"];
        let lists = lists.map(|what| (what, self.ctr(&[what, "list"])));
        let lines = lists.iter().flat_map(|(what, text)| text.lines().map(move |line| (what, line)));
        let ours = lines.filter(|(_, line)| has_any(line, names));
        // The width of a column depends on what other tests have.
        ours.map(|(what, line)| format!("{what}: {}", line.split_whitespace().collect::<Vec<_>>().join(" ")))
            .collect()
    }

    /// Runs containerd's own tool `ctr` in the namespace of the tests and returns its output.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> String {
        self.try_ctr(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// Runs `ctr` as [`Stack::ctr`] does, where what it asks for may be gone: other tests remove what is theirs.
    ///
    /// # Errors
    /// What `ctr` wrote about its failure.
    pub(crate) fn try_ctr(&self, arguments: &[&str]) -> Result<String, String> {
        let mut ctr = Command::new("ctr");
        ctr.env("PATH", &self.path).arg("--address").arg(&self.address);
        let output = ctr.args(["--namespace", "try-it-now"]).args(arguments).output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Returns the process id of containerd.
    pub(crate) fn daemon_pid(&self) -> i32 {
        let stream = UnixStream::connect(&self.address).unwrap();
        rustix::net::sockopt::socket_peercred(&stream).unwrap().pid.as_raw_nonzero().get()
    }

    /// Returns the folders in which containerd, its shims and runc keep the state of a task, as containerd sees the
    /// file system.
    fn task_state_dirs(&self) -> Vec<PathBuf> {
        let run = PathBuf::from(format!("/proc/{}/root/run/containerd", self.daemon_pid()));
        let own = self.address.parent().unwrap().join("state");
        let tasks = [own, run.clone()].map(|state| state.join("io.containerd.runtime.v2.task/try-it-now"));
        tasks.into_iter().chain([run.join("runc/try-it-now")]).collect()
    }
}

fn has_any(text: &str, names: &[&str]) -> bool {
    names.iter().any(|word| text.contains(word))
}

/// Lists shims, runc, CRIU and the apps themselves: each process that has one of `names` in its command line or in the
/// path of its cgroup.
fn processes(names: &[&str]) -> Vec<String> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let found = pids.filter(|pid| *pid != own).filter_map(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        // A zombie has no command line and is in no cgroup of the tests.
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let ours = has_any(&cgroup, names) || is_container_process(&command) && has_any(&command, names);
        ours.then(|| format!("process {pid}: {command}"))
    });
    found.collect()
}

/// Excludes the server and the programs that look for the container.
fn is_container_process(command: &str) -> bool {
    let program = command.split(' ').next().unwrap_or_default();
    ["shim", "runc", "criu"].iter().any(|name| program.contains(name))
}

fn cgroups() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).unwrap().flatten().map(|entry| entry.path());
    let parents = hierarchies.chain([root.to_owned()]).map(|hierarchy| hierarchy.join("try-it-now"));
    let node_groups = |parent: &PathBuf| {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| is_node_group(path)).collect::<Vec<_>>()
    };
    parents.flat_map(|parent| node_groups(&parent).into_iter().chain([parent])).collect()
}

/// Returns whether this is the cgroup of all instances of a node, which exists as long as the node's server runs.
fn is_node_group(path: &Path) -> bool {
    path.to_string_lossy().ends_with(".instances")
}

/// Lists the entries of these folders that have one of `names` in their name.
fn entries_named(folders: &[PathBuf], names: &[&str]) -> Vec<String> {
    let all = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let all = all.filter(|entry| !is_node_group(&entry.path()));
    let ours = all.filter(|entry| has_any(&entry.file_name().to_string_lossy(), names));
    ours.map(|entry| entry.path().display().to_string()).collect()
}

fn mounts(names: &[&str], daemon_pid: i32) -> Vec<String> {
    let tables = ["self".to_owned(), daemon_pid.to_string()];
    let texts = tables.map(|process| fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap());
    let lines = texts.iter().flat_map(|text| text.lines());
    lines.filter(|line| has_any(line, names)).map(|line| format!("mount: {line}")).collect()
}

/// Lists all files and folders below a folder.
pub(crate) fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        found.push(path.display().to_string());
        if path.is_dir() {
            found.extend(files_below(&path));
        }
    }
    found
}

/// Counts the network namespaces that a process holds open.
pub(crate) fn open_network_namespaces(pid: u32) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("net:")).count()
}
