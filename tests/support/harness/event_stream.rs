//! A stream of server-sent events, as it comes.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::PATIENCE;

/// An answer whose body is read piece by piece.
pub struct Events {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    text: String,
}

impl Events {
    /// `GET path` of `host`.
    pub async fn open(port: u16, host: &str, path: &str) -> Self {
        let opening = async {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let (mut send, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            try_it_now::telemetry::task::spawn("test", connection);
            let request = Request::get(path).header("host", host).header("accept", "text/event-stream");
            let answer = send.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
            let (head, body) = answer.into_parts();
            Self { status: head.status.as_u16(), headers: head.headers, body, text: String::new() }
        };
        tokio::time::timeout(PATIENCE, opening).await.expect("an answer")
    }

    /// The next block of lines, without the empty line that ends it; `None` when the stream has ended.
    pub async fn block(&mut self) -> Option<String> {
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
        tokio::time::timeout(PATIENCE, reading).await.expect("the next event, or the end")
    }

    /// The next event with its data; comments and the like are passed over.
    pub async fn event(&mut self) -> Option<(String, Value)> {
        loop {
            let block = self.block().await?;
            let Some(rest) = block.strip_prefix("event: ") else { continue };
            let (name, data) = rest.split_once("\ndata: ").expect("an event has data");
            return Some((name.to_owned(), serde_json::from_str(data).unwrap()));
        }
    }
}
