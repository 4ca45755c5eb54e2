//! An app that sends and takes bodies of any size, and a client of it, both as cheaply as the kernel lets them: what is
//! between them is slower, so that it is what a measurement shows.
//!
//! Bodies are sent from pages that exist once (`sendfile`), and taken without a copy (`MSG_TRUNC` on TCP).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create, sendfile};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::clock::now;
use crate::failure::Failure;
use crate::peers::BYTES_PATH;

/// Bytes of the pages that are sent again and again.
const SOURCE_BYTES: u64 = 1 << 20;
/// Most bytes that one call takes.
const TAKEN_AT_ONCE: usize = 1 << 20;
/// Bytes between two calls of a [`Look`].
const LOOK_BYTES: u64 = 32 << 20;
/// Most bytes of a head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Maximum time of a client without any byte.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The body of the response to an upload, and of one to any other path.
const SHORT_BODY: &str = "taken\n";

/// What is called now and then during a transfer.
pub(crate) type Look<'a> = &'a mut dyn FnMut() -> Result<(), Failure>;

/// Serves the app: `GET` of [`BYTES_PATH`] has a body of so many bytes; all else has a short one, after its own body was
/// taken.
pub(crate) fn serve(listener: &TcpListener) -> Result<(), Failure> {
    loop {
        let (socket, _) = listener.accept()?;
        // A client that leaves ends only its own thread.
        std::thread::spawn(move || serve_connection(&socket));
    }
}

fn serve_connection(mut socket: &TcpStream) -> Result<(), Failure> {
    let source = source()?;
    socket.set_nodelay(true)?;
    let mut rest = Vec::new();
    while let Some(head) = read_head(socket, &mut rest)? {
        let text = String::from_utf8(head)?;
        let bytes = text
            .split(' ')
            .nth(1)
            .and_then(|path| path.strip_prefix(BYTES_PATH))
            .and_then(|number| number.parse().ok());
        take(socket, content_length(&text)?.unwrap_or(0), &mut rest, RecvFlags::TRUNC, &mut || Ok(()))?;
        let length = bytes.unwrap_or(SHORT_BODY.len() as u64);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n");
        match bytes {
            None => socket.write_all((head + SHORT_BODY).as_bytes())?,
            Some(length) => {
                socket.write_all(head.as_bytes())?;
                send(socket, &source, length, &mut || Ok(()))?;
            }
        }
    }
    Ok(())
}

/// A client with one connection.
pub(crate) struct BulkClient {
    socket: TcpStream,
    source: OwnedFd,
}

impl BulkClient {
    /// Connects.
    pub(crate) fn connect(address: SocketAddr) -> Result<Self, Failure> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self { socket, source: source()? })
    }

    /// Requests a body of so many bytes, and takes it. Calls `look` now and then.
    pub(crate) fn download(&mut self, host: &str, bytes: u64, look: Look<'_>) -> Result<(), Failure> {
        self.begin_download(host, bytes)?;
        self.read_response(Some(bytes), look)
    }

    /// Requests a body of so many bytes, and reads none of it.
    pub(crate) fn begin_download(&mut self, host: &str, bytes: u64) -> Result<(), Failure> {
        let head = format!("GET {BYTES_PATH}{bytes} HTTP/1.1\r\nhost: {host}\r\naccept: */*\r\n\r\n");
        Ok(self.socket.write_all(head.as_bytes())?)
    }

    /// Sends a body of so many bytes, and takes the response. Calls `look` now and then.
    pub(crate) fn upload(&mut self, host: &str, bytes: u64, look: Look<'_>) -> Result<(), Failure> {
        let head =
            format!("POST / HTTP/1.1\r\nhost: {host}\r\naccept: */*\r\ncontent-length: {bytes}\r\n\r\n");
        self.socket.write_all(head.as_bytes())?;
        send(&self.socket, &self.source, bytes, look)?;
        self.read_response(None, look)
    }

    /// Takes a response, of which the body must have so many bytes.
    fn read_response(&self, bytes: Option<u64>, look: Look<'_>) -> Result<(), Failure> {
        let mut rest = Vec::new();
        let head = read_head(&self.socket, &mut rest)?.ok_or("the server closed the connection")?;
        let head = String::from_utf8(head)?;
        let length = content_length(&head)?;
        if !head.starts_with("HTTP/1.1 200") || length.is_none() || (bytes.is_some() && length != bytes) {
            return Err(format!("the server responded with {head}").into());
        }
        take(&self.socket, length.unwrap_or(0), &mut rest, RecvFlags::TRUNC | RecvFlags::DONTWAIT, look)
    }
}

