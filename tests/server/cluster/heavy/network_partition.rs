//! Two servers and their Valkey, each a host of its own: network namespaces on one switch, whose cables are pulled.

use std::ffi::OsString;
use std::pin::Pin;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use tokio::time::Instant;

use crate::support::harness::{Answer, Demo, Server, eventually_within, get};
use crate::support::stack::{self, run};
use crate::support::valkey_server::{Keeps, Server as Valkey};

/// After it a server that nobody hears of is given up.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);
/// What a busy machine may take longer than the time that was promised.
const SLACK: Duration = Duration::from_secs(3);
/// After it a visitor without an answer loads the page again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Within which claims are possible again.
const REOPENED: Duration = Duration::from_secs(3);
/// Each has the host to itself.
const PORT: u16 = 8080;

type Work<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;
type Job<T> = Box<dyn for<'a> FnOnce(&'a mut T) -> Work<'a> + Send>;

/// A host: a thread in a network namespace of its own, with what runs there. All ends with it.
struct Host<T> {
    name: &'static str,
    jobs: Option<mpsc::Sender<Job<T>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl<T: 'static> Host<T> {
    /// Plugs a host into the switch, which the calling thread is, and starts something there.
    fn new(
        name: &'static str,
        address: &str,
        path: &OsString,
        start: impl AsyncFnOnce() -> T + Send + 'static,
    ) -> Self {
        let (jobs, orders) = mpsc::channel::<Job<T>>();
        let (tell, number) = mpsc::channel();
        let (plugged, wait) = mpsc::channel::<()>();
        let (path_there, address) = (path.clone(), address.to_owned());
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(rustix::thread::gettid().as_raw_nonzero()).unwrap();
            wait.recv().unwrap();
            for line in [
                "ip link set lo up",
                &format!("ip address add {address}/24 dev cable"),
                "ip link set cable up",
            ] {
                run(&path_there, line);
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let mut what = start().await;
                for order in orders {
                    order(&mut what).await;
                }
            });
        });
        let number = number.recv().unwrap();
        run(path, &format!("ip link add {name} type veth peer name cable netns {number}"));
        run(path, &format!("ip link set {name} master switch"));
        run(path, &format!("ip link set {name} up"));
        plugged.send(()).unwrap();
        Self { name, jobs: Some(jobs), thread: Some(thread) }
    }

    /// Does something there.
    fn on<R: Send + 'static>(
        &self,
        act: impl for<'a> FnOnce(&'a mut T) -> Pin<Box<dyn Future<Output = R> + 'a>> + Send + 'static,
    ) -> R {
        let (tell, outcome) = mpsc::channel();
        let job: Job<T> = Box::new(move |what| {
            Box::pin(async move {
                let _ = tell.send(act(what).await);
            })
        });
        self.jobs.as_ref().unwrap().send(job).unwrap();
        outcome.recv().expect("what was to be so is not: see what is told above")
    }

    fn pull(&self, path: &OsString) {
        run(path, &format!("ip link set {} down", self.name));
    }

    fn plug_in(&self, path: &OsString) {
        run(path, &format!("ip link set {} up", self.name));
    }
}

impl<T> Drop for Host<T> {
    fn drop(&mut self) {
        self.jobs = None;
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || ended.is_none_or(|ended| ended.is_ok()));
    }
}

impl Host<Server> {
    fn server(name: &'static str, address: &'static str, path: &OsString) -> Self {
        Self::new(name, address, path, async move || {
            let node = format!("{address}:{PORT}");
            let settings = [
                ("SERVER_HOST", "0.0.0.0"),
                ("SERVER_PORT", "8080"),
                ("NODE_ADDR", &node),
                ("VALKEY_ADDR", "10.99.0.1:6379"),
            ];
            // An instance that it hands out is its own then.
            Server::start(&settings).await
        })
    }

    fn acquire(&self) -> Answer {
        self.on(|server| Box::pin(server.call("POST", "/api/v1/demo/acquire", "")))
    }

