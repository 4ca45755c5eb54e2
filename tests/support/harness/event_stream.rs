//! A client of server-sent events.

use std::net::Ipv4Addr;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpSocket;

use super::MAX_WAIT;

/// An open event stream, read event by event.
pub struct EventStream {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    text: String,
}

impl EventStream {
    /// Sends `GET path` with this `Host` and waits for the head of the answer.
    pub async fn open(port: u16, host: &str, path: &str) -> Self {
        Self::open_from(Ipv4Addr::LOCALHOST, port, host, path).await
    }

    /// Does the same on a connection from this loopback address.
    pub async fn open_from(source: Ipv4Addr, port: u16, host: &str, path: &str) -> Self {
        let opening = async {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((source, 0).into()).unwrap();
            let stream = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await.unwrap();
            let (mut send, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            try_it_now::telemetry::task::spawn("test", connection);
            let request = Request::get(path).header("host", host).header("accept", "text/event-stream");
            let answer = send.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
            let (head, body) = answer.into_parts();
            Self { status: head.status.as_u16(), headers: head.headers, body, text: String::new() }
        };
        tokio::time::timeout(MAX_WAIT, opening).await.expect("an answer")
    }

    /// Returns the next block of lines, without the empty line that ends it. Returns `None` at the end of the stream.
    pub async fn next_block(&mut self) -> Option<String> {
        let reading = async {
            loop {
                if let Some((block, rest)) = self.text.split_once("\n\n") {
                    let (block, rest) = (block.to_owned(), rest.to_owned());
                    self.text = rest;
                    return Some(block);
                }
                let frame = self.body.frame().await?.ok()?;
                self.text.push_str(std::str::from_utf8(frame.data_ref()?).unwrap());
            }
        };
        tokio::time::timeout(MAX_WAIT, reading).await.expect("the next event, or the end")
    }

    /// Returns the name and the data of the next event and skips comments. Returns `None` at the end of the stream.
    pub async fn next_event(&mut self) -> Option<(String, Value)> {
        loop {
            let block = self.next_block().await?;
            let Some(rest) = block.strip_prefix("event: ") else { continue };
            let (name, data) = rest.split_once("\ndata: ").expect("an event has data");
            return Some((name.to_owned(), serde_json::from_str(data).unwrap()));
        }
    }
}
