//! The control group of all instances of one node, and the limits of all of them together.
//!
//! Each instance has limits of its own, and many instances may reach theirs at the same time. So there is a group above
//! them with a limit of memory and of processes. All groups of this program share the processors and disks of the host
//! with the server, and have a smaller weight: instances yield to the server. A server in no group of its own needs no
//! smaller weight: in the root group each thread has the weight of a whole group.
//!
//! A cgroup of version 1 is one folder for each controller; of version 2 it is one folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::cgroups::{CGROUP_ROOT, NODE_GROUP_SUFFIX, PARENT_GROUP};
use crate::runtime::HostMemory;
use crate::runtime::cgroup_memory::GroupMemory;

/// Weight of all instances in percent of a group's default, where this server is in a group.
const WEIGHT_PERCENT: u32 = 50;
/// The default weight of a group for processors on version 1. All other defaults are 100.
const DEFAULT_CPU_SHARES: u32 = 1024;

/// The least memory of all instances together, whatever is reserved.
const MIN_MEMORY: u64 = 64 << 20;

/// The limits of all instances of a node together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeLimits {
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// Processes and threads.
    pub(crate) pids: u64,
}

/// The limits of all instances of a node that its operator sets. `None` leaves a limit to this program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeLimitSettings {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl NodeLimitSettings {
    /// Returns the limits on this host, where the files of shared memory take `shared` bytes beside the instances.
    pub(crate) fn limits(&self, shared: u64) -> NodeLimits {
        NodeLimits {
            memory: self
                .memory
                .unwrap_or_else(|| default_memory(total_memory(Path::new(CGROUP_ROOT)), shared)),
            pids: self.pids.unwrap_or_else(|| default_pids(Path::new("/proc/sys/kernel"))),
        }
    }

    /// Returns the limits on this host as long as no memory is shared: bytes of memory, and processes.
    pub fn on_this_host(&self) -> (u64, u64) {
        let limits = self.limits(0);
        (limits.memory, limits.pids)
    }

    /// Returns the most bytes of memory that all instances together may ever use.
    pub(crate) fn max_memory(&self) -> u64 {
        self.memory.unwrap_or_else(|| total_memory(Path::new(CGROUP_ROOT)))
    }
}

/// Returns the default limit of memory: that of the host without a reserve for the server, the store and the system,
/// and without the files of shared memory.
fn default_memory(total: u64, shared: u64) -> u64 {
    let reserve = HostMemory { total, available: total }.reserve();
    total.saturating_sub(reserve).saturating_sub(shared).max(MIN_MEMORY)
}

/// Returns the bytes of memory that groups below `root` may use: the host's, or less where this server is in a container
/// that has a limit itself.
fn total_memory(root: &Path) -> u64 {
    let host = rustix::system::sysinfo();
    let host = host.totalram.saturating_mul(u64::from(host.mem_unit));
    let limits = [root.join("memory.max"), root.join("memory/memory.limit_in_bytes")];
    let above = limits.iter().find_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
    above.map_or(host, |above: u64| above.min(host))
}

/// Returns the default limit of processes: three quarters of what the kernel can have.
fn default_pids(kernel: &Path) -> u64 {
    let read = |name: &str| fs::read_to_string(kernel.join(name)).ok()?.trim().parse::<u64>().ok();
    let most = ["pid_max", "threads-max"].into_iter().filter_map(read).min();
    most.unwrap_or(32_768) / 4 * 3
}

/// The control group of all instances of one node.
#[derive(Debug)]
pub(crate) struct NodeGroup {
    /// Where the kernel mounts the control groups.
    root: PathBuf,
    /// The group's name in the group of this program.
    name: String,
    /// The weight of all instances in percent of a group's default.
    weight_percent: u32,
}

impl NodeGroup {
    /// Returns the group of a node. It is made by [`NodeGroup::set_limits`].
    pub(crate) fn new(node: &str) -> Self {
        let own_groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::below(Path::new(CGROUP_ROOT), node, weight_percent(&own_groups))
    }

    fn below(root: &Path, node: &str, weight_percent: u32) -> Self {
        Self { root: root.to_owned(), name: format!("{node}{NODE_GROUP_SUFFIX}"), weight_percent }
    }

    /// Returns the path of an instance's group, from the root of its hierarchy on.
    pub(crate) fn instance_path(&self, id: &str) -> String {
        format!("/{PARENT_GROUP}/{}/{id}", self.name)
    }

    /// Returns the folder of an instance's group with the controller `cpu`; `None` if the kernel lacks it.
    pub(crate) fn instance_processors(&self, id: &str) -> Option<PathBuf> {
        Some(self.folder("cpu")?.join(id))
    }

    /// Returns whether the group exists.
    pub(crate) fn exists(&self) -> bool {
        self.folder("memory").is_some_and(|folder| folder.exists())
    }

