//! Cleans up where no guardian could: after a crash of the server, or of a guardian.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, getuid};

use super::instance_dir;
use super::processes::{self, proc_file};
use super::protocol::{INSTANCE_LABEL, NODE_LABEL, env_entry};
use crate::instance::{InstanceId, NodeId};
use crate::runtime::RuntimeError;
use crate::runtime::blocking::IoContext;

/// Name of the file with the id of the node that owns a folder of instances.
const OWNER_FILE: &str = ".try-it-now-node";

/// Most scans for processes. Killed processes need a moment to end: all scans with their pauses take at least 2 s.
const MAX_SCANS: usize = 400;
/// Pause between two scans.
const SCAN_INTERVAL: Duration = Duration::from_millis(5);

/// The marks by which the processes of an instance, or of all instances of a node, are recognised.
pub(super) struct ProcessMarks {
    /// Entries that the environment of such a process contains, all of them.
    labels: Vec<Vec<u8>>,
    /// Folder in which its working directory lies, unless the process has a terminal.
    folder: PathBuf,
}

impl ProcessMarks {
    /// Returns the marks of all instances of `node`, which live in folders below `instances_dir`.
    pub(super) fn of_node(node: &NodeId, instances_dir: &Path) -> Self {
        Self { labels: vec![env_entry(NODE_LABEL, node.as_str())], folder: instances_dir.to_owned() }
    }

    /// Returns the marks of one instance, which lives in `folder`.
    pub(super) fn of_instance(node: &NodeId, id: &InstanceId, folder: &Path) -> Self {
        let labels = vec![env_entry(NODE_LABEL, node.as_str()), env_entry(INSTANCE_LABEL, id.as_str())];
        Self { labels, folder: folder.to_owned() }
    }

    fn is_marked(&self, pid: Pid) -> bool {
        let labelled = fs::read(proc_file(pid, "environ")).is_ok_and(|block| {
            let variables: HashSet<_> = block.split(|b| *b == 0).collect();
            self.labels.iter().all(|label| variables.contains(label.as_slice()))
        });
        labelled || self.works_in_folder(pid)
    }

    /// Returns whether the process works in an instance's folder. A person's shell in there has a terminal and is
    /// spared.
    fn works_in_folder(&self, pid: Pid) -> bool {
        // The folder itself is the working directory of no app.
        fs::read_link(proc_file(pid, "cwd"))
            .is_ok_and(|cwd| cwd.starts_with(&self.folder) && cwd != self.folder)
            && processes::stat(pid).is_some_and(|s| !s.has_terminal)
    }

    /// Kills all processes that have the marks, and all their descendants.
    ///
    /// # Errors
    /// `/proc` still shows such processes after two seconds.
    pub(super) fn kill_all(&self) -> io::Result<()> {
        let mut empty_scans = 0;
        for _ in 0..MAX_SCANS {
            let found = self.find();
            empty_scans = if found.is_empty() { empty_scans + 1 } else { 0 };
            // A second scan, because a process has no marks in the instant in which it starts a program.
            if empty_scans == 2 {
                return Ok(());
            }
            for signal in [Signal::STOP, Signal::KILL] {
                for (pid, descends_from) in &found {
                    let is_target = || match descends_from {
                        None => self.is_marked(*pid),
                        Some(parent) => processes::stat(*pid).is_some_and(|s| s.parent == *parent),
                    };
                    processes::signal(*pid, signal, is_target);
                }
            }
            std::thread::sleep(SCAN_INTERVAL);
        }
        Err(io::Error::other(format!("{} processes do not end", self.find().len())))
    }

    /// Returns the numbers of the living processes that have the marks, and of their descendants.
    pub(super) fn pids(&self) -> Vec<i32> {
        self.find().into_iter().map(|(pid, _)| pid.as_raw_nonzero().get()).collect()
    }

    /// Returns the living processes that have the marks, and their descendants with the parent's number.
    fn find(&self) -> Vec<(Pid, Option<i32>)> {
        // Without this process: the server has the marks itself if an instance of its node started it.
        let living = |pid: Pid| pid != getpid() && processes::stat(pid).is_some_and(|s| !s.has_ended);
        let marked = processes::all().into_iter().filter(|pid| living(*pid) && self.is_marked(*pid));
        let mut found: Vec<(Pid, Option<i32>)> = marked.map(|pid| (pid, None)).collect();
        let mut known: HashSet<Pid> = found.iter().map(|(pid, _)| *pid).collect();
        let mut next = 0;
        while let Some((parent, _)) = found.get(next).copied() {
            next += 1;
            for pid in processes::children(parent) {
                if living(pid) && known.insert(pid) {
                    found.push((pid, Some(parent.as_raw_nonzero().get())));
                }
            }
        }
        found
    }
}

/// Takes over the folder of a node's instances, and removes what a crashed server left: processes first, then folders.
/// It refuses a folder that contains anything else, so that a wrong setting deletes no other files. Returns the
/// canonical path.
///
/// # Errors
/// The folder cannot be created or belongs to another user or node, or a process or a folder in it cannot be removed.
pub(super) fn take_over(instances_dir: &Path, node: &NodeId) -> Result<PathBuf, RuntimeError> {
    match fs::DirBuilder::new().mode(0o700).create(instances_dir) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.context(|| format!("create the folder of instances {}", instances_dir.display()))?,
    }
    let meta = fs::symlink_metadata(instances_dir).context(|| format!("read {}", instances_dir.display()))?;
    if !meta.is_dir() || meta.uid() != getuid().as_raw() {
        return Err(refusal(instances_dir, "it is not a folder of this user's own"));
    }
    let instances_dir =
        fs::canonicalize(instances_dir).context(|| format!("read {}", instances_dir.display()))?;
    mark_owner(&instances_dir, node)?;
    ProcessMarks::of_node(node, &instances_dir)
        .kill_all()
        .context(|| "kill processes of a crashed server".to_owned())?;
    for entry in
        fs::read_dir(&instances_dir).context(|| format!("read {}", instances_dir.display()))?.flatten()
    {
        if entry.file_name().to_str().is_some_and(|name| InstanceId::parse(name).is_ok()) {
            let path = entry.path();
            instance_dir::remove(&path).context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(instances_dir)
}

/// Checks that the folder is marked as this node's, and marks a new one.
fn mark_owner(instances_dir: &Path, node: &NodeId) -> Result<(), RuntimeError> {
    let mark = instances_dir.join(OWNER_FILE);
    let owner = match fs::read_to_string(&mark) {
        Ok(owner) => owner,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if fs::read_dir(instances_dir)
                .context(|| format!("read {}", instances_dir.display()))?
                .next()
                .is_some()
            {
                return Err(refusal(instances_dir, "it holds files that are not ours"));
            }
            String::new()
        }
        other => other.context(|| format!("read {}", mark.display()))?,
    };
    // Empty: it is new, or a server crashed while it wrote the file.
    if owner.is_empty() {
        fs::write(&mark, node.as_str()).context(|| format!("write {}", mark.display()))
    } else if owner == node.as_str() {
        Ok(())
    } else {
        Err(refusal(instances_dir, &format!("it belongs to {owner}, and this is {node}")))
    }
}

fn refusal(instances_dir: &Path, why: &str) -> RuntimeError {
    let operation = format!("use {} as the folder of instances", instances_dir.display());
    RuntimeError::Io { operation, source: io::Error::new(io::ErrorKind::InvalidInput, why) }
}
