//! `clean` and `bake`, as the real program does them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use super::harness::{Server, eventually};

/// For what needs containers on a busy machine.
const LONG: Duration = Duration::from_secs(90);

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

/// A folder that goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        // Short, for sockets lie in it.
        let path = std::env::temp_dir().join(format!("tin-once-{}", uuid::Uuid::now_v7().simple()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// What a server that ended leaves of a node: its lock, containers, and an instance of the process mode.
    fn node(&self, name: &str) -> PathBuf {
        let node = self.0.join("nodes").join(name);
        std::fs::create_dir_all(node.join("containers/golden/x/images")).unwrap();
        std::fs::create_dir_all(node.join("instances")).unwrap();
        std::fs::write(node.join("lock"), "").unwrap();
        node
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn cleaning_without_containerd_names_the_socket_and_removes_nothing() {
    let folder = Folder::new();
    let node = folder.node("0123456789abcdef");
    let socket = folder.0.join("nobody.sock");
    let variables = [("CONTAINERD_ADDRESS", socket.to_str().unwrap()), ("CONTAINER_MODE", "containerd")];
    let (code, told, errors) = run(&folder.0, &variables, &["clean"]);
    assert_eq!((code, told.as_str()), (Some(1), ""), "{errors}");
    assert!(errors.contains(socket.to_str().unwrap()), "{errors}");
    assert!(node.join("containers/golden/x").is_dir());
}

#[test]
fn cleaning_with_a_bad_address_is_a_mistake_in_the_configuration() {
    let folder = Folder::new();
    let (code, told, errors) = run(&folder.0, &[("CONTAINERD_ADDRESS", "here.sock")], &["clean"]);
    assert_eq!((code, told.as_str()), (Some(64), ""));
    assert!(errors.starts_with("CONTAINERD_ADDRESS: "), "{errors}");
}

#[tokio::test]
async fn nothing_is_cleaned_or_baked_under_a_server_that_runs() {
    let server = Server::start_with(&[], &[]).await;
    let node = std::fs::read_dir(server.folder.join("nodes")).unwrap().next().unwrap().unwrap().file_name();
    for command in ["clean", "bake"] {
        let (code, told, errors) = run(&server.folder, &[], &[command]);
        assert_eq!((code, told.as_str()), (Some(1), ""), "{errors}");
        assert!(errors.contains(node.to_str().unwrap()) && errors.contains("stop it"), "{errors}");
    }
}

#[test]
fn a_template_that_is_not_there_is_not_baked_and_the_others_are_named() {
    let folder = Folder::new();
    let (code, told, errors) = run(&folder.0, &[], &["bake", "shop"]);
    assert_eq!((code, told.as_str()), (Some(1), ""), "{errors}");
    assert!(errors.contains("`shop`") && errors.contains("default"), "{errors}");
}

#[test]
fn processes_are_not_baked() {
    let folder = Folder::new();
    let (code, _, errors) = run(&folder.0, &[], &["bake"]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("the process runtime cannot bake"), "{errors}");
}

/// A containerd for one test: `clean` removes what is ours from the whole of it.
struct Containerd {
    folder: Folder,
    stack: PathBuf,
    child: Child,
}

impl Containerd {
    /// From the stack's programs; `None` where those are missing.
    async fn start() -> Option<Self> {
        let stack = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/stack");
        let program = stack.join("usr/bin/containerd");
        if !program.exists() || !rustix::process::geteuid().is_root() {
            let why = format!("{} is missing (make stack), or this is not root", program.display());
            assert!(std::env::var_os("TRY_IT_NOW_NO_SKIPS").is_none(), "{why}");
            // For whoever reads the output of a test that did nothing.
            eprintln!("skipped: {why}");
            return None;
        }
        let folder = Folder::new();
        let place = folder.0.display();
        let config = format!(
            "version = 3\nroot = \"{place}/root\"\nstate = \"{place}/state\"\n\
             disabled_plugins = [\"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \
             \"io.containerd.grpc.v1.cri\", \"io.containerd.nri.v1.nri\"]\n\
             [grpc]\naddress = \"{place}/c.sock\"\n[ttrpc]\naddress = \"{place}/c.sock.ttrpc\"\n"
        );
        std::fs::write(folder.0.join("config.toml"), config).unwrap();
        let child = Command::new(program)
            .arg("--config")
            .arg(folder.0.join("config.toml"))
            // Its shims look for runc.
            .env(
                "PATH",
                [stack.join("usr/bin"), stack.join("usr/sbin")].map(|p| p.display().to_string()).join(":"),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.0.join("log")).unwrap())
            .spawn()
            .unwrap();
        let started = Self { folder, stack, child };
        eventually("containerd answers", async || started.try_ctr(&["version"]).map(drop)).await;
        Some(started)
    }

    fn socket(&self) -> PathBuf {
        self.folder.0.join("c.sock")
    }

    fn try_ctr(&self, arguments: &[&str]) -> Option<String> {
        let output = Command::new(self.stack.join("usr/bin/ctr"))
            .arg("--address")
            .arg(self.socket())
            .args(arguments)
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn ctr(&self, arguments: &[&str]) -> String {
        self.try_ctr(arguments).unwrap_or_else(|| panic!("ctr {arguments:?}"))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn cleaning_removes_what_is_ours_and_nothing_else() {
    let Some(containerd) = Containerd::start().await else { return };
    let folder = Folder::new();
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
        // Of a name of its own: a container takes the snapshot of its name along.
        let layer = format!("{id}-layer");
        containerd.ctr(&["-n", namespace, "snapshots", "prepare", &layer]);
        containerd.ctr(&["-n", namespace, "snapshots", "label", &layer, label]);
    }
    let socket = containerd.socket();
    let variables = [("CONTAINERD_ADDRESS", socket.to_str().unwrap())];
    let (code, told, errors) = run(&folder.0, &variables, &["clean"]);
    assert_eq!(code, Some(0), "{errors}");
    let gone = node.join("containers");
    let wanted = format!("containers removed: 1\nsnapshots removed: 1\nfolder removed: {}\n", gone.display());
    assert_eq!(told, wanted);
    assert!(!gone.exists() && node.join("instances").is_dir());
    let left = |namespace| {
        let containers = containerd.ctr(&["-n", namespace, "containers", "ls", "--quiet"]);
        let snapshots = containerd.ctr(&["-n", namespace, "snapshots", "ls"]);
        let snapshots = snapshots.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        (containers.trim().to_owned(), snapshots.collect::<Vec<_>>().join(" "))
    };
    assert_eq!(left("try-it-now"), ("unlabelled".to_owned(), "unlabelled-layer".to_owned()));
    assert_eq!(left("another"), ("theirs".to_owned(), "theirs-layer".to_owned()));
}

/// The process whose command line holds all of these.
fn process_with(words: &[&str]) -> Option<rustix::process::Pid> {
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = rustix::process::Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let line = String::from_utf8_lossy(&std::fs::read(entry.path().join("cmdline")).ok()?).into_owned();
        words.iter().all(|word| line.contains(word)).then_some(pid)
    })
}

/// How many processes are in the cgroup of that instance.
fn processes_in(id: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let groups = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("cgroup")).ok());
    groups.filter(|groups| groups.lines().any(|line| line.ends_with(id))).count()
}

