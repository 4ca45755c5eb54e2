//! One server process takes the place of another: the listening socket and the node pass from the old to the new one.
//!
//! The old process starts the program's file again, which may be another version by then, with a socket as its standard
//! input. Both speak over it, one line at a time:
//!
//! | line | from | meaning |
//! |---|---|---|
//! | `listener NODE` | old | the listening socket comes with it; the node that will be free is `NODE` |
//! | `prepared` | new | its configuration is right |
//! | `free` | old | it accepts no more connections, and does nothing for the node any more |
//! | `serving` | new | it accepts connections |
//!
//! Then the old process passes the connections of clients (`connections`), each in a message of its own form.
//!
//! A new process that ends before `prepared` changes nothing. One that ends later is replaced by another: the old process
//! keeps the listening socket open until one serves, so no connection is refused.

mod connections;
mod descriptor_message;

pub(super) use connections::{PassedConnections, Passing};

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::sync::mpsc;

use super::client_socket::ClientSocket;
use super::service_manager;
use super::state_dir::NodeDir;
use crate::instance::NodeId;
use crate::telemetry::task;

/// Set for a process that takes the place of another.
const MARK: &str = "TRY_IT_NOW_SUCCESSOR";

/// Set for the child of process 1 of a container, which ends with it.
pub(crate) const CHILD_OF_FIRST_PROCESS: &str = "TRY_IT_NOW_CHILD_OF_FIRST_PROCESS";

/// Returns why no process can take the place of this one here; `None` if one can.
pub(super) fn obstacle() -> Option<&'static str> {
    let is_child = std::env::var_os(CHILD_OF_FIRST_PROCESS).is_some();
    is_child.then_some("the container ends with it: start another container instead")
}

/// Longest time until a new process has read its configuration.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time until a new process serves once the node is free. It may have to take thousands of instances over.
const SERVE_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest time until the old process has freed the node: its claims are completed before.
const FREE_TIMEOUT: Duration = Duration::from_secs(120);

/// How often another process is started in a handover, until one serves.
const MAX_SUCCESSORS: u32 = 3;

/// Longest first line.
const MAX_LINE: usize = 256;

/// The new process, as the old one sees it. Dropping it before [`Successor::free`] ends it.
pub(super) struct Successor {
    child: Child,
    socket: BufReader<UnixStream>,
    is_awaited: bool,
}

impl Successor {
    /// Starts `program` with the arguments and variables of this process, and waits until its configuration is right.
    /// Blocks.
    ///
    /// # Errors
    /// It cannot be started, or it ends or is silent for too long. What it says of that is in its log.
    pub(super) fn start(program: &Path, listener: &impl AsFd, node: &NodeId) -> io::Result<Self> {
        let (own, other) = UnixStream::pair()?;
        let child = Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(MARK, "1")
            // The watchdog of a service manager is for the process that it started, unless no process is named.
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::from(OwnedFd::from(other)))
            .spawn()?;
        let mut successor = Self { child, socket: BufReader::new(own), is_awaited: true };
        let line = format!("listener {node}\n");
        descriptor_message::send(successor.socket.get_ref(), line.as_bytes(), listener)?;
        successor.expect("prepared", PREPARE_TIMEOUT)?;
        Ok(successor)
    }

    /// Returns its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Says that the node is free, and waits until the new process serves. Blocks.
    ///
    /// # Errors
    /// It ended, or is silent for too long.
    pub(super) fn free(&mut self) -> io::Result<()> {
        self.socket.get_mut().write_all(b"free\n")?;
        self.expect("serving", SERVE_TIMEOUT)?;
        self.is_awaited = false;
        Ok(())
    }

    fn expect(&mut self, line: &str, timeout: Duration) -> io::Result<()> {
        self.socket.get_ref().set_read_timeout(Some(timeout))?;
        expect(&mut self.socket, line)
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if self.is_awaited {
            // An error means that it has ended.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Frees the node for another process. Returns when one serves, with the socket on which that takes connections. If it
/// ends before, starts it again a few times: the instances and the waiting connections are safe meanwhile.
///
/// # Errors
/// No process serves in the end.
pub(super) async fn free_node(
    node: NodeDir,
    successor: Successor,
    own_program: &Path,
    listener: OwnedFd,
) -> io::Result<UnixStream> {
    let id = node.id().clone();
    drop(node);
    tokio::task::block_in_place(|| {
        let mut next = Ok(successor);
        for attempt in 1.. {
            let served = next.and_then(|mut successor: Successor| {
                successor.free()?;
                Ok((successor.pid(), successor.socket.get_ref().try_clone()?))
            });
            match served {
                Ok((pid, socket)) => {
                    service_manager::report_successor(pid);
                    tracing::info!(pid, "another server has taken the place of this one");
                    return Ok(socket);
                }
                Err(error) if attempt == MAX_SUCCESSORS => return Err(error),
                Err(error) => {
                    tracing::error!(%error, attempt, "failed to hand over; starting another server again")
                }
            }
            next = Successor::start(own_program, &listener, &id);
        }
        unreachable!("the last attempt returns")
    })
}

/// The old process, as the new one sees it.
pub(super) struct Predecessor {
    socket: BufReader<UnixStream>,
    node: NodeId,
}

impl Predecessor {
    /// Returns the process whose place this one takes, with the listening socket that it passed; `None` if there is none.
    /// Blocks for a moment.
    ///
    /// # Errors
    /// It ended, or it speaks another protocol.
    pub(super) fn connect() -> io::Result<Option<(Self, TcpListener)>> {
        if std::env::var_os(MARK).is_none() {
            return Ok(None);
        }
        let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        socket.set_read_timeout(Some(FREE_TIMEOUT))?;
        let mut bytes = [0; MAX_LINE];
        let (received, descriptor) = descriptor_message::receive(&socket, &mut bytes)?;
        let line = String::from_utf8_lossy(&bytes[..received]);
        let node = line.strip_prefix("listener ").and_then(|name| NodeId::parse(name.trim_end()).ok());
        let (Some(node), Some(descriptor)) = (node, descriptor) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the old server passed no listening socket",
            ));
        };
        let listener = TcpListener::from(descriptor);
        listener.set_nonblocking(true)?;
        Ok(Some((Self { socket: BufReader::new(socket), node }, listener)))
    }

    /// Returns the node that will be free.
    pub(super) fn node(&self) -> &NodeId {
        &self.node
    }

    /// Says that the configuration is right, and waits until the node is free. Blocks.
    ///
    /// # Errors
    /// The old process ended, which may be because it was stopped meanwhile.
    pub(super) fn wait_until_free(&mut self) -> io::Result<()> {
        self.socket.get_mut().write_all(b"prepared\n")?;
        expect(&mut self.socket, "free")
    }

    /// Says that this process serves, and from then on takes connections of clients for `connections`.
    pub(super) fn report_serving(mut self, connections: mpsc::UnboundedSender<ClientSocket>) {
        // An error means that the old process has ended, which changes nothing.
        let _ = self.socket.get_mut().write_all(b"serving\n");
        task::spawn("receive connections", async move {
            if let Err(error) = connections::receive(self.socket.into_inner(), connections).await {
                tracing::warn!(%error, "failed to receive connections of the old server");
            }
        });
    }
}

fn expect(socket: &mut BufReader<UnixStream>, wanted: &str) -> io::Result<()> {
    let mut line = String::new();
    match socket.read_line(&mut line)? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other process ended")),
        _ if line.trim_end() == wanted => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("expected `{wanted}`, not {line:?}"))),
    }
}
