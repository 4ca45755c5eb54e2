//! A host and an internet, each a network namespace that ends with its test. The internet has public addresses and
//! private ones too, as a network around a host may.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use tokio::time::Instant;
use try_it_now::instance::InstanceId;
use try_it_now::template::egress::EgressSettings;

use super::super::{ContainerdRuntime, TestNode};
use crate::support::stack::run_command;

/// The host's address in the internet.
pub(super) const HOST_ADDRESS: &str = "203.0.113.10";
/// The host's address in an internal network.
pub(super) const HOST_INTERNAL_ADDRESS: &str = "192.168.50.1";
/// Public addresses in the internet.
pub(super) const SITE: &str = "198.51.100.1";
pub(super) const OTHER_SITE: &str = "198.51.100.2";
pub(super) const THIRD_SITE: &str = "198.51.100.3";
/// The DNS server of the internet, which answers all names with [`SITE`].
pub(super) const RESOLVER: &str = "198.51.100.53";
/// Private addresses that the host reaches through its default route, and that no instance may reach.
pub(super) const PRIVATE: [&str; 7] = [
    "10.9.9.9",
    "100.100.100.200",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.5.5",
    "192.168.7.7",
    "192.0.0.192",
];
/// The ports on which each address of the internet sends the address of its client.
const PORTS: [u16; 6] = [80, 443, 25, 465, 587, 53];

/// A virtual host with the test node on it, and a virtual internet.
pub(super) struct VirtualNetwork {
    pub(super) test_node: TestNode,
    internet: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    hosts: PathBuf,
    /// How many questions reached the DNS server of the internet.
    questions: Arc<AtomicUsize>,
}

