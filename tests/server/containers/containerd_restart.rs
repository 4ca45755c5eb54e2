//! A containerd that ends and comes back.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{FULL, Host, note, page, release};
use crate::support::harness::{Demo, Server, eventually, eventually_within, get};
use crate::support::stack::Stack;

/// A containerd for one test, from the stack's programs, in a mount namespace of its own. Dropped, it ends with all that
/// runs in it.
pub(crate) struct Containerd {
    folder: PathBuf,
    stack: Stack,
    /// Holds the mount namespace open while containerd is not there.
    holder: Child,
    daemon: Option<Child>,
}

impl Containerd {
    /// `None` where there is no stack.
    pub(crate) async fn start() -> Option<Self> {
        let stack = Stack::find()?;
        // Short, for sockets lie in it.
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
        eventually("it has a /run of its own", async || ready.exists().then_some(())).await;
        own.begin().await;
        Some(own)
    }

    /// Starts it, again.
    pub(crate) async fn begin(&mut self) {
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

    /// Kills it, and it alone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    /// As tests see it.
    pub(crate) fn stack(&self) -> Stack {
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

    pub(crate) fn ctr(&self, arguments: &[&str]) -> String {
        self.try_ctr(arguments).unwrap_or_else(|| panic!("ctr {arguments:?}"))
    }

    /// The shims of this containerd, by their command lines, and their children.
    fn shims(&self) -> Vec<Pid> {
        let words = format!("\0-address\0{}\0", self.stack.address.display());
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let shims = entries.filter_map(|entry| {
            let command = std::fs::read(entry.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).into_owned() + "\0";
            let is_ours = command.contains("containerd-shim") && command.contains(&words);
            is_ours.then(|| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)).flatten()
        });
        shims.collect()
    }
}

impl Drop for Containerd {
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

fn children(pid: Pid) -> Vec<Pid> {
    let threads = format!("/proc/{}/task", pid.as_raw_nonzero());
    let lists = std::fs::read_dir(Path::new(&threads)).into_iter().flatten().flatten();
    let texts = lists.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let numbers =
        texts.flat_map(|text| text.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<i32>>());
    numbers.filter_map(Pid::from_raw).collect()
}

/// Acquires as soon as there is one.
async fn acquire(server: &Server) -> Demo {
    eventually_within(FULL, "an instance is to be had", async || {
        let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
        (answer.status == 200).then(|| Demo::from_json(&answer.json()))
    })
    .await
}

#[tokio::test]
async fn instances_live_on_while_containerd_is_away_and_are_looked_after_again() {
    let Some(mut containerd) = Containerd::start().await else { return };
    let ready = "path = \"/up\"\nbody = \"up\"";
    let Some(host) = Host::new(containerd.stack(), "php", "warm_up = [\"/up\"]", ready) else { return };
    let mut server = host.serve(&[]).await.full_within(FULL).await;
    let (a, b) = (server.acquire().await, server.acquire().await);
    note(server.port, &a, "before").await;
    let server_full = server.full_within(FULL).await;
    server = server_full;

    containerd.kill();
    assert_eq!(page(server.port, &a).await, (1, vec!["before".to_owned()]));
    let c = server.acquire().await;
    note(server.port, &c, "meanwhile").await;
    release(&server, &b.id).await;
    assert_eq!(get(server.port, &b.host, "/").await.status, 404);
    assert_eq!(page(server.port, &a).await.0, 2);

    containerd.begin().await;
    assert_eq!(page(server.port, &a).await.0, 3);
    assert_eq!(page(server.port, &c).await.1, ["meanwhile"]);
    let d = acquire(&server).await;
    assert_eq!(page(server.port, &d).await.0, 1);
    eventually_within(FULL, "what was given back meanwhile is gone", async || {
        host.stack.traces(&[&b.id]).is_empty().then_some(())
    })
    .await;

    // The event stream is followed again: a death is noticed at once, not with the next comparison.
    containerd.ctr(&["-n", "try-it-now", "tasks", "kill", "--signal", "SIGKILL", &a.id]);
    server.log_until(|line| line.contains(&a.id) && line.contains("an instance died")).await;
    assert_eq!(get(server.port, &a.host, "/").await.status, 410);
    let server_full = server.full_within(FULL).await;
    server = server_full;
    let e = server.acquire().await;
    assert_eq!(page(server.port, &e).await.0, 1);

    // Whatever a server leaves that never comes back, `clean` removes.
    server.signal("KILL");
    assert_eq!(server.ended().await, None);
    assert!(!host.containers().is_empty());
    let cleaned = super::bake::command(&host, &["clean"]).output().unwrap();
    assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
    host.nothing_left().await;
    let node = host.folder.join("nodes").join(&host.nodes()[0]);
    let kept = ["lock", "secret"].map(|name| node.join(name).display().to_string());
    assert_eq!(crate::support::leak_check::files(&node), kept);
    let snapshots = containerd.ctr(&["-n", "try-it-now", "snapshots", "list"]);
    assert!(!snapshots.contains("golden-"), "{snapshots}");
}
