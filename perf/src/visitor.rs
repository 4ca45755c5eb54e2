//! One who takes one step after another.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::Failure;
use crate::answer;

/// A client with a connection of its own.
#[derive(Debug)]
pub(crate) struct Visitor(TcpStream);

impl Visitor {
    /// One who waits for an answer no longer than that.
    pub(crate) fn connect(address: SocketAddr, patience: Duration) -> Result<Self, Failure> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(patience))?;
        Ok(Self(socket))
    }

    /// Makes one request; its status and its body.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Result<(u16, Vec<u8>), Failure> {
        self.0.write_all(request)?;
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        loop {
            if let Some(answer) = answer::read(&bytes)? {
                return Ok((answer.status, answer.body.to_vec()));
            }
            match self.0.read(&mut piece)? {
                0 => return Err("the server closed the connection".into()),
                read => bytes.extend_from_slice(&piece[..read]),
            }
        }
    }
}
