//! Network namespaces with a loopback and nothing else (*sealed*): no app can reach anything, and nothing leaks.
//!
//! A namespace is held as a file descriptor: it has no name and is mounted nowhere. So an unused one is gone with the
//! server, however the server ends; a used one is gone with the last process that holds it. containerd gets it as
//! `/proc/PID/fd/N` of this server, so the descriptor must be open while the container is made. Numbers are never
//! reused, so that a connection for one instance cannot reach the next one.
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};

use nix::sched::{CloneFlags, setns, unshare};
use parking_lot::Mutex;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};
use tokio::net::{TcpSocket, TcpStream};

use crate::instance::Endpoint;
use crate::runtime::blocking::on_own_thread;
use crate::telemetry::task;

/// Index of the loopback: it is the first link of every namespace.
const LOOPBACK: u32 = 1;

/// Of netlink's messages: the kind that sets a link, and that the kernel shall do it and answer.
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// The flag of a link that is up.
const IFF_UP: u32 = 1;
/// The place of the error's number in an answer.
const ANSWER_CODE_AT: usize = 16;

/// Namespaces made ahead: as many as are used while one is made.
const SPARE_NAMESPACES: usize = 8;

/// All namespaces that this server holds.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// The server's own namespace, to return to.
    home: File,
    /// Namespaces made ahead, because making one takes longer than everything else that this server does in a restore.
    spare: Mutex<Vec<File>>,
    /// Held by the task that makes namespaces ahead: two at once would make too many.
    refill_lock: tokio::sync::Mutex<()>,
    held: Mutex<HashMap<u32, Arc<File>>>,
    last_number: AtomicU32,
}

impl Namespaces {
    /// Returns an empty set.
    ///
    /// # Errors
    /// This server's own network namespace cannot be opened.
    pub(crate) fn new() -> io::Result<Self> {
        let home = File::open("/proc/thread-self/ns/net")?;
        let (spare, refill_lock, held) = (Mutex::default(), tokio::sync::Mutex::default(), Mutex::default());
        Ok(Self { home, spare, refill_lock, held, last_number: AtomicU32::new(0) })
    }

    /// Returns the number of a namespace that no instance used before, made ahead or now.
    ///
    /// # Errors
    /// The kernel refuses, for example without `CAP_SYS_ADMIN`.
    pub(crate) async fn create(self: &Arc<Self>) -> io::Result<u32> {
        let spare = self.spare.lock().pop();
        let namespaces = self.clone();
        task::spawn("spare network namespaces", async move { namespaces.refill().await });
        match spare {
            Some(file) => Ok(self.hold(Arc::new(file))),
            None => Ok(self.hold(Arc::new(Self::create_one().await?))),
        }
    }

    /// Makes namespaces ahead, up to [`SPARE_NAMESPACES`].
    async fn refill(&self) {
        let _lock = self.refill_lock.lock().await;
        while self.spare.lock().len() < SPARE_NAMESPACES {
            match Self::create_one().await {
                Ok(file) => self.spare.lock().push(file),
                Err(error) => return tracing::warn!(%error, "failed to create spare network namespace"),
            }
        }
    }

    async fn create_one() -> io::Result<File> {
        on_own_thread("new namespace", new_namespace).await
    }

    /// Holds the namespace of a process, under the number that an earlier server gave it.
    ///
    /// # Errors
    /// The process is gone.
    pub(crate) fn adopt(&self, number: u32, pid: u32) -> io::Result<()> {
        let file = File::open(format!("/proc/{pid}/ns/net"))?;
        self.skip_to(number);
        self.held.lock().insert(number, Arc::new(file));
        Ok(())
    }

    /// Holds the namespace that was made with an instance, under a reserved number. `pid` is the instance's first process.
    ///
    /// # Errors
    /// The process is gone.
    pub(crate) fn hold_own(&self, number: u32, pid: u32, id: &str) -> io::Result<()> {
        let file = File::open(format!("/proc/{pid}/ns/net"))?;
        // The number of a process that is gone may be another's by now.
        match fs::read_to_string(format!("/proc/{pid}/cgroup"))?.contains(id) {
            true => self.hold_as(number, Arc::new(file)),
            false => return Err(io::ErrorKind::NotFound.into()),
        }
        Ok(())
    }

