//! A connection to the server on which a test writes bytes of its own and reads answers one by one.

use std::future::Future;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Answer, PATIENCE};

/// What a connection runs over: TCP, or TLS on it.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// An HTTP/1.1 connection whose client checks nothing that it sends.
pub struct Wire {
    stream: Box<dyn Io>,
    buf: Vec<u8>,
}

/// The first part of an answer.
#[derive(Debug)]
pub struct Head {
    pub status: u16,
    pub headers: HeaderMap,
}

impl Wire {
    /// A new connection to the port.
    pub async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// The same over something that is connected already.
    pub fn over(stream: impl Io + 'static) -> Self {
        Self { stream: Box::new(stream), buf: Vec::new() }
    }

    /// Writes bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the server takes the bytes");
    }

    /// The same where the server may have closed the connection.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        within("sending", async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        })
        .await
    }

    /// Says that nothing more will be sent.
    pub async fn finish(&mut self) {
        // The server may have closed the connection by itself.
        let _ = within("finishing", self.stream.shutdown()).await;
    }

    /// `GET path` of `host`, and its answer.
    pub async fn get(&mut self, host: &str, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        self.answer().await
    }

    /// The next answer as a whole; interim ones are skipped.
    pub async fn answer(&mut self) -> Answer {
        loop {
            let head = self.head().await;
            if head.status >= 200 || head.status == 101 {
                return self.body_of(head).await;
            }
        }
    }

    /// The head of the next answer, also of an interim one.
    pub async fn head(&mut self) -> Head {
        self.try_head().await.expect("an answer before the end of the connection")
    }

    /// The same; `None` when the connection ends instead.
    pub async fn try_head(&mut self) -> Option<Head> {
        let end = loop {
            if let Some(at) = self.buf.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill().await {
                assert!(self.buf.is_empty(), "half a head: {}", String::from_utf8_lossy(&self.buf));
                return None;
            }
        };
        let head: Vec<u8> = self.buf.drain(..end).collect();
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut lines = text.trim_end().split("\r\n");
        let first = lines.next().unwrap();
        let status = first.strip_prefix("HTTP/1.1 ").or_else(|| first.strip_prefix("HTTP/1.0 "));
        let status = status.unwrap_or_else(|| panic!("no answer: {text}"));
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header: {line}"));
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value.trim()).unwrap(),
            );
        }
        Some(Head { status: status[..3].parse().unwrap(), headers })
    }

    /// The body that belongs to a head, which must not be that of an answer to HEAD.
    pub async fn body_of(&mut self, head: Head) -> Answer {
        let field = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let body = if matches!(head.status, 101 | 204 | 304) {
            Vec::new()
        } else if field("transfer-encoding").is_some() {
            self.chunked().await
        } else if let Some(length) = field("content-length") {
            self.bytes(length.parse().unwrap()).await
        } else {
            self.rest().await
        };
        Answer { status: head.status, headers: head.headers, body: Bytes::from(body) }
    }

    async fn chunked(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await;
            let size = line.split(';').next().unwrap().trim();
            let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("no chunk size: {line:?}"));
            if size == 0 {
                // The trailers, up to the empty line.
                while !self.line().await.is_empty() {}
                return body;
            }
            body.extend(self.bytes(size).await);
            assert_eq!(self.line().await, "", "a chunk ends where its size says");
        }
    }

    /// One line without its end.
    pub async fn line(&mut self) -> String {
        loop {
            if let Some(at) = self.buf.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buf.drain(..at + 2).collect();
                return String::from_utf8_lossy(&line[..at]).into_owned();
            }
            assert!(self.fill().await, "the connection ended inside a line");
        }
    }

    /// Exactly so many bytes.
    pub async fn bytes(&mut self, n: usize) -> Vec<u8> {
        while self.buf.len() < n {
            assert!(self.fill().await, "the connection ended {} bytes early", n - self.buf.len());
        }
        self.buf.drain(..n).collect()
    }

    /// Everything up to the end of the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buf)
    }

    /// Asserts that the server says nothing more and closes the connection.
    pub async fn closed(&mut self) {
        let rest = self.rest().await;
        assert!(rest.is_empty(), "more came: {}", String::from_utf8_lossy(&rest));
    }

    /// What is underneath, and what was read of it and not taken.
    pub fn into_parts(self) -> (Box<dyn Io>, Vec<u8>) {
        (self.stream, self.buf)
    }

    /// Reads more; `false` at the end, for which a reset counts too.
    async fn fill(&mut self) -> bool {
        let read = within("an answer", self.stream.read_buf(&mut self.buf)).await;
        read.is_ok_and(|n| n > 0)
    }
}

async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("too slow: {what}"))
}
