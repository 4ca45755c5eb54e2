//! The command `run`, with the real program.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use try_it_now::instance::NodeId;
use try_it_now::runtime::engine::EngineKind;

use crate::containers::read_page;
use crate::support::engine_stack::{
    containers_of, engine_socket, remove_nodes, socket_variable, with_each_engine,
};
use crate::support::harness::{AcquiredInstance, eventually_within, get};
use crate::support::stack::{Stack, image_archive};

/// The longest time of one run on a busy machine, from its start to an instance or to its end.
const RUN_TIMEOUT: Duration = Duration::from_secs(90);

/// What a test runs images with.
enum Used {
    Engine(EngineKind, PathBuf),
    Containerd(Stack),
}

/// A state folder that belongs to one test. When it is dropped, everything of its containers is removed.
struct RunHost {
    used: Used,
    folder: PathBuf,
    nodes: Mutex<BTreeSet<String>>,
}

impl RunHost {
    fn new(used: Used) -> Self {
        let folder = std::env::temp_dir().join(format!("tin-{}", NodeId::random()));
        std::fs::create_dir_all(&folder).unwrap();
        Self { used, folder, nodes: Mutex::default() }
    }

    fn engine(kind: EngineKind) -> Option<Self> {
        Some(Self::new(Used::Engine(kind, engine_socket(kind)?)))
    }

    /// Returns the command. It finds the runtime of this test and no other.
    fn command(&self, words: &[&str]) -> Command {
        let mut run = Command::new(env!("CARGO_BIN_EXE_try-it-now"));
        run.arg("run").args(words).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        run.env("STATE_DIR", &self.folder).env("CONTAINERD_ADDRESS", self.folder.join("no-containerd.sock"));
        for variable in ["DOCKER_HOST", "CONTAINER_HOST"] {
            run.env(variable, format!("unix://{}/no-{variable}.sock", self.folder.display()));
        }
        match &self.used {
            Used::Engine(kind, socket) => {
                run.env(socket_variable(*kind), format!("unix://{}", socket.display()))
            }
            Used::Containerd(stack) => run.env("CONTAINERD_ADDRESS", &stack.address).env("PATH", &stack.path),
        };
        run.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        run
    }

