//! The steps of a restore with CRIU. They are those of runc.
//!
//! # Traps
//! The first breakpoint that a process of a host sets takes the kernel 10 ms and more; those within a second after it
//! do not. CRIU sets one in each restore.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use prost::Message;
use prost_types::Timestamp;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use serde_json::Value;

use super::cgroup_v1::Cgroups;
use super::criu_rpc::{
    CriuOptions, CriuRequest, CriuResponse, ExternalMount, IGNORE_CGROUPS, InheritedFd, KIND_NOTIFY,
    KIND_RESTORE,
};
use super::huge_pages;
use super::request::RestoreRequest;
use super::runc_state::{InstanceValues, RuncState};
use crate::runtime::containerd::checkpoint::prefault::PrefaultList;
use crate::runtime::containerd::host::yielding::Yielding;
use crate::runtime::containerd::network::set_up as network_set_up;

/// Maximum time between two messages of CRIU.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(25);

/// Maximum bytes of a message of CRIU.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// The name that runc and CRIU give to the network namespace that is restored into.
const NETWORK: &str = "extRootNetNS";
/// `CLONE_NEWNET`: the content of the network namespace is not restored.
const NO_NETWORK: u32 = 0x4000_0000;

/// The resources of a container before CRIU runs. They are released on drop, except its cgroups and what a restored
/// container keeps.
pub(super) struct RestoreDraft<'a> {
    request: &'a RestoreRequest,
    state: RuncState,
    /// The path of the container's network namespace; `None` if CRIU makes it inside the container's user namespace.
    network: Option<String>,
    /// The container's root, which is mounted.
    root: PathBuf,
    cgroups: Cgroups,
    /// The pages to prefault, if they are known.
    prefault_list: Option<PrefaultList>,
    state_dir: StateDir<'a>,
}

/// Runc's folder of state for the container, removed on drop unless the container is restored.
struct StateDir<'a> {
    folder: &'a Path,
    is_kept: bool,
}

impl Drop for StateDir<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = fs::remove_dir_all(self.folder);
        }
    }
}

/// Creates everything that a restore needs except cgroups. `state` is what runc would record of it.
///
/// # Errors
/// A resource cannot be created, or something is not as expected, so that runc must do the restore. Nothing remains.
pub(super) fn prepare<'a>(
    request: &'a RestoreRequest,
    spec: &Value,
    state: RuncState,
    state_dir: &'a Path,
) -> io::Result<RestoreDraft<'a>> {
    let namespaces = spec["linux"]["namespaces"].as_array().into_iter().flatten();
    let network = namespaces.filter(|one| one["type"] == "network").find_map(|one| one["path"].as_str());
    let network = network.map(str::to_owned);
    if network.is_some() == request.first_id.is_some() {
        return Err(io::Error::other(
            "the container has no network namespace, or one of another user namespace",
        ));
    }
    let root = state.root()?;
    fs::create_dir_all(&request.root)?;
    fs::create_dir(state_dir)?;
    let created = StateDir { folder: state_dir, is_kept: false };
    fs::set_permissions(state_dir, Permissions::from_mode(0o711))?;
    Ok(RestoreDraft {
        request,
        state,
        network,
        root,
        cgroups: Cgroups::default(),
        prefault_list: None,
        state_dir: created,
    })
}

impl<'a> RestoreDraft<'a> {
    /// Creates the container's cgroups.
    ///
    /// # Errors
    /// They cannot be created, or only runc can create them. None remains.
    pub(super) fn create_cgroups(&mut self) -> io::Result<()> {
        let groups = self.state.cgroups();
        let created = self.cgroups.create(&groups, self.state.limits());
        if created.is_err() {
            self.cgroups.remove();
        }
        if let Some((_, group)) = groups.iter().find(|(controller, _)| *controller == "cpu") {
            Yielding::new(self.request.work.clone(), group.to_path_buf()).apply();
        }
        created
    }

