//! The process runtime under the suite, and what only this runtime promises.

mod heavy;
mod start;
mod termination;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use try_it_now::instance::{Endpoint, InstanceId, NodeId};
use try_it_now::runtime::process::{OUTPUT_LOG_BYTES, ProcessRuntime, ProcessSettings};
use try_it_now::runtime::{Runtime, RuntimeError};
use try_it_now::template::{App, ResourceLimits};

use crate::suites::runtime::{
    MAX_WAIT, RuntimeUnderTest, TestApps, app, output, start_request, wait_until, with_timeout,
};

runtime_suite!(suite, crate::process::runtime_under_test);

/// The variable with the role that another process of this test program plays.
const ROLE_VAR: &str = "TEST_ROLE";
/// The test that plays the role.
const ROLE_TEST: &str = "process::termination::when_the_server_is_killed_no_process_survives";
const WORK_VAR: &str = "TEST_WORK";
const NODE_VAR: &str = "TEST_NODE";

/// A folder that belongs to one test. It is removed when this is dropped.
struct TestFolder(PathBuf);

impl TestFolder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("try-it-now-process-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn settings(&self) -> ProcessSettings {
        ProcessSettings {
            program: env!("CARGO_BIN_EXE_try-it-now").into(),
            instances_dir: self.work(),
            node: NodeId::parse("node-under-test").unwrap(),
            // Below the ports of outgoing connections. Servers with the same range avoid the ports of each other.
            port_range: 20_000..=29_999,
            open_files: None,
            log_limit: OUTPUT_LOG_BYTES,
        }
    }

    fn work(&self) -> PathBuf {
        self.0.join("instances")
    }

    /// Returns how many instances have a folder.
    fn instance_count(&self) -> usize {
        let entries = fs::read_dir(self.work()).unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("sample-")).count()
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns the runtime and the apps for the suite.
pub(super) async fn runtime_under_test() -> Option<RuntimeUnderTest> {
    let folder = TestFolder::new();
    // Other tests of this program run at the same time, so the node is a random one.
    let settings = ProcessSettings { node: NodeId::random(), ..folder.settings() };
    let runtime = Arc::new(ProcessRuntime::open(settings).await.unwrap());
    let apps = TestApps {
        listening: test_program_as("listen"),
        talking: shell("echo hello; exec sleep 600"),
        ending: shell("exit 3"),
        missing: app(&["no-such-program"]),
    };
    Some(RuntimeUnderTest { runtime, apps, _keep_alive: Box::new(folder) })
}

/// A runtime with a folder and a node of its own.
struct ProcessFixture {
    runtime: ProcessRuntime,
    settings: ProcessSettings,
    folder: TestFolder,
}

impl ProcessFixture {
    async fn new() -> Self {
        let folder = TestFolder::new();
        let settings = ProcessSettings { node: NodeId::random(), ..folder.settings() };
        Self { runtime: ProcessRuntime::open(settings.clone()).await.unwrap(), settings, folder }
    }

    /// Starts an app that writes `ready` last, waits for that, and returns its output before it.
    async fn start(&self, app: &App) -> (InstanceId, String) {
        let request = start_request(app);
        with_timeout(self.runtime.start(&request)).await.unwrap();
        let output_text = ready(&self.runtime, &request.id).await;
        (request.id, output_text)
    }

