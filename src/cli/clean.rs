//! `clean`: removes everything of this program from the host.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::CommandError;
use super::state::all_nodes;
use crate::config::Host;
use crate::server::backends;
use crate::server::state_dir::NodeDir;

/// Where the system shows its cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What was removed.
#[derive(Debug)]
pub(super) struct Cleaned {
    /// Containers, with what ran in them.
    pub containers: usize,
    /// Snapshots.
    pub snapshots: usize,
    /// Links, and tables of nftables.
    pub network: usize,
    /// Folders, files and cgroups on this host.
    pub paths: Vec<PathBuf>,
}

/// Removes everything of ours from this host, whatever runs it: containers, processes, links and firewall tables,
/// checkpoints, and what a state folder remembers of them. Images stay, and so does the name of each node. A host that
/// never ran containers need not have a containerd.
///
/// # Errors
/// A server of that state folder runs, or something resists.
pub(super) async fn clean(host: &Host, own_program: &Path) -> Result<Cleaned, CommandError> {
    let nodes = all_nodes(&host.state_dir)?;
    let address = &host.containerd_address;
    let (containers, snapshots) = if address.exists() || nodes.iter().any(|node| node.containers().exists()) {
        backends::clean_containers(address).await?
    } else {
        (0, 0)
    };
    for node in nodes.iter().filter(|node| node.instances().exists()) {
        backends::clean_processes(node, own_program).await?;
    }
    let network = backends::clean_network().await?;
    Ok(Cleaned { containers, snapshots, network, paths: remove_all(&nodes)? })
}

/// Removes what nodes without anything that runs have on disk, and the cgroup that ours were in. Returns what there was.
fn remove_all(nodes: &[NodeDir]) -> Result<Vec<PathBuf>, CommandError> {
    let mut removed = Vec::new();
    for node in nodes {
        let (claims, tenure) = (node.claims(), node.claims().with_extension("tenure"));
        for path in [node.containers(), node.instances(), node.journal(), claims, tenure] {
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match gone {
                Ok(()) => removed.push(path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(CommandError::Folder { folder: path, source }),
            }
        }
    }
    removed.extend(cgroups(Path::new(CGROUPS)).into_iter().filter(|cgroup| fs::remove_dir(cgroup).is_ok()));
    Ok(removed)
}

/// The cgroup that all containers of ours are in: one below the root, or one in each hierarchy of the older version. It
/// can be removed when it is empty, and with the containers of another containerd in it, it is not.
fn cgroups(root: &Path) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let found = hierarchies.chain([root.to_owned()]).map(|hierarchy| hierarchy.join("try-it-now"));
    let mut found: Vec<PathBuf> = found.filter_map(|cgroup| cgroup.canonicalize().ok()).collect();
    found.sort_unstable();
    // A hierarchy may have two names.
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::NodeId;

    #[test]
    fn our_cgroup_is_found_in_each_hierarchy_once() {
        let root = std::env::temp_dir().join(format!("try-it-now-cgroups-{}", NodeId::random()));
        for folder in ["cpu,cpuacct/try-it-now", "memory/try-it-now", "memory/try-it-not", "try-it-now"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::os::unix::fs::symlink("cpu,cpuacct", root.join("cpu")).unwrap();
        let found: Vec<_> =
            cgroups(&root).into_iter().map(|path| path.strip_prefix(&root).unwrap().to_owned()).collect();
        assert_eq!(found, ["cpu,cpuacct/try-it-now", "memory/try-it-now", "try-it-now"].map(PathBuf::from));
        assert!(cgroups(&root.join("nowhere")).is_empty());
        fs::remove_dir_all(root).unwrap();
    }
}
