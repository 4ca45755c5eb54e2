//! What is left when no guardian could clean up: after a crash of the server, or of a guardian.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, getuid};

use super::processes::{self, proc_file};
use super::protocol::{INSTANCE_LABEL, NODE_LABEL, variable};
use super::{IoContext, folder};
use crate::instance::{InstanceId, NodeId};
use crate::runtime::RuntimeError;

/// The file that says whose a folder of instances is.
const OWNER: &str = ".try-it-now-node";

/// Processes that were killed need a moment; 400 looks and as many pauses are at least 2 s.
const LOOKS: usize = 400;
const PAUSE: Duration = Duration::from_millis(5);

/// How to know the processes of an instance, or of all instances of a node.
pub(super) struct Traces {
    /// What their environment holds, all of it.
    labels: Vec<Vec<u8>>,
    /// Where their working directory is, unless they sit at a terminal.
    folder: PathBuf,
}

impl Traces {
    /// Those of all instances of `node`, which live in folders below `work`.
    pub(super) fn of_node(node: &NodeId, work: &Path) -> Self {
        Self { labels: vec![variable(NODE_LABEL, node.as_str())], folder: work.to_owned() }
    }

    /// Those of one instance, which lives in `folder`.
    pub(super) fn of_instance(node: &NodeId, id: &InstanceId, folder: &Path) -> Self {
        let labels = vec![variable(NODE_LABEL, node.as_str()), variable(INSTANCE_LABEL, id.as_str())];
        Self { labels, folder: folder.to_owned() }
    }

    fn lead_to(&self, pid: Pid) -> bool {
        let labelled = fs::read(proc_file(pid, "environ")).is_ok_and(|block| {
            let variables: HashSet<_> = block.split(|b| *b == 0).collect();
            self.labels.iter().all(|label| variables.contains(label.as_slice()))
        });
        labelled || self.is_home_of(pid)
    }

    /// Whether it works in an instance's folder. A person who looks around there has a terminal and is spared.
    fn is_home_of(&self, pid: Pid) -> bool {
        // The folder itself belongs to nobody's app.
        fs::read_link(proc_file(pid, "cwd"))
            .is_ok_and(|cwd| cwd.starts_with(&self.folder) && cwd != self.folder)
            && processes::stat(pid).is_some_and(|s| !s.terminal)
    }

    /// Ends all processes that the traces lead to, and all that these started. Fails when some do not end.
    pub(super) fn end_all(&self) -> io::Result<()> {
        let mut quiet = 0;
        for _ in 0..LOOKS {
            let found = self.look();
            quiet = if found.is_empty() { quiet + 1 } else { 0 };
            // Once more, since a process shows no traces in the instant in which it starts a program.
            if quiet == 2 {
                return Ok(());
            }
            for signal in [Signal::STOP, Signal::KILL] {
                for (pid, descends_from) in &found {
                    let meant = || match descends_from {
                        None => self.lead_to(*pid),
                        Some(parent) => processes::stat(*pid).is_some_and(|s| s.parent == *parent),
                    };
                    processes::signal(*pid, signal, meant);
                }
            }
            std::thread::sleep(PAUSE);
        }
        Err(io::Error::other(format!("{} processes do not end", self.look().len())))
    }

    /// Living processes: those that the traces lead to, and their descendants with the parent's number.
    fn look(&self) -> Vec<(Pid, Option<i32>)> {
        // Ourselves last: a server may have been started by an instance of itself.
        let living = |pid: Pid| pid != getpid() && processes::stat(pid).is_some_and(|s| !s.ended);
        let marked = processes::all().into_iter().filter(|pid| living(*pid) && self.lead_to(*pid));
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

/// Makes the folder of a node's instances ours, and removes what a crashed server left: processes first, folders
/// then. Refuses a folder that holds anything else, so that a mistake in a setting costs nobody his files.
pub(super) fn take_over(work: &Path, node: &NodeId) -> Result<PathBuf, RuntimeError> {
    match fs::DirBuilder::new().mode(0o700).create(work) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.doing(|| format!("make the folder of instances {}", work.display()))?,
    }
    let meta = fs::symlink_metadata(work).doing(|| format!("read {}", work.display()))?;
    if !meta.is_dir() || meta.uid() != getuid().as_raw() {
        return Err(refused(work, "it is not a folder of this user's own"));
    }
    let work = fs::canonicalize(work).doing(|| format!("read {}", work.display()))?;
    claim(&work, node)?;
    Traces::of_node(node, &work).end_all().doing(|| "end what a crashed server left".to_owned())?;
    for entry in fs::read_dir(&work).doing(|| format!("read {}", work.display()))?.flatten() {
        if entry.file_name().to_str().is_some_and(|name| InstanceId::parse(name).is_ok()) {
            let path = entry.path();
            folder::remove(&path).doing(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(work)
}

/// Makes sure that the folder is marked as this node's.
fn claim(work: &Path, node: &NodeId) -> Result<(), RuntimeError> {
    let mark = work.join(OWNER);
    let owner = match fs::read_to_string(&mark) {
        Ok(owner) => owner,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if fs::read_dir(work).doing(|| format!("read {}", work.display()))?.next().is_some() {
                return Err(refused(work, "it holds files that are not ours"));
            }
            String::new()
        }
        other => other.doing(|| format!("read {}", mark.display()))?,
    };
    // Empty: new, or a server crashed while it wrote.
    if owner.is_empty() {
        fs::write(&mark, node.as_str()).doing(|| format!("write {}", mark.display()))
    } else if owner == node.as_str() {
        Ok(())
    } else {
        Err(refused(work, &format!("it belongs to {owner}, and this is {node}")))
    }
}

fn refused(work: &Path, why: &str) -> RuntimeError {
    let doing = format!("use {} as the folder of instances", work.display());
    RuntimeError::Io { doing, source: io::Error::new(io::ErrorKind::InvalidInput, why) }
}
