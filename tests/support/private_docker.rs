//! A Docker daemon that belongs to one test, which the test can end and start again.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use try_it_now::runtime::engine::EngineKind;

use crate::support::engine_stack::{engine_request, engine_socket};
use crate::support::harness::{eventually, eventually_within};
use crate::support::private_containerd::children;
use crate::support::skip::skip;

/// The longest time until a daemon has started or ended.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(60);

/// A dockerd for one test, from the stack's programs, with folders and a socket of its own. When it is dropped, it ends
/// with everything that runs in it.
pub struct PrivateDocker {
    programs: PathBuf,
    folder: PathBuf,
    pub socket: PathBuf,
    has_live_restore: bool,
    daemon: Option<Child>,
}

impl PrivateDocker {
    /// Starts a dockerd, whose containers survive its end if it has `live-restore`. Returns `None` if there is no stack.
    pub async fn start(has_live_restore: bool) -> Option<Self> {
        // The stack keeps its programs beside the folder of its own daemon.
        let programs = engine_socket(EngineKind::Docker)?.parent()?.parent()?.join("engines");
        if !programs.join("usr/sbin/dockerd").is_file() {
            skip("the engine of DOCKER_HOST is not that of the stack (run `make stack-up`)");
            return None;
        }
        // The path is short, because it holds sockets, whose paths are limited.
        let folder = std::env::temp_dir().join(format!("tin-{}", uuid::Uuid::now_v7().simple()));
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("docker.sock");
        let mut own = Self { programs, folder, socket, has_live_restore, daemon: None };
        own.start_daemon().await;
        Some(own)
    }

    /// Starts the daemon, for the first time or again, and waits until it answers.
    pub async fn start_daemon(&mut self) {
        let log = std::fs::File::options().append(true).create(true).open(self.folder.join("log")).unwrap();
        let (bin, sbin) = (self.programs.join("usr/bin"), self.programs.join("usr/sbin"));
        let path = std::env::var("PATH").unwrap_or_default();
        let mut dockerd = Command::new(sbin.join("dockerd"));
        dockerd
            .arg("--data-root")
            .arg(self.folder.join("data"))
            .arg("--exec-root")
            .arg(self.exec_root())
            .arg("--pidfile")
            .arg(self.folder.join("pid"))
            .arg(format!("--host=unix://{}", self.socket.display()))
            .args(["--group=root", "--bridge=none", "--iptables=false", "--ip6tables=false"])
            .args(["--ip-forward=false", "--shutdown-timeout=1"]);
        if self.has_live_restore {
            dockerd.arg("--live-restore");
        }
        dockerd.env("PATH", format!("{}:{}:{path}", bin.display(), sbin.display()));
        let null = Stdio::null;
        self.daemon = Some(dockerd.stdin(null()).stdout(null()).stderr(log).spawn().unwrap());
        eventually_within(DAEMON_TIMEOUT, "the daemon accepts connections", async || {
            tokio::net::UnixStream::connect(&self.socket).await.ok().map(drop)
        })
        .await;
        // It answers only when it has found all its containers again.
        assert_eq!(engine_request(&self.socket, "GET", "/info").await.0, 200);
    }

    /// Ends the daemon as an operator does, and waits until it has ended.
    pub async fn stop(&mut self) {
        self.end(Signal::TERM).await;
    }

    /// Kills the daemon and nothing else.
    pub async fn kill(&mut self) {
        self.end(Signal::KILL).await;
    }

    async fn end(&mut self, signal: Signal) {
        let Some(mut daemon) = self.daemon.take() else { return };
        kill_process(Pid::from_child(&daemon), signal).unwrap();
        eventually("the daemon ends", async || daemon.try_wait().unwrap()).await;
        if signal == Signal::KILL {
            // Its containerd ends with it. The next daemon takes the number in a file for a process that runs, which
            // may be a process that has ended and that is not reaped here.
            let containerd = self.exec_root().join("containerd/containerd.pid");
            let number = std::fs::read_to_string(&containerd).unwrap();
            let command = format!("/proc/{}/cmdline", number.trim());
            eventually("the daemon's containerd ends", async || {
                std::fs::read(&command).unwrap_or_default().is_empty().then_some(())
            })
            .await;
            for file in [containerd, self.folder.join("pid")] {
                std::fs::remove_file(file).unwrap();
            }
        }
    }

    fn exec_root(&self) -> PathBuf {
        self.folder.join("exec")
    }

    /// Lists the daemon's containerd and the shims, found by their command lines, and the apps below them.
    fn helpers(&self) -> Vec<Pid> {
        let exec_root = self.exec_root().display().to_string();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let helpers = entries.filter_map(|entry| {
            let command = std::fs::read(entry.path().join("cmdline")).ok()?;
            let has_folder = String::from_utf8_lossy(&command).contains(&exec_root);
            has_folder.then(|| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)).flatten()
        });
        helpers.flat_map(|helper| children(helper).into_iter().chain([helper])).collect()
    }
}

impl Drop for PrivateDocker {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        for pid in self.helpers() {
            let _ = kill_process(pid, Signal::KILL);
        }
        // What a killed daemon has mounted.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let folder = self.folder.display().to_string();
        let mounted = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for path in mounted.filter(|path| path.starts_with(&folder)).collect::<Vec<_>>().into_iter().rev() {
            let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