impl VirtualNetwork {
    /// Runs a test in a thread that is in the namespaces of the virtual host. Everything that the test starts is in
    /// them too.
    pub(super) fn run_test(test: impl FnOnce(VirtualNetwork) + Send + 'static) {
        let Some(test_node) = TestNode::new() else { return };
        let tested = thread::spawn(move || test(VirtualNetwork::make(test_node)));
        if let Err(panic) = tested.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn make(mut test_node: TestNode) -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        test_node.settings.egress =
            EgressSettings { resolvers: Some(vec![RESOLVER.parse().unwrap()]), ..EgressSettings::default() };
        let (internet, job_queue) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (send, thread_id) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            send.send(rustix::thread::gettid().as_raw_nonzero()).unwrap();
            job_queue.into_iter().for_each(|job| job());
        });
        let thread_id = thread_id.recv().unwrap();
        let hosts = test_node.settings.node_dir.join("hosts");
        fs::create_dir_all(&test_node.settings.node_dir).unwrap();
        fs::write(&hosts, "").unwrap();
        let questions = Arc::new(AtomicUsize::new(0));
        let counter = questions.clone();
        let net = Self { test_node, internet, hosts, questions };
        net.run("mount --make-rprivate /");
        net.run(&format!("mount --bind {} /etc/hosts", net.hosts.display()));
        // No other name resolves, and that is known at once.
        let resolvers = net.test_node.settings.node_dir.join("resolv.conf");
        fs::write(&resolvers, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
        net.run(&format!("mount --bind {} /etc/resolv.conf", resolvers.display()));
        net.run("ip link set lo up");
        net.run(&format!("ip address add {HOST_INTERNAL_ADDRESS}/32 dev lo"));
        net.run(&format!("ip link add up0 type veth peer name up1 netns {thread_id}"));
        net.run(&format!("ip address add {HOST_ADDRESS}/24 dev up0"));
        // The kernel would assign a link-local address late, which would look like an address that the test has left.
        net.run("ip link set up0 addrgenmode none");
        net.run("ip link set up0 up");
        net.in_internet(|run| Self::fill_internet(run, counter));
        net.run("ip route add default via 203.0.113.1");
        // The kernel notices a moment later that both ends are up, and that would look like a change.
        let deadline = Instant::now() + Duration::from_secs(20);
        while !net.run("ip -o link show up0").contains("state UP") {
            assert!(Instant::now() < deadline, "the link to the internet is not up");
            thread::yield_now();
        }
        net
    }

    fn fill_internet(run: &dyn Fn(&str), questions: Arc<AtomicUsize>) {
        run("ip link set lo up");
        run("ip address add 203.0.113.1/24 dev up1");
        run("ip link set up1 up");
        for address in [SITE, OTHER_SITE, THIRD_SITE, RESOLVER].into_iter().chain(PRIVATE) {
            run(&format!("ip address add {address}/32 dev lo"));
        }
        for port in PORTS {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
            thread::spawn(move || {
                for visitor in listener.incoming() {
                    let mut visitor = visitor.unwrap();
                    let from = visitor.peer_addr().unwrap().ip();
                    let _ = writeln!(visitor, "{from}");
                }
            });
        }
        let resolver = UdpSocket::bind((RESOLVER, 53)).unwrap();
        thread::spawn(move || answer_names(&resolver, &questions));
    }

    /// Runs `job` in the internet. Its argument runs a command there.
    pub(super) fn in_internet<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn Fn(&str)) -> T + Send + 'static,
    ) -> T {
        let (send, outcome) = mpsc::channel();
        let path = self.test_node.settings.search_path.clone().unwrap();
        let job = move || send.send(job(&|line| _ = run_command(&path, line))).unwrap();
        self.internet.send(Box::new(job)).unwrap();
        outcome.recv().unwrap()
    }

    /// Runs a command on the virtual host and returns its output.
    pub(super) fn run(&self, line: &str) -> String {
        run_command(self.test_node.settings.search_path.as_ref().unwrap(), line)
    }

    /// Sets the names that the host resolves.
    pub(super) fn set_hosts(&self, names: &[(&str, &str)]) {
        let lines = names.iter().map(|(name, address)| format!("{address} {name}\n"));
        fs::write(&self.hosts, lines.collect::<String>()).unwrap();
    }

    /// Returns how many questions reached the DNS server of the internet.
    pub(super) fn dns_questions(&self) -> usize {
        self.questions.load(Ordering::Relaxed)
    }

    /// Returns how many packets the host has sent to the internet.
    pub(super) fn packets_sent(&self) -> u64 {
        let text = self.run("ip -s -o link show up0");
        // After "TX: bytes packets errors dropped carrier collsns".
        let sent = text.split("TX:").nth(1).unwrap();
        sent.split_whitespace().filter_map(|word| word.parse().ok()).nth(1).unwrap()
    }

    /// Deletes all rules of nftables, as other programs do, and lets the internet answer the instances' own addresses:
    /// without the rules, these are not hidden behind the host's.
    pub(super) fn flush_firewall(&self) {
        self.in_internet(|run| run("ip route replace 10.213.0.0/16 via 203.0.113.10"));
        self.run("nft flush ruleset");
        assert_eq!(self.run("nft list ruleset").trim(), "");
    }

    /// Returns all of the host's network configuration that a server could have changed.
    pub(super) fn state(&self) -> String {
        ["ip -o link", "ip -o address", "ip route", "nft list ruleset"]
            .map(|line| self.run(line))
            .join("\n--\n")
    }

    /// Waits until the host's network is as it was before. The kernel removes a namespace with a delay.
    pub(super) fn wait_for_state(&self, before: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.state() != before {
            assert!(Instant::now() < deadline, "{}\n-- instead of --\n{before}", self.state());
            thread::yield_now();
        }
    }

    /// Returns the first process of an instance.
    pub(super) fn pid(&self, id: &InstanceId) -> u32 {
        let socket = self.test_node.settings.socket.display();
        let tasks = self.run(&format!("ctr --address {socket} --namespace try-it-now tasks list"));
        let line = tasks.lines().find(|line| line.starts_with(id.as_str())).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Kills an instance and returns when its processes are gone.
    pub(super) fn kill(&self, id: &InstanceId) {
        let pid = self.pid(id);
        self.run(&format!("kill -9 {pid}"));
        let deadline = Instant::now() + Duration::from_secs(20);
        let alive =
            || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        while alive() {
            assert!(Instant::now() < deadline, "{pid} lives");
            thread::yield_now();
        }
    }

    /// Runs a command in the network namespace of a process.
    pub(super) fn run_in_network_of(&self, pid: u32, line: &str) {
        self.run(&format!("nsenter --target {pid} --net {line}"));
    }

    /// Returns the rules and routes in the network namespace of a process.
    pub(super) fn routes_of(&self, pid: u32) -> String {
        ["ip rule", "ip route show table all", "ip -o address"]
            .map(|line| self.run(&format!("nsenter --target {pid} --net {line}")))
            .join("\n--\n")
    }

    /// Runs `job` in the network namespace of a process.
    pub(super) fn in_namespace_of<T: Send + 'static>(
        &self,
        pid: u32,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let inside = move || {
            let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            job()
        };
        thread::spawn(inside).join().unwrap()
    }

    /// Runs `body` with a runtime on the node, as one run of a server. All its tasks have ended when this returns.
    pub(super) fn with_server<T>(&self, body: impl AsyncFnOnce(ContainerdRuntime) -> T) -> T {
        let reactor =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        reactor.block_on(async { body(self.test_node.open().await).await })
    }
}

/// Answers every DNS question with [`SITE`].
fn answer_names(socket: &UdpSocket, questions: &AtomicUsize) {
    let mut question = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut question) {
        questions.fetch_add(1, Ordering::Relaxed);
        let mut answer = question[..length].to_vec();
        // The header: an answer with one record besides the question.
        answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
        // The record: an address for the name in the question, valid for a minute.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(SITE.parse::<Ipv4Addr>().unwrap().octets());
        let _ = socket.send_to(&answer, from);
    }
}