    /// Makes the group and sets its limits and weights.
    ///
    /// # Errors
    /// A limit cannot be set, for example because the kernel lacks a controller; the others are set all the same. A
    /// host without weights for disks is no error.
    pub(crate) fn set_limits(&self, limits: &NodeLimits) -> io::Result<()> {
        let mut outcome = Ok(());
        let mut keep_error = |result: io::Result<()>| {
            if outcome.is_ok() {
                outcome = result;
            }
        };
        let memory = limits.memory.to_string();
        if self.is_v2() {
            let parent = self.root.join(PARENT_GROUP);
            keep_error(fs::create_dir_all(&parent));
            for folder in [&self.root, &parent] {
                for controller in ["+memory", "+pids", "+cpu", "+io"] {
                    // What is missing then shows when the limit is set.
                    let _ = fs::write(folder.join("cgroup.subtree_control"), controller);
                }
            }
            let group = parent.join(&self.name);
            keep_error(fs::create_dir_all(&group));
            keep_error(set(&group, "memory.max", &memory));
            keep_error(set(&group, "pids.max", &limits.pids.to_string()));
            keep_error(set(&parent, "cpu.weight", &self.weight_percent.to_string()));
            let _ = set(&parent, "io.weight", &format!("default {}", self.weight_percent));
            return outcome;
        }
        let group = |controller: &str| -> io::Result<PathBuf> {
            let group = self.folder(controller).ok_or_else(|| no_controller(controller))?;
            fs::create_dir_all(&group)?;
            Ok(group)
        };
        keep_error(group("memory").and_then(|group| {
            // Already set on today's kernels, and cannot be changed where groups exist.
            let _ = set(&group, "memory.use_hierarchy", "1");
            // The limit with swap may not be below the other one, so the order depends on what was set before.
            let _ = set(&group, "memory.memsw.limit_in_bytes", &memory);
            set(&group, "memory.limit_in_bytes", &memory)?;
            // A host may count no swap.
            let _ = set(&group, "memory.memsw.limit_in_bytes", &memory);
            Ok(())
        }));
        keep_error(group("pids").and_then(|group| set(&group, "pids.max", &limits.pids.to_string())));
        keep_error(group("cpu").and_then(|group| {
            set(above(&group), "cpu.shares", &(DEFAULT_CPU_SHARES * self.weight_percent / 100).to_string())
        }));
        if let Ok(group) = group("blkio") {
            let _ = set(above(&group), "blkio.bfq.weight", &self.weight_percent.to_string());
        }
        outcome
    }

    /// Returns the bytes that the instances use, without file pages that the kernel can reclaim. `None` if the kernel
    /// does not report it.
    pub(crate) fn used_bytes(&self) -> Option<u64> {
        Some(GroupMemory::read(&self.folder("memory")?)?.charged())
    }

    /// Removes the group if it has no instances.
    pub(crate) fn remove(&self) {
        let hierarchies = fs::read_dir(&self.root).into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain([self.root.clone()]) {
            let _ = fs::remove_dir(hierarchy.join(PARENT_GROUP).join(&self.name));
        }
    }

    fn is_v2(&self) -> bool {
        self.root.join("cgroup.controllers").exists()
    }

    /// Returns the group's folder of a controller; `None` if the kernel lacks the controller.
    fn folder(&self, controller: &str) -> Option<PathBuf> {
        let hierarchy = if self.is_v2() { self.root.clone() } else { self.root.join(controller) };
        hierarchy.is_dir().then(|| hierarchy.join(PARENT_GROUP).join(&self.name))
    }
}

/// Returns the weight of all instances in percent of a group's default, by this server's `/proc/self/cgroup`.
fn weight_percent(own_groups: &str) -> u32 {
    // A host with version 1 may have an empty hierarchy of version 2 too, so that of the processors counts first.
    let group_of = |controller: &str| {
        own_groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|one| one == controller).then_some(path)
        })
    };
    match group_of("cpu").or_else(|| group_of("")) {
        Some("/") => 100,
        _ => WEIGHT_PERCENT,
    }
}

fn above(group: &Path) -> &Path {
    group.parent().unwrap_or(group)
}

