//! A connection on which a test sends raw bytes and reads answers one by one.

use std::future::Future;
use std::net::Ipv4Addr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::{Answer, MAX_WAIT};

/// The transport of a connection: TCP, or TLS over it.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// An HTTP/1.1 connection that sends its bytes unchecked.
pub struct RawConnection {
    stream: Box<dyn Transport>,
    buf: Vec<u8>,
}

/// The status and headers of an answer.
#[derive(Debug)]
pub struct Head {
    pub status: u16,
    pub headers: HeaderMap,
}

impl RawConnection {
    /// Connects to this port.
    pub async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// Returns the connection after a request to this host, if there is one, was answered on it: another engine may serve the
    /// first request of a connection than later ones.
    pub async fn after(mut self, first: Option<&str>) -> Self {
        if let Some(first) = first {
            assert_eq!(self.get(first, "/health").await.status, 200);
        }
        self
    }

    /// Connects to this port from this address.
    pub async fn connect_from(source: Ipv4Addr, port: u16) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        let stream = within("connecting", socket.connect((Ipv4Addr::LOCALHOST, port).into())).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// Uses a transport that is connected already.
    pub fn over(stream: impl Transport + 'static) -> Self {
        Self { stream: Box::new(stream), buf: Vec::new() }
    }

    /// Sends these bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the server accepts the bytes");
    }

    /// Sends these bytes. Fails if the server has closed the connection.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        within("sending", async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        })
        .await
    }

    /// Closes the sending side of the connection.
    pub async fn shutdown_write(&mut self) {
        // The server may have closed the connection already.
        let _ = within("finishing", self.stream.shutdown()).await;
    }

    /// Sends `GET path` with this `Host` and reads the answer.
    pub async fn get(&mut self, host: &str, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        self.read_answer().await
    }

    /// Reads the next answer with its body. Skips interim answers.
    pub async fn read_answer(&mut self) -> Answer {
        loop {
            let head = self.read_head().await;
            if head.status >= 200 || head.status == 101 {
                return self.read_body(head).await;
            }
        }
    }

    /// Reads the head of the next answer, which may be an interim one.
    pub async fn read_head(&mut self) -> Head {
        self.try_read_head().await.expect("an answer before the end of the connection")
    }

    /// Reads the head of the next answer, which may be an interim one. Returns `None` if the connection ends instead.
    pub async fn try_read_head(&mut self) -> Option<Head> {
        let end = loop {
            if let Some(at) = self.buf.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill().await {
                assert!(self.buf.is_empty(), "incomplete head: {}", String::from_utf8_lossy(&self.buf));
                return None;
            }
        };
        let head: Vec<u8> = self.buf.drain(..end).collect();
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut lines = text.trim_end().split("\r\n");
        let first = lines.next().unwrap();
        let status = first.strip_prefix("HTTP/1.1 ").or_else(|| first.strip_prefix("HTTP/1.0 "));
        let status = status.unwrap_or_else(|| panic!("not an answer: {text}"));
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a header: {line}"));
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value.trim()).unwrap(),
            );
        }
        Some(Head { status: status[..3].parse().unwrap(), headers })
    }

    /// Reads the body that belongs to this head, which must not be that of an answer to HEAD.
    pub async fn read_body(&mut self, head: Head) -> Answer {
        let field = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let body = if matches!(head.status, 101 | 204 | 304) {
            Vec::new()
        } else if field("transfer-encoding").is_some() {
            self.chunked().await
        } else if let Some(length) = field("content-length") {
            self.read_bytes(length.parse().unwrap()).await
        } else {
            self.read_to_end().await
        };
        Answer { status: head.status, headers: head.headers, body: Bytes::from(body) }
    }

    async fn chunked(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.read_line().await;
            let size = line.split(';').next().unwrap().trim();
            let size =
                usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("not a chunk size: {line:?}"));
            if size == 0 {
                // Skips the trailers, up to the empty line.
                while !self.read_line().await.is_empty() {}
                return body;
            }
            body.extend(self.read_bytes(size).await);
            assert_eq!(self.read_line().await, "", "a chunk ends where its size says");
        }
    }

    /// Reads one line and returns it without its end.
    pub async fn read_line(&mut self) -> String {
        loop {
            if let Some(at) = self.buf.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buf.drain(..at + 2).collect();
                return String::from_utf8_lossy(&line[..at]).into_owned();
            }
            assert!(self.fill().await, "the connection ended inside a line");
        }
    }

    /// Reads exactly `n` bytes.
    pub async fn read_bytes(&mut self, n: usize) -> Vec<u8> {
        while self.buf.len() < n {
            assert!(self.fill().await, "the connection ended {} bytes early", n - self.buf.len());
        }
        self.buf.drain(..n).collect()
    }

    /// Reads everything up to the end of the connection.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buf)
    }

    /// Asserts that the server sends nothing more and closes the connection.
    pub async fn assert_closed(&mut self) {
        let rest = self.read_to_end().await;
        assert!(rest.is_empty(), "unexpected bytes: {}", String::from_utf8_lossy(&rest));
    }

    /// Returns the transport and the bytes that were read from it and not used.
    pub fn into_parts(self) -> (Box<dyn Transport>, Vec<u8>) {
        (self.stream, self.buf)
    }

    /// Reads more bytes into the buffer. Returns `false` at the end of the connection; a reset counts as its end.
    async fn fill(&mut self) -> bool {
        let read = within("an answer", self.stream.read_buf(&mut self.buf)).await;
        read.is_ok_and(|n| n > 0)
    }
}

async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    timeout(MAX_WAIT, wait).await.unwrap_or_else(|_| panic!("timed out: {what}"))
}
