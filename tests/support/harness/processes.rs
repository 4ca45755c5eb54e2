//! The processes that a server has started, found in `/proc` as an operator finds them.

use std::fs;
use std::path::Path;

/// A process that carries the label of a node of this test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    /// The instance that it belongs to.
    pub instance: String,
    /// Whether it is the app or a process that the app started, and not the guardian.
    pub is_app: bool,
}

/// Lists the names of the nodes in a state folder.
fn nodes(state_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(state_dir.join("nodes")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Lists all living processes of the nodes of a state folder, including guardians, without the servers themselves.
pub fn processes_of(state_dir: &Path) -> Vec<Process> {
    let labels: Vec<String> = nodes(state_dir).iter().map(|node| format!("TRY_IT_NOW_NODE={node}")).collect();
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| {
            // The environment of a zombie is empty.
            let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
            let variables: Vec<&str> =
                environ.split(|b| *b == 0).filter_map(|v| std::str::from_utf8(v).ok()).collect();
            variables.iter().find(|v| labels.iter().any(|label| label == *v))?;
            let instance = variables.iter().find_map(|v| v.strip_prefix("INSTANCE_ID="))?.to_owned();
            Some(Process { pid, instance, is_app: variables.iter().any(|v| v.starts_with("PORT=")) })
        })
        .collect()
}

/// Lists the folders of instances in a state folder.
pub fn instance_folders(state_dir: &Path) -> Vec<String> {
    nodes(state_dir).iter().flat_map(|node| instance_folders_of(state_dir, node)).collect()
}

/// Lists the folders of the instances of one node.
pub fn instance_folders_of(state_dir: &Path, node: &str) -> Vec<String> {
    let entries = fs::read_dir(state_dir.join("nodes").join(node).join("instances"));
    let folders = entries.into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    folders.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Kills the process group of an instance's app, as a crash or the kernel's out-of-memory killer does.
pub fn kill_app(state_dir: &Path, instance: &str) {
    let app = processes_of(state_dir).into_iter().find(|p| p.is_app && p.instance == instance);
    let pid = rustix::process::Pid::from_raw(app.expect("its app runs").pid).unwrap();
    let group = rustix::process::getpgid(Some(pid)).unwrap();
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
}
