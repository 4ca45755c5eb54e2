//! Network namespaces with a loopback and nothing else: nothing to reach, and nothing to leak.
//!
//! Each is held as a file descriptor and mounted nowhere, so one that nobody uses is gone with the server, however
//! that ends. containerd is given the descriptor's name in `/proc`. Numbers are never given twice, so that a
//! connection meant for one instance cannot reach the next.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns, unshare};
use parking_lot::Mutex;
use rtnetlink::LinkUnspec;
use tokio::net::{TcpSocket, TcpStream};

use crate::runtime::blocking::apart;
use crate::telemetry::task;

/// The loopback's number: it is the first link of every namespace.
const LOOPBACK: u32 = 1;

/// Namespaces made ahead; as many as are used up while one is made.
const SPARE: usize = 8;

/// All that this server holds.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// The server's own, to come back to.
    home: File,
    /// Made ahead, for instances to come: making one takes longer than everything else that is ours in a restore.
    spare: Mutex<Vec<File>>,
    /// Whose turn it is to make some: two at once would make too many.
    filling: tokio::sync::Mutex<()>,
    held: Mutex<HashMap<u32, Arc<File>>>,
    last: AtomicU32,
}

impl Namespaces {
    pub(crate) fn new() -> io::Result<Self> {
        let home = File::open("/proc/thread-self/ns/net")?;
        let (spare, filling, held) = (Mutex::default(), tokio::sync::Mutex::default(), Mutex::default());
        Ok(Self { home, spare, filling, held, last: AtomicU32::new(0) })
    }

    /// Gives one that nobody was in before, made ahead or now. Needs the right to (`CAP_SYS_ADMIN`).
    pub(crate) async fn make(self: &Arc<Self>) -> io::Result<u32> {
        let spare = self.spare.lock().pop();
        let namespaces = self.clone();
        task::spawn("spare network namespaces", async move { namespaces.fill_up().await });
        match spare {
            Some(file) => Ok(self.hold(Arc::new(file))),
            None => Ok(self.hold(Arc::new(Self::make_one().await?))),
        }
    }

    /// Makes spare ones up to [`SPARE`].
    async fn fill_up(&self) {
        let _turn = self.filling.lock().await;
        while self.spare.lock().len() < SPARE {
            match Self::make_one().await {
                Ok(file) => self.spare.lock().push(file),
                Err(error) => return tracing::warn!(%error, "no spare network namespace could be made"),
            }
        }
    }

    async fn make_one() -> io::Result<File> {
        apart("new namespace", new_namespace).await
    }

    /// Holds the one that a process is in, under the number that a server before this one gave it.
    pub(crate) fn adopt(&self, number: u32, pid: u32) -> io::Result<()> {
        let file = File::open(format!("/proc/{pid}/ns/net"))?;
        self.last.fetch_max(number, Ordering::Relaxed);
        self.held.lock().insert(number, Arc::new(file));
        Ok(())
    }

    /// Holds one that was made elsewhere, under a number that was never given before.
    pub(crate) fn hold(&self, file: Arc<File>) -> u32 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.held.lock().insert(number, file);
        number
    }

    /// The name by which other processes of this host can open it, as long as it is held.
    pub(crate) fn path(&self, number: u32) -> Option<PathBuf> {
        let descriptor = self.held.lock().get(&number)?.as_raw_fd();
        Some(PathBuf::from(format!("/proc/{}/fd/{descriptor}", std::process::id())))
    }

    /// Lets it go. What still runs in it keeps it alive, but it can be reached no more.
    pub(crate) fn let_go(&self, number: u32) {
        self.held.lock().remove(&number);
    }

    /// Connects to what listens on the loopback of that namespace.
    pub(crate) async fn connect(&self, number: u32, port: u16) -> io::Result<TcpStream> {
        let namespace = self.held.lock().get(&number).cloned();
        let namespace = namespace.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        let socket = self.socket_in(&namespace)?;
        socket.set_nodelay(true)?;
        socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
    }

    /// A socket stays in the namespace where it was made. Nothing here waits, so this thread serves nobody else in
    /// between.
    fn socket_in(&self, namespace: &File) -> io::Result<TcpSocket> {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let socket = TcpSocket::new_v4();
        if setns(&self.home, CloneFlags::CLONE_NEWNET).is_err() {
            // This thread would serve other visitors from inside a stranger's namespace.
            std::process::abort();
        }
        socket
    }
}

fn new_namespace() -> io::Result<File> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let file = File::open("/proc/thread-self/ns/net")?;
    let reactor = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    reactor.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let up = handle.link().set(LinkUnspec::new_with_index(LOOPBACK).up().build()).execute();
        tokio::select! {
            outcome = up => outcome.map_err(io::Error::other),
            () = connection => Err(io::ErrorKind::BrokenPipe.into()),
        }
    })?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether this process may make namespaces; without that there is nothing to test here.
    fn allowed() -> bool {
        let allowed = rustix::process::geteuid().is_root();
        if !allowed {
            println!("skipped: the right to make network namespaces is missing");
        }
        allowed
    }

    /// A listener inside a namespace, which is a socket made there.
    fn listen(namespaces: &Namespaces, number: u32, port: u16) -> tokio::net::TcpListener {
        let namespace = namespaces.held.lock()[&number].clone();
        let socket = namespaces.socket_in(&namespace).unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).unwrap();
        socket.listen(8).unwrap()
    }

    #[tokio::test]
    async fn the_same_port_in_two_namespaces_is_two_listeners() {
        if !allowed() {
            return;
        }
        let namespaces = Arc::new(Namespaces::new().unwrap());
        let (a, b) = (namespaces.make().await.unwrap(), namespaces.make().await.unwrap());
        let (at_a, _at_b) = (listen(&namespaces, a, 80), listen(&namespaces, b, 80));
        let connected = namespaces.connect(a, 80).await.unwrap();
        let (accepted, from) = at_a.accept().await.unwrap();
        assert_eq!(connected.local_addr().unwrap(), from);
        drop(accepted);
        // This thread is back where it was.
        let outside = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        assert_eq!(outside, std::fs::read_link("/proc/self/ns/net").unwrap());
    }

    #[tokio::test]
    async fn one_that_was_let_go_cannot_be_reached_and_its_number_is_not_given_again() {
        if !allowed() {
            return;
        }
        let namespaces = Arc::new(Namespaces::new().unwrap());
        let first = namespaces.make().await.unwrap();
        let _listener = listen(&namespaces, first, 80);
        assert!(namespaces.path(first).unwrap().exists());
        namespaces.let_go(first);
        assert!(namespaces.path(first).is_none());
        namespaces.connect(first, 80).await.unwrap_err();
        assert_ne!(namespaces.make().await.unwrap(), first);
    }

    #[tokio::test]
    async fn there_is_nothing_but_a_loopback() {
        if !allowed() {
            return;
        }
        let namespaces = Arc::new(Namespaces::new().unwrap());
        let number = namespaces.make().await.unwrap();
        let namespace = namespaces.held.lock()[&number].clone();
        let socket = namespaces.socket_in(&namespace).unwrap();
        let outside = socket.connect("192.0.2.1:80".parse().unwrap()).await.unwrap_err();
        assert_eq!(outside.kind(), io::ErrorKind::NetworkUnreachable);
    }
}
