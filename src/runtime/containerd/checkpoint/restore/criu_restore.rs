//! The steps of a restore by CRIU, as runc does them.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use prost::Message;
use prost_types::Timestamp;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mount::{UnmountFlags, mount_bind_recursive, unmount};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use serde_json::Value;

use super::cgroup_v1::Groups;
use super::criu_rpc::{ExternalMount, IGNORE_GROUPS, Inherited, Options, Response, kind};
use super::runc_state::{Own, RuncState};
use super::{Request, criu_rpc, other};
use crate::runtime::containerd::checkpoint::sharing::PrefaultList;

/// Longest silence of CRIU.
const PATIENCE: Duration = Duration::from_secs(25);

/// CRIU's longest answer.
const ANSWER: usize = 64 * 1024;

/// What runc and CRIU call a network that is restored into.
const NETWORK: &str = "extRootNetNS";
/// `CLONE_NEWNET`: the network itself is not restored.
const NO_NETWORK: u32 = 0x4000_0000;

/// What is made for a restore before CRIU comes to it; undone when it is dropped, but for what a container keeps.
pub(super) struct RestoreDraft<'a> {
    request: &'a Request,
    model: RuncState,
    /// The path of its network namespace.
    network: String,
    mounted: Mounted,
    groups: Groups,
    /// What it will change at once, if that is known.
    touched: Option<PrefaultList>,
    /// Runc's folder of it, until it is a container.
    notes: Notes<'a>,
}

struct Notes<'a> {
    folder: &'a Path,
    stay: bool,
}

impl Drop for Notes<'_> {
    fn drop(&mut self) {
        if !self.stay {
            // Only what lies in it: below there was a mount, and what is there is not ours.
            for file in ["state.json", "state.draft"] {
                let _ = fs::remove_file(self.folder.join(file));
            }
            let _ = fs::remove_dir(self.folder);
        }
    }
}

/// The root, where CRIU wants it: at a mount of its own.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.0);
    }
}

/// Makes all that can be made without CRIU. What it returns, and what fails, leaves nothing.
pub(super) fn prepare<'a>(
    request: &'a Request,
    model: RuncState,
    notes: &'a Path,
) -> io::Result<RestoreDraft<'a>> {
    let model = model.of(&request.id)?;
    let spec: Value = serde_json::from_slice(&fs::read(request.bundle.join("config.json"))?)?;
    let namespaces = spec["linux"]["namespaces"].as_array().into_iter().flatten();
    let network = namespaces.filter(|one| one["type"] == "network").find_map(|one| one["path"].as_str());
    let network = network.ok_or_else(|| other("there is no network"))?.to_owned();
    let root = model.root()?;
    // Runc would make them.
    for place in ["proc", "dev"] {
        if !fs::symlink_metadata(root.join(place))?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
    }
    fs::create_dir_all(&request.root)?;
    fs::create_dir(notes)?;
    let kept = Notes { folder: notes, stay: false };
    fs::set_permissions(notes, Permissions::from_mode(0o711))?;
    let at = notes.join("criu-root");
    fs::create_dir(&at)?;
    let mounted = Mounted(at);
    mount_bind_recursive(&root, &mounted.0)?;
    Ok(RestoreDraft {
        request,
        model,
        network,
        mounted,
        groups: Groups::default(),
        touched: None,
        notes: kept,
    })
}

