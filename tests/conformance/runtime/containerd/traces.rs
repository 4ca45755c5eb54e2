//! What there is of a node's instances on this host, wherever one can look.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::{Place, env, fs};

impl Place {
    /// Everything of these instances, and of this node's checkpoints: in containerd, among processes, cgroups and mounts,
    /// and on disk. Empty when nothing is left.
    pub(super) fn traces(&self, ids: &[String]) -> BTreeSet<String> {
        let mut found = self.in_containerd(ids);
        found.extend(processes(ids, &self.settings.folder));
        found.extend(cgroups(ids));
        found.extend(mounts(ids, self.daemon()));
        found.extend(self.state_folders(ids));
        found.extend(files(&self.settings.folder.join("instances")));
        found.extend(files(&self.checkpoints()));
        found
    }

    fn in_containerd(&self, ids: &[String]) -> BTreeSet<String> {
        let node = self.settings.node.as_str();
        let lists = ["containers", "tasks", "snapshots", "leases", "content"]
            .map(|what| (what, self.ctr(&[what, "list"])));
        let lines = lists.iter().flat_map(|(what, text)| text.lines().map(move |line| (what, line)));
        let ours = |line: &str| line.contains(node) || ids.iter().any(|id| line.contains(id));
        lines.filter(|(_, line)| ours(line)).map(|(what, line)| format!("{what}: {line}")).collect()
    }

    /// containerd's process.
    fn daemon(&self) -> i32 {
        let stream = UnixStream::connect(&self.settings.address).unwrap();
        rustix::net::sockopt::socket_peercred(&stream).unwrap().pid.as_raw_nonzero().get()
    }

    /// What containerd, its shims and runc note of a task, as containerd sees the file system.
    fn state_folders(&self, ids: &[String]) -> Vec<String> {
        let root = PathBuf::from(format!("/proc/{}/root", self.daemon()));
        let state = self.settings.address.parent().unwrap().join("state");
        let places = [
            state.join("io.containerd.runtime.v2.task/try-it-now"),
            root.join("run/containerd/io.containerd.runtime.v2.task/try-it-now"),
            root.join("run/containerd/runc/try-it-now"),
        ];
        let paths = places.iter().flat_map(|place| ids.iter().map(move |id| place.join(id)));
        paths.filter(|path| path.exists()).map(|path| path.display().to_string()).collect()
    }
}

/// Shims, runc, CRIU and the apps themselves: whatever names an instance or the node's folder, or is in its cgroup.
fn processes(ids: &[String], folder: &Path) -> Vec<String> {
    let (own, folder) = (std::process::id(), folder.display().to_string());
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let told = pids.filter(|pid| *pid != own).filter_map(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let ours = words.contains(&folder) || ids.iter().any(|id| words.contains(id) || cgroup.contains(id));
        // One that has ended, and that its parent has not waited for yet, has no words and is in no cgroup of ours.
        ours.then(|| format!("process {pid}: {words}"))
    });
    told.collect()
}

fn cgroups(ids: &[String]) -> Vec<String> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies =
        fs::read_dir(root).unwrap().flatten().map(|entry| entry.path()).chain([root.to_owned()]);
    let paths =
        hierarchies.flat_map(|hierarchy| ids.iter().map(move |id| hierarchy.join("try-it-now").join(id)));
    paths.filter(|path| path.exists()).map(|path| path.display().to_string()).collect()
}

fn mounts(ids: &[String], daemon: i32) -> Vec<String> {
    let tables = ["self".to_owned(), daemon.to_string()];
    let texts = tables.map(|process| fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap());
    let lines = texts.iter().flat_map(|text| text.lines());
    lines.filter(|line| ids.iter().any(|id| line.contains(id))).map(|line| format!("mount: {line}")).collect()
}

/// All below a folder.
fn files(folder: &Path) -> Vec<String> {
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

/// Network namespaces that this process holds open.
pub(super) fn networks() -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("net:")).count()
}

/// A variable that a test passed to a child of its own.
pub(super) fn told(name: &str) -> Option<String> {
    env::var(name).ok()
}