    fn visit(&self, demo: &Demo) -> u16 {
        let host = demo.host.clone();
        self.on(move |_| Box::pin(async move { get(PORT, &host, "/").await.status }))
    }

    fn gets_one_within(&self, limit: Duration) -> Demo {
        self.on(move |server| {
            Box::pin(async move {
                let asked = eventually_within(limit, "an instance", async || {
                    let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
                    (answer.status == 200).then_some(answer)
                });
                Demo::from_json(&asked.await.json())
            })
        })
    }

    /// Asks for an instance's page until it is answered like this.
    fn answers_within(&self, limit: Duration, demo: &Demo, status: u16) {
        let host = demo.host.clone();
        self.on(move |_| {
            Box::pin(async move {
                eventually_within(limit, "that answer", async || {
                    let answer = tokio::time::timeout(PATIENCE, get(PORT, &host, "/")).await.ok()?;
                    (answer.status == status).then_some(())
                })
                .await;
            })
        });
    }
}

#[test]
fn servers_whose_cables_to_valkey_or_to_each_other_are_pulled_and_plugged_in_again() {
    let Some(path) = stack::programs("ip") else { return };
    if stack::programs("valkey-server").is_none() {
        return;
    }
    // The switch is a thread's, and ends with it.
    let tried = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run(&path, "ip link add switch type bridge");
        run(&path, "ip link set switch up");
        pull_cables(&path);
    });
    if let Err(panic) = tried.join() {
        std::panic::resume_unwind(panic);
    }
}

fn pull_cables(path: &OsString) {
    let valkey = Host::new("to-valkey", "10.99.0.1", path, async || {
        Valkey::start(Keeps::Changes, &["--bind", "0.0.0.0"]).unwrap()
    });
    valkey.on(|valkey| Box::pin(async { valkey.ask::<String>(&["PING"]).unwrap() }));
    let one = Host::server("to-one", "10.99.0.2", path);
    let two = Host::server("to-two", "10.99.0.3", path);
    let (of_one, of_two) = (one.gets_one_within(SLACK), two.gets_one_within(SLACK));
    for server in [&one, &two] {
        assert_eq!((server.visit(&of_one), server.visit(&of_two)), (200, 200));
    }

    // Neither reaches Valkey for longer than a server may be silent: visitors keep what they have, by whichever way.
    valkey.pull(path);
    let pulled = Instant::now();
    let asked = one.acquire();
    asked.refused(503, "STORE_UNAVAILABLE");
    assert!(pulled.elapsed() < SLACK, "{:?}", pulled.elapsed());
    while pulled.elapsed() < NODE_TIMEOUT + SLACK {
        for server in [&one, &two] {
            assert_eq!((server.visit(&of_one), server.visit(&of_two)), (200, 200));
        }
    }
    valkey.plug_in(path);
    let more = [one.gets_one_within(REOPENED), two.gets_one_within(REOPENED)];
    for server in [&one, &two] {
        for demo in [&of_one, &of_two].into_iter().chain(&more) {
            assert_eq!(server.visit(demo), 200);
        }
    }

    // One is cut off from all: the other goes on, and gives it up.
    one.pull(path);
    two.answers_within(NODE_TIMEOUT + SLACK, &of_one, 410);
    let after = two.gets_one_within(SLACK);
    assert_eq!(one.visit(&of_one), 200, "nobody told it");
    assert_eq!((two.visit(&of_two), two.visit(&after)), (200, 200));
    one.plug_in(path);
    one.answers_within(NODE_TIMEOUT + SLACK, &of_one, 410);
    let last = [one.gets_one_within(SLACK), two.gets_one_within(SLACK)];
    for server in [&one, &two] {
        for demo in [&of_two, &after].into_iter().chain(&last) {
            server.answers_within(SLACK, demo, 200);
        }
    }
    let all = [&of_one, &of_two, &after].into_iter().chain(&more).chain(&last);
    let ids: std::collections::HashSet<&str> = all.map(|demo| demo.id.as_str()).collect();
    assert_eq!(ids.len(), 7, "nobody got what another had");
}