    /// Returns a new number for a namespace that does not exist yet.
    pub(crate) fn reserve(&self) -> u32 {
        self.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Never gives out a number up to this one: an earlier server did.
    pub(crate) fn skip_to(&self, number: u32) {
        self.last_number.fetch_max(number, Ordering::Relaxed);
    }

    /// Holds a namespace under a reserved number.
    pub(crate) fn hold_as(&self, number: u32, file: Arc<File>) {
        self.held.lock().insert(number, file);
    }

    /// Holds a namespace that was made elsewhere, under a new number.
    pub(crate) fn hold(&self, file: Arc<File>) -> u32 {
        let number = self.reserve();
        self.hold_as(number, file);
        number
    }

    /// Returns a namespace that is held.
    pub(crate) fn file(&self, number: u32) -> Option<Arc<File>> {
        self.held.lock().get(&number).cloned()
    }

    /// Returns the path by which other processes of this host can open a namespace, valid while it is held.
    pub(crate) fn path(&self, number: u32) -> Option<PathBuf> {
        let descriptor = self.file(number)?.as_raw_fd();
        Some(PathBuf::from(format!("/proc/{}/fd/{descriptor}", std::process::id())))
    }

    /// Stops holding a namespace. Processes in it keep it alive, but it can no longer be connected to.
    pub(crate) fn release(&self, number: u32) {
        self.held.lock().remove(&number);
    }

    /// Connects to an app, in its namespace if it has one.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect).
    pub(crate) async fn connect_to(&self, endpoint: Endpoint) -> io::Result<TcpStream> {
        match endpoint {
            Endpoint::Sealed { namespace, port } => {
                self.connect(namespace, (Ipv4Addr::LOCALHOST, port).into()).await
            }
            Endpoint::SealedIpv6 { namespace, port } => {
                self.connect(namespace, (Ipv6Addr::LOCALHOST, port).into()).await
            }
            Endpoint::Direct(address) => TcpStream::connect(address).await,
        }
    }

    /// Connects to the app that listens at this address in a namespace.
    ///
    /// # Errors
    /// `AddrNotAvailable` if the namespace is not held; else the system's error.
    pub(crate) async fn connect(&self, number: u32, address: SocketAddr) -> io::Result<TcpStream> {
        let namespace = self.file(number);
        let namespace = namespace.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        let socket = self.socket_in(&namespace, address)?;
        socket.set_nodelay(true)?;
        socket.connect(address).await
    }

    /// Returns a socket of a namespace, for an address of this family: a socket stays in the namespace where it was made. This does not wait, so the
    /// thread serves nothing else while it is in that namespace.
    fn socket_in(&self, namespace: &File, address: SocketAddr) -> io::Result<TcpSocket> {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        if setns(&self.home, CloneFlags::CLONE_NEWNET).is_err() {
            // This thread would serve other visitors from inside an instance's namespace.
            std::process::abort();
        }
        socket
    }
}

/// Lets every process of this thread's namespace listen on every port, as in Docker's containers: an app that does not
/// run as root may have port 80. Where `/proc/sys` cannot be written, only root may.
pub(crate) fn open_low_ports() {
    static REPORTED: Once = Once::new();
    if let Err(error) = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0") {
        REPORTED.call_once(|| {
            tracing::warn!(%error, "failed to open low ports: only apps that run as root can listen on ports below 1024");
        });
    }
}

fn new_namespace() -> io::Result<File> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    open_low_ports();
    let file = File::open("/proc/thread-self/ns/net")?;
    bring_loopback_up()?;
    Ok(file)
}

/// Brings the loopback of a process's network namespace up, and opens its low ports.
///
/// # Errors
/// The namespace cannot be entered, or the kernel refuses.
pub(crate) fn open_loopback_of(pid: i32) -> io::Result<()> {
    let home = File::open("/proc/thread-self/ns/net")?;
    setns(File::open(format!("/proc/{pid}/ns/net"))?, CloneFlags::CLONE_NEWNET)?;
    open_low_ports();
    let up = bring_loopback_up();
    setns(home, CloneFlags::CLONE_NEWNET)?;
    up
}

