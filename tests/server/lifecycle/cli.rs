//! The commands `clean` and `bake` of the real program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::support::harness::{Server, eventually};
use crate::support::private_containerd::PrivateContainerd;

/// The longest time for operations on containers on a busy machine.
const CONTAINER_TIMEOUT: Duration = Duration::from_secs(90);

fn run(state: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_try-it-now"))
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("STATE_DIR", state)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A state folder, removed when this is dropped.
struct StateFolder(PathBuf);

impl StateFolder {
    fn new() -> Self {
        // The path is short, because it holds sockets, whose paths are limited.
        let path = std::env::temp_dir().join(format!("tin-once-{}", uuid::Uuid::now_v7().simple()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Creates what a server that ended leaves of a node: its lock, containers, and an instance of the process mode.
    fn node(&self, name: &str) -> PathBuf {
        let node = self.0.join("nodes").join(name);
        std::fs::create_dir_all(node.join("containers/golden/x/images")).unwrap();
        std::fs::create_dir_all(node.join("instances")).unwrap();
        std::fs::write(node.join("lock"), "").unwrap();
        node
    }
}

impl Drop for StateFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn cleaning_without_containerd_names_the_socket_and_removes_nothing() {
    let folder = StateFolder::new();
    let node = folder.node("0123456789abcdef");
    let socket = folder.0.join("missing.sock");
    let variables = [("CONTAINERD_ADDRESS", socket.to_str().unwrap()), ("CONTAINER_MODE", "containerd")];
    let (code, output, errors) = run(&folder.0, &variables, &["clean"]);
    assert_eq!((code, output.as_str()), (Some(1), ""), "{errors}");
    assert!(errors.contains(socket.to_str().unwrap()), "{errors}");
    assert!(node.join("containers/golden/x").is_dir());
}

#[test]
fn a_host_that_never_ran_containers_is_cleaned_without_a_containerd() {
    let folder = StateFolder::new();
    let node = folder.node("0123456789abcdef");
    std::fs::remove_dir_all(node.join("containers")).unwrap();
    let socket = folder.0.join("missing.sock");
    let (code, output, errors) =
        run(&folder.0, &[("CONTAINERD_ADDRESS", socket.to_str().unwrap())], &["clean"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(output.contains(&format!("removed: {}\n", node.join("instances").display())), "{output}");
    assert!(!node.join("instances").exists());
}

#[test]
fn cleaning_with_an_invalid_address_is_a_configuration_error() {
    let folder = StateFolder::new();
    let (code, output, errors) = run(&folder.0, &[("CONTAINERD_ADDRESS", "here.sock")], &["clean"]);
    assert_eq!((code, output.as_str()), (Some(64), ""));
    assert!(errors.starts_with("CONTAINERD_ADDRESS: "), "{errors}");
}

#[tokio::test]
async fn clean_and_bake_refuse_to_run_beside_a_running_server() {
    let server = Server::start_with(&[], &[]).await;
    let node = std::fs::read_dir(server.folder.join("nodes")).unwrap().next().unwrap().unwrap().file_name();
    for command in ["clean", "bake"] {
        let (code, output, errors) = run(&server.folder, &[], &[command]);
        assert_eq!((code, output.as_str()), (Some(1), ""), "{errors}");
        assert!(errors.contains(node.to_str().unwrap()) && errors.contains("stop it"), "{errors}");
    }
}

#[test]
fn an_unknown_template_is_not_baked_and_the_known_ones_are_named() {
    let folder = StateFolder::new();
    let (code, output, errors) = run(&folder.0, &[], &["bake", "shop"]);
    assert_eq!((code, output.as_str()), (Some(1), ""), "{errors}");
    assert!(errors.contains("`shop`") && errors.contains("default"), "{errors}");
}

#[test]
fn the_process_runtime_cannot_bake() {
    let folder = StateFolder::new();
    let (code, _, errors) = run(&folder.0, &[], &["bake"]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("the process runtime cannot bake"), "{errors}");
}

#[tokio::test]
async fn cleaning_removes_only_our_own_resources() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let stack = containerd.stack();
    let folder = StateFolder::new();
    let node = folder.node("0123456789abcdef");
    let root = folder.0.join("root");
    std::fs::create_dir_all(&root).unwrap();
    for (namespace, id, label) in [
        ("try-it-now", "ours", "try-it-now/node=0123456789abcdef"),
        ("try-it-now", "unlabelled", "other=1"),
        ("another", "theirs", "try-it-now/node=0123456789abcdef"),
    ] {
        let root = root.to_str().unwrap();
        containerd.ctr(&[
            "-n",
            namespace,
            "containers",
            "create",
            "--rootfs",
            "--label",
            label,
            root,
            id,
            "/bin/true",
        ]);
        // The snapshot has a name of its own, because removing a container also removes the snapshot of the same name.
        let layer = format!("{id}-layer");
        containerd.ctr(&["-n", namespace, "snapshots", "prepare", &layer]);
        containerd.ctr(&["-n", namespace, "snapshots", "label", &layer, label]);
    }
    std::fs::write(node.join("journal"), "").unwrap();
    let variables = [("CONTAINERD_ADDRESS", stack.address.to_str().unwrap())];
    let (code, output, errors) = run(&folder.0, &variables, &["clean"]);
    assert_eq!(code, Some(0), "{errors}");
    let gone = ["containers", "instances", "journal"].map(|name| node.join(name));
    let [containers, instances, journal] = gone.each_ref().map(|path| format!("removed: {}", path.display()));
    let wanted = ["containers removed: 1", "snapshots removed: 1", &containers, &instances, &journal];
    // The cgroup is shared by all nodes of this host and is removed when it is empty.
    let output: Vec<_> =
        output.lines().filter(|line| !line.starts_with("removed: /sys/fs/cgroup/")).collect();
    assert_eq!(output, wanted);
    assert!(gone.iter().all(|path| !path.exists()));
    assert!(node.join("lock").exists(), "the node keeps its identity");
    let left = |namespace| {
        let containers = containerd.ctr(&["-n", namespace, "containers", "ls", "--quiet"]);
        let snapshots = containerd.ctr(&["-n", namespace, "snapshots", "ls"]);
        let snapshots = snapshots.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        (containers.trim().to_owned(), snapshots.collect::<Vec<_>>().join(" "))
    };
    assert_eq!(left("try-it-now"), ("unlabelled".to_owned(), "unlabelled-layer".to_owned()));
    assert_eq!(left("another"), ("theirs".to_owned(), "theirs-layer".to_owned()));
}

/// Returns the process whose command line contains all of these.
fn process_with(parts: &[&str]) -> Option<rustix::process::Pid> {
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = rustix::process::Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let line = String::from_utf8_lossy(&std::fs::read(entry.path().join("cmdline")).ok()?).into_owned();
        parts.iter().all(|word| line.contains(word)).then_some(pid)
    })
}

/// Returns how many processes are in the cgroup of that instance.
fn processes_in(id: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let groups = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("cgroup")).ok());
    groups.filter(|groups| groups.lines().any(|line| line.ends_with(id))).count()
}

#[tokio::test]
async fn instances_end_with_the_shim_that_they_share_and_new_ones_get_another() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/images/php.tar");
    let templates = format!(
        "[templates.php]\nimage = \"oci:{}\"\nport = 80\nready = {{ path = \"/up\", timeout = \"60s\" }}\n",
        image.display()
    );
    let socket = containerd.stack().address;
    let socket = socket.to_str().unwrap();
    let variables = [
        ("CONTAINER_MODE", "containerd"),
        ("CONTAINERD_ADDRESS", socket),
        ("CRIU_ENABLED", "false"),
        ("POOL_TARGET_SIZE", "1"),
        ("POOL_MIN_SIZE", "0"),
    ];
    let server = Server::with_file(&variables, &templates).await.full_within(CONTAINER_TIMEOUT).await;
    let acquired = server.call("POST", "/api/v1/demo/acquire", "").await.json();
    let id = acquired["id"].as_str().unwrap();
    assert!(processes_in(id) > 0);

    let shim = process_with(&["containerd-shim-runc-v2", "shared-shim", socket]).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    eventually("the instance ends", async || {
        let state = server.call("GET", &format!("/api/v1/demo/{id}"), "").await.json()["state"].clone();
        (state == "expired" && processes_in(id) == 0).then_some(())
    })
    .await;
    let server = server.full_within(CONTAINER_TIMEOUT).await;
    let another = process_with(&["containerd-shim-runc-v2", "shared-shim", socket]);
    assert!(another.is_some_and(|another| another != shim));

    let mut server = server;
    server.signal("KILL");
    server.wait_for_exit().await;
    let state = StateFolder(server.keep_folder());
    drop(server);
    let (code, _, errors) = run(&state.0, &[("CONTAINERD_ADDRESS", socket)], &["clean"]);
    assert_eq!(code, Some(0), "{errors}");
    eventually("no shim is left", async || {
        process_with(&["containerd-shim-runc-v2", socket]).is_none().then_some(())
    })
    .await;
}