/// Writes a setting. Unlike a write to another file, it makes no file.
fn set(group: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = group.join(file);
    let written = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
    written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn no_controller(controller: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("the kernel has no cgroup controller {controller}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::NodeId;

    const LIMITS: NodeLimits = NodeLimits { memory: 600 << 20, pids: 300 };

    /// A folder with files as the kernel has them in control groups.
    struct FakeCgroups(PathBuf);

    impl FakeCgroups {
        fn new(files: &[&str]) -> Self {
            let root = std::env::temp_dir().join(format!("try-it-now-node-group-{}", NodeId::random()));
            for file in files {
                let path = root.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
            Self(root)
        }

        fn read(&self, file: &str) -> String {
            fs::read_to_string(self.0.join(file)).unwrap()
        }
    }

    impl Drop for FakeCgroups {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn limits_and_weights_are_set_on_cgroup_v1() {
        let cgroups = FakeCgroups::new(&[
            "memory/try-it-now/a.instances/memory.limit_in_bytes",
            "memory/try-it-now/a.instances/memory.memsw.limit_in_bytes",
            "pids/try-it-now/a.instances/pids.max",
            "cpu/try-it-now/cpu.shares",
            "blkio/try-it-now/blkio.bfq.weight",
        ]);
        let group = NodeGroup::below(&cgroups.0, "a", 50);
        group.set_limits(&LIMITS).unwrap();
        assert_eq!(group.instance_path("shop-1"), "/try-it-now/a.instances/shop-1");
        assert_eq!(cgroups.read("memory/try-it-now/a.instances/memory.limit_in_bytes"), "629145600");
        assert_eq!(cgroups.read("memory/try-it-now/a.instances/memory.memsw.limit_in_bytes"), "629145600");
        assert_eq!(cgroups.read("pids/try-it-now/a.instances/pids.max"), "300");
        assert_eq!(cgroups.read("cpu/try-it-now/cpu.shares"), "512");
        assert_eq!(cgroups.read("blkio/try-it-now/blkio.bfq.weight"), "50");
    }

    #[test]
    fn limits_and_weights_are_set_on_cgroup_v2() {
        let cgroups = FakeCgroups::new(&[
            "cgroup.controllers",
            "cgroup.subtree_control",
            "try-it-now/cgroup.subtree_control",
            "try-it-now/cpu.weight",
            "try-it-now/io.weight",
            "try-it-now/a.instances/memory.max",
            "try-it-now/a.instances/pids.max",
        ]);
        let group = NodeGroup::below(&cgroups.0, "a", 50);
        group.set_limits(&LIMITS).unwrap();
        assert_eq!(cgroups.read("try-it-now/a.instances/memory.max"), "629145600");
        assert_eq!(cgroups.read("try-it-now/a.instances/pids.max"), "300");
        assert_eq!(cgroups.read("try-it-now/cpu.weight"), "50");
        assert_eq!(cgroups.read("try-it-now/io.weight"), "default 50");
        // The last of the controllers that were enabled one after another.
        assert_eq!(cgroups.read("cgroup.subtree_control"), "+io");
        fs::write(cgroups.0.join("try-it-now/a.instances/memory.current"), "900\n").unwrap();
        fs::write(cgroups.0.join("try-it-now/a.instances/memory.stat"), "anon 5\ninactive_file 300\n")
            .unwrap();
        assert_eq!(group.used_bytes(), Some(600));
    }

    #[test]
    fn a_limit_that_cannot_be_set_is_an_error_and_the_others_are_set() {
        let cgroups = FakeCgroups::new(&["pids/try-it-now/a.instances/pids.max"]);
        let error = NodeGroup::below(&cgroups.0, "a", 50).set_limits(&LIMITS).unwrap_err();
        assert!(error.to_string().contains("no cgroup controller memory"), "{error}");
        assert_eq!(cgroups.read("pids/try-it-now/a.instances/pids.max"), "300");
    }

    #[test]
    fn instances_have_a_smaller_weight_than_a_server_that_is_in_a_group() {
        assert_eq!(weight_percent("0::/system.slice/try-it-now.service\n"), 50);
        assert_eq!(weight_percent("4:memory:/\n3:cpu,cpuacct:/system.slice\n0::/\n"), 50);
        assert_eq!(weight_percent("4:memory:/a\n3:cpu,cpuacct:/\n0::/a\n"), 100);
        assert_eq!(weight_percent("0::/\n"), 100);
        assert_eq!(weight_percent(""), 50);
    }

    #[test]
    fn the_default_limits_leave_a_reserve_for_everything_else() {
        const G: u64 = 1 << 30;
        assert_eq!(default_memory(16 * G, 0), 14 * G);
        assert_eq!(default_memory(16 * G, G), 13 * G);
        assert_eq!(default_memory(G, 0), G / 2);
        assert_eq!(default_memory(G / 4, 0), MIN_MEMORY);
        let kernel = FakeCgroups::new(&["pid_max", "threads-max"]);
        fs::write(kernel.0.join("pid_max"), "4194304\n").unwrap();
        fs::write(kernel.0.join("threads-max"), "40000\n").unwrap();
        assert_eq!(default_pids(&kernel.0), 30_000);
    }

    #[test]
    fn the_limit_of_a_container_around_the_server_counts() {
        let host = total_memory(Path::new("/no/such/place"));
        assert!(host > 64 << 20);
        let cgroups = FakeCgroups::new(&["memory.max"]);
        assert_eq!(total_memory(&cgroups.0), host);
        fs::write(cgroups.0.join("memory.max"), "max\n").unwrap();
        assert_eq!(total_memory(&cgroups.0), host);
        fs::write(cgroups.0.join("memory.max"), "67108864\n").unwrap();
        assert_eq!(total_memory(&cgroups.0), 64 << 20);
    }
}