#[tokio::test]
async fn instances_end_with_the_shim_that_they_share_and_new_ones_get_another() {
    let Some(containerd) = Containerd::start().await else { return };
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/images/php.tar");
    let templates = format!(
        "[templates.php]\nimage = \"oci:{}\"\nport = 80\nready = {{ path = \"/up\", timeout = \"60s\" }}\n",
        image.display()
    );
    let socket = containerd.socket();
    let socket = socket.to_str().unwrap();
    let variables = [
        ("CONTAINER_MODE", "containerd"),
        ("CONTAINERD_ADDRESS", socket),
        ("CRIU_ENABLED", "false"),
        ("POOL_TARGET_SIZE", "1"),
        ("POOL_MIN_SIZE", "0"),
    ];
    let server = Server::with_file(&variables, &templates).await.full_within(LONG).await;
    let taken = server.call("POST", "/api/v1/demo/acquire", "").await.json();
    let id = taken["id"].as_str().unwrap();
    assert!(processes_in(id) > 0);

    let shim = process_with(&["containerd-shim-runc-v2", "shared-shim", socket]).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    eventually("the instance ends", async || {
        let state = server.call("GET", &format!("/api/v1/demo/{id}"), "").await.json()["state"].clone();
        (state == "expired" && processes_in(id) == 0).then_some(())
    })
    .await;
    let server = server.full_within(LONG).await;
    let another = process_with(&["containerd-shim-runc-v2", "shared-shim", socket]);
    assert!(another.is_some_and(|another| another != shim));

    let state = server.folder.join("state-of-nobody");
    drop(server);
    let (code, _, errors) = run(&state, &[("CONTAINERD_ADDRESS", socket)], &["clean"]);
    assert_eq!(code, Some(0), "{errors}");
    eventually("no shim is left", async || {
        process_with(&["containerd-shim-runc-v2", socket]).is_none().then_some(())
    })
    .await;
}