    /// Starts CRIU, which waits for a request. It loads while the caller makes what the request names.
    ///
    /// # Errors
    /// It cannot be started. Nothing remains.
    pub(super) fn start(self) -> io::Result<StartedRestore<'a>> {
        match self.spawn() {
            Ok((criu, socket, network)) => Ok(StartedRestore { criu, socket, network, draft: self }),
            Err(error) => {
                self.cgroups.remove();
                Err(error)
            }
        }
    }

    /// Returns CRIU, the other end of its socket, and the network namespace that it inherits.
    fn spawn(&self) -> io::Result<(KilledOnDrop, OwnedFd, Option<OwnedFd>)> {
        // CRIU inherits the network namespace and one end of the socket under the numbers that they have here.
        let network =
            self.network.as_ref().map(|path| open(path, OFlags::RDONLY, Mode::empty())).transpose()?;
        let (socket, criu_socket) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::empty(), None)?;
        fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(RESPONSE_TIMEOUT))?;
        // CRIU inherits the cgroups too, and a cgroup namespace whose root they are. This process leaves the cgroups at
        // once: if all processes in them are killed, it has to remove what the restore created.
        let own_cgroups = self.cgroups.of_this_process()?;
        self.cgroups.add(std::process::id())?;
        let spawn = || Command::new("criu").arg("swrk").arg(criu_socket.as_raw_fd().to_string()).spawn();
        let criu = unshare(CloneFlags::CLONE_NEWCGROUP)
            .map_err(io::Error::from)
            .and_then(|()| huge_pages::allow_to(spawn));
        own_cgroups.add(std::process::id())?;
        Ok((KilledOnDrop(criu?), socket, network))
    }

    fn options(&self, images: &File, work: &File, network: Option<&OwnedFd>) -> io::Result<CriuOptions> {
        let pipes: Vec<String> =
            serde_json::from_slice(&fs::read(self.request.images.join("descriptors.json"))?)?;
        let pipes = pipes.into_iter().zip(0..).filter(|(name, _)| name.contains("pipe:"));
        let pipes = pipes.map(|(name, descriptor)| InheritedFd { name, descriptor });
        let network =
            network.map(|network| InheritedFd { name: NETWORK.to_owned(), descriptor: network.as_raw_fd() });
        let mounts = self.state.mounts().into_iter();
        let root = self.root.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(CriuOptions {
            images: images.as_raw_fd(),
            work: Some(work.as_raw_fd()),
            evasive_devices: Some(true),
            file_locks: Some(false),
            log_level: Some(4),
            log_file: Some("restore.log".to_owned()),
            notify: Some(true),
            root: Some(root.to_owned()),
            mounts: mounts.map(|(inside, outside)| ExternalMount { inside, outside }).collect(),
            sibling: Some(true),
            inherited: network.into_iter().chain(pipes).collect(),
            // The container's processes are children of CRIU, which is in the right cgroups and in their namespace. CRIU
            // itself would mount all hierarchies first.
            cgroup_mode: Some(IGNORE_CGROUPS),
            empty_namespaces: Some(NO_NETWORK),
            orphan_terminals: Some(true),
            config: self.state.criu_config(),
        })
    }

    /// Replies to the notifications of CRIU until the restore is done. Returns the number of the container's first
    /// process.
    fn follow(&mut self, socket: &OwnedFd) -> io::Result<i32> {
        let mut buffer = vec![0; MAX_RESPONSE_BYTES];
        let mut first_process = None;
        loop {
            let (bytes, _) = recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            if bytes == 0 {
                return Err(io::Error::other("it ended without a response"));
            }
            let response = CriuResponse::decode(&buffer[..bytes]).map_err(io::Error::other)?;
            if !response.success {
                let errno = response.errno.unwrap_or_default();
                return Err(io::Error::other(format!("it failed with error number {errno}")));
            }
            match (response.kind, response.notify) {
                (KIND_RESTORE, _) => {
                    return first_process.ok_or_else(|| io::Error::other("it reported no process"));
                }
                (KIND_NOTIFY, Some(notification)) => {
                    let stage = notification.script.as_deref();
                    if let (Some("setup-namespaces"), Some(pid), Some(_)) =
                        (stage, notification.pid, self.request.first_id)
                    {
                        network_set_up::set_up(&self.request.work, pid)?;
                    }
                    if let (Some("post-restore"), Some(pid)) = (stage, notification.pid) {
                        self.record_state(pid)?;
                        first_process = Some(pid);
                    }
                    // All processes exist, and none of them runs yet.
                    if stage == Some("pre-resume") {
                        self.prefault();
                        if let (Some(_), Some(pid)) = (self.request.first_id, first_process) {
                            // The last step that needs rights on the host: there is no way back.
                            network_set_up::enter_and_limit(pid)?;
                        }
                    }
                    let reply = CriuRequest { kind: KIND_NOTIFY, options: None, notify_success: Some(true) };
                    send_request(socket, &reply)?;
                }
                (kind, _) => return Err(io::Error::other(format!("unknown response of kind {kind}"))),
            }
        }
    }

    /// Prefaults the container's memory if the pages are known. Without that its first requests are slower, but
    /// correct.
    fn prefault(&self) {
        if let Some(list) = &self.prefault_list {
            list.prefault(&self.cgroups.processes());
        }
    }

    /// Records the state that runc would record of the container.
    fn record_state(&mut self, pid: i32) -> io::Result<()> {
        let created = Timestamp::from(fs::metadata(self.state_dir.folder)?.modified()?);
        let target = |number| fs::read_link(format!("/proc/self/fd/{number}"));
        let descriptors = (0..3).map(|number| Ok(target(number)?.display().to_string()));
        let values = InstanceValues {
            id: &self.request.id,
            network: self.network.as_deref().unwrap_or_default(),
            first_id: self.request.first_id,
            pid,
            start_ticks: start_ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?)?,
            created: created.to_string(),
            descriptors: descriptors.collect::<io::Result<_>>()?,
        };
        self.state.record(self.state_dir.folder, values)
    }
}

