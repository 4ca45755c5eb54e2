//! `clean`: removes everything of the nodes in a state folder, or of all nodes, from the host.

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
use crate::runtime::CleanScope;
use crate::server::backends;
use crate::server::state_dir::NodeDir;

/// Where the system mounts its cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What was removed.
#[derive(Debug)]
struct Removed {
    /// In containerd, and the containers of engines.
    cleaned: backends::Cleaned,
    /// The number of links and nftables tables.
    network: usize,
    /// The number of names of databases and users.
    databases: usize,
    /// Folders, files and cgroups of this host.
    paths: Vec<PathBuf>,
}

/// Cleans the host and prints what was removed. With `is_all` it removes what belongs to nodes of other state folders too.
///
/// **Trap.** With `is_all` it ends the instances of other servers that run.
pub(super) fn run(is_all: bool) -> ExitCode {
    let host = match config::read_host() {
        Ok(host) => host,
        Err(errors) => return fail(CONFIG_ERROR, errors),
    };
    let own_program = std::env::current_exe().unwrap_or_else(|_| "try-it-now".into());
    run_async(tokio::runtime::Builder::new_current_thread(), async {
        let nodes = lock_nodes(&host.state_dir)?;
        let mut removed = clean(&host, &nodes, is_all, &own_program).await?;
        let dropped = drop_databases(&host, &nodes, &mut removed).await;
        print_removed(&removed);
        dropped
    })
}

fn print_removed(removed: &Removed) {
    print_line(&format!("containers removed: {}", removed.cleaned.containers));
    print_line(&format!("snapshots removed: {}", removed.cleaned.snapshots));
    if removed.network > 0 {
        print_line(&format!("links and firewall tables removed: {}", removed.network));
    }
    if removed.databases > 0 {
        print_line(&format!("databases removed: {}", removed.databases));
    }
    for path in &removed.paths {
        print_line(&format!("removed: {}", path.display()));
    }
    if removed.cleaned.remaining > 0 {
        print_line(&format!(
            "containers and snapshots of other state folders, which stay: {} (`try-it-now clean --all` removes them, and \
             ends the instances of servers that run)",
            removed.cleaned.remaining
        ));
    }
}

/// Locks all nodes in a state folder, and those of trials and demos in it.
///
/// # Errors
/// A server uses one of them.
fn lock_nodes(state_dir: &Path) -> Result<Vec<NodeDir>, CommandError> {
    let mut nodes = idle_nodes::lock_all(state_dir)?;
    nodes.extend(idle_nodes::lock_all(&state_dir.join(TRIALS_FOLDER))?);
    for run in state_dirs_of_runs(state_dir) {
        nodes.extend(idle_nodes::lock_all(&run)?);
    }
    Ok(nodes)
}

/// Removes everything of these nodes from the host, in every mode, but for their databases: containers, processes, links
/// and firewall tables, checkpoints, and the records in the state folder. Images and the names of nodes stay. A host that
/// never ran containers needs no containerd. With `is_all`, removes the containers of all other nodes too.
///
/// # Errors
/// Something cannot be removed.
async fn clean(
    host: &HostSettings,
    nodes: &[NodeDir],
    is_all: bool,
    own_program: &Path,
) -> Result<Removed, CommandError> {
    let scope = match is_all {
        true => CleanScope::All,
        false => CleanScope::Nodes(nodes.iter().map(|node| node.id().clone()).collect()),
    };
    let (cleaned, network) = backends::clean_containers(host, &scope, nodes).await?;
    for node in nodes.iter().filter(|node| node.instances_dir().exists()) {
        backends::clean_processes(node, own_program).await?;
    }
    Ok(Removed { cleaned, network, databases: 0, paths: remove_paths(nodes, &scope)? })
}

/// Drops the databases of nodes whose instances have ended, and counts them in `removed`. A node keeps its name, so the
/// rest is found again.
///
/// # Errors
/// MariaDB does not answer or refuses; the databases of the other nodes were dropped.
async fn drop_databases(
    host: &HostSettings,
    nodes: &[NodeDir],
    removed: &mut Removed,
) -> Result<(), CommandError> {
    let Some(config) = host.database.clone() else { return Ok(()) };
    let (dropped, remaining) = backends::clean_databases(config, nodes).await;
    removed.databases = dropped;
    match remaining {
        None => Ok(()),
        Some(backends::RemainingDatabases { prefixes, reason }) => {
            Err(CommandError::DatabasesRemain { prefixes: prefixes.join(", "), source: reason })
        }
    }
}

/// Removes the files of nodes whose instances have ended, and the cgroups of the nodes in `scope`. Returns the removed
/// paths.
fn remove_paths(nodes: &[NodeDir], scope: &CleanScope) -> Result<Vec<PathBuf>, CommandError> {
    let mut removed = Vec::new();
    for node in nodes {
        let grant_log = node.grant_log_file();
        let term = grant_log.with_extension("tenure");
        let folders = [node.containers_dir(), node.instances_dir(), node.engine_files_dir()];
        for path in folders.into_iter().chain([node.journal_file(), grant_log, term]) {
            let result = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match result {
                Ok(()) => removed.push(path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(CommandError::Folder { folder: path, source }),
            }
        }
    }
    removed.extend(
        cgroups(Path::new(CGROUPS), scope).into_iter().filter(|cgroup| fs::remove_dir(cgroup).is_ok()),
    );
    Ok(removed)
}

/// Returns the cgroups of the nodes in `scope`, and the one that contains those of all nodes: below the root with version 2,
/// or in each hierarchy with version 1. The kernel refuses to remove a cgroup that contains another one or a process.
fn cgroups(root: &Path, scope: &CleanScope) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let found = hierarchies.chain([root.to_owned()]).map(|hierarchy| hierarchy.join("try-it-now"));
    let mut found: Vec<PathBuf> = found.filter_map(|cgroup| cgroup.canonicalize().ok()).collect();
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        name.strip_suffix(".instances").is_some_and(|node| scope.contains(node))
    };
    let of_nodes = |cgroup: &PathBuf| {
        let below = fs::read_dir(cgroup).into_iter().flatten().flatten().map(|entry| entry.path());
        below.filter(is_ours).collect::<Vec<_>>()
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
        for folder in [
            "cpu,cpuacct/try-it-now",
            "memory/try-it-now/a.instances",
            "memory/try-it-now/b.instances",
            "memory/try-it-not",
            "try-it-now",
        ] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::os::unix::fs::symlink("cpu,cpuacct", root.join("cpu")).unwrap();
        let found_with = |scope: &CleanScope| -> Vec<_> {
            cgroups(&root, scope).iter().map(|path| path.strip_prefix(&root).unwrap().to_owned()).collect()
        };
        let scope = CleanScope::Nodes(vec![NodeId::parse("a").unwrap()]);
        let expected =
            ["try-it-now", "memory/try-it-now/a.instances", "memory/try-it-now", "cpu,cpuacct/try-it-now"];
        assert_eq!(found_with(&scope), expected.map(PathBuf::from));
        let all = found_with(&CleanScope::All);
        assert!(all.len() == 5 && all.contains(&"memory/try-it-now/b.instances".into()), "{all:?}");
        assert!(cgroups(&root.join("nowhere"), &scope).is_empty());
        fs::remove_dir_all(root).unwrap();
    }
}