    /// Runs the command to its end. Returns its status, its output and its errors.
    async fn run(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let ended = tokio::time::timeout(RUN_TIMEOUT, self.command(words).output()).await;
        let Output { status, stdout, stderr } = ended.unwrap().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    /// Lists the state folders of runs that are left.
    fn runs(&self) -> Vec<PathBuf> {
        let below = |folder: PathBuf| {
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
        };
        let runtimes: Vec<PathBuf> = below(self.folder.join("run"));
        runtimes.into_iter().flat_map(below).collect()
    }

    /// Lists the nodes of all runs so far.
    fn nodes(&self) -> Vec<NodeId> {
        let mut nodes = self.nodes.lock().unwrap();
        for run in self.runs() {
            let entries = std::fs::read_dir(run.join("nodes")).into_iter().flatten().flatten();
            nodes.extend(entries.filter_map(|entry| entry.file_name().into_string().ok()));
        }
        nodes.iter().map(|name| NodeId::parse(name).unwrap()).collect()
    }

    /// Lists the remaining containers of all runs so far.
    async fn resources(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for node in self.nodes() {
            match &self.used {
                Used::Engine(_, socket) => found.extend(containers_of(socket, node.as_str()).await),
                Used::Containerd(stack) => {
                    let mut left = stack.resources_named(&[node.as_str()]);
                    // The container of the shared shim belongs to no node.
                    left.retain(|trace| !trace.contains("shared-shim-") && !trace.contains("never-run"));
                    found.extend(left);
                }
            }
        }
        found
    }

    async fn assert_nothing_left(&self) {
        assert_eq!(self.runs(), [""; 0].map(PathBuf::from));
        assert_eq!(self.resources().await, BTreeSet::new());
    }
}

impl Drop for RunHost {
    fn drop(&mut self) {
        if let Used::Engine(kind, socket) = &self.used {
            remove_nodes(*kind, socket.clone(), self.nodes());
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A demo that runs.
struct Demo {
    child: Child,
    instance: AcquiredInstance,
    front_page: String,
}

impl Demo {
    /// Starts a demo and waits for its instance.
    async fn start(host: &RunHost, words: &[&str]) -> Self {
        let mut child = host.command(words).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = async || {
            let line = tokio::time::timeout(RUN_TIMEOUT, lines.next_line()).await.unwrap().unwrap();
            line.unwrap_or_default()
        };
        let (first, second) = (next().await, next().await);
        let Some(url) = first.strip_prefix("your instance:  ") else {
            let output = child.wait_with_output().await.unwrap();
            panic!("{first}{}", String::from_utf8_lossy(&output.stderr));
        };
        let host_name = url.strip_prefix("http://").unwrap().trim_end_matches('/').to_owned();
        let id = host_name.split('.').next().unwrap().to_owned();
        let front_page = second.split_whitespace().nth(3).unwrap().to_owned();
        host.nodes();
        Self { child, instance: AcquiredInstance { id, url: url.to_owned(), host: host_name }, front_page }
    }

    fn port(&self) -> u16 {
        self.instance.host.rsplit(':').next().unwrap().parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().unwrap() as i32).unwrap(), signal).unwrap();
    }

    async fn ended(&mut self) -> Option<i32> {
        tokio::time::timeout(RUN_TIMEOUT, self.child.wait()).await.unwrap().unwrap().code()
    }
}

fn php() -> String {
    format!("oci:{}", image_archive("php").display())
}

/// Runs a demo of PHP without a word about its port, visits it, and ends it as a user does.
async fn runs_and_ends(host: &RunHost) {
    let mut demo = Demo::start(host, &[&php(), "--ttl", "30m"]).await;
    let port = demo.port();
    assert_eq!(demo.front_page, format!("http://localhost:{port}/"));
    assert_eq!(read_page(port, &demo.instance).await.1, [""; 0]);
    let front = get(port, &format!("localhost:{port}"), "/").await;
    assert_eq!((front.status, front.text().contains("/try/php")), (200, true), "{}", front.text());
    let path = format!("/api/v1/demo/{}", demo.instance.id);
    let shown = get(port, &format!("localhost:{port}"), &path).await.json();
    let left = shown["ttl_remaining_seconds"].as_u64().unwrap();
    assert!(left > 25 * 60 && left <= 30 * 60, "{shown}");
    assert!(!host.resources().await.is_empty());

    demo.signal(Signal::INT);
    assert_eq!(demo.ended().await, Some(0));
    host.assert_nothing_left().await;
}

with_each_engine! {
    an_image_of_an_engine_runs_until_it_is_interrupted_which_leaves_nothing
}

async fn an_image_of_an_engine_runs_until_it_is_interrupted_which_leaves_nothing(kind: EngineKind) {
    let Some(host) = RunHost::engine(kind) else { return };
    runs_and_ends(&host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_runs_with_containerd_where_there_is_no_engine() {
    let Some(stack) = Stack::find() else { return };
    runs_and_ends(&RunHost::new(Used::Containerd(stack))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_removes_what_a_killed_one_left_and_nothing_of_one_that_runs() {
    let Some(host) = RunHost::engine(EngineKind::Docker) else { return };
    let mut killed = Demo::start(&host, &[&php()]).await;
    killed.signal(Signal::KILL);
    assert_eq!(killed.ended().await, None);
    let left = host.resources().await;
    assert!(left.contains(&killed.instance.id), "{left:?}");
    let mut first = Demo::start(&host, &[&php()]).await;
    let mut second = Demo::start(&host, &[&php()]).await;
    assert!(host.resources().await.is_disjoint(&left));
    assert_eq!(read_page(first.port(), &first.instance).await.1, [""; 0]);
    assert_eq!(host.runs().len(), 2);
    for demo in [&mut second, &mut first] {
        assert_eq!(read_page(demo.port(), &demo.instance).await.1, [""; 0]);
        demo.signal(Signal::TERM);
        assert_eq!(demo.ended().await, Some(0));
    }
    host.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_before_there_is_an_instance_leaves_nothing() {
    let Some(host) = RunHost::engine(EngineKind::Docker) else { return };
    let child = host.command(&[&php(), "--command", "sleep", "600"]).spawn().unwrap();
    eventually_within(RUN_TIMEOUT, "its container runs", async || {
        (!host.resources().await.is_empty()).then_some(())
    })
    .await;
    kill_process(Pid::from_raw(child.id().unwrap() as i32).unwrap(), Signal::INT).unwrap();
    let output = tokio::time::timeout(RUN_TIMEOUT, child.wait_with_output()).await.unwrap().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("interrupted; everything of the run was removed"), "{errors}");
    // Without a terminal there is a line for each step, and no bar.
    assert!(errors.contains("starting it to find its port") && !errors.contains('\x1b'), "{errors}");
    host.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_run_is_reported_with_its_reason_and_leaves_nothing() {
    let Some(host) = RunHost::engine(EngineKind::Docker) else { return };
    let php = php();
    let fixed = ["php", "-S", "127.0.0.1:80", "-t", "/app/public"];
    let wrong_port = [&[&*php, "--port", "9", "--timeout", "2s", "--command"], &fixed[..]].concat();
    let cases: [(&[&str], i32, &[&str]); 6] = [
        (&["127.0.0.1:1/none:1"], 1, &["cannot run 127.0.0.1:1/none:1: ", "127.0.0.1:1 cannot be reached"]),
        (&wrong_port, 1, &["it listens on 127.0.0.1:80, not on 9"]),
        (
            &[&php, "--command", "sh", "-c", "echo no license >&2; exit 7"],
            1,
            &["exit status 7", "no license"],
        ),
        (&["Capital:1"], 64, &["write the name of the image in small letters"]),
        (&["oci:/nowhere.tar"], 64, &["cannot read the image in /nowhere.tar"]),
        (&[&php, "--runtime", "podman"], 1, &["no-CONTAINER_HOST.sock", "podman.socket"]),
    ];
    for (words, status, texts) in cases {
        let (code, output, errors) = host.run(words).await;
        assert_eq!((code, output.as_str()), (Some(status), ""), "{words:?}: {errors}");
        for text in texts {
            assert!(errors.contains(text), "{words:?}: {errors}");
        }
    }
    host.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_a_runtime_gets_a_sentence_that_says_what_to_install() {
    let nothing = PathBuf::from("/nowhere/docker.sock");
    let host = RunHost::new(Used::Engine(EngineKind::Docker, nothing));
    let (code, output, errors) = host.run(&["wordpress:6"]).await;
    assert_eq!((code, output.as_str()), (Some(1), ""), "{errors}");
    assert!(errors.contains("install Docker (apt-get install docker.io), Podman"), "{errors}");
    for asked in ["/nowhere/docker.sock", "no-CONTAINER_HOST.sock", "no-containerd.sock"] {
        assert!(errors.contains(asked), "{errors}");
    }
    assert_eq!(host.runs(), [""; 0].map(PathBuf::from));
}
