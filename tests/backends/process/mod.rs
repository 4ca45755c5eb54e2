//! What the process runtime promises beyond the suite: the apps and the families to try it with.

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
use try_it_now::runtime::process::{LOG_LIMIT, ProcessRuntime, Settings};
use try_it_now::runtime::{Runtime, RuntimeError};
use try_it_now::template::{App, ResourceLimits};

use crate::suites::runtime::{Apps, PATIENCE, Subject, app, order, output, until, within};

runtime_suite!(suite, crate::process::subject);

/// The role that a copy of this test program plays.
const ROLE: &str = "CONFORMANCE_ROLE";
/// The test that plays it.
const ACTOR: &str = "process::termination::when_the_server_is_killed_nothing_runs_on";
const WORK: &str = "CONFORMANCE_WORK";
const NODE: &str = "CONFORMANCE_NODE";

/// A folder of a test's own.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("try-it-now-conformance-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn settings(&self) -> Settings {
        Settings {
            guardian: env!("CARGO_BIN_EXE_try-it-now").into(),
            work: self.work(),
            node: NodeId::parse("node-under-test").unwrap(),
            // Below what outgoing connections use. Servers with the same range respect each other.
            ports: 20_000..=29_999,
            log_limit: LOG_LIMIT,
        }
    }

    fn work(&self) -> PathBuf {
        self.0.join("instances")
    }

    /// The instances that have a folder.
    fn folders(&self) -> usize {
        let entries = fs::read_dir(self.work()).unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("sample-")).count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// For the suite.
pub(super) async fn subject() -> Option<Subject> {
    let place = Place::new();
    // A node of its own: other tests of this program run at the same time.
    let settings = Settings { node: NodeId::random(), ..place.settings() };
    let runtime = Arc::new(ProcessRuntime::open(settings).await.unwrap());
    let apps = Apps {
        listening: actor("listen"),
        talking: shell("echo hello; exec sleep 600"),
        ending: shell("exit 3"),
        missing: app(&["no-such-program"]),
    };
    Some(Subject { runtime, apps, _place: Box::new(place) })
}

/// A runtime with its folder, and a node's name of its own.
struct Host {
    runtime: ProcessRuntime,
    settings: Settings,
    place: Place,
}

impl Host {
    async fn new() -> Self {
        let place = Place::new();
        let settings = Settings { node: NodeId::random(), ..place.settings() };
        Self { runtime: ProcessRuntime::open(settings.clone()).await.unwrap(), settings, place }
    }

    /// Starts an app that says `ready` when it has said all, and returns its words before that.
    async fn start(&self, app: &App) -> (InstanceId, String) {
        let order = order(app);
        within(self.runtime.start(&order)).await.unwrap();
        let words = ready(&self.runtime, &order.id).await;
        (order.id, words)
    }

    /// An app whose files are a script, `run`.
    fn with_script(&self, script: &str, app: &str) -> App {
        let files = self.place.0.join("files");
        fs::create_dir(&files).unwrap();
        let script =
            if script.starts_with("#!") { script.to_owned() } else { format!("#!/bin/sh\n{script}") };
        fs::write(files.join("run"), script).unwrap();
        fs::set_permissions(files.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
        App { files: Some(files), ..shell(app) }
    }

    async fn start_family(&self, more: &[Kin]) -> (InstanceId, BTreeMap<String, Pid>) {
        let (id, words) = self.start(&shell(&family(more))).await;
        let family = family_of(&words);
        assert_eq!(living(&family).len(), 5 + more.len(), "{words}");
        (id, family)
    }
}

async fn ready(runtime: &ProcessRuntime, id: &InstanceId) -> String {
    let words = async || output(runtime, id).await?.strip_suffix("ready\n").map(str::to_owned);
    until("it is ready", words).await
}

fn shell(script: &str) -> App {
    app(&["sh", "-c", script])
}

/// This test program in another role, as an app.
fn actor(role: &str) -> App {
    let program = env::current_exe().unwrap();
    let mut app = app(&[program.to_str().unwrap(), "--exact", ACTOR, "--nocapture"]);
    app.env.insert(ROLE.to_owned(), role.to_owned());
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

/// A server that starts a family, tells about it and waits to be killed.
#[expect(clippy::print_stdout, reason = "it tells its parent")]
async fn serve() {
    let settings = Settings {
        work: env::var(WORK).unwrap().into(),
        node: NodeId::parse(&env::var(NODE).unwrap()).unwrap(),
        ..Place(PathBuf::new()).settings()
    };
    let runtime = ProcessRuntime::open(settings).await.unwrap();
    let order = order(&shell(&family(&[HIDDEN])));
    runtime.start(&order).await.unwrap();
    let words = ready(&runtime, &order.id).await;
    println!("\nfamily {}", words.replace('\n', " "));
    // A test that fails to kill it must not leave it behind.
    let _ = tokio::time::timeout(PATIENCE, std::future::pending::<()>()).await;
}

/// A relative of an app: a command that starts one. `TELL` stands for words that tell its name and then last.
type Kin = (&'static str, &'static str);

const CHILD: Kin = ("child", "sh -c 'TELL' &");
const GRANDCHILD: Kin = ("grandchild", "sh -c 'sh -c \"TELL\" & wait' &");
/// In another session, its parent dead.
const DAEMON: Kin = ("daemon", "setsid sh -c 'sh -c \"TELL\" &'");
/// A daemon that left no trace: no environment, another folder.
const HIDDEN: Kin = ("hidden", "(cd / && env -i setsid sh -c 'sh -c \"TELL\" &')");

/// An app with relatives, which all tell `name pid` in a line. It is ready when all have told.
fn family(more: &[Kin]) -> String {
    let mut script = "mkfifo told; exec 3<> told; echo app $$; echo guardian $PPID\n".to_owned();
    for (name, command) in [&[CHILD, GRANDCHILD, DAEMON], more].concat() {
        // A shell between must not take its own number for the one meant.
        let number = if command.contains('"') { r"\$\$" } else { "$$" };
        let tell = format!("echo {name} {number}; echo >&3; exec sleep 600");
        script += &format!("{}\nread -r told <&3\n", command.replace("TELL", &tell));
    }
    script + "echo ready; exec sleep 600"
}

/// The processes in the words of a family.
fn family_of(words: &str) -> BTreeMap<String, Pid> {
    let words: Vec<&str> = words.split_ascii_whitespace().collect();
    let pairs = words.as_chunks::<2>().0;
    pairs
        .iter()
        .map(|[name, pid]| ((*name).to_owned(), Pid::from_raw(pid.parse().unwrap()).unwrap()))
        .collect()
}

fn alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| !matches!(stat.rsplit_once(") ").unwrap().1.as_bytes()[0], b'Z' | b'X'))
}

fn living(family: &BTreeMap<String, Pid>) -> Vec<&str> {
    family.iter().filter(|(_, pid)| alive(**pid)).map(|(name, _)| name.as_str()).collect()
}

async fn until_none_lives(family: &BTreeMap<String, Pid>) {
    until("none of the family lives", async || living(family).is_empty().then_some(())).await;
}
