//! Two servers and their Valkey run on virtual hosts: network namespaces on one switch, whose links are cut.

use std::ffi::OsString;
use std::pin::Pin;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use tokio::time::Instant;

use crate::support::harness::{AcquiredInstance, Answer, Server, eventually_within, get};
use crate::support::stack::{self, run_command};
use crate::support::valkey_server::{Persistence, ValkeyServer};

/// The time after which a server without heartbeats is evicted.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);
/// How much longer than promised a busy machine may take.
const SLACK: Duration = Duration::from_secs(3);
/// The time after which a visitor without an answer repeats the request.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// The longest time until claims work again.
const MAX_RECOVERY_TIME: Duration = Duration::from_secs(3);
/// Each server has a host of its own, so all use the same port.
const PORT: u16 = 8080;

type Work<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;
type Job<T> = Box<dyn for<'a> FnOnce(&'a mut T) -> Work<'a> + Send>;

/// A virtual host: a thread in a network namespace of its own, with a subject that runs there. Everything on it ends
/// with it.
struct VirtualHost<T> {
    name: &'static str,
    jobs: Option<mpsc::Sender<Job<T>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl<T: 'static> VirtualHost<T> {
    /// Connects a new host to the switch, which is the namespace of the calling thread, and starts the subject there.
    fn new(
        name: &'static str,
        address: &str,
        path: &OsString,
        start: impl AsyncFnOnce() -> T + Send + 'static,
    ) -> Self {
        let (jobs, job_queue) = mpsc::channel::<Job<T>>();
        let (send, thread_id) = mpsc::channel();
        let (connected, is_connected) = mpsc::channel::<()>();
        let (path_there, address) = (path.clone(), address.to_owned());
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            send.send(rustix::thread::gettid().as_raw_nonzero()).unwrap();
            is_connected.recv().unwrap();
            for line in [
                "ip link set lo up",
                &format!("ip address add {address}/24 dev uplink"),
                "ip link set uplink up",
            ] {
                run_command(&path_there, line);
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let mut subject = start().await;
                for job in job_queue {
                    job(&mut subject).await;
                }
            });
        });
        let thread_id = thread_id.recv().unwrap();
        run_command(path, &format!("ip link add {name} type veth peer name uplink netns {thread_id}"));
        run_command(path, &format!("ip link set {name} master switch"));
        run_command(path, &format!("ip link set {name} up"));
        connected.send(()).unwrap();
        Self { name, jobs: Some(jobs), thread: Some(thread) }
    }

    /// Runs `run` on the host and returns its result.
    fn on<R: Send + 'static>(
        &self,
        run: impl for<'a> FnOnce(&'a mut T) -> Pin<Box<dyn Future<Output = R> + 'a>> + Send + 'static,
    ) -> R {
        let (send, outcome) = mpsc::channel();
        let job: Job<T> = Box::new(move |subject| {
            Box::pin(async move {
                let _ = send.send(run(subject).await);
            })
        });
        self.jobs.as_ref().unwrap().send(job).unwrap();
        outcome.recv().expect("the job panicked on the virtual host, see the output above")
    }

    fn disconnect(&self, path: &OsString) {
        run_command(path, &format!("ip link set {} down", self.name));
    }

    fn reconnect(&self, path: &OsString) {
        run_command(path, &format!("ip link set {} up", self.name));
    }
}

impl<T> Drop for VirtualHost<T> {
    fn drop(&mut self) {
        self.jobs = None;
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || ended.is_none_or(|ended| ended.is_ok()));
    }
}

impl VirtualHost<Server> {
    fn server(name: &'static str, address: &'static str, path: &OsString) -> Self {
        Self::new(name, address, path, async move || {
            let node = format!("{address}:{PORT}");
            let settings = [
                ("SERVER_HOST", "0.0.0.0"),
                ("SERVER_PORT", "8080"),
                ("NODE_ADDR", &node),
                ("VALKEY_ADDR", "10.99.0.1:6379"),
            ];
            // The pool is full, so an instance that the server assigns is its own.
            Server::start(&settings).await
        })
    }

    fn acquire(&self) -> Answer {
        self.on(|server| Box::pin(server.call("POST", "/api/v1/demo/acquire", "")))
    }