fn send_request(socket: &OwnedFd, message: &CriuRequest) -> io::Result<()> {
    send(socket, &message.encode_to_vec(), SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A restore for which CRIU runs.
pub(super) struct StartedRestore<'a> {
    criu: KilledOnDrop,
    socket: OwnedFd,
    /// The network namespace, unless CRIU makes it.
    network: Option<OwnedFd>,
    draft: RestoreDraft<'a>,
}

impl StartedRestore<'_> {
    /// Returns whether the root, which is mounted by now, has the folders that runc creates where they are missing.
    pub(super) fn has_mount_points(&self) -> bool {
        let is_folder =
            |name| fs::symlink_metadata(self.draft.root.join(name)).is_ok_and(|found| found.is_dir());
        ["proc", "dev"].into_iter().all(is_folder)
    }

    /// Ends CRIU before it was asked for anything, and removes what was created for it.
    pub(super) fn abandon(self) {
        drop(self.criu);
        self.draft.cgroups.remove();
    }

    /// Restores the container.
    ///
    /// # Errors
    /// CRIU fails or does not respond in time. Processes of the container may remain in its cgroups.
    pub(super) fn restore(self) -> io::Result<()> {
        let Self { mut criu, socket, network, mut draft } = self;
        let images = File::open(&draft.request.mapped_images)?;
        let work = File::open(&draft.request.work)?;
        let options = draft.options(&images, &work, network.as_ref())?;
        let request = CriuRequest { kind: KIND_RESTORE, options: Some(options), notify_success: None };
        send_request(&socket, &request)?;
        // CRIU restores meanwhile.
        draft.prefault_list = draft.request.images.parent().and_then(PrefaultList::load);
        let pid = draft.follow(&socket)?;
        drop(socket);
        let status = criu.0.wait()?;
        if !status.success() {
            return Err(io::Error::other(format!("{status}")));
        }
        let pid_file = draft.request.pid_file.with_extension("draft");
        fs::write(&pid_file, pid.to_string())?;
        fs::rename(pid_file, &draft.request.pid_file)?;
        draft.state_dir.is_kept = true;
        Ok(())
    }
}

/// The process of CRIU, killed on drop if it still runs.
struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        // Both do nothing after the process has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns when a process started, in ticks since the host started, from the process's `stat`. The name of the process
/// may contain anything, brackets too.
fn start_ticks(stat: &str) -> io::Result<u64> {
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
    let ticks = fields.and_then(|fields| fields.split_whitespace().nth(19));
    let ticks = ticks.and_then(|ticks| ticks.parse().ok());
    ticks.ok_or_else(|| io::Error::other("the stat of the first process has an unknown format"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_process_is_read_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4672837 9 9";
        assert_eq!(start_ticks(stat).unwrap(), 4_672_837);
        start_ticks("7 (a S 1").unwrap_err();
        start_ticks("7 (a) S 1").unwrap_err();
    }
}
