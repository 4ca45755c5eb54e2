//! A containerd that belongs to one test, which the test can kill and restart.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::harness::eventually;
use crate::support::stack::Stack;

/// A containerd for one test, from the stack's programs, in a mount namespace of its own. When it is dropped, it ends
/// with everything that runs in it.
pub struct PrivateContainerd {
    folder: PathBuf,
    stack: Stack,
    /// Keeps the mount namespace while containerd does not run.
    holder: Child,
    daemon: Option<Child>,
}

impl PrivateContainerd {
    /// Starts a containerd. Returns `None` if there is no stack.
    pub async fn start() -> Option<Self> {
        let stack = Stack::find()?;
        // The path is short, because it holds sockets, whose paths are limited.
        let folder = std::env::temp_dir().join(format!("tin-{}", uuid::Uuid::now_v7().simple()));
        std::fs::create_dir_all(&folder).unwrap();
        let place = folder.display();
        let config = format!(
            "version = 3\nroot = \"{place}/root\"\nstate = \"{place}/state\"\n\
             disabled_plugins = [\"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \
             \"io.containerd.grpc.v1.cri\", \"io.containerd.nri.v1.nri\"]\n\
             [grpc]\naddress = \"{place}/c.sock\"\n[ttrpc]\naddress = \"{place}/c.sock.ttrpc\"\n"
        );
        std::fs::write(folder.join("config.toml"), config).unwrap();
        let ready = folder.join("mounted");
        let script = format!(
            "mount -t tmpfs -o mode=755 tmpfs /run && mkdir /run/containerd && : >{} && exec sleep infinity",
            ready.display()
        );
        let holder = Command::new("unshare")
            .args(["--mount", "--propagation", "slave", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let stack = Stack { address: folder.join("c.sock"), ..stack };
        let mut own = Self { folder, stack, holder, daemon: None };
        eventually("the mount namespace has its own /run", async || ready.exists().then_some(())).await;
        own.start_daemon().await;
        Some(own)
    }

    /// Starts the daemon, for the first time or again.
    pub async fn start_daemon(&mut self) {
        let log = std::fs::File::options().append(true).create(true).open(self.folder.join("log")).unwrap();
        let child = Command::new("nsenter")
            .arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()))
            .args(["containerd", "--config"])
            .arg(self.folder.join("config.toml"))
            .env("PATH", &self.stack.path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        self.daemon = Some(child);
        eventually("containerd answers", async || self.try_ctr(&["version"]).map(drop)).await;
    }

    /// Kills the daemon and nothing else.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    /// Returns it in the form that the tests use.
    pub fn stack(&self) -> Stack {
        self.stack.clone()
    }

    fn try_ctr(&self, arguments: &[&str]) -> Option<String> {
        let output = Command::new("ctr")
            .env("PATH", &self.stack.path)
            .arg("--address")
            .arg(&self.stack.address)
            .args(arguments)
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    pub fn ctr(&self, arguments: &[&str]) -> String {
        self.try_ctr(arguments).unwrap_or_else(|| panic!("ctr {arguments:?}"))
    }

    /// Lists the shims of this containerd, found by their command lines.
    fn shims(&self) -> Vec<Pid> {
        let address_argument = format!("\0-address\0{}\0", self.stack.address.display());
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let shims = entries.filter_map(|entry| {
            let command = std::fs::read(entry.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).into_owned() + "\0";
            let is_ours = command.contains("containerd-shim") && command.contains(&address_argument);
            is_ours.then(|| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)).flatten()
        });
        shims.collect()
    }
}

impl Drop for PrivateContainerd {
    fn drop(&mut self) {
        self.kill();
        for shim in self.shims() {
            for child in children(shim).into_iter().chain([shim]) {
                let _ = kill_process(child, Signal::KILL);
            }
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Lists the child processes of a process.
pub(crate) fn children(pid: Pid) -> Vec<Pid> {
    let threads = format!("/proc/{}/task", pid.as_raw_nonzero());
    let lists = std::fs::read_dir(Path::new(&threads)).into_iter().flatten().flatten();
    let texts = lists.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let numbers =
        texts.flat_map(|text| text.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<i32>>());
    numbers.filter_map(Pid::from_raw).collect()
}
