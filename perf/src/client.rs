//! A client that makes one request after another.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::failure::Failure;
use crate::response;

/// A client with one connection.
#[derive(Debug)]
pub(crate) struct Client(TcpStream);

impl Client {
    /// Connects. `timeout` is the maximum time without data while it waits for a response.
    pub(crate) fn connect(address: SocketAddr, timeout: Duration) -> Result<Self, Failure> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(timeout))?;
        Ok(Self(socket))
    }

    /// Makes one request. Returns the status and the body of the response.
    pub(crate) fn request(&mut self, request: &[u8]) -> Result<(u16, Vec<u8>), Failure> {
        self.0.write_all(request)?;
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            if let Some(response) = response::read(&bytes)? {
                return Ok((response.status, response.body.to_vec()));
            }
            match self.0.read(&mut chunk)? {
                0 => return Err("the server closed the connection".into()),
                read => bytes.extend_from_slice(&chunk[..read]),
            }
        }
    }
}
