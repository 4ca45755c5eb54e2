//! A host and an internet, each a network namespace that ends with its test. The internet holds public addresses, and
//! private ones too, as a network around a host may.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use tokio::time::Instant;
use try_it_now::instance::InstanceId;
use try_it_now::template::egress::EgressSettings;

use super::super::{ContainerdRuntime, Place};
use crate::support::stack::run;

/// The host's address in the internet.
pub(super) const HOST: &str = "203.0.113.10";
/// An address of the host in a network of its own.
pub(super) const INSIDE: &str = "192.168.50.1";
/// Places in the internet.
pub(super) const SITE: &str = "198.51.100.1";
pub(super) const OTHER_SITE: &str = "198.51.100.2";
pub(super) const THIRD_SITE: &str = "198.51.100.3";
/// What answers there for all names with [`SITE`].
pub(super) const RESOLVER: &str = "198.51.100.53";
/// What the host reaches through its default route, and no instance may.
pub(super) const PRIVATE: [&str; 7] = [
    "10.9.9.9",
    "100.100.100.200",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.5.5",
    "192.168.7.7",
    "192.0.0.192",
];
/// Where each of the internet's addresses tells who asks.
const PORTS: [u16; 6] = [80, 443, 25, 465, 587, 53];

/// See the module.
pub(super) struct World {
    pub(super) place: Place,
    internet: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    hosts: PathBuf,
}

impl World {
    /// Runs a test in a thread that is in the host's namespaces, and so is all that it starts.
    pub(super) fn with(test: impl FnOnce(World) + Send + 'static) {
        let Some(place) = Place::new() else { return };
        let tested = thread::spawn(move || test(World::make(place)));
        if let Err(panic) = tested.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn make(mut place: Place) -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        place.settings.outside =
            EgressSettings { resolvers: Some(vec![RESOLVER.parse().unwrap()]), ..EgressSettings::default() };
        let (internet, jobs) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (tell, number) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(rustix::thread::gettid().as_raw_nonzero()).unwrap();
            jobs.into_iter().for_each(|job| job());
        });
        let number = number.recv().unwrap();
        let hosts = place.settings.folder.join("hosts");
        fs::create_dir_all(&place.settings.folder).unwrap();
        fs::write(&hosts, "").unwrap();
        let world = Self { place, internet, hosts };
        world.run("mount --make-rprivate /");
        world.run(&format!("mount --bind {} /etc/hosts", world.hosts.display()));
        world.run("ip link set lo up");
        world.run(&format!("ip address add {INSIDE}/32 dev lo"));
        world.run(&format!("ip link add up0 type veth peer name up1 netns {number}"));
        world.run(&format!("ip address add {HOST}/24 dev up0"));
        // An address that the kernel makes up comes late, and would look like one that a test has left.
        world.run("ip link set up0 addrgenmode none");
        world.run("ip link set up0 up");
        world.internet(Self::fill_internet);
        world.run("ip route add default via 203.0.113.1");
        world
    }

    fn fill_internet(run: &dyn Fn(&str)) {
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
        thread::spawn(move || answer_names(&resolver));
    }

    /// Does something in the internet. What it is given runs a command there.
    pub(super) fn internet<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn Fn(&str)) -> T + Send + 'static,
    ) -> T {
        let (tell, outcome) = mpsc::channel();
        let path = self.place.settings.path.clone().unwrap();
        let job = move || tell.send(job(&|line| _ = run(&path, line))).unwrap();
        self.internet.send(Box::new(job)).unwrap();
        outcome.recv().unwrap()
    }

    /// Runs a command on the host and returns what it wrote.
    pub(super) fn run(&self, line: &str) -> String {
        run(self.place.settings.path.as_ref().unwrap(), line)
    }

    /// All that the host finds under names.
    pub(super) fn names(&self, names: &[(&str, &str)]) {
        let lines = names.iter().map(|(name, address)| format!("{address} {name}\n"));
        fs::write(&self.hosts, lines.collect::<String>()).unwrap();
    }

    /// All of the host's network that a server could have made.
    pub(super) fn network(&self) -> String {
        ["ip -o link", "ip -o address", "ip route", "nft list ruleset"]
            .map(|line| self.run(line))
            .join("\n--\n")
    }

    /// Waits until the host's network is as it was before. The kernel takes its time to remove a namespace.
    pub(super) fn until_it_is(&self, before: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.network() != before {
            assert!(Instant::now() < deadline, "{}\n-- instead of --\n{before}", self.network());
            thread::yield_now();
        }
    }

    /// The first process of an instance.
    pub(super) fn pid(&self, id: &InstanceId) -> u32 {
        let socket = self.place.settings.address.display();
        let tasks = self.run(&format!("ctr --address {socket} --namespace try-it-now tasks list"));
        let line = tasks.lines().find(|line| line.starts_with(id.as_str())).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Ends an instance, and returns when its processes are gone.
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

    /// Runs a command in the network of a process.
    pub(super) fn run_in(&self, pid: u32, line: &str) {
        self.run(&format!("nsenter --target {pid} --net {line}"));
    }

    /// A life of a server: what it left undone is undone no more when this returns.
    pub(super) fn serve<T>(&self, life: impl AsyncFnOnce(ContainerdRuntime) -> T) -> T {
        let reactor =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        reactor.block_on(async { life(self.place.open().await).await })
    }
}

/// All names lead to [`SITE`].
fn answer_names(socket: &UdpSocket) {
    let mut question = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut question) {
        let mut answer = question[..length].to_vec();
        // It is an answer, and has one record besides the question.
        answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
        // For the name in the question, an address, for a minute.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(SITE.parse::<Ipv4Addr>().unwrap().octets());
        let _ = socket.send_to(&answer, from);
    }
}
