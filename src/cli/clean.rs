//! `clean`: removes everything of this program from the host.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::command::{CONFIG_ERROR, fail, print_line, run_async};
use super::error::CommandError;
use super::idle_nodes;
use super::run_image::state_dirs as state_dirs_of_runs;
use super::try_image::FOLDER as TRIALS_FOLDER;
use crate::config::{self, HostSettings};
use crate::server::backends;
use crate::server::state_dir::NodeDir;

/// Where the system mounts its cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What was removed.
#[derive(Debug)]
struct Removed {
    /// The number of containers.
    containers: usize,
    /// The number of snapshots.
    snapshots: usize,
    /// The number of links and nftables tables.
    network: usize,
    /// Folders, files and cgroups of this host.
    paths: Vec<PathBuf>,
}

/// Cleans the host and prints what was removed.
///
/// **Trap.** In containerd it removes everything in the namespace of this program, also what other servers use that
/// share the containerd. In Docker and Podman it removes what belongs to nodes of the state folder only.
pub(super) fn run() -> ExitCode {
    let host = match config::read_host() {
        Ok(host) => host,
        Err(errors) => return fail(CONFIG_ERROR, errors),
    };
    let own_program = std::env::current_exe().unwrap_or_else(|_| "try-it-now".into());
    run_async(tokio::runtime::Builder::new_current_thread(), async {
        let removed = clean(&host, &own_program).await?;
        print_line(&format!("containers removed: {}", removed.containers));
        print_line(&format!("snapshots removed: {}", removed.snapshots));
        if removed.network > 0 {
            print_line(&format!("links and firewall tables removed: {}", removed.network));
        }
        for path in &removed.paths {
            print_line(&format!("removed: {}", path.display()));
        }
        Ok::<_, CommandError>(())
    })
}

/// Removes everything of this program from the host, in every mode: containers, processes, links and firewall tables,
/// checkpoints, and the records in the state folder. Images and the names of nodes stay. A host that never ran
/// containers needs no containerd.
///
/// # Errors
/// A server uses the state folder, or something cannot be removed.
async fn clean(host: &HostSettings, own_program: &Path) -> Result<Removed, CommandError> {
    let mut nodes = idle_nodes::lock_all(&host.state_dir)?;
    nodes.extend(idle_nodes::lock_all(&host.state_dir.join(TRIALS_FOLDER))?);
    for run in state_dirs_of_runs(&host.state_dir) {
        nodes.extend(idle_nodes::lock_all(&run)?);
    }
    let address = &host.containerd_address;
    let had_containers = nodes.iter().any(|node| node.containers_dir().exists());
    let of_engines = backends::clean_engines(&host.engine_sockets, &nodes).await?;
    let (containers, snapshots) =
        if address.exists() || had_containers { backends::clean_containers(address).await? } else { (0, 0) };
    for node in nodes.iter().filter(|node| node.instances_dir().exists()) {
        backends::clean_processes(node, own_program).await?;
    }
    let network = backends::clean_network().await?;
    Ok(Removed { containers: containers + of_engines, snapshots, network, paths: remove_paths(&nodes)? })
}

/// Removes the files of nodes whose instances have ended, and the cgroup of all containers. Returns the removed paths.
fn remove_paths(nodes: &[NodeDir]) -> Result<Vec<PathBuf>, CommandError> {
    let mut removed = Vec::new();
    for node in nodes {
        let grant_log = node.grant_log_file();
        let term = grant_log.with_extension("tenure");
        for path in [node.containers_dir(), node.instances_dir(), node.journal_file(), grant_log, term] {
            let result = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match result {
                Ok(()) => removed.push(path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(CommandError::Folder { folder: path, source }),
            }
        }
    }
    removed.extend(cgroups(Path::new(CGROUPS)).into_iter().filter(|cgroup| fs::remove_dir(cgroup).is_ok()));
    Ok(removed)
}

/// Returns the cgroups of all containers of this program: one below the root with version 2, or one in each hierarchy
/// with version 1, and in it one for each node. The kernel refuses to remove a cgroup that still has containers, such as those of another
/// containerd.
fn cgroups(root: &Path) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let found = hierarchies.chain([root.to_owned()]).map(|hierarchy| hierarchy.join("try-it-now"));
    let mut found: Vec<PathBuf> = found.filter_map(|cgroup| cgroup.canonicalize().ok()).collect();
    let of_nodes = |cgroup: &PathBuf| {
        let below = fs::read_dir(cgroup).into_iter().flatten().flatten().map(|entry| entry.path());
        below.filter(|path| path.to_string_lossy().ends_with(".instances")).collect::<Vec<_>>()
    };
    found.extend(found.iter().flat_map(of_nodes).collect::<Vec<_>>());
    // A group is removed after those below it.
    found.sort_unstable_by(|one, next| next.cmp(one));
    // A hierarchy may have two names.
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::NodeId;

    #[test]
    fn the_programs_cgroup_is_found_in_each_hierarchy_once() {
        let root = std::env::temp_dir().join(format!("try-it-now-cgroups-{}", NodeId::random()));
        for folder in
            ["cpu,cpuacct/try-it-now", "memory/try-it-now/a.instances", "memory/try-it-not", "try-it-now"]
        {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::os::unix::fs::symlink("cpu,cpuacct", root.join("cpu")).unwrap();
        let found: Vec<_> =
            cgroups(&root).into_iter().map(|path| path.strip_prefix(&root).unwrap().to_owned()).collect();
        let expected =
            ["try-it-now", "memory/try-it-now/a.instances", "memory/try-it-now", "cpu,cpuacct/try-it-now"];
        assert_eq!(found, expected.map(PathBuf::from));
        assert!(cgroups(&root.join("nowhere")).is_empty());
        fs::remove_dir_all(root).unwrap();
    }
}