impl RestoreDraft<'_> {
    /// Makes its control groups.
    ///
    /// # Errors
    /// They are for runc.
    pub(super) fn limit(&mut self) -> io::Result<()> {
        let made = self.groups.make(&self.model.groups(), self.model.limits());
        if made.is_err() {
            self.groups.remove();
        }
        made
    }

    /// Has CRIU restore it.
    ///
    /// # Errors
    /// Then processes of it may be left in its groups.
    pub(super) fn restore(mut self) -> io::Result<()> {
        let images = File::open(&self.request.images)?;
        let work = File::open(&self.request.work)?;
        // These two are CRIU's, too, under the numbers that they have here.
        let network = open(&self.network, OFlags::RDONLY, Mode::empty())?;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::empty(), None)?;
        fcntl_setfd(&ours, FdFlags::CLOEXEC)?;
        set_socket_timeout(&ours, Timeout::Recv, Some(PATIENCE))?;
        let criu = Command::new("criu").arg("swrk").arg(theirs.as_raw_fd().to_string()).spawn()?;
        drop(theirs);
        let mut criu = Ended(criu);
        self.groups.add(criu.0.id())?;
        let options = self.options(&images, &work, &network)?;
        tell(
            &ours,
            &criu_rpc::Request { kind: kind::RESTORE, options: Some(options), notify_success: None },
        )?;
        // CRIU has enough to do meanwhile.
        self.touched = self.request.images.parent().and_then(PrefaultList::find);
        let pid = self.follow(&ours)?;
        drop(ours);
        let status = criu.0.wait()?;
        if !status.success() {
            return Err(other(format!("{status}")));
        }
        let draft = self.request.pid_file.with_extension("draft");
        fs::write(&draft, pid.to_string())?;
        fs::rename(draft, &self.request.pid_file)?;
        self.notes.stay = true;
        drop(self.mounted);
        Ok(())
    }

    fn options(&self, images: &File, work: &File, network: &OwnedFd) -> io::Result<Options> {
        let pipes: Vec<String> =
            serde_json::from_slice(&fs::read(self.request.images.join("descriptors.json"))?)?;
        let pipes = pipes.into_iter().zip(0..).filter(|(name, _)| name.contains("pipe:"));
        let pipes = pipes.map(|(name, descriptor)| Inherited { name, descriptor });
        let network = Inherited { name: NETWORK.to_owned(), descriptor: network.as_raw_fd() };
        let mounts = self.model.mounts().into_iter();
        let root = self.mounted.0.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Options {
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
            inherited: [network].into_iter().chain(pipes).collect(),
            // All of its processes are children of CRIU, which is in the right ones.
            groups: Some(IGNORE_GROUPS),
            empty_namespaces: Some(NO_NETWORK),
            orphan_terminals: Some(true),
            config: self.model.criu_config(),
        })
    }

    /// Answers CRIU until it is done. The first process.
    fn follow(&mut self, socket: &OwnedFd) -> io::Result<i32> {
        let mut buffer = vec![0; ANSWER];
        let mut first = None;
        loop {
            let (bytes, _) = recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            if bytes == 0 {
                return Err(other("it ended without an answer"));
            }
            let answer = Response::decode(&buffer[..bytes]).map_err(io::Error::other)?;
            if !answer.success {
                return Err(other(format!("it failed with {}", answer.errno.unwrap_or_default())));
            }
            match (answer.kind, answer.notify) {
                (kind::RESTORE, _) => return first.ok_or_else(|| other("it told of no process")),
                (kind::NOTIFY, Some(notify)) => {
                    if let (Some("post-restore"), Some(pid)) = (notify.script.as_deref(), notify.pid) {
                        self.note(pid)?;
                        first = Some(pid);
                    }
                    // All of it is there, and nothing of it runs yet.
                    if notify.script.as_deref() == Some("pre-resume") {
                        self.touch();
                    }
                    let heard =
                        criu_rpc::Request { kind: kind::NOTIFY, options: None, notify_success: Some(true) };
                    tell(socket, &heard)?;
                }
                (kind, _) => return Err(other(format!("it answered something else ({kind})"))),
            }
        }
    }

    /// Has it what it will change at once. Without that it is slower, and no less right.
    fn touch(&self) {
        if let Some(touched) = &self.touched {
            touched.touch(&self.groups.processes());
        }
    }

    fn note(&mut self, pid: i32) -> io::Result<()> {
        let made = Timestamp::from(fs::metadata(self.notes.folder)?.modified()?);
        let leads = |number| fs::read_link(format!("/proc/self/fd/{number}"));
        let descriptors = (0..3).map(|number| Ok(leads(number)?.display().to_string()));
        let own = Own {
            id: &self.request.id,
            network: &self.network,
            pid,
            started: started(&fs::read_to_string(format!("/proc/{pid}/stat"))?)?,
            created: made.to_string(),
            descriptors: descriptors.collect::<io::Result<_>>()?,
        };
        self.model.note(self.notes.folder, own)
    }
}

fn tell(socket: &OwnedFd, message: &criu_rpc::Request) -> io::Result<()> {
    send(socket, &message.encode_to_vec(), SendFlags::NOSIGNAL)?;
    Ok(())
}

/// CRIU, which ends at the latest with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Both do nothing after its end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// When a process began, out of its `stat`: its name may hold anything, brackets too.
fn started(stat: &str) -> io::Result<u64> {
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
    let started = fields.and_then(|fields| fields.split_whitespace().nth(19));
    started.and_then(|ticks| ticks.parse().ok()).ok_or_else(|| other("its stat is another"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_process_is_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4672837 9 9";
        assert_eq!(started(stat).unwrap(), 4_672_837);
        started("7 (a S 1").unwrap_err();
        started("7 (a) S 1").unwrap_err();
    }
}