    /// Returns an app whose files are a script named `run`.
    fn with_script(&self, script: &str, app: &str) -> App {
        let files = self.folder.0.join("files");
        fs::create_dir(&files).unwrap();
        let script =
            if script.starts_with("#!") { script.to_owned() } else { format!("#!/bin/sh\n{script}") };
        fs::write(files.join("run"), script).unwrap();
        fs::set_permissions(files.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
        App { files: Some(files), ..shell(app) }
    }

    async fn start_process_tree(&self, more: &[ChildProcess]) -> (InstanceId, BTreeMap<String, Pid>) {
        let (id, output_text) = self.start(&shell(&process_tree_script(more))).await;
        let process_tree = parse_process_tree(&output_text);
        assert_eq!(living_names(&process_tree).len(), 5 + more.len(), "{output_text}");
        (id, process_tree)
    }
}

async fn ready(runtime: &ProcessRuntime, id: &InstanceId) -> String {
    let output_text = async || output(runtime, id).await?.strip_suffix("ready\n").map(str::to_owned);
    wait_until("it is ready", output_text).await
}

fn shell(script: &str) -> App {
    app(&["sh", "-c", script])
}

/// Returns this test program in another role as an app.
fn test_program_as(role: &str) -> App {
    let program = env::current_exe().unwrap();
    let mut app = app(&[program.to_str().unwrap(), "--exact", ROLE_TEST, "--nocapture"]);
    app.env.insert(ROLE_VAR.to_owned(), role.to_owned());
    app
}

fn listen() {
    let var = |name: &str| env::var(name).unwrap_or_default();
    let listener = std::net::TcpListener::bind(format!("{}:{}", var("HOST"), var("PORT"))).unwrap();
    let text: String =
        ["INSTANCE_ID", "INSTANCE_URL", "INSTANCE_HOST", "EXTRA"].map(|name| var(name) + "\n").concat();
    for stream in listener.incoming() {
        let _ = stream.unwrap().write_all(text.as_bytes());
    }
}

/// Runs a server that starts a process tree, prints it and waits to be killed.
#[expect(clippy::print_stdout, reason = "its parent reads it")]
async fn serve() {
    let settings = ProcessSettings {
        instances_dir: env::var(WORK_VAR).unwrap().into(),
        node: NodeId::parse(&env::var(NODE_VAR).unwrap()).unwrap(),
        ..TestFolder(PathBuf::new()).settings()
    };
    let runtime = ProcessRuntime::open(settings).await.unwrap();
    let request = start_request(&shell(&process_tree_script(&[HIDDEN])));
    runtime.start(&request).await.unwrap();
    let output_text = ready(&runtime, &request.id).await;
    println!("\ntree {}", output_text.replace('\n', " "));
    // The server must not survive a test that fails to kill it.
    let _ = tokio::time::timeout(MAX_WAIT, std::future::pending::<()>()).await;
}

/// A process that an app starts: its name and the command that starts it. `REPORT` stands for commands that print its
/// name and then sleep.
type ChildProcess = (&'static str, &'static str);

const CHILD: ChildProcess = ("child", "sh -c 'REPORT' &");
const GRANDCHILD: ChildProcess = ("grandchild", "sh -c 'sh -c \"REPORT\" & wait' &");
/// In another session, and its parent has ended.
const DAEMON: ChildProcess = ("daemon", "setsid sh -c 'sh -c \"REPORT\" &'");
/// A daemon without environment variables and in another folder.
const HIDDEN: ChildProcess = ("hidden", "(cd / && env -i setsid sh -c 'sh -c \"REPORT\" &')");

/// Returns the script of an app that starts these processes. Each prints a line `name pid`, and the app is ready when
/// all have done so.
fn process_tree_script(more: &[ChildProcess]) -> String {
    let mut script = "mkfifo reported; exec 3<> reported; echo app $$; echo guardian $PPID\n".to_owned();
    for (name, command) in [&[CHILD, GRANDCHILD, DAEMON], more].concat() {
        // A shell in between must not print its own process id.
        let number = if command.contains('"') { r"\$\$" } else { "$$" };
        let report = format!("echo {name} {number}; echo >&3; exec sleep 600");
        script += &format!("{}\nread -r reported <&3\n", command.replace("REPORT", &report));
    }
    script + "echo ready; exec sleep 600"
}

/// Parses the output of such a script into names and process ids.
fn parse_process_tree(output_text: &str) -> BTreeMap<String, Pid> {
    let output_text: Vec<&str> = output_text.split_ascii_whitespace().collect();
    let pairs = output_text.as_chunks::<2>().0;
    pairs
        .iter()
        .map(|[name, pid]| ((*name).to_owned(), Pid::from_raw(pid.parse().unwrap()).unwrap()))
        .collect()
}

fn alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| !matches!(stat.rsplit_once(") ").unwrap().1.as_bytes()[0], b'Z' | b'X'))
}

fn living_names(process_tree: &BTreeMap<String, Pid>) -> Vec<&str> {
    process_tree.iter().filter(|(_, pid)| alive(**pid)).map(|(name, _)| name.as_str()).collect()
}

async fn wait_until_all_ended(process_tree: &BTreeMap<String, Pid>) {
    wait_until("all processes have ended", async || living_names(process_tree).is_empty().then_some(()))
        .await;
}