/// Brings the loopback of the thread's namespace up.
fn bring_loopback_up() -> io::Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let kind = [RTM_NEWLINK.to_ne_bytes(), (NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes()].concat();
    // A message's length, kind, number and sender, then of the link its family and kind, number, flags and which of
    // the flags change.
    let numbers = [1, 0, 0, LOOPBACK, IFF_UP, IFF_UP].map(u32::to_ne_bytes).concat();
    let length = (size_of::<u32>() + kind.len() + numbers.len()) as u32;
    let message = [length.to_ne_bytes().as_slice(), &kind, &numbers].concat();
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    // The kernel answers before the call above returns: a message's head, and the negative number of an error.
    let mut answer = [0; 64];
    let (count, _) = recv(&socket, &mut answer, RecvFlags::DONTWAIT)?;
    let code = answer[..count].get(ANSWER_CODE_AT..ANSWER_CODE_AT + size_of::<i32>());
    match code.and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns whether this process may make namespaces; without that right there is nothing to test here.
    fn allowed() -> bool {
        let allowed = rustix::process::geteuid().is_root();
        if !allowed {
            println!("skipped: the right to make network namespaces is missing");
        }
        allowed
    }

    /// Returns a listener inside a namespace: its socket is made there.
    fn listen(namespaces: &Namespaces, number: u32, address: SocketAddr) -> tokio::net::TcpListener {
        let namespace = namespaces.held.lock()[&number].clone();
        let socket = namespaces.socket_in(&namespace, address).unwrap();
        socket.bind(address).unwrap();
        socket.listen(8).unwrap()
    }

    /// Port 80 of the loopback.
    fn port_80() -> SocketAddr {
        "127.0.0.1:80".parse().unwrap()
    }

    #[tokio::test]
    async fn an_app_that_listens_on_the_other_loopback_is_reached_there_only() {
        if !allowed() {
            return;
        }
        let namespaces = Arc::new(Namespaces::new().unwrap());
        let number = namespaces.create().await.unwrap();
        let address = "[::1]:80".parse().unwrap();
        let _listener = listen(&namespaces, number, address);
        namespaces.connect(number, address).await.unwrap();
        let refused = namespaces.connect(number, port_80()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn the_same_port_in_two_namespaces_is_two_listeners() {
        if !allowed() {
            return;
        }
        let namespaces = Arc::new(Namespaces::new().unwrap());
        let (a, b) = (namespaces.create().await.unwrap(), namespaces.create().await.unwrap());
        let (at_a, _at_b) = (listen(&namespaces, a, port_80()), listen(&namespaces, b, port_80()));
        let connected = namespaces.connect(a, port_80()).await.unwrap();
        let (accepted, from) = at_a.accept().await.unwrap();
        assert_eq!(connected.local_addr().unwrap(), from);
        drop(accepted);
        // This thread is back where it was.
        let outside = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        assert_eq!(outside, std::fs::read_link("/proc/self/ns/net").unwrap());
    }

    #[tokio::test]
    async fn a_released_namespace_cannot_be_reached_and_its_number_is_not_reused() {
        if !allowed() {
            return;
        }
        let namespaces = Arc::new(Namespaces::new().unwrap());
        let first = namespaces.create().await.unwrap();
        let _listener = listen(&namespaces, first, port_80());
        assert!(namespaces.path(first).unwrap().exists());
        namespaces.release(first);
        assert!(namespaces.path(first).is_none());
        namespaces.connect(first, port_80()).await.unwrap_err();
        assert_ne!(namespaces.create().await.unwrap(), first);
    }

    #[tokio::test]
    async fn a_sealed_namespace_has_only_a_loopback() {
        if !allowed() {
            return;
        }
        let namespaces = Arc::new(Namespaces::new().unwrap());
        let number = namespaces.create().await.unwrap();
        let namespace = namespaces.held.lock()[&number].clone();
        let socket = namespaces.socket_in(&namespace, port_80()).unwrap();
        let outside = socket.connect("192.0.2.1:80".parse().unwrap()).await.unwrap_err();
        assert_eq!(outside.kind(), io::ErrorKind::NetworkUnreachable);
    }
}