/// Returns a file in memory that can be sent without a copy.
fn source() -> io::Result<OwnedFd> {
    let file = memfd_create("perf", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, SOURCE_BYTES)?;
    Ok(file)
}

/// Sends so many bytes.
fn send(socket: &TcpStream, source: &OwnedFd, bytes: u64, look: Look<'_>) -> Result<(), Failure> {
    let mut rest = bytes;
    let mut looks = rest;
    while rest > 0 {
        if looks - rest >= LOOK_BYTES {
            looks = rest;
            look()?;
        }
        let mut offset = 0;
        let sent = sendfile(socket, source, Some(&mut offset), rest.min(SOURCE_BYTES) as usize)?;
        if sent == 0 {
            return Err("the other end takes nothing".into());
        }
        rest -= sent as u64;
    }
    Ok(())
}

/// Takes so many bytes, of which the first are in `read`. It leaves what follows there.
///
/// A client sets `DONTWAIT`, so that it never sleeps: else a proxy would pay for waking it with each piece.
fn take(
    socket: &TcpStream,
    bytes: u64,
    read: &mut Vec<u8>,
    flags: RecvFlags,
    look: Look<'_>,
) -> Result<(), Failure> {
    let known = (read.len() as u64).min(bytes) as usize;
    read.drain(..known);
    let mut rest = bytes - known as u64;
    // The kernel writes nothing to it.
    let mut unused = vec![0; TAKEN_AT_ONCE];
    let mut looks = rest;
    let mut last = now();
    while rest > 0 {
        if looks - rest >= LOOK_BYTES {
            looks = rest;
            look()?;
        }
        let room = rest.min(TAKEN_AT_ONCE as u64) as usize;
        let taken = match recv(socket, &mut unused[..room], flags) {
            Ok((_, taken)) => taken,
            Err(Errno::AGAIN) if flags.contains(RecvFlags::DONTWAIT) && now() < last + TIMEOUT => {
                rustix::thread::sched_yield();
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        last = now();
        if taken == 0 {
            return Err("the other end closed the connection in a body".into());
        }
        rest -= taken as u64;
    }
    Ok(())
}

/// Reads a head; `None` when the connection has ended. `rest` has what was read before, and then what was read beyond.
fn read_head(mut socket: &TcpStream, rest: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Failure> {
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = memchr::memmem::find(rest, b"\r\n\r\n") {
            let after = rest.split_off(end + 4);
            return Ok(Some(std::mem::replace(rest, after)));
        }
        if rest.len() > MAX_HEAD_BYTES {
            return Err("a head that is too long".into());
        }
        match socket.read(&mut chunk)? {
            0 if rest.is_empty() => return Ok(None),
            0 => return Err("the other end closed the connection in a head".into()),
            read => rest.extend_from_slice(&chunk[..read]),
        }
    }
}

/// Returns the length of the body that a head announces.
fn content_length(head: &str) -> Result<Option<u64>, Failure> {
    for line in head.lines() {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            return Ok(Some(value.trim().parse()?));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_pass_in_both_directions() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(&listener));
        let mut client = BulkClient::connect(address).unwrap();
        for bytes in [0, 1, 100_000, 3 << 20] {
            client.download("x", bytes, &mut || Ok(())).unwrap();
            client.upload("x", bytes, &mut || Ok(())).unwrap();
        }
        client.begin_download("x", 5).unwrap();
        client.read_response(Some(6), &mut || Ok(())).unwrap_err();
    }
}
