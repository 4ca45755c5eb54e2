//! The port at which the app of an instance reaches the database server, and nothing else of any network.
//!
//! This server listens inside the instance's own network namespace and carries each connection to the database server. So
//! a sealed instance stays sealed, the database server may have any address that this server reaches, also a loopback one,
//! and no other instance reaches the port.
//!
//! At a handover, another process of this server takes the listening socket itself (`pidfd_getfd`). Connections that
//! arrive meanwhile wait in the socket, so the app does not notice. After a crash the socket is gone: the next server
//! listens anew, and the app has to connect again.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener as StdTcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use rustix::fs::fstat;
use rustix::net::sockopt::set_socket_keepalive;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::runtime::blocking::on_own_thread;
use crate::telemetry::accept_errors::AcceptErrors;
use crate::telemetry::task;

/// Where the app connects to, in its namespace. The port is the usual one of MariaDB, because some apps know no other.
pub(crate) const ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 54), 3306);

/// Longest time to connect to the database server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a connection could not be accepted: this server has no free descriptor.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Most processes of a node that may still have the socket. Each handover adds one, and the oldest ones have ended.
const MAX_HOLDERS: usize = 4;

/// Host and port of the database server.
pub(crate) type DatabaseServer = Arc<(String, u16)>;

/// The port of one instance. Connections go on when this is dropped, until the app or the database server closes them.
#[derive(Debug)]
pub(crate) struct DatabasePort {
    listener: Arc<TcpListener>,
    accepting: AbortOnDropHandle<()>,
    max_connections: u32,
    /// Earlier processes that may have the socket too.
    earlier_holders: Vec<SocketHolder>,
}

/// What a server stores about the port of an instance for the server after it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DatabasePortRecord {
    max_connections: u32,
    /// The newest one first.
    holders: Vec<SocketHolder>,
}

/// A process that has the listening socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SocketHolder {
    pid: i32,
    /// Its descriptor of the socket.
    descriptor: RawFd,
    /// The number of the socket, which no other file of this host has.
    socket: u64,
}

impl DatabasePort {
    /// Listens in the namespace of an instance whose app has at most `max_connections` connections to its database.
    ///
    /// # Errors
    /// The address is in use there, or the kernel refuses.
    pub(crate) async fn open(
        namespace: Arc<File>,
        server: DatabaseServer,
        max_connections: u32,
    ) -> io::Result<Self> {
        let listener = on_own_thread("database port of an instance", move || {
            setns(&*namespace, CloneFlags::CLONE_NEWNET)?;
            StdTcpListener::bind(ADDRESS)
        });
        Self::serve(listener.await?, server, max_connections, Vec::new())
    }

    /// Takes over the port of an instance that an earlier server started: its socket if a process still has it, else a new
    /// one in the instance's namespace.
    ///
    /// # Errors
    /// Those of [`DatabasePort::open`].
    pub(crate) async fn adopt(
        record: DatabasePortRecord,
        namespace: Arc<File>,
        server: DatabaseServer,
    ) -> io::Result<Self> {
        let DatabasePortRecord { max_connections, mut holders } = record;
        match holders.iter().find_map(|holder| holder.share_socket().ok()) {
            Some(listener) => {
                holders.truncate(MAX_HOLDERS - 1);
                Self::serve(listener, server, max_connections, holders)
            }
            None => Self::open(namespace, server, max_connections).await,
        }
    }

    fn serve(
        listener: StdTcpListener,
        server: DatabaseServer,
        max_connections: u32,
        earlier_holders: Vec<SocketHolder>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = Arc::new(TcpListener::from_std(listener)?);
        let accepting = accept(listener.clone(), server, max_connections);
        let accepting = AbortOnDropHandle::new(task::spawn("database port of an instance", accepting));
        Ok(Self { listener, accepting, max_connections, earlier_holders })
    }

    /// Returns what the next server needs to know.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn record(&self) -> io::Result<DatabasePortRecord> {
        let own = SocketHolder {
            pid: getpid().as_raw_nonzero().get(),
            descriptor: self.listener.as_raw_fd(),
            socket: fstat(&self.listener)?.st_ino,
        };
        let holders = [own].into_iter().chain(self.earlier_holders.iter().cloned()).collect();
        Ok(DatabasePortRecord { max_connections: self.max_connections, holders })
    }

    /// Accepts no connection from now on. Those that arrive wait for the process that takes the socket over.
    pub(crate) fn pause(&self) {
        self.accepting.abort();
    }
}

impl SocketHolder {
    /// Returns a descriptor of the socket for this process.
    ///
    /// # Errors
    /// The process has ended, or its descriptor is another file by now.
    fn share_socket(&self) -> io::Result<StdTcpListener> {
        let pid = Pid::from_raw(self.pid).ok_or(io::ErrorKind::NotFound)?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        let socket = pidfd_getfd(process, self.descriptor, PidfdGetfdFlags::empty())?;
        match fstat(&socket)?.st_ino == self.socket {
            true => Ok(socket.into()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Carries the connections that arrive at `listener` to the database server, until it is aborted.
async fn accept(listener: Arc<TcpListener>, server: DatabaseServer, max_connections: u32) {
    // One more than the app may have: MariaDB refuses that one with an error that names the limit. More would let an
    // instance use up the connections of all by never logging in.
    let permits = Arc::new(Semaphore::new(max_connections as usize + 1));
    let mut errors = AcceptErrors::default();
    loop {
        let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((app, _)) => {
                let server = server.clone();
                task::spawn("database connection of an instance", async move {
                    if let Err(error) = carry(app, &server).await {
                        tracing::debug!(%error, "connection of an instance to its database failed");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                errors.log(&error);
                sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

/// Carries bytes both ways until one side closes its connection. Then both are closed: the protocol of MariaDB has no use
/// for a connection that is closed in one direction.
///
/// # Errors
/// The database server cannot be reached, or a connection breaks.
async fn carry(mut app: TcpStream, server: &(String, u16)) -> io::Result<()> {
    let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect((server.0.as_str(), server.1)));
    let mut database = connecting.await??;
    app.set_nodelay(true)?;
    database.set_nodelay(true)?;
    // Else a host that vanished would hold the connection for ever.
    set_socket_keepalive(&database, true)?;
    let ((mut from_app, mut to_app), (mut from_database, mut to_database)) = (app.split(), database.split());
    tokio::select! {
        copied = tokio::io::copy(&mut from_app, &mut to_database) => copied.map(drop),
        copied = tokio::io::copy(&mut from_database, &mut to_app) => copied.map(drop),
    }
}