    fn visit(&self, instance: &AcquiredInstance) -> u16 {
        let host = instance.host.clone();
        self.on(move |_| Box::pin(async move { get(PORT, &host, "/").await.status }))
    }

    fn acquires_within(&self, limit: Duration) -> AcquiredInstance {
        self.on(move |server| {
            Box::pin(async move {
                let asked = eventually_within(limit, "an instance is acquired", async || {
                    let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
                    (answer.status == 200).then_some(answer)
                });
                AcquiredInstance::from_json(&asked.await.json())
            })
        })
    }

    /// Requests the page of an instance until its status is this one.
    fn answers_within(&self, limit: Duration, instance: &AcquiredInstance, status: u16) {
        let host = instance.host.clone();
        self.on(move |_| {
            Box::pin(async move {
                eventually_within(limit, "the expected status", async || {
                    let answer = tokio::time::timeout(RETRY_AFTER, get(PORT, &host, "/")).await.ok()?;
                    (answer.status == status).then_some(())
                })
                .await;
            })
        });
    }
}

#[test]
fn servers_recover_from_network_partitions_between_them_and_valkey() {
    let Some(path) = stack::path_with("ip") else { return };
    if stack::path_with("valkey-server").is_none() {
        return;
    }
    // The switch belongs to a thread and ends with it.
    let tried = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run_command(&path, "ip link add switch type bridge");
        run_command(&path, "ip link set switch up");
        run_partitions(&path);
    });
    if let Err(panic) = tried.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run_partitions(path: &OsString) {
    let valkey = VirtualHost::new("to-valkey", "10.99.0.1", path, async || {
        ValkeyServer::start(Persistence::AppendOnly, &["--bind", "0.0.0.0"]).unwrap()
    });
    valkey.on(|valkey| Box::pin(async { valkey.query::<String>(&["PING"]).unwrap() }));
    let one = VirtualHost::server("to-one", "10.99.0.2", path);
    let two = VirtualHost::server("to-two", "10.99.0.3", path);
    let (of_one, of_two) = (one.acquires_within(SLACK), two.acquires_within(SLACK));
    for server in [&one, &two] {
        assert_eq!((server.visit(&of_one), server.visit(&of_two)), (200, 200));
    }

    // Neither server reaches Valkey for longer than the node timeout: visitors keep their instances on both servers.
    valkey.disconnect(path);
    let disconnected = Instant::now();
    let asked = one.acquire();
    asked.assert_error(503, "STORE_UNAVAILABLE");
    assert!(disconnected.elapsed() < SLACK, "{:?}", disconnected.elapsed());
    while disconnected.elapsed() < NODE_TIMEOUT + SLACK {
        for server in [&one, &two] {
            assert_eq!((server.visit(&of_one), server.visit(&of_two)), (200, 200));
        }
    }
    valkey.reconnect(path);
    let more = [one.acquires_within(MAX_RECOVERY_TIME), two.acquires_within(MAX_RECOVERY_TIME)];
    for server in [&one, &two] {
        for instance in [&of_one, &of_two].into_iter().chain(&more) {
            assert_eq!(server.visit(instance), 200);
        }
    }

    // One server is cut off from everything: the other continues and evicts it.
    one.disconnect(path);
    two.answers_within(NODE_TIMEOUT + SLACK, &of_one, 410);
    let after = two.acquires_within(SLACK);
    assert_eq!(one.visit(&of_one), 200, "the server that is cut off does not know that it was evicted");
    assert_eq!((two.visit(&of_two), two.visit(&after)), (200, 200));
    one.reconnect(path);
    one.answers_within(NODE_TIMEOUT + SLACK, &of_one, 410);
    let last = [one.acquires_within(SLACK), two.acquires_within(SLACK)];
    for server in [&one, &two] {
        for instance in [&of_two, &after].into_iter().chain(&last) {
            server.answers_within(SLACK, instance, 200);
        }
    }
    let all = [&of_one, &of_two, &after].into_iter().chain(&more).chain(&last);
    let ids: std::collections::HashSet<&str> = all.map(|instance| instance.id.as_str()).collect();
    assert_eq!(ids.len(), 7, "no instance is assigned twice");
}
